//! The closed list of problem codes, each with its status, title and whether a retry helps.

use axum::http::StatusCode;
use serde::{Serialize, Serializer};

/// Whether sending the same request again is sensible.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Retry {
    /// Nothing was done: send it again, after `Retry-After` if there is one.
    Safe,
    /// It may have been done: send it again only with the same `Idempotency-Key`.
    Unsafe,
    /// The same request will fail again.
    Never,
}

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident $text:literal $status:ident $retry:ident $title:literal;)*) => {
        /// What went wrong, as a program reads it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Code {
            $($(#[$doc])* $name,)*
        }

        impl Code {
            /// Every code.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// Returns the stable name.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// Returns the status it is answered with.
            pub const fn status(self) -> StatusCode {
                match self { $(Self::$name => StatusCode::$status,)* }
            }

            /// Returns a few words for a person.
            pub const fn title(self) -> &'static str {
                match self { $(Self::$name => $title,)* }
            }

            /// Tells whether a retry helps, unless the problem says otherwise.
            pub const fn retry(self) -> Retry {
                match self { $(Self::$name => Retry::$retry,)* }
            }
        }
    };
}

codes! {
    /// The request cannot be read: not JSON, not UTF-8, nested too deeply.
    Malformed "malformed" BAD_REQUEST Never "The request cannot be read";
    /// No valid credential.
    Unauthenticated "unauthenticated" UNAUTHORIZED Never "A valid credential is needed";
    /// The credential lacks a scope.
    Forbidden "forbidden" FORBIDDEN Never "The credential does not allow this";
    /// What the tenant or the user may keep is used up.
    QuotaExceeded "quota_exceeded" FORBIDDEN Never "The quota is used up";
    /// It does not exist, or not for this caller.
    NotFound "not_found" NOT_FOUND Never "There is no such thing";
    /// The path does not know the method.
    MethodNotAllowed "method_not_allowed" METHOD_NOT_ALLOWED Never "The method is not allowed here";
    /// No representation that the client accepts.
    NotAcceptable "not_acceptable" NOT_ACCEPTABLE Never "There is no acceptable representation";
    /// The request did not arrive in time.
    Timeout "timeout" REQUEST_TIMEOUT Safe "The request took too long to arrive";
    /// It contradicts the present state.
    Conflict "conflict" CONFLICT Never "The request conflicts with the present state";
    /// Another turn is busy and the caller asked not to wait.
    TurnRunning "turn_running" CONFLICT Safe "Another turn is running";
    /// The call does not wait for a decision.
    NotWaiting "not_waiting" CONFLICT Never "The call is not waiting for a decision";
    /// The idempotency key belongs to another request.
    IdempotencyKeyReused "idempotency_key_reused" CONFLICT Never "The idempotency key was used for another request";
    /// A stream cannot go on from that position.
    NotResumable "not_resumable" GONE Never "The stream cannot be resumed there";
    /// The body is too large.
    TooLarge "too_large" PAYLOAD_TOO_LARGE Never "The request is too large";
    /// The body is of a type that is not taken.
    UnsupportedMediaType "unsupported_media_type" UNSUPPORTED_MEDIA_TYPE Never "The content type is not supported";
    /// Readable, but it breaks the schema.
    Invalid "invalid" UNPROCESSABLE_ENTITY Never "The request is not valid";
    /// Too many requests.
    RateLimited "rate_limited" TOO_MANY_REQUESTS Safe "Too many requests";
    /// Too many turns wait in the conversation.
    QueueFull "queue_full" TOO_MANY_REQUESTS Safe "Too many turns are waiting";
    /// The budget of the period is used up.
    BudgetExhausted "budget_exhausted" TOO_MANY_REQUESTS Safe "The budget is exhausted";
    /// The server sheds load; nothing was done.
    Overloaded "overloaded" SERVICE_UNAVAILABLE Safe "The server is overloaded";
    /// A dependency does not answer; the outcome may be unknown.
    Unavailable "unavailable" SERVICE_UNAVAILABLE Unsafe "The service is unavailable";
    /// A fault of ours.
    Internal "internal" INTERNAL_SERVER_ERROR Unsafe "Something went wrong on our side";
}

impl Code {
    /// Returns the code for an error status that was made without one.
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

    /// Whether its answers tell when to come back.
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
