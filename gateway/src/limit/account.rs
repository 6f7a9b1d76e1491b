//! All limits of one subject: a tenant, one of its users, or one of its API keys.

use std::time::Duration;

use copilotd_actors::domain::token_bucket::{TokenBucket, Wait};
use copilotd_actors::domain::usage::NanoUsd;

use super::period::{Period, PeriodBudget};
use super::{AccountUsage, ActualUsage, Demand, LimitName, Moment};
use crate::error::LimitState;

/// `Retry-After` while waiting for another call to end.
const CALL_PAUSE: Duration = Duration::from_secs(1);

/// The limits of a subject; `None` is unlimited.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// Requests per minute.
    pub requests_per_minute: Option<u64>,
    /// Tokens per minute, of prompts and answers.
    pub tokens_per_minute: Option<u64>,
    /// Concurrent calls.
    pub concurrent_calls: Option<u64>,
    /// Money per day (UTC).
    pub usd_per_day: Option<NanoUsd>,
    /// Money per month (UTC).
    pub usd_per_month: Option<NanoUsd>,
}

impl Limits {
    /// Whether nothing is limited.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether money is limited.
    pub fn has_budget(&self) -> bool {
        self.usd_per_day.is_some() || self.usd_per_month.is_some()
    }
}

/// The account of a subject.
#[derive(Debug)]
pub struct Account {
    requests: Option<TokenBucket>,
    tokens: Option<TokenBucket>,
    max_calls: Option<u64>,
    calls: u64,
    /// Kept without a limit too, so that a limit set later counts what was spent before.
    day: PeriodBudget,
    month: PeriodBudget,
}

/// A limit that was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReachedLimit {
    /// Which limit.
    pub name: LimitName,
    /// When the demand will fit.
    pub wait: Wait,
}

impl Account {
    /// Creates an unused account.
    pub fn new(limits: &Limits, now: Moment) -> Self {
        Self {
            requests: limits
                .requests_per_minute
                .map(|limit| TokenBucket::new(limit, now.elapsed)),
            tokens: limits
                .tokens_per_minute
                .map(|limit| TokenBucket::new(limit, now.elapsed)),
            max_calls: limits.concurrent_calls,
            calls: 0,
            day: PeriodBudget::new(limits.usd_per_day, Period::Day, now.wall),
            month: PeriodBudget::new(limits.usd_per_month, Period::Month, now.wall),
        }
    }

    /// Restores an account from a shared store.
    pub fn used(limits: &Limits, used: &AccountUsage, now: Moment) -> Self {
        let budget = |limit, period, spent| PeriodBudget::used(limit, period, spent, used.held, now.wall);
        Self {
            requests: limits
                .requests_per_minute
                .map(|limit| TokenBucket::used(limit, used.requests, now.elapsed)),
            tokens: limits
                .tokens_per_minute
                .map(|limit| TokenBucket::used(limit, used.tokens, now.elapsed)),
            max_calls: limits.concurrent_calls,
            calls: used.calls,
            day: budget(limits.usd_per_day, Period::Day, used.day),
            month: budget(limits.usd_per_month, Period::Month, used.month),
        }
    }

    /// Changes the limits. Usage and reservations carry over.
    pub fn relimit(&mut self, limits: &Limits, now: Moment) {
        let rate = |old: &mut Option<TokenBucket>, limit: Option<u64>| match (old.as_mut(), limit) {
            (Some(rate), Some(limit)) => rate.relimit(limit, now.elapsed),
            (_, limit) => *old = limit.map(|limit| TokenBucket::new(limit, now.elapsed)),
        };
        rate(&mut self.requests, limits.requests_per_minute);
        rate(&mut self.tokens, limits.tokens_per_minute);
        self.max_calls = limits.concurrent_calls;
        self.day.relimit(limits.usd_per_day);
        self.month.relimit(limits.usd_per_month);
    }

    /// Sets spending from the ledger: from before this process began, or before the limit existed.
    pub fn owed(&mut self, day: NanoUsd, month: NanoUsd, now: Moment) {
        self.day.at_least(day, now.wall);
        self.month.at_least(month, now.wall);
    }

    /// Whether all of `demand` fits; if not, returns the limit with the longest wait.
    pub fn fits(&mut self, demand: &Demand, now: Moment) -> Result<(), ReachedLimit> {
        let mut met = Vec::new();
        let mut check = |name, result: Result<(), Wait>| {
            if let Err(wait) = result {
                met.push(ReachedLimit { name, wait });
            }
        };
        check(LimitName::UsdPerMonth, self.month.fits(demand.cost, now.wall));
        check(LimitName::UsdPerDay, self.day.fits(demand.cost, now.wall));
        if let Some(rate) = &mut self.requests {
            check(LimitName::Requests, rate.fits(demand.requests, now.elapsed));
        }
        if let Some(rate) = &mut self.tokens {
            check(LimitName::Tokens, rate.fits(demand.tokens, now.elapsed));
        }
        if demand.calls > 0 && self.max_calls.is_some_and(|max| self.calls + demand.calls > max) {
            check(LimitName::Calls, Err(Wait::For(CALL_PAUSE)));
        }
        let longest = met.into_iter().max_by_key(|met| match met.wait {
            Wait::For(wait) => wait,
            Wait::Never => Duration::MAX,
        });
        longest.map_or(Ok(()), Err)
    }

    /// Takes what [`Account::fits`] allowed.
    pub fn take(&mut self, demand: &Demand, now: Moment) {
        if let Some(rate) = &mut self.requests {
            rate.take(demand.requests, now.elapsed);
        }
        if let Some(rate) = &mut self.tokens {
            rate.take(demand.tokens, now.elapsed);
        }
        self.calls += demand.calls;
        for budget in [&mut self.day, &mut self.month] {
            budget.hold(demand.cost);
        }
    }

    /// Replaces what was reserved by what was used. The request itself always counts.
    pub fn settle(&mut self, demand: &Demand, spent: &ActualUsage, now: Moment) {
        if let Some(rate) = &mut self.tokens {
            if spent.tokens > demand.tokens {
                rate.take(spent.tokens - demand.tokens, now.elapsed);
            } else {
                rate.give(demand.tokens - spent.tokens, now.elapsed);
            }
        }
        self.calls = self.calls.saturating_sub(demand.calls);
        for budget in [&mut self.day, &mut self.month] {
            budget.settle(demand.cost, spent.cost, now.wall);
        }
    }

    /// Returns a budget that is exhausted.
    pub fn exhausted(&mut self, now: Moment) -> Option<LimitName> {
        let gone = |budget: &mut PeriodBudget, name| budget.is_exhausted(now.wall).then_some(name);
        gone(&mut self.month, LimitName::UsdPerMonth).or_else(|| gone(&mut self.day, LimitName::UsdPerDay))
    }

    /// Returns the state of a limit.
    pub fn standing(&mut self, name: LimitName, now: Moment) -> Option<LimitState> {
        let (limit, remaining, reset) = match name {
            LimitName::Requests => self.requests.as_mut()?.standing(now.elapsed),
            LimitName::Tokens => self.tokens.as_mut()?.standing(now.elapsed),
            LimitName::Calls => {
                let max = self.max_calls?;
                (max, max.saturating_sub(self.calls), CALL_PAUSE)
            }
            LimitName::UsdPerDay => self.day.standing(now.wall)?,
            LimitName::UsdPerMonth => self.month.standing(now.wall)?,
        };
        Some(LimitState {
            name,
            limit,
            remaining,
            reset,
        })
    }

    /// Whether the account equals a new one, so that it can be dropped.
    pub fn is_unused(&mut self, now: Moment) -> bool {
        let full =
            |rate: &mut Option<TokenBucket>| rate.as_mut().is_none_or(|rate| rate.standing(now.elapsed).2.is_zero());
        self.calls == 0
            && full(&mut self.requests)
            && full(&mut self.tokens)
            && self.day.is_untouched(now.wall)
            && self.month.is_untouched(now.wall)
    }
}
