//! An unavailable model provider as seen by one turn: how long the turn has waited, and when it retries.
//!
//! Pure arithmetic on the log, so that a restart continues where the previous process stopped.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::domain::event::{FailureCode, WaitReason};
use crate::domain::failure::FailureClass;
use crate::domain::ids::TurnId;
use crate::domain::policy::Limits;

/// The first wait for an unavailable provider; doubles with each failure.
const FIRST_WAIT: Duration = Duration::from_millis(250);
/// The first wait after an answer that broke off or could not be read: every retry is billed, so there are fewer of
/// them.
const FIRST_WAIT_BROKEN: Duration = Duration::from_secs(1);
/// The first wait after a 429 that names no time.
const FIRST_WAIT_RATE: Duration = Duration::from_secs(2);
/// The longest wait that we choose ourselves, before jitter.
const LONGEST_WAIT: Duration = Duration::from_secs(12);
/// The longest time counted for one failed call: if the clock was set forward in the middle, the provider is not to
/// blame.
const LONGEST_CALL: Duration = Duration::from_secs(120);
/// Answers that keep breaking off are given up after this time, even if more waiting is allowed: each one is billed.
const BROKEN_FOR: Duration = Duration::from_secs(90);

/// Failures of a turn's current step since a model last answered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outage {
    /// Number of failed model calls.
    failures: u32,
    /// How many of them broke off or could not be read.
    broken: u32,
    /// Milliseconds spent waiting and on failed calls, not counting the time that the process was down.
    spent_ms: u64,
    /// The end of the last wait.
    until: Option<Timestamp>,
}

/// What to do after a failed model call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AfterFailure {
    /// Fail the turn.
    Fail(FailureCode),
    /// Wait this long and retry.
    Wait(WaitReason, Duration),
}

impl Outage {
    /// Records a failed call that began at `from`.
    pub fn failed(&mut self, class: &str, from: Timestamp, at: Timestamp) {
        self.failures = self.failures.saturating_add(1);
        let is_broken = [FailureClass::Cut, FailureClass::Malformed]
            .iter()
            .any(|c| c.code() == class);
        self.broken += u32::from(is_broken);
        let longest = from.saturating_add(LONGEST_CALL).unwrap_or(Timestamp::MAX);
        self.spend(from, at.min(longest));
    }

    /// Records a wait. A wait that continues after a restart is counted once.
    pub fn waits(&mut self, at: Timestamp, until: Timestamp) {
        self.spend(self.until.map_or(at, |known| known.max(at)), until);
        self.until = Some(until);
    }

    fn spend(&mut self, from: Timestamp, to: Timestamp) {
        let ms = u64::try_from(to.duration_since(from).as_millis()).unwrap_or(0);
        self.spent_ms = self.spent_ms.saturating_add(ms);
    }

    /// Decides what follows the last failure, which was of this `class`. `attempt` is the one that failed.
    pub fn next(
        &self,
        class: FailureClass,
        retry_after: Option<Duration>,
        (turn, attempt): (TurnId, u32),
        limits: &Limits,
    ) -> AfterFailure {
        use FailureClass as Class;
        let (reason, first, exhausted) = match class {
            Class::Key | Class::Rejected => return AfterFailure::Fail(FailureCode::ProviderRejected),
            Class::ContextLength => return AfterFailure::Fail(FailureCode::ContextTooLong),
            Class::ContentPolicy => return AfterFailure::Fail(FailureCode::ContentPolicy),
            Class::Budget => return AfterFailure::Fail(FailureCode::BudgetExhausted),
            // A request that can never fit is not waited for.
            Class::Limit if retry_after.is_none() => return AfterFailure::Fail(FailureCode::RateLimited),
            Class::Limit => (WaitReason::Limit, FIRST_WAIT, FailureCode::RateLimited),
            Class::Rate => (WaitReason::ProviderRateLimit, FIRST_WAIT_RATE, FailureCode::RateLimited),
            Class::Overload | Class::Network | Class::TimedOut => (
                WaitReason::ProviderUnavailable,
                FIRST_WAIT,
                FailureCode::ProviderUnavailable,
            ),
            Class::Cut | Class::Malformed => {
                let reason = WaitReason::ProviderUnavailable;
                (reason, FIRST_WAIT_BROKEN, FailureCode::ProviderUnavailable)
            }
        };
        let spent = Duration::from_millis(self.spent_ms);
        let left = limits.wait.saturating_sub(spent);
        let is_hopeless = self.broken >= limits.attempts && spent >= BROKEN_FOR;
        // A requested wait longer than what is left would be in vain.
        if left.is_zero() || is_hopeless || retry_after.is_some_and(|wait| wait > left) {
            return AfterFailure::Fail(exhausted);
        }
        let doubled = first * 2_u32.pow(self.failures.saturating_sub(1).min(8));
        let own = doubled.min(LONGEST_WAIT).mul_f64(1.0 + spread(turn, attempt) / 2.0);
        let wait = match (class, retry_after) {
            // Our own limits report exactly when there is capacity again.
            (Class::Limit, Some(wait)) if !wait.is_zero() => wait,
            (_, Some(wait)) => wait.max(own),
            (_, None) => own,
        };
        AfterFailure::Wait(reason, wait.min(left))
    }
}

/// Returns a number in 0..1 that differs from turn to turn and from attempt to attempt, so that turns that failed
/// together do not all retry together. Not random: the core must decide the same each time.
fn spread(turn: TurnId, attempt: u32) -> f64 {
    let text = format!("{turn}/{attempt}");
    let hash = text.bytes().fold(0x811c_9dc5_u32, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    });
    f64::from(hash) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_millisecond(1_767_225_600_000 + ms).unwrap()
    }

    /// Simulates an outage of `class` in which each failed call takes `call_ms`; returns the waits in milliseconds and
    /// the final code.
    fn play(
        class: FailureClass,
        retry_after: Option<Duration>,
        call_ms: i64,
        limits: &Limits,
    ) -> (Vec<u64>, FailureCode) {
        let (mut outage, mut now, mut waits) = (Outage::default(), 0, Vec::new());
        for attempt in 1.. {
            outage.failed(class.code(), at(now), at(now + call_ms));
            now += call_ms;
            let turn = TurnId::new(Uuid::from_u128(7));
            match outage.next(class, retry_after, (turn, attempt), limits) {
                AfterFailure::Fail(code) => return (waits, code),
                AfterFailure::Wait(_, wait) => {
                    let wait = u64::try_from(wait.as_millis()).unwrap();
                    waits.push(wait);
                    let until = now + i64::try_from(wait).unwrap();
                    outage.waits(at(now), at(until));
                    now = until;
                }
            }
        }
        unreachable!("an outage ends")
    }

    #[test]
    fn an_unavailable_provider_is_retried_for_as_long_as_the_turn_may_wait() {
        use FailureClass::{Network, Overload, Rate, TimedOut};
        for (class, code) in [
            (Overload, FailureCode::ProviderUnavailable),
            (Network, FailureCode::ProviderUnavailable),
            (TimedOut, FailureCode::ProviderUnavailable),
            (Rate, FailureCode::RateLimited),
        ] {
            for call_ms in [1, 10_000] {
                let (waits, ended) = play(class, None, call_ms, &Limits::default());
                let spent = waits.iter().sum::<u64>() + (waits.len() as u64) * call_ms.unsigned_abs();
                assert_eq!(ended, code, "{class:?}");
                assert!((590_000..=610_000).contains(&spent), "{class:?} {call_ms}: {spent}");
                assert!(waits[0] >= 250 && waits.iter().all(|wait| *wait <= 18_000), "{waits:?}");
                assert!(waits.len() < 80, "{class:?}: {}", waits.len());
            }
        }
    }

    #[test]
    fn broken_answers_are_retried_over_a_minute_and_not_for_ten() {
        let (waits, code) = play(FailureClass::Cut, None, 100, &Limits::default());
        assert_eq!(code, FailureCode::ProviderUnavailable);
        assert!((60_000..130_000).contains(&waits.iter().sum::<u64>()), "{waits:?}");
        assert!(waits.len() <= 12, "{waits:?}");
    }

    #[test]
    fn a_time_that_the_provider_names_is_a_floor_and_zero_is_none() {
        let seconds = |s| Some(Duration::from_secs(s));
        let limits = Limits::default();
        let (waits, _) = play(FailureClass::Rate, seconds(30), 1, &limits);
        assert!(waits.iter().rev().skip(1).all(|wait| *wait == 30_000), "{waits:?}");
        let (waits, _) = play(FailureClass::Overload, seconds(0), 1, &limits);
        // Except for the last one, which is what is left.
        assert!(waits.iter().rev().skip(1).all(|wait| *wait >= 250), "{waits:?}");
        assert!(waits.len() < 80, "{waits:?}");
        let (waits, code) = play(FailureClass::Rate, seconds(601), 1, &limits);
        assert_eq!((waits.len(), code), (0, FailureCode::RateLimited));
    }

    #[test]
    fn turns_that_failed_together_do_not_come_back_together() {
        let mut waits: Vec<u128> = (0..50)
            .map(|n| {
                let outage = Outage {
                    failures: 8,
                    ..Outage::default()
                };
                let turn = TurnId::new(Uuid::from_u128(n));
                match outage.next(FailureClass::Overload, None, (turn, 9), &Limits::default()) {
                    AfterFailure::Wait(_, wait) => wait.as_millis(),
                    AfterFailure::Fail(code) => panic!("{code:?}"),
                }
            })
            .collect();
        waits.sort_unstable();
        assert!(waits[49] - waits[0] > 3_000, "{waits:?}");
    }

    #[test]
    fn a_wait_recorded_again_after_a_restart_counts_once() {
        let mut outage = Outage::default();
        outage.waits(at(0), at(10_000));
        // The process was down for four of the ten seconds, or for an hour.
        outage.waits(at(4_000), at(10_000));
        assert_eq!(outage.spent_ms, 10_000);
        outage.waits(at(3_600_000), at(3_601_000));
        assert_eq!(outage.spent_ms, 11_000);
    }
}
