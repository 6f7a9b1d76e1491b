//! One call of the gateway: the caller, the request, the reply.

use copilotd_actors::domain::ids::{ConversationId, CopilotName, TurnId, UserId};
use copilotd_actors::tenancy::TenantScope;

use super::body::ChatBody;
use super::role::Role;

/// The caller of a model and its purpose: what limits, cache and accounting are keyed by.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The verified tenant.
    pub scope: TenantScope,
    /// The user behind the call.
    pub user: UserId,
    /// Role of the credential, if it has one.
    pub role: Option<Role>,
    /// Name of the API key used, if any.
    pub api_key: Option<String>,
    /// The copilot, if the call is made for one.
    pub copilot: Option<CopilotName>,
    /// The conversation, if the call belongs to one.
    pub conversation: Option<ConversationId>,
    /// The turn, if the call belongs to one.
    pub turn: Option<TurnId>,
    /// Purpose of the call.
    pub purpose: Purpose,
}

/// What a call is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// A run step of a turn.
    Turn,
    /// A summary of a conversation.
    Summary,
    /// A call of the OpenAI-compatible endpoint.
    Endpoint,
    /// An embedding.
    Embedding,
    /// A sampled call that checks a semantic cache hit against the model.
    Audit,
    /// An embedding made for a cache lookup or to compare answers.
    Lookup,
    /// An embedding of a question that documents are searched with.
    Retrieval,
    /// Embeddings of a tenant's documents.
    Ingestion,
}

impl Purpose {
    /// Stable name for logs, metrics and records.
    pub fn code(self) -> &'static str {
        match self {
            Self::Turn => "turn",
            Self::Summary => "summary",
            Self::Endpoint => "endpoint",
            Self::Embedding => "embedding",
            Self::Audit => "audit",
            Self::Lookup => "lookup",
            Self::Retrieval => "retrieval",
            Self::Ingestion => "ingestion",
        }
    }
}

/// When the pieces of a streamed answer are passed on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Mode {
    /// As they arrive; a stream that breaks ends with an error.
    #[default]
    Live,
    /// Only when the answer is complete; failures before that stay invisible.
    Buffered,
}

/// The caller's instructions for the semantic cache.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum CacheControl {
    /// May be answered from the cache.
    #[default]
    Use,
    /// May be answered from the cache by a question of at least this similarity, in thousandths. Raises the route's
    /// threshold, never lowers it.
    AtLeast(u16),
    /// Neither answered from the cache nor stored in it.
    Bypass,
}

/// Outcome of the cache lookup.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum CacheOutcome {
    /// Answered from the cache.
    Hit,
    /// Looked up, not found.
    Miss,
    /// Not looked up.
    #[default]
    Bypass,
}

impl CacheOutcome {
    /// Stable name for headers and records.
    pub fn code(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Miss => "miss",
            Self::Bypass => "bypass",
        }
    }
}

/// A chat request.
#[derive(Debug, Clone)]
pub struct GatewayCall {
    /// Who calls.
    pub caller: Caller,
    /// Name of a route, or `provider/model`.
    pub route: String,
    /// The request body.
    pub body: ChatBody,
    /// Overrides the route's mode.
    pub mode: Option<Mode>,
    /// Instructions for the cache.
    pub cache: CacheControl,
    /// The caller's version of the knowledge behind the answer, beside the tenant's own; it partitions the cache.
    pub knowledge: Option<String>,
}
