//! What follows a failure; each failure class has its own rule.

use std::time::Duration;

use copilotd_actors::domain::failure::FailureClass;
use copilotd_actors::ports::{ModelError, RefusedBy};

/// Pause before the same target is tried again; half of it, plus as much again at random.
pub const PAUSE: Duration = Duration::from_millis(200);
/// A target that asks for a longer wait is left for another one, if there is one.
pub const SHORT_WAIT: Duration = Duration::from_millis(500);
/// Cooldown of a rate-limited key whose provider names no time.
pub const DEFAULT_COOLDOWN: Duration = Duration::from_secs(1);

/// What follows a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// The key was rejected: use the next one at once.
    NextKey,
    /// The key cools down for this time: use another key, another target, or the same afterwards.
    Cooldown(Duration),
    /// The same target once more after a short pause, then the next one.
    RetryThenNext,
    /// The next target; this one is not tried again.
    Next,
    /// The next target, and this one once more if no other answers.
    NextThenRetry,
    /// Another provider, once: the refusal may concern the provider itself, its account or a proxy in front of it.
    NextProvider,
    /// A target with a larger context window.
    LargerContext,
    /// Nothing would help.
    GiveUp,
}

/// Returns what follows `error`. `began`: content had arrived before it.
pub fn after(error: &ModelError, began: bool) -> Rule {
    match error.class {
        FailureClass::Key => Rule::NextKey,
        // A `Retry-After` of zero counts as none.
        FailureClass::Rate => Rule::Cooldown(
            error
                .retry_after
                .filter(|wait| !wait.is_zero())
                .unwrap_or(DEFAULT_COOLDOWN),
        ),
        FailureClass::Overload | FailureClass::Network => match error.retry_after {
            Some(wait) if wait > SHORT_WAIT => Rule::Cooldown(wait),
            _ => Rule::RetryThenNext,
        },
        // The target is reachable, and this one answer broke, like one that was cut.
        FailureClass::TimedOut if began => Rule::NextThenRetry,
        FailureClass::TimedOut => Rule::Next,
        FailureClass::Cut | FailureClass::Malformed => Rule::NextThenRetry,
        FailureClass::ContextLength => Rule::LargerContext,
        FailureClass::ContentPolicy | FailureClass::Limit | FailureClass::Budget => Rule::GiveUp,
        // A target that does not exist (404, a redirect), or does not support the request, says nothing about the
        // request.
        FailureClass::Rejected => match error.refusal.as_deref() {
            Some(refusal)
                if matches!(
                    refusal.by,
                    RefusedBy::Adapter | RefusedBy::Provider(300..=399 | 404 | 405 | 410)
                ) =>
            {
                Rule::Next
            }
            Some(refusal) if refusal.is_certain => Rule::GiveUp,
            _ => Rule::NextProvider,
        },
    }
}

/// Whether a failure counts against its target's health. A refusal is an answer, and keys have a state of their own.
pub fn counts_against_health(class: FailureClass) -> bool {
    use FailureClass::{Cut, Malformed, Network, Overload, TimedOut};
    matches!(class, Overload | Network | TimedOut | Cut | Malformed)
}

#[cfg(test)]
mod tests {
    use copilotd_actors::ports::Refusal;

    use super::*;

    #[test]
    fn each_class_has_its_rule() {
        let seconds = |s| Some(Duration::from_secs(s));
        for (class, retry_after, status, rule, ill) in [
            (FailureClass::Key, None, 0, Rule::NextKey, false),
            (FailureClass::Rate, None, 0, Rule::Cooldown(DEFAULT_COOLDOWN), false),
            (
                FailureClass::Rate,
                seconds(7),
                0,
                Rule::Cooldown(Duration::from_secs(7)),
                false,
            ),
            (
                FailureClass::Rate,
                seconds(0),
                0,
                Rule::Cooldown(DEFAULT_COOLDOWN),
                false,
            ),
            (FailureClass::Overload, None, 0, Rule::RetryThenNext, true),
            (FailureClass::Overload, seconds(0), 0, Rule::RetryThenNext, true),
            (
                FailureClass::Overload,
                seconds(9),
                0,
                Rule::Cooldown(Duration::from_secs(9)),
                true,
            ),
            (FailureClass::Network, None, 0, Rule::RetryThenNext, true),
            (FailureClass::TimedOut, None, 0, Rule::Next, true),
            (FailureClass::Cut, None, 0, Rule::NextThenRetry, true),
            (FailureClass::Malformed, None, 0, Rule::NextThenRetry, true),
            (FailureClass::ContextLength, None, 400, Rule::LargerContext, false),
            (FailureClass::ContentPolicy, None, 400, Rule::GiveUp, false),
            (FailureClass::Rejected, None, 0, Rule::NextProvider, false),
            (FailureClass::Rejected, None, 400, Rule::NextProvider, false),
            (FailureClass::Rejected, None, 422, Rule::NextProvider, false),
            (FailureClass::Rejected, None, 404, Rule::Next, false),
            (FailureClass::Rejected, None, 307, Rule::Next, false),
            (FailureClass::Rejected, None, 501, Rule::NextProvider, false),
        ] {
            let error = ModelError {
                class,
                message: String::new(),
                retry_after,
                refusal: (status > 0).then(|| Box::new(Refusal::new(RefusedBy::Provider(status)))),
            };
            assert_eq!(after(&error, false), rule, "{class:?} {retry_after:?} {status}");
            assert_eq!(counts_against_health(class), ill, "{class:?}");
            let began = if class == FailureClass::TimedOut {
                Rule::NextThenRetry
            } else {
                rule
            };
            assert_eq!(after(&error, true), began, "{class:?}");
        }
        let unsupported = ModelError {
            class: FailureClass::Rejected,
            message: String::new(),
            retry_after: None,
            refusal: Some(Box::new(Refusal::new(RefusedBy::Adapter))),
        };
        assert_eq!(after(&unsupported, false), Rule::Next);
        let certain = Refusal {
            is_certain: true,
            ..Refusal::new(RefusedBy::Provider(400))
        };
        let error = ModelError {
            class: FailureClass::Rejected,
            message: String::new(),
            retry_after: None,
            refusal: Some(Box::new(certain)),
        };
        assert_eq!(after(&error, false), Rule::GiveUp);
    }
}
