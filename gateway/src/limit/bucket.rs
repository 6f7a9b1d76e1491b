//! Arithmetic of one limit: a token bucket for rates, and an amount of money per calendar period. Integers throughout,
//! so that what is taken and given back adds up to zero.

use std::time::Duration;

use copilotd_actors::domain::usage::NanoUsd;
use jiff::Timestamp;
use jiff::tz::TimeZone;

/// Window of a rate in milliseconds.
pub(super) const WINDOW: i64 = 60_000;
/// Largest rate; larger ones are capped. A full bucket, in 60,000ths, stays below 2^53, so that a store that counts in
/// doubles counts exactly.
pub const MAX_LIMIT: u64 = 100_000_000_000;

/// When an amount that does not fit now will fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// After this time, if nobody else takes it.
    For(Duration),
    /// Never: it exceeds the whole limit.
    Never,
}

/// A rate per minute: a token bucket that holds one minute's worth, fills evenly, and may go into debt when a call used
/// more than reserved.
#[derive(Debug, Clone)]
pub struct Rate {
    limit: u64,
    /// In 60,000ths: every millisecond adds `limit` of them.
    level: i64,
    at: i64,
}

impl Rate {
    /// A full bucket.
    pub fn new(limit: u64, now: Duration) -> Self {
        let limit = limit.clamp(1, MAX_LIMIT);
        Self {
            limit,
            level: capacity(limit),
            at: millis(now),
        }
    }

    /// A bucket from which `used` 60,000ths are missing.
    pub fn used(limit: u64, used: i64, now: Duration) -> Self {
        let mut rate = Self::new(limit, now);
        rate.level = rate.level.saturating_sub(used.max(0));
        rate
    }

    /// Changes the limit. What was used of the old one is used of the new one.
    pub fn relimit(&mut self, limit: u64, now: Duration) {
        self.fill(now);
        let limit = limit.clamp(1, MAX_LIMIT);
        self.level = self.level.saturating_add(capacity(limit) - capacity(self.limit));
        self.limit = limit;
    }

    /// Fills the bucket up to `now`, by a clock that never goes back.
    fn fill(&mut self, now: Duration) {
        let now = millis(now);
        let passed = now.saturating_sub(self.at).max(0);
        self.at = self.at.max(now);
        let gained = signed(self.limit).saturating_mul(passed);
        self.level = self.level.saturating_add(gained).min(capacity(self.limit));
    }

    /// Whether `amount` can be taken.
    pub fn fits(&mut self, amount: u64, now: Duration) -> Result<(), Wait> {
        self.fill(now);
        if amount > self.limit {
            return Err(Wait::Never);
        }
        let missing = signed(amount) * WINDOW - self.level;
        if missing <= 0 {
            return Ok(());
        }
        let limit = signed(self.limit);
        let ms = missing.saturating_add(limit - 1) / limit;
        Err(Wait::For(Duration::from_millis(ms.unsigned_abs())))
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
        self.level = level.min(capacity(self.limit));
    }

    /// Returns the limit, what is left, and the time until it is full.
    pub fn standing(&mut self, now: Duration) -> (u64, u64, Duration) {
        self.fill(now);
        let limit = signed(self.limit);
        let left = u64::try_from(self.level.max(0) / WINDOW).unwrap_or(0);
        let missing = capacity(self.limit) - self.level;
        let ms = missing.saturating_add(limit - 1) / limit;
        (self.limit, left, Duration::from_millis(ms.unsigned_abs()))
    }
}

fn millis(since: Duration) -> i64 {
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

fn capacity(limit: u64) -> i64 {
    signed(limit) * WINDOW
}

fn signed(amount: u64) -> i64 {
    i64::try_from(amount.min(MAX_LIMIT)).unwrap_or(i64::MAX)
}

/// A calendar period, in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Period {
    /// A day.
    Day,
    /// A month.
    Month,
}

impl Period {
    /// Returns the start of the period that contains `now` and the start of the next one.
    pub fn around(self, now: Timestamp) -> (Timestamp, Timestamp) {
        let day = TimeZone::UTC.to_datetime(now).date();
        let (first, next) = match self {
            Self::Day => (day, day.tomorrow()),
            Self::Month => (day.first_of_month(), day.last_of_month().tomorrow()),
        };
        let begin = |date: jiff::civil::Date| TimeZone::UTC.to_timestamp(date.at(0, 0, 0, 0)).ok();
        let last = next.ok().and_then(begin);
        (begin(first).unwrap_or(Timestamp::MIN), last.unwrap_or(Timestamp::MAX))
    }
}

/// Money of a period: what was spent, and what is reserved for calls in flight.
#[derive(Debug, Clone)]
pub struct PeriodBudget {
    /// `None` if unlimited; money is counted all the same.
    limit: Option<NanoUsd>,
    period: Period,
    begins: Timestamp,
    ends: Timestamp,
    spent: NanoUsd,
    held: NanoUsd,
}

impl PeriodBudget {
    /// An unused budget.
    pub fn new(limit: Option<NanoUsd>, period: Period, now: Timestamp) -> Self {
        let (begins, ends) = period.around(now);
        Self {
            limit,
            period,
            begins,
            ends,
            spent: 0,
            held: 0,
        }
    }

    /// A budget with this much spent and reserved.
    pub fn used(limit: Option<NanoUsd>, period: Period, spent: NanoUsd, held: NanoUsd, now: Timestamp) -> Self {
        Self {
            spent,
            held,
            ..Self::new(limit, period, now)
        }
    }

    /// Starts a new period when it is due. If the calendar is set back, spending stays, in what is now the current
    /// period; a step forward and back exhausts no budget for longer than that period.
    fn roll_over(&mut self, now: Timestamp) {
        if (self.begins..self.ends).contains(&now) {
            return;
        }
        if now >= self.ends {
            self.spent = 0;
        }
        (self.begins, self.ends) = self.period.around(now);
    }

    /// Changes the limit, or removes it.
    pub fn relimit(&mut self, limit: Option<NanoUsd>) {
        self.limit = limit;
    }

    /// Whether `amount` can be reserved.
    pub fn fits(&mut self, amount: NanoUsd, now: Timestamp) -> Result<(), Wait> {
        self.roll_over(now);
        let Some(limit) = self.limit else {
            return Ok(());
        };
        let wanted = self.spent.saturating_add(self.held).saturating_add(amount);
        if self.spent < limit && wanted <= limit {
            return Ok(());
        }
        if amount > limit {
            return Err(Wait::Never);
        }
        let whole = self.spent.saturating_add(amount) <= limit && self.spent < limit;
        // Only reservations are in the way: the calls in flight may turn out cheaper.
        let wait = if whole { Duration::from_secs(1) } else { self.left(now) };
        Err(Wait::For(wait))
    }

    /// Reserves `amount`.
    pub fn hold(&mut self, amount: NanoUsd) {
        self.held = self.held.saturating_add(amount);
    }

    /// Replaces reserved money by spent money.
    pub fn settle(&mut self, held: NanoUsd, spent: NanoUsd, now: Timestamp) {
        self.roll_over(now);
        self.held = self.held.saturating_sub(held);
        self.spent = self.spent.saturating_add(spent);
    }

    /// Whether all of it is spent.
    pub fn is_exhausted(&mut self, now: Timestamp) -> bool {
        self.roll_over(now);
        self.limit.is_some_and(|limit| self.spent >= limit)
    }

    /// Whether there is no limit, or nothing was spent or reserved.
    pub fn is_untouched(&mut self, now: Timestamp) -> bool {
        self.roll_over(now);
        self.limit.is_none() || self.spent == 0 && self.held == 0
    }

    /// Raises the spending of this period to at least `spent`, as known from the ledger.
    pub fn at_least(&mut self, spent: NanoUsd, now: Timestamp) {
        self.roll_over(now);
        self.spent = self.spent.max(spent);
    }

    /// Returns the limit, what is left, in nano-dollars, and the time until the next period; `None` without a limit.
    pub fn standing(&mut self, now: Timestamp) -> Option<(u64, u64, Duration)> {
        self.roll_over(now);
        let limit = self.limit?;
        let left = limit.saturating_sub(self.spent.saturating_add(self.held));
        Some((limit, left, self.left(now)))
    }

    fn left(&self, now: Timestamp) -> Duration {
        Duration::try_from(self.ends.duration_since(now)).unwrap_or_default()
    }
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
        let mut rate = Rate::new(600, at(0));
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
    fn a_budget_starts_again_with_its_period() {
        let date = |text: &str| text.parse::<Timestamp>().unwrap();
        for (period, now, next) in [
            (Period::Day, "2026-02-28T23:59:59Z", "2026-03-01T00:00:00Z"),
            (Period::Month, "2026-12-31T12:00:00Z", "2027-01-01T00:00:00Z"),
        ] {
            let mut budget = PeriodBudget::new(Some(100), period, date(now));
            assert_eq!(budget.fits(100, date(now)), Ok(()));
            assert_eq!(budget.fits(101, date(now)), Err(Wait::Never));
            budget.hold(60);
            assert_eq!(budget.fits(50, date(now)), Err(Wait::For(Duration::from_secs(1))));
            budget.settle(60, 120, date(now));
            assert!(budget.is_exhausted(date(now)));
            let wait = Duration::try_from(date(next).duration_since(date(now))).unwrap();
            assert_eq!(budget.fits(0, date(now)), Err(Wait::For(wait)));
            assert_eq!(budget.fits(100, date(next)), Ok(()));
        }
    }

    #[test]
    fn a_calendar_that_was_set_gives_no_money_and_takes_none_for_longer_than_a_period() {
        let date = |text: &str| text.parse::<Timestamp>().unwrap();
        let noon = date("2026-03-10T12:00:00Z");
        for hours in [1, 24, 24 * 40] {
            let step = jiff::SignedDuration::from_hours(hours);
            for period in [Period::Day, Period::Month] {
                let mut budget = PeriodBudget::new(Some(100), period, noon);
                budget.settle(0, 100, noon);
                // Back: spending stays until the period that is now current has ended.
                let back = noon - step;
                assert!(budget.is_exhausted(back), "{hours} h back");
                let (_, next) = period.around(back);
                assert_eq!(
                    budget.standing(back).unwrap().2,
                    Duration::try_from(next.duration_since(back)).unwrap()
                );
                assert!(!budget.is_exhausted(next));
                // Forward and back again, with the money of the later period spent too.
                let mut budget = PeriodBudget::new(Some(100), period, noon);
                let forward = noon + step;
                assert!(!budget.is_exhausted(forward));
                budget.settle(0, 100, forward);
                assert!(budget.is_exhausted(noon), "{hours} h forward and back");
                let (_, next) = period.around(noon);
                assert!(
                    !budget.is_exhausted(next),
                    "{hours} h forward and back, then the next period"
                );
            }
        }
    }

    proptest! {
        #[test]
        fn what_was_taken_and_given_back_leaves_nothing(
            limit in 1_u64..1_000_000,
            amounts in prop::collection::vec((1_u64..2_000_000, 0_u64..500), 1..50),
        ) {
            let mut rate = Rate::new(limit, at(0));
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
            let mut rate = Rate::new(limit, at(0));
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
            let mut rate = Rate::new(limit, at(0));
            rate.take(taken, at(0));
            if let Err(Wait::For(wait)) = rate.fits(wanted, at(0)) {
                let ms = u64::try_from(wait.as_millis()).unwrap();
                prop_assert!(rate.clone().fits(wanted, at(ms - 1)).is_err());
                prop_assert!(rate.fits(wanted, at(ms)).is_ok());
            }
        }
    }
}
