//! A token bucket: how often something may happen. Integers throughout, so that what is taken and given back adds up to
//! zero, and times are monotonic, measured from an arbitrary moment.

use std::time::Duration;

/// Window of a rate in milliseconds.
const WINDOW: i64 = 60_000;
/// Largest rate; larger ones are capped. A full bucket, in 60,000ths, stays below 2^53, so that a store that counts in
/// doubles counts exactly.
pub const MAX_RATE: u64 = 100_000_000_000;

/// When an amount that does not fit now will fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// After this time, if nobody else takes it.
    For(Duration),
    /// Never: it exceeds the whole limit.
    Never,
}

/// A rate per minute with a burst. The bucket holds the burst, fills evenly, and may go into debt when more was used
/// than taken before.
#[derive(Debug, Clone)]
pub struct TokenBucket {
    per_minute: u64,
    burst: u64,
    /// In 60,000ths: every millisecond adds `per_minute` of them.
    level: i64,
    at: i64,
}

impl TokenBucket {
    /// A full bucket that holds one minute's worth.
    pub fn new(per_minute: u64, now: Duration) -> Self {
        Self::with_burst(per_minute, per_minute, now)
    }

    /// A full bucket.
    pub fn with_burst(per_minute: u64, burst: u64, now: Duration) -> Self {
        let burst = bounded(burst);
        Self {
            per_minute: bounded(per_minute),
            burst,
            level: capacity(burst),
            at: millis(now),
        }
    }

    /// A bucket that holds one minute's worth, from which `used` 60,000ths are missing.
    pub fn used(per_minute: u64, used: i64, now: Duration) -> Self {
        let mut bucket = Self::new(per_minute, now);
        bucket.level = bucket.level.saturating_sub(used.max(0));
        bucket
    }

    /// Changes the rate, and the burst to one minute's worth. What was used of the old one is used of the new one.
    pub fn relimit(&mut self, per_minute: u64, now: Duration) {
        self.fill(now);
        let rate = bounded(per_minute);
        self.level = self.level.saturating_add(capacity(rate) - capacity(self.burst));
        (self.per_minute, self.burst) = (rate, rate);
    }

    /// Changes the rate and the burst. What is left stays, up to the new burst.
    pub fn set(&mut self, per_minute: u64, burst: u64, now: Duration) {
        self.fill(now);
        (self.per_minute, self.burst) = (bounded(per_minute), bounded(burst));
        self.level = self.level.min(capacity(self.burst));
    }

    /// Leaves at most `amount`.
    pub fn lower_to(&mut self, amount: u64, now: Duration) {
        self.fill(now);
        self.level = self.level.min(signed(amount) * WINDOW);
    }

    /// Fills the bucket up to `now`, by a clock that never goes back.
    fn fill(&mut self, now: Duration) {
        let now = millis(now);
        let passed = now.saturating_sub(self.at).max(0);
        self.at = self.at.max(now);
        let gained = signed(self.per_minute).saturating_mul(passed);
        self.level = self.level.saturating_add(gained).min(capacity(self.burst));
    }

    /// Whether `amount` can be taken.
    pub fn fits(&mut self, amount: u64, now: Duration) -> Result<(), Wait> {
        self.fill(now);
        if amount > self.burst {
            return Err(Wait::Never);
        }
        let missing = signed(amount) * WINDOW - self.level;
        if missing <= 0 {
            return Ok(());
        }
        Err(Wait::For(self.time_for(missing)))
    }

    /// Takes `amount`, going into debt if necessary.
    pub fn take(&mut self, amount: u64, now: Duration) {
        self.fill(now);
        self.level = self.level.saturating_sub(signed(amount).saturating_mul(WINDOW));
    }

    /// Gives back what was not used.
    pub fn give(&mut self, amount: u64, now: Duration) {
        self.fill(now);
        let level = self.level.saturating_add(signed(amount).saturating_mul(WINDOW));
        self.level = level.min(capacity(self.burst));
    }

    /// Returns the burst, what is left, and the time until it is full.
    pub fn standing(&mut self, now: Duration) -> (u64, u64, Duration) {
        self.fill(now);
        let left = u64::try_from(self.level.max(0) / WINDOW).unwrap_or(0);
        (self.burst, left, self.time_for(capacity(self.burst) - self.level))
    }

    /// The time in which `missing` 60,000ths flow in.
    fn time_for(&self, missing: i64) -> Duration {
        let rate = signed(self.per_minute);
        let ms = missing.saturating_add(rate - 1) / rate;
        Duration::from_millis(ms.unsigned_abs())
    }
}

fn millis(since: Duration) -> i64 {
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

fn bounded(rate: u64) -> u64 {
    rate.clamp(1, MAX_RATE)
}

fn capacity(burst: u64) -> i64 {
    signed(burst) * WINDOW
}

fn signed(amount: u64) -> i64 {
    i64::try_from(amount.min(MAX_RATE)).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_rate_fills_evenly_and_remembers_debt() {
        let mut rate = TokenBucket::new(600, at(0));
        assert_eq!(rate.fits(601, at(0)), Err(Wait::Never));
        assert_eq!(rate.fits(600, at(0)), Ok(()));
        rate.take(600, at(0));
        assert_eq!(rate.fits(1, at(0)), Err(Wait::For(Duration::from_millis(100))));
        assert_eq!(rate.fits(1, at(100)), Ok(()));
        rate.take(61, at(100));
        // 60 in debt: 6 s until it is back at zero, and 100 ms for the one.
        assert_eq!(rate.fits(1, at(100)), Err(Wait::For(Duration::from_millis(6_100))));
        rate.give(60, at(100));
        assert_eq!(rate.fits(1, at(200)), Ok(()));
        assert_eq!(rate.standing(at(120_000)), (600, 600, Duration::ZERO));
    }

    #[test]
    fn a_bucket_holds_its_burst() {
        let mut bucket = TokenBucket::with_burst(60, 10, at(0));
        let granted = |bucket: &mut TokenBucket, from: u64, to: u64| {
            let times = (from..to).step_by(10);
            times
                .filter(|ms| bucket.fits(1, at(*ms)).map(|()| bucket.take(1, at(*ms))).is_ok())
                .count()
        };
        assert_eq!(granted(&mut bucket, 0, 60_000), 10 + 59);
        assert_eq!(bucket.fits(11, at(120_000)), Err(Wait::Never));
        bucket.set(120, 2, at(120_000));
        assert_eq!(granted(&mut bucket, 120_000, 120_100), 2);
        assert_eq!(bucket.fits(1, at(120_100)), Err(Wait::For(Duration::from_millis(400))));
        bucket.lower_to(0, at(180_000));
        assert_eq!(bucket.fits(1, at(180_000)), Err(Wait::For(Duration::from_millis(500))));
    }

    proptest! {
        #[test]
        fn what_was_taken_and_given_back_leaves_nothing(
            limit in 1_u64..1_000_000,
            amounts in prop::collection::vec((1_u64..2_000_000, 0_u64..500), 1..50),
        ) {
            let mut rate = TokenBucket::new(limit, at(0));
            let mut now = 0;
            for (amount, _) in &amounts {
                rate.take(*amount, at(now));
            }
            for (amount, later) in &amounts {
                now += later;
                rate.give(*amount, at(now));
            }
            prop_assert_eq!(rate.standing(at(now)).1, limit);
        }

        #[test]
        fn within_any_time_no_more_is_granted_than_the_burst_and_what_flowed_in(
            limit in 1_u64..10_000,
            asks in prop::collection::vec((1_u64..500, 0_u64..2_000), 1..200),
        ) {
            let mut rate = TokenBucket::new(limit, at(0));
            let (mut now, mut granted) = (0, 0_u64);
            for (amount, later) in asks {
                now += later;
                if rate.fits(amount, at(now)).is_ok() {
                    rate.take(amount, at(now));
                    granted += amount;
                }
            }
            let flowed = limit * now / 60_000;
            prop_assert!(granted <= limit + flowed, "{} of {}", granted, limit + flowed);
        }

        #[test]
        fn what_has_to_wait_fits_after_exactly_that_time(limit in 1_u64..100_000, taken in 0_u64..200_000, wanted in 1_u64..100_000) {
            let mut rate = TokenBucket::new(limit, at(0));
            rate.take(taken, at(0));
            if let Err(Wait::For(wait)) = rate.fits(wanted, at(0)) {
                let ms = u64::try_from(wait.as_millis()).unwrap();
                prop_assert!(rate.clone().fits(wanted, at(ms - 1)).is_err());
                prop_assert!(rate.fits(wanted, at(ms)).is_ok());
            }
        }
    }
}
