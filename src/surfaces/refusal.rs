//! Maps rejections and errors of the application to problem responses, in one place.

use std::time::Duration;

use copilotd_actors::actors::conversation::Refusal;
use copilotd_actors::actors::shared::TurnLimit;
use copilotd_actors::domain::conversation::decide::Rejection;
use copilotd_actors::domain::schema::Violation;
use copilotd_actors::ports::{ClientToolsError, LogError, SchemaError};
use copilotd_gateway::error::{GatewayError, GatewayErrorKind, LimitName, LimitState};

use crate::http::credentials::left_out;
use crate::http::problems::{Code, Problem, RateLimit, Retry};

/// `Retry-After` when too many turns are open.
const FULL_RETRY: Duration = Duration::from_secs(2);
/// `Retry-After` while the standby takes over.
const HANDING_OVER_RETRY: Duration = Duration::from_secs(1);
/// `Retry-After` when a conversation's queue is full.
const QUEUE_RETRY: Duration = Duration::from_secs(5);

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Rejected(rejection) => rejection.into(),
            Refusal::TurnLimit(TurnLimit::Tenant, most) => Self::new(Code::RateLimited)
                .detail("this tenant has too many open turns; retry when some have finished")
                .rate_limit(&RateLimit::all_taken("tenant-turns", most, FULL_RETRY)),
            Refusal::TurnLimit(TurnLimit::User, most) => Self::new(Code::RateLimited)
                .detail("this user has too many open turns; retry when some have finished")
                .rate_limit(&RateLimit::all_taken("user-turns", most, FULL_RETRY)),
            Refusal::TurnLimit(TurnLimit::Node, _) => Self::new(Code::Overloaded)
                .detail("too many turns are open on this server")
                .retry_after(Duration::from_secs(2)),
            Refusal::Quota(exceeded) => Self::new(Code::QuotaExceeded).detail(exceeded.to_string()),
            Refusal::Refused { disk_full } => store_refuses(disk_full),
            Refusal::Damaged => Self::new(Code::Internal)
                .detail("the stored conversation is damaged; details are in the server log under this request id")
                .retry(Retry::Never),
            Refusal::LeftOut => left_out(),
            Refusal::HandingOver => handing_over(),
            Refusal::Gone | Refusal::NotStored => Self::new(Code::Unavailable)
                .detail("the conversation is temporarily unavailable; nothing was stored")
                .retry(Retry::Safe)
                .retry_after(Duration::from_secs(2)),
            Refusal::Unavailable => Self::new(Code::Unavailable)
                .detail("the store is not responding; the request may or may not have been stored")
                .retry_after(Duration::from_secs(2)),
        }
    }
}

/// Why a turn's `response_schema` was rejected.
impl From<SchemaError> for Problem {
    fn from(error: SchemaError) -> Self {
        schema_problem("/response_schema", error)
    }
}

/// Why a turn's client tools were rejected.
impl From<ClientToolsError> for Problem {
    fn from(error: ClientToolsError) -> Self {
        match error {
            ClientToolsError::Rejected(rejection) => rejection.into(),
            ClientToolsError::Parameters(index, error) => {
                schema_problem(&format!("/client_tools/{index}/parameters"), error)
            }
        }
    }
}

/// Why a caller's schema, which is in the body at `place`, was rejected.
fn schema_problem(place: &str, error: SchemaError) -> Problem {
    let at = |pointer: String, message: String| {
        let pointer = format!("{place}{pointer}");
        Problem::invalid([Violation { pointer, message }])
    };
    match error {
        SchemaError::Unusable(Violation { pointer, message }) => at(pointer, message),
        SchemaError::TooExpensive => at(
            String::new(),
            "takes too much time or memory to compile; use fewer or simpler regular expressions and subschemas".into(),
        ),
        SchemaError::Busy => Problem::new(Code::RateLimited)
            .detail("this tenant is compiling too many schemas at once")
            .retry_after(Duration::from_secs(2)),
        SchemaError::Unavailable(_) => {
            tracing::error!(%error, place, "schema of a request could not be compiled; the turn was refused with 503");
            Problem::new(Code::Unavailable)
                .detail(format!("{place} cannot be compiled at the moment; nothing was stored"))
                .retry(Retry::Safe)
                .retry_after(Duration::from_secs(2))
        }
    }
}

/// The standby is about to take over.
pub(crate) fn handing_over() -> Problem {
    Problem::new(Code::Unavailable)
        .detail("this server is handing over to its standby; nothing was stored")
        .retry(Retry::Safe)
        .retry_after(HANDING_OVER_RETRY)
}

/// The store answered, and refuses writes in its current state.
fn store_refuses(disk_full: bool) -> Problem {
    let detail = if disk_full {
        "the store refuses writes because its disk is full; nothing was stored"
    } else {
        "the store refuses writes; nothing was stored"
    };
    Problem::new(Code::Unavailable)
        .detail(detail)
        .retry(Retry::Safe)
        .retry_after(Duration::from_secs(10))
}

/// Refusals of the gateway before a call starts, such as a limit or a budget.
impl From<GatewayError> for Problem {
    fn from(error: GatewayError) -> Self {
        let code = match error.kind {
            GatewayErrorKind::BudgetExhausted => Code::BudgetExhausted,
            GatewayErrorKind::RateLimited => Code::RateLimited,
            GatewayErrorKind::QuotaExceeded => Code::QuotaExceeded,
            _ => Code::Unavailable,
        };
        let mut problem = Self::new(code).detail(error.message);
        if code == Code::Unavailable {
            // Refused before the call started: nothing was done.
            problem = problem.retry(Retry::Safe);
        }
        if let Some(limit) = &error.limit {
            problem = problem.rate_limit(&rate_limit(limit));
        }
        match error.retry_after {
            Some(wait) => problem.retry_after(wait),
            None => problem,
        }
    }
}

/// A limit in the form that the `RateLimit` headers need.
pub(crate) fn rate_limit(limit: &LimitState) -> RateLimit {
    let (policy, window) = match limit.name {
        LimitName::Requests => ("requests", 60),
        LimitName::Tokens => ("tokens", 60),
        LimitName::UsdPerDay => ("budget-day", 86_400),
        LimitName::UsdPerMonth => ("budget-month", 30 * 86_400),
        LimitName::Calls => ("calls", 0),
    };
    RateLimit {
        policy,
        quota: limit.limit,
        window: (window > 0).then(|| Duration::from_secs(window)),
        remaining: limit.remaining,
        reset: limit.reset,
    }
}

impl From<Rejection> for Problem {
    fn from(rejection: Rejection) -> Self {
        let detail = rejection.to_string();
        match rejection {
            Rejection::NotFound => Self::new(Code::NotFound),
            Rejection::TurnEnded => Self::new(Code::Conflict).detail(detail),
            Rejection::TurnRunning => Self::new(Code::TurnRunning).detail(detail),
            Rejection::QueueFull { waiting } => Self::new(Code::QueueFull)
                .detail(detail)
                .rate_limit(&RateLimit::all_taken("queued-turns", waiting, QUEUE_RETRY)),
            Rejection::KeyReused => Self::new(Code::IdempotencyKeyReused).detail(detail),
            Rejection::NotReplaceable { .. } | Rejection::FeedbackFull { .. } => {
                Self::new(Code::Conflict).detail(detail)
            }
            Rejection::NotWaiting | Rejection::NotClaimable => Self::new(Code::NotWaiting).detail(detail),
            Rejection::TooLarge { .. } => Self::new(Code::TooLarge).detail(detail),
            Rejection::Invalid(violations) => Self::invalid(violations),
        }
    }
}

impl From<LogError> for Problem {
    fn from(error: LogError) -> Self {
        // The cause is for the operator only. It is logged here because it is handled here.
        match error {
            LogError::Erased => Self::new(Code::NotFound),
            LogError::Corrupt(_) => {
                tracing::error!(%error, "stored data is unreadable; the request was answered with 500");
                Self::new(Code::Internal)
                    .detail("the stored data is unreadable; details are in the server log under this request id")
            }
            LogError::Refused(_) => {
                tracing::warn!(%error, "the store refused a write; the request was answered with 503");
                store_refuses(error.is_disk_full())
            }
            LogError::Conflict(_) | LogError::Unavailable(_) => {
                tracing::warn!(%error, "a store request failed; the HTTP request was answered with 503");
                Self::new(Code::Unavailable)
                    .retry(Retry::Safe)
                    .retry_after(Duration::from_secs(2))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn retry_of(problem: impl Into<Problem>) -> String {
        let document = problem.into().document("r1");
        let document: serde_json::Value = serde_json::from_slice(&document).unwrap();
        assert_eq!(document["status"], 503, "{document}");
        document["retry"].as_str().unwrap().to_owned()
    }

    #[test]
    fn a_503_is_safe_to_retry_if_nothing_was_stored() {
        let gateway = |kind| GatewayError::new(kind, "because");
        let unavailable = || LogError::Unavailable("no answer".to_owned());
        let cases: Vec<(&str, Problem, &str)> = vec![
            (
                "limits cannot be checked",
                gateway(GatewayErrorKind::LimitsUnavailable).into(),
                "safe",
            ),
            ("no provider", gateway(GatewayErrorKind::Unavailable).into(), "safe"),
            ("too many turns", Refusal::TurnLimit(TurnLimit::Node, 1).into(), "safe"),
            ("disk full", Refusal::Refused { disk_full: true }.into(), "safe"),
            ("refused", Refusal::Refused { disk_full: false }.into(), "safe"),
            ("left out", Refusal::LeftOut.into(), "safe"),
            ("another writer was first", Refusal::Gone.into(), "safe"),
            ("never processed", Refusal::NotStored.into(), "safe"),
            ("an append without an answer", Refusal::Unavailable.into(), "unsafe"),
            (
                "schema check",
                SchemaError::Unavailable("down".to_owned()).into(),
                "safe",
            ),
            ("a read without an answer", unavailable().into(), "safe"),
            (
                "a write that was refused",
                LogError::Refused("full".to_owned()).into(),
                "safe",
            ),
            ("load is shed", Problem::new(Code::Overloaded), "safe"),
            ("unknown outcome", Problem::new(Code::Unavailable), "unsafe"),
        ];
        for (name, problem, expected) in cases {
            assert_eq!(retry_of(problem), expected, "{name}");
        }
    }
}
