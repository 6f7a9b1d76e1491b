//! The closed list of problem codes, each with its status, title and retry advice.

use axum::http::StatusCode;
use serde::{Serialize, Serializer};

/// Whether to send the same request again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Retry {
    /// Nothing was done: retry, after `Retry-After` if there is one.
    Safe,
    /// It may have been done: retry only with the same `Idempotency-Key`.
    Unsafe,
    /// The same request will fail again.
    Never,
}

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident $text:literal $status:ident $retry:ident $title:literal;)*) => {
        /// A machine-readable error code.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Code {
            $($(#[$doc])* $name,)*
        }

        impl Code {
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// Returns the stable name, as in the `code` member.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// Returns the HTTP status of answers with this code.
            pub const fn status(self) -> StatusCode {
                match self { $(Self::$name => StatusCode::$status,)* }
            }

            /// Returns the `title` for people.
            pub const fn title(self) -> &'static str {
                match self { $(Self::$name => $title,)* }
            }

            /// Returns the default retry advice, which a [`super::Problem`] can override.
            pub const fn retry(self) -> Retry {
                match self { $(Self::$name => Retry::$retry,)* }
            }
        }
    };
}

codes! {
    /// The body cannot be parsed: not JSON, not UTF-8, nested too deeply.
    Malformed "malformed" BAD_REQUEST Never "Malformed request";
    /// The credential is missing or invalid.
    Unauthenticated "unauthenticated" UNAUTHORIZED Never "Missing or invalid credential";
    /// The credential lacks a scope, or its tenant is suspended.
    Forbidden "forbidden" FORBIDDEN Never "Forbidden";
    /// A storage quota of the tenant or user is used up, or the request can never fit its limit.
    QuotaExceeded "quota_exceeded" FORBIDDEN Never "Quota exceeded";
    /// The resource does not exist, or this caller may not know that it does.
    NotFound "not_found" NOT_FOUND Never "Not found";
    /// The path does not support the method.
    MethodNotAllowed "method_not_allowed" METHOD_NOT_ALLOWED Never "Method not allowed";
    /// The route offers no media type that the `Accept` header allows.
    NotAcceptable "not_acceptable" NOT_ACCEPTABLE Never "Not acceptable";
    /// The request did not arrive in time.
    Timeout "timeout" REQUEST_TIMEOUT Safe "Request timeout";
    /// The request conflicts with the current state of the resource.
    Conflict "conflict" CONFLICT Never "Conflict with the current state";
    /// Another turn is busy, and the caller asked to be refused rather than queued.
    TurnRunning "turn_running" CONFLICT Safe "Another turn is running";
    /// The tool call is not waiting for a decision, a claim or an answer.
    NotWaiting "not_waiting" CONFLICT Never "The tool call is not waiting for this request";
    /// The idempotency key was used with a different request.
    IdempotencyKeyReused "idempotency_key_reused" CONFLICT Never "Idempotency key reused with a different request";
    /// The stream cannot be resumed from the given position.
    NotResumable "not_resumable" GONE Never "The stream cannot be resumed from this position";
    /// The request, usually its body, is too large.
    TooLarge "too_large" PAYLOAD_TOO_LARGE Never "Request too large";
    /// The route does not accept the body's content type.
    UnsupportedMediaType "unsupported_media_type" UNSUPPORTED_MEDIA_TYPE Never "Unsupported media type";
    /// The body is well-formed JSON but breaks the schema.
    Invalid "invalid" UNPROCESSABLE_ENTITY Never "Invalid request";
    /// Too many requests.
    RateLimited "rate_limited" TOO_MANY_REQUESTS Safe "Too many requests";
    /// Too many turns are queued in the conversation.
    QueueFull "queue_full" TOO_MANY_REQUESTS Safe "Too many queued turns";
    /// The budget of the period is used up.
    BudgetExhausted "budget_exhausted" TOO_MANY_REQUESTS Safe "Budget exhausted";
    /// The server is shedding load; nothing was done.
    Overloaded "overloaded" SERVICE_UNAVAILABLE Safe "Server overloaded";
    /// A dependency is not responding; the outcome may be unknown.
    Unavailable "unavailable" SERVICE_UNAVAILABLE Unsafe "Service unavailable";
    /// A bug or failure in copilotd.
    Internal "internal" INTERNAL_SERVER_ERROR Unsafe "Internal server error";
}

impl Code {
    /// Returns the code for an error response that was built from a bare status.
    pub fn of_status(status: StatusCode) -> Self {
        match status {
            StatusCode::INTERNAL_SERVER_ERROR => Self::Internal,
            StatusCode::CONFLICT => Self::Conflict,
            StatusCode::TOO_MANY_REQUESTS => Self::RateLimited,
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::BAD_GATEWAY | StatusCode::GATEWAY_TIMEOUT => {
                Self::Unavailable
            }
            _ => {
                let fallback = if status.is_server_error() {
                    Self::Internal
                } else {
                    Self::Malformed
                };
                let same = Self::ALL.iter().find(|code| code.status() == status);
                same.copied().unwrap_or(fallback)
            }
        }
    }

    /// Whether answers with this code carry `Retry-After`.
    pub(super) fn has_retry_after(self) -> bool {
        matches!(
            self.status(),
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE
        )
    }
}

impl Serialize for Code {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}
