//! How model calls fail.

/// The classes of failed model calls. Each is handled by its own rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FailureClass {
    /// The key is not accepted: 401, 402, 403.
    Key,
    /// The provider's rate limit: 429.
    Rate,
    /// One of our own limits: of the tenant, the user or the key.
    Limit,
    /// One of our own budgets is used up.
    Budget,
    /// The provider is overloaded or failed: 5xx.
    Overload,
    /// The prompt does not fit into the model's context.
    ContextLength,
    /// The provider's content policy rejected the request or the answer.
    ContentPolicy,
    /// The provider rejected the request for another reason: 4xx.
    Rejected,
    /// One of the four timeouts expired.
    TimedOut,
    /// The stream ended without `finish_reason`.
    Cut,
    /// The answer did not follow the protocol.
    Malformed,
    /// No connection, or the connection broke.
    Network,
}

impl FailureClass {
    /// Returns the stable name for logs, metrics and records.
    pub fn code(self) -> &'static str {
        match self {
            Self::Key => "key",
            Self::Rate => "rate",
            Self::Limit => "limit",
            Self::Budget => "budget",
            Self::Overload => "overload",
            Self::ContextLength => "context_length",
            Self::ContentPolicy => "content_policy",
            Self::Rejected => "rejected",
            Self::TimedOut => "silence",
            Self::Cut => "cut",
            Self::Malformed => "malformed",
            Self::Network => "network",
        }
    }
}
