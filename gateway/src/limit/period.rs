//! An amount of money per calendar period.

use std::time::Duration;

use copilotd_actors::domain::token_bucket::Wait;
use copilotd_actors::domain::usage::NanoUsd;
use jiff::Timestamp;
use jiff::tz::TimeZone;

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
    use super::*;

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
}
