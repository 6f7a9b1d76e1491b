//! The one place where refusals of the application become problems.

use std::time::Duration;

use copilotd_actors::conversation::Refusal;
use copilotd_actors::domain::decide::Rejection;
use copilotd_actors::domain::schema::Violation;
use copilotd_actors::ports::{LogError, SchemaError};
use copilotd_actors::shared::Full;

use super::problem::{Code, Problem, RateLimit, Retry};
use crate::gateway::error::{GatewayError, GatewayErrorKind, LimitState};

/// When a place among the open turns may be free again.
const FULL_RETRY: Duration = Duration::from_secs(2);
/// When the next process serves.
const HANDING_OVER_RETRY: Duration = Duration::from_secs(1);
/// When a place in a conversation's queue may be free again.
const QUEUE_RETRY: Duration = Duration::from_secs(5);

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Rejected(rejection) => rejection.into(),
            Refusal::Full(Full::Tenant, most) => Self::new(Code::RateLimited)
                .detail("too many turns of this tenant are open")
                .rate_limit(&RateLimit::all_taken("tenant-turns", most, FULL_RETRY)),
            Refusal::Full(Full::User, most) => Self::new(Code::RateLimited)
                .detail("too many turns of this user are open")
                .rate_limit(&RateLimit::all_taken("user-turns", most, FULL_RETRY)),
            Refusal::Full(Full::Node, _) => Self::new(Code::Overloaded)
                .detail("too many turns are open")
                .retry_after(Duration::from_secs(2)),
            Refusal::Quota(exceeded) => Self::new(Code::QuotaExceeded).detail(exceeded.to_string()),
            Refusal::Refused { disk_full } => store_refuses(disk_full),
            Refusal::Damaged => Self::new(Code::Internal)
                .detail("the conversation's log is damaged; the server's log says where")
                .retry(Retry::Never),
            Refusal::LeftOut => left_out(),
            Refusal::HandingOver => handing_over(),
            Refusal::Gone | Refusal::NotStored => Self::new(Code::Unavailable)
                .detail("the conversation cannot be reached at the moment; nothing was stored")
                .retry(Retry::Safe)
                .retry_after(Duration::from_secs(2)),
            Refusal::Unavailable => Self::new(Code::Unavailable)
                .detail("the store does not answer; whether the request was stored is not known")
                .retry_after(Duration::from_secs(2)),
        }
    }
}

/// Why a turn's `response_schema` was not accepted.
impl From<SchemaError> for Problem {
    fn from(error: SchemaError) -> Self {
        let at = |pointer: String, message: String| {
            let pointer = format!("/response_schema{pointer}");
            Self::invalid([Violation { pointer, message }])
        };
        match error {
            SchemaError::Unusable(Violation { pointer, message }) => at(pointer, message),
            SchemaError::TooExpensive => at(
                String::new(),
                "takes too much time or memory to compile; use fewer or simpler regular expressions and subschemas"
                    .into(),
            ),
            SchemaError::Busy => Self::new(Code::RateLimited)
                .detail("too many schemas of this tenant are being compiled")
                .retry_after(Duration::from_secs(2)),
            SchemaError::Unavailable(_) => {
                tracing::error!(%error, "a turn's schema could not be compiled");
                Self::new(Code::Unavailable)
                    .detail("schemas cannot be compiled now")
                    .retry(Retry::Safe)
                    .retry_after(Duration::from_secs(2))
            }
        }
    }
}

/// The tenant's settings have a fault, which its operator has to fix.
pub(super) fn left_out() -> Problem {
    Problem::new(Code::Unavailable)
        .detail("the settings of this tenant have a fault, so it is not served; ask whoever operates the server to fix them")
        .retry(Retry::Safe)
        .retry_after(Duration::from_secs(30))
}

/// Another process takes over within a moment.
pub(super) fn handing_over() -> Problem {
    Problem::new(Code::Unavailable)
        .detail("this server hands over to its standby; nothing was stored")
        .retry(Retry::Safe)
        .retry_after(HANDING_OVER_RETRY)
}

/// The store answered, and will not take it as things stand.
fn store_refuses(disk_full: bool) -> Problem {
    let detail = if disk_full {
        "the store refuses writes: disk full; nothing was stored"
    } else {
        "the store refuses writes; nothing was stored"
    };
    Problem::new(Code::Unavailable)
        .detail(detail)
        .retry(Retry::Safe)
        .retry_after(Duration::from_secs(10))
}

/// What the gateway refuses at the door: a limit or a budget.
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
            // At the door: nothing was begun.
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

/// A limit as the headers tell of it.
pub(super) fn rate_limit(limit: &LimitState) -> RateLimit {
    let (policy, window) = match limit.name.as_str() {
        "requests_per_minute" => ("requests", 60),
        "tokens_per_minute" => ("tokens", 60),
        "usd_per_day" => ("budget-day", 86_400),
        "usd_per_month" => ("budget-month", 30 * 86_400),
        // How many there may be at one time.
        _ => ("calls", 0),
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
            Rejection::Ended => Self::new(Code::Conflict).detail(detail),
            Rejection::TurnRunning => Self::new(Code::TurnRunning).detail(detail),
            Rejection::QueueFull { waiting } => Self::new(Code::QueueFull)
                .detail(detail)
                .rate_limit(&RateLimit::all_taken("queued-turns", waiting, QUEUE_RETRY)),
            Rejection::KeyReused => Self::new(Code::IdempotencyKeyReused).detail(detail),
            Rejection::FeedbackFull { .. } => Self::new(Code::Conflict).detail(detail),
            Rejection::NotWaiting => Self::new(Code::NotWaiting).detail(detail),
            Rejection::TooLarge { .. } => Self::new(Code::TooLarge).detail(detail),
            Rejection::Invalid(violations) => Self::invalid(violations),
        }
    }
}

impl From<LogError> for Problem {
    fn from(error: LogError) -> Self {
        // The cause is for the operator; it is logged here because it is handled here.
        match error {
            LogError::Erased => Self::new(Code::NotFound),
            LogError::Corrupt(_) => {
                tracing::error!(%error, "the store holds something unreadable");
                Self::new(Code::Internal).detail("what is stored of this cannot be read; the server's log says where")
            }
            LogError::Refused(_) => {
                tracing::warn!(%error, "the store refused a request");
                store_refuses(error.is_disk_full())
            }
            LogError::Conflict(_) | LogError::Unavailable(_) => {
                tracing::warn!(%error, "a request to the store failed");
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
    fn a_503_is_safe_to_repeat_where_certainly_nothing_was_stored() {
        let gateway = |kind| GatewayError::new(kind, "because");
        let unavailable = || LogError::Unavailable("no answer".to_owned());
        let cases: Vec<(&str, Problem, &str)> = vec![
            (
                "limits cannot be checked",
                gateway(GatewayErrorKind::LimitsUnavailable).into(),
                "safe",
            ),
            ("no provider", gateway(GatewayErrorKind::Unavailable).into(), "safe"),
            ("too many turns", Refusal::Full(Full::Node, 1).into(), "safe"),
            ("disk full", Refusal::Refused { disk_full: true }.into(), "safe"),
            ("refused", Refusal::Refused { disk_full: false }.into(), "safe"),
            ("left out", Refusal::LeftOut.into(), "safe"),
            ("another writer was first", Refusal::Gone.into(), "safe"),
            ("never looked at", Refusal::NotStored.into(), "safe"),
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
            ("nobody knows", Problem::new(Code::Unavailable), "unsafe"),
        ];
        for (name, problem, expected) in cases {
            assert_eq!(retry_of(problem), expected, "{name}");
        }
    }
}
