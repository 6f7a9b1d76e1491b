//! A token bucket for calls to an external system, corrected by the vendor's rate limit headers.

use std::time::Duration;

use crate::domain::token_bucket::{TokenBucket, Wait};

/// A vendor's rate limits, from the headers of any answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RateHint {
    /// Calls allowed per minute.
    pub limit: Option<u32>,
    /// Calls left in the current window.
    pub remaining: Option<u32>,
    /// Time until the next window begins.
    pub reset: Option<Duration>,
}

/// A token bucket of calls. Times are monotonic, measured from an arbitrary moment. A call needs permission from both
/// the bucket and the vendor: a vendor's `Retry-After` alone is sometimes too short, and its limit is shared with other
/// programs.
#[derive(Debug, Clone)]
pub struct Bucket {
    calls: TokenBucket,
    closed_until: Option<Duration>,
}

/// The longest time for which a vendor's answer alone stops all calls. After that, one call is tried.
pub const LONGEST_CLOSED: Duration = Duration::from_secs(60);

impl Bucket {
    /// Creates a full bucket of `per_minute` calls with bursts of a sixth of that.
    pub fn new(per_minute: u32, now: Duration) -> Self {
        Self {
            calls: TokenBucket::with_burst(per_minute.into(), burst(per_minute), now),
            closed_until: None,
        }
    }

    /// Takes one call; the error is the time for the next try.
    pub fn take(&mut self, now: Duration) -> Result<(), Duration> {
        if let Some(until) = self.closed_until.filter(|until| *until > now) {
            return Err(until);
        }
        self.closed_until = None;
        match self.calls.fits(1, now) {
            Ok(()) => {
                self.calls.take(1, now);
                Ok(())
            }
            Err(Wait::For(wait)) => Err(now.saturating_add(wait)),
            // No bucket holds less than one call.
            Err(Wait::Never) => Err(now.saturating_add(LONGEST_CLOSED)),
        }
    }

    /// Applies the rate limit headers of an answer.
    pub fn learn(&mut self, hint: RateHint, now: Duration) {
        if let Some(limit) = hint.limit.filter(|limit| *limit > 0) {
            self.calls.set(limit.into(), burst(limit), now);
        }
        if let Some(remaining) = hint.remaining {
            self.calls.lower_to(remaining.into(), now);
            if remaining == 0 {
                self.close(hint.reset.unwrap_or(Duration::from_secs(1)), now);
            }
        }
    }

    /// Rejects all calls for `time`, after the vendor answered 429.
    pub fn close(&mut self, time: Duration, now: Duration) {
        // A vendor that says zero means "soon"; retrying at once would earn the next 429.
        let until = now.saturating_add(time.clamp(Duration::from_millis(250), LONGEST_CLOSED));
        self.closed_until = self.closed_until.max(Some(until));
        self.calls.lower_to(1, now);
    }
}

/// Calls that may follow at once after a pause, at a rate.
fn burst(per_minute: u32) -> u64 {
    (u64::from(per_minute) / 6).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_minute_lets_a_burst_and_the_rate_through() {
        let mut bucket = Bucket::new(60, at(0));
        let passed = (0..60_000)
            .step_by(10)
            .filter(|ms| bucket.take(at(*ms)).is_ok())
            .count();
        assert!((69..=70).contains(&passed), "{passed}");
    }

    #[test]
    fn a_refusal_names_the_time_of_the_next_call() {
        let mut bucket = Bucket::new(60, at(0));
        while bucket.take(at(0)).is_ok() {}
        let next = bucket.take(at(0)).unwrap_err();
        assert!(bucket.take(next).is_ok());
        assert!(bucket.take(next).is_err());
    }

    #[test]
    fn the_vendors_limit_overrides_ours() {
        let mut bucket = Bucket::new(600, at(0));
        bucket.learn(
            RateHint {
                limit: Some(60),
                remaining: Some(0),
                reset: Some(Duration::from_secs(5)),
            },
            at(0),
        );
        assert_eq!(bucket.take(at(4_999)), Err(at(5_000)));
        assert!(bucket.take(at(5_000)).is_ok());
        bucket.close(Duration::ZERO, at(6_000));
        assert_eq!(bucket.take(at(6_000)), Err(at(6_250)));
        bucket.close(Duration::MAX, at(7_000));
        assert_eq!(bucket.take(at(7_000)), Err(at(67_000)));
        assert!(bucket.take(at(67_000)).is_ok());
    }
}
