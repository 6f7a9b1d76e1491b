//! Why the gateway gives no answer, or no whole one.

use std::time::Duration;

use copilotd_actors::ports::Refusal;

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
