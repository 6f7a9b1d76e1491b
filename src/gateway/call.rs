//! One call of the gateway: who asks for what, and what comes back.

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

/// Who asks, and what for: whom limits, cache and accounting go by.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The verified tenant.
    pub scope: TenantScope,
    /// The user behind the call.
    pub user: UserId,
    /// What the credential stands for, where there is one.
    pub role: Option<Role>,
    /// Name of the API key that was used, if one was.
    pub api_key: Option<String>,
    /// The copilot, if it is one's.
    pub copilot: Option<CopilotName>,
    /// The conversation, if it is one's.
    pub conversation: Option<ConversationId>,
    /// The turn, if it is one's.
    pub turn: Option<TurnId>,
    /// What for.
    pub purpose: Purpose,
}

/// What a call is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// A step of a turn.
    Turn,
    /// A summary of a conversation.
    Summary,
    /// A call of the OpenAI-compatible endpoint.
    Endpoint,
    /// An embedding.
    Embedding,
    /// A sampled second opinion on the cache.
    Audit,
    /// An embedding by which the cache finds what is near, or compares answers.
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

/// Whether pieces are passed on as they come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Mode {
    /// As they come; a stream that dies ends with an error.
    #[default]
    Live,
    /// A stream begins only when its answer is whole; what failed before stays invisible.
    Buffered,
}

/// What the caller wishes of the semantic cache.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum CacheWish {
    /// May be answered from it.
    #[default]
    Use,
    /// May be answered from it by a question that is at least so near, in thousandths. Raises the route's bar, never
    /// lowers it.
    AtLeast(u16),
    /// Is neither answered from it nor kept in it.
    Bypass,
}

/// What the semantic cache did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum CacheOutcome {
    /// It answered.
    Hit,
    /// It was asked and had nothing.
    Miss,
    /// It was not asked.
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

/// A chat request on its way through the gateway.
#[derive(Debug, Clone)]
pub struct GatewayCall {
    /// Who asks.
    pub caller: Caller,
    /// Name of a route, or `provider/model`.
    pub route: String,
    /// What is asked.
    pub body: ChatBody,
    /// Overrides the route's mode.
    pub mode: Option<Mode>,
    /// What is wished of the cache.
    pub cache: CacheWish,
    /// The version of what the answer rests on beside the tenant's own, as the caller names it: it parts the cache.
    pub knowledge: Option<String>,
}

/// What the gateway answered.
#[derive(Debug)]
pub struct Reply {
    /// `provider/model` that answered.
    pub model: String,
    /// Requests that were sent to providers for it.
    pub attempts: u32,
    /// What the cache did.
    pub cache: CacheOutcome,
    /// What it cost, where that is known already: not on streams.
    pub cost: Option<NanoUsd>,
    /// Where the tightest rates stand, if any are limited.
    pub limits: Vec<LimitState>,
    /// The answer.
    pub answer: Answer,
}

/// An answer in the form that was asked for.
pub enum Answer {
    /// A chat.completion.
    Whole(Bytes),
    /// Pieces, until one has `ModelEvent::Finished`, or an error, which is the last item.
    Stream(AnswerStream),
}

/// A streamed answer. Dropping it closes the upstream connection at once.
pub type AnswerStream = BoxStream<'static, Result<Piece, GatewayError>>;

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // What was said stands in no log.
        f.write_str(match self {
            Self::Whole(_) => "Whole",
            Self::Stream(_) => "Stream",
        })
    }
}

/// Why there is no answer, or no whole one.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct GatewayError {
    /// What kind.
    pub kind: GatewayErrorKind,
    /// Fit for the caller.
    pub message: String,
    /// When to ask again; none: asking again does not help, or nobody knows.
    pub retry_after: Option<Duration>,
    /// How the provider named the fault of the request.
    pub refusal: Option<Box<Refusal>>,
    /// The limit that was hit.
    pub limit: Option<LimitState>,
    /// Requests that were sent to providers.
    pub attempts: u32,
}

/// Kinds of [`GatewayError`], each with one HTTP status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum GatewayErrorKind {
    /// Nothing stands behind that name for this tenant (404).
    UnknownRoute,
    /// The tenant's configuration does not allow that model (403).
    Forbidden,
    /// The request is wrong (400).
    Invalid,
    /// The prompt fits into no model of the route (400).
    ContextTooLong,
    /// A provider's content policy stopped it (400).
    ContentPolicy,
    /// A limit of ours or of every provider (429).
    RateLimited,
    /// The budget is used up (429).
    BudgetExhausted,
    /// It asks for more than a limit ever allows at one time: waiting does not help (400).
    QuotaExceeded,
    /// No key of any provider is accepted (502).
    CredentialsExhausted,
    /// Every provider failed (503).
    Unavailable,
    /// What may be used cannot be checked: the store of the limits does not answer (503).
    LimitsUnavailable,
    /// No provider answered in time (504).
    Timeout,
    /// The answer was cut off, or stopped making sense, after it had begun (502).
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

/// Where a limit stands, for the headers of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LimitState {
    /// Name of the limit, such as `requests_per_minute`.
    pub name: String,
    /// Its size.
    pub limit: u64,
    /// What is left of it.
    pub remaining: u64,
    /// When it is whole again.
    pub reset: Duration,
}

impl LimitState {
    /// Whether it limits money.
    pub fn is_money(&self) -> bool {
        self.name.starts_with("usd_")
    }
}

impl GatewayError {
    /// An error without further particulars.
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
