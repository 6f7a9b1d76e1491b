//! Why the gateway gives no answer, or no complete one.

use std::time::Duration;

use copilotd_actors::ports::Refusal;

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

/// The kind of a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LimitName {
    /// Requests per minute.
    Requests,
    /// Tokens per minute.
    Tokens,
    /// Concurrent calls.
    Calls,
    /// Money per day.
    UsdPerDay,
    /// Money per month.
    UsdPerMonth,
}

impl LimitName {
    /// Stable name, as in the configuration.
    pub fn code(self) -> &'static str {
        match self {
            Self::Requests => "requests_per_minute",
            Self::Tokens => "tokens_per_minute",
            Self::Calls => "concurrent_calls",
            Self::UsdPerDay => "usd_per_day",
            Self::UsdPerMonth => "usd_per_month",
        }
    }

    /// Whether it limits money.
    pub fn is_budget(self) -> bool {
        matches!(self, Self::UsdPerDay | Self::UsdPerMonth)
    }
}

/// State of a limit, for the headers of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LimitState {
    /// Which limit.
    pub name: LimitName,
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
        self.name.is_budget()
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
