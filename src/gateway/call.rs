//! One call of the gateway: the caller, the request, the reply.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use copilotd_actors::domain::ids::{ConversationId, CopilotName, TurnId, UserId};
use copilotd_actors::domain::usage::NanoUsd;
use copilotd_actors::ports::Refusal;
use copilotd_actors::tenancy::TenantScope;
use futures::stream::BoxStream;

use super::body::ChatBody;
use super::upstream::Piece;
use crate::role::Role;

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
pub enum CacheWish {
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
    pub cache: CacheWish,
    /// The caller's version of the knowledge behind the answer, beside the tenant's own; it partitions the cache.
    pub knowledge: Option<String>,
}

/// The gateway's reply to a chat request.
#[derive(Debug)]
pub struct Reply {
    /// Target that answered, as `provider/model`.
    pub model: String,
    /// Number of requests sent to providers.
    pub attempts: u32,
    /// Outcome of the cache lookup.
    pub cache: CacheOutcome,
    /// Cost, where it is already known: not for streams.
    pub cost: Option<NanoUsd>,
    /// State of the tightest rate limits, if any apply.
    pub limits: Vec<LimitState>,
    /// The answer.
    pub answer: Answer,
}

/// An answer in the requested form.
pub enum Answer {
    /// A chat.completion.
    Whole(Bytes),
    /// Pieces, until one has `ModelEvent::Finished`; an error is the last item.
    Stream(AnswerStream),
}

/// A streamed answer. Dropping it closes the upstream connection at once.
pub type AnswerStream = BoxStream<'static, Result<Piece, GatewayError>>;

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Content is never logged.
        f.write_str(match self {
            Self::Whole(_) => "Whole",
            Self::Stream(_) => "Stream",
        })
    }
}

/// Why there is no answer, or no complete one.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct GatewayError {
    /// What kind of error.
    pub kind: GatewayErrorKind,
    /// Text for the caller.
    pub message: String,
    /// When to retry; `None` if retrying does not help or the time is unknown.
    pub retry_after: Option<Duration>,
    /// The provider's own description of what is wrong with the request.
    pub refusal: Option<Box<Refusal>>,
    /// The limit that was reached.
    pub limit: Option<LimitState>,
    /// Number of requests sent to providers.
    pub attempts: u32,
}

/// Kinds of [`GatewayError`], each with one HTTP status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum GatewayErrorKind {
    /// No such model for this tenant (404).
    UnknownRoute,
    /// The tenant's configuration does not allow the model (403).
    Forbidden,
    /// The request is invalid (400).
    Invalid,
    /// The prompt fits into no model of the route (400).
    ContextTooLong,
    /// A provider's content policy stopped it (400).
    ContentPolicy,
    /// A rate limit was reached, ours or every provider's (429).
    RateLimited,
    /// A budget is exhausted (429).
    BudgetExhausted,
    /// The request needs more than a limit ever allows at once; waiting does not help (400).
    QuotaExceeded,
    /// Every provider rejected its keys (502).
    CredentialsExhausted,
    /// Every provider failed (503).
    Unavailable,
    /// Limits cannot be checked: their store does not respond (503).
    LimitsUnavailable,
    /// No provider answered in time (504).
    Timeout,
    /// The answer was cut off or became malformed after it had begun (502).
    Cut,
}

impl GatewayErrorKind {
    /// Stable name for logs, metrics, records and answers.
    pub fn code(self) -> &'static str {
        match self {
            Self::UnknownRoute => "model_not_found",
            Self::Forbidden => "model_not_allowed",
            Self::Invalid => "invalid_request",
            Self::ContextTooLong => "context_length_exceeded",
            Self::ContentPolicy => "content_policy",
            Self::RateLimited => "rate_limit_exceeded",
            Self::BudgetExhausted => "budget_exhausted",
            Self::QuotaExceeded => "quota_exceeded",
            Self::CredentialsExhausted => "upstream_credentials_exhausted",
            Self::Unavailable => "upstream_unavailable",
            Self::LimitsUnavailable => "unavailable",
            Self::Timeout => "upstream_timeout",
            Self::Cut => "upstream_cut",
        }
    }

    /// Returns the HTTP status.
    pub fn status(self) -> u16 {
        match self {
            Self::UnknownRoute => 404,
            Self::Forbidden => 403,
            Self::Invalid | Self::ContextTooLong | Self::ContentPolicy | Self::QuotaExceeded => 400,
            Self::RateLimited | Self::BudgetExhausted => 429,
            Self::CredentialsExhausted | Self::Cut => 502,
            Self::Unavailable | Self::LimitsUnavailable => 503,
            Self::Timeout => 504,
        }
    }
}

/// State of a limit, for the headers of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LimitState {
    /// Name of the limit, such as `requests_per_minute`.
    pub name: String,
    /// Size of the limit.
    pub limit: u64,
    /// What is left of the limit.
    pub remaining: u64,
    /// Time until the whole limit is available again.
    pub reset: Duration,
}

impl LimitState {
    /// Whether it limits money.
    pub fn is_money(&self) -> bool {
        self.name.starts_with("usd_")
    }
}

impl GatewayError {
    /// Creates an error with only a kind and a message.
    pub fn new(kind: GatewayErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            retry_after: None,
            refusal: None,
            limit: None,
            attempts: 0,
        }
    }
}
