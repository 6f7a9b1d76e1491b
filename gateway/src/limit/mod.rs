//! Limits and budgets: what a call may use is reserved before it and settled after it.
//!
//! Invariants: a reservation is made over all limits of tenant, user and key at once, or not at all; there is one for each
//! request, over its retries and fallbacks; it is settled exactly once, when the last of its attempts is over or dropped, by
//! what these used, into debt if need be and never to nothing.

mod account;
mod bucket;
mod learned;
mod local;
mod places;
mod shared;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use copilotd_actors::domain::ids::TenantId;
use copilotd_actors::domain::usage::{NanoUsd, Usage};
use copilotd_actors::ports::Clock;
use jiff::Timestamp;
use uuid::Uuid;

pub use account::Limits;
pub use bucket::{MAX_LIMIT, Period};
pub use learned::{Ended, Learned, LearnedAnswers, MAX_PAIRS, UnderWay};
pub use local::{LocalLimiter, TenantLimits};
pub use places::{CallPlace, CallPlaces};
pub use shared::{Used, exhausted, judge, standings};

use super::error::{GatewayError, GatewayErrorKind, LimitState};
use super::spending::{Spending, Subject};

/// The present, by both clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// By the calendar: days and months of budgets.
    pub wall: Timestamp,
    /// Since some moment, whatever becomes of the calendar: rates.
    pub elapsed: Duration,
}

impl Moment {
    /// Reads both clocks.
    pub fn of(clock: &dyn Clock) -> Self {
        Self {
            wall: clock.now(),
            elapsed: clock.elapsed(),
        }
    }
}

/// Names a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LimitName {
    /// Requests per minute.
    Requests,
    /// Tokens per minute.
    Tokens,
    /// Calls at one time.
    Calls,
    /// Money per day.
    UsdPerDay,
    /// Money per month.
    UsdPerMonth,
}

impl LimitName {
    /// Stable name: the configuration's.
    pub fn code(self) -> &'static str {
        match self {
            Self::Requests => "requests_per_minute",
            Self::Tokens => "tokens_per_minute",
            Self::Calls => "concurrent_calls",
            Self::UsdPerDay => "usd_per_day",
            Self::UsdPerMonth => "usd_per_month",
        }
    }

    /// Tells whether it is money.
    pub fn is_budget(self) -> bool {
        matches!(self, Self::UsdPerDay | Self::UsdPerMonth)
    }
}

/// What a request is expected to use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Demand {
    /// Requests; none for a step of a turn, which was counted at the door.
    pub requests: u64,
    /// Tokens of prompt and answer.
    pub tokens: u64,
    /// Places among the calls at one time.
    pub calls: u64,
    /// Money.
    pub cost: NanoUsd,
}

/// What it used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Spent {
    /// Tokens of prompts and answers.
    pub tokens: u64,
    /// Money.
    pub cost: NanoUsd,
}

/// A reservation that was made.
#[derive(Debug, Clone)]
pub struct Lease {
    /// Its name in the store that processes share; none when only this process knows of it.
    pub id: Option<Uuid>,
    /// Whose.
    pub tenant: TenantId,
    /// Over which accounts.
    pub subjects: Vec<Subject>,
    /// Of what.
    pub demand: Demand,
    /// Where the tightest rates stand now, for the headers of the answer.
    pub standings: Vec<LimitState>,
}

/// A limit stands in the way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exceeded {
    /// Which.
    pub name: LimitName,
    /// Whose: `tenant`, `user` or `key`.
    pub of: &'static str,
    /// When to ask again; none when it can never fit.
    pub retry_after: Option<Duration>,
    /// Where it stands.
    pub state: LimitState,
}

/// Why nothing was reserved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    /// A limit stands in the way.
    Exceeded(Exceeded),
    /// The store of the limits does not answer, and without it this cannot be granted.
    Unavailable {
        /// What cannot be checked.
        what: &'static str,
        /// When to ask again.
        retry_after: Duration,
    },
}

impl From<Exceeded> for Refused {
    fn from(exceeded: Exceeded) -> Self {
        Self::Exceeded(exceeded)
    }
}

impl From<Refused> for GatewayError {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Exceeded(exceeded) => exceeded.into(),
            Refused::Unavailable { what, retry_after } => {
                let message = format!("{what} cannot be checked at the moment");
                let mut error = Self::new(GatewayErrorKind::LimitsUnavailable, message);
                error.retry_after = Some(retry_after);
                error
            }
        }
    }
}

impl From<Exceeded> for GatewayError {
    fn from(exceeded: Exceeded) -> Self {
        let Exceeded {
            name,
            of,
            retry_after,
            state,
        } = exceeded;
        let (kind, what) = match retry_after {
            Some(_) if name.is_budget() => (GatewayErrorKind::BudgetExhausted, "is reached"),
            Some(_) => (GatewayErrorKind::RateLimited, "is reached"),
            None => (
                GatewayErrorKind::QuotaExceeded,
                "is smaller than what this request asks for",
            ),
        };
        let mut error = Self::new(kind, format!("the {of}'s limit {} {what}", name.code()));
        error.retry_after = retry_after;
        error.limit = Some(state);
        error
    }
}

/// Reserves and settles. Implementations are in process or shared between processes; one suite checks them.
#[async_trait]
pub trait Limiter: Send + Sync + fmt::Debug {
    /// Reserves `demand` over all accounts of `subjects`, or of none.
    async fn reserve(&self, tenant: &TenantId, subjects: Vec<Subject>, demand: Demand) -> Result<Lease, Refused>;

    /// Puts what was used in the place of what was reserved. Must not wait: it is called where an answer is dropped.
    fn settle(&self, lease: Lease, spent: Spent);

    /// Tells whether a budget is used up, or cannot be looked at, without reserving anything.
    async fn exhausted(&self, tenant: &TenantId, subjects: Vec<Subject>) -> Option<Refused>;

    /// Takes new limits in place of the old ones, of all tenants. What was used stays used.
    fn replace(&self, tenants: HashMap<TenantId, TenantLimits>);

    /// Notes money that was spent in the day and the month, by the ledger. One that asks the ledger by itself needs no word.
    fn spent(&self, spendings: &[Spending]) {
        let _ = spendings;
    }

    /// Waits until all that was settled is stored where other processes see it.
    async fn settled(&self) {}

    /// Forgets what a tenant that has no limits any more has used. Returns how many counters that were.
    ///
    /// # Errors
    /// When the store that it shares with other processes does not answer.
    async fn forget(&self, tenant: &TenantId) -> Result<u64, String> {
        let _ = tenant;
        Ok(0)
    }

    /// Tells whether the store that it shares with other processes answers; none when there is no such store.
    fn is_ready(&self) -> Option<bool> {
        None
    }
}

/// A lease that settles itself when the last attempt of its request is gone.
#[derive(Debug)]
pub struct Reservation {
    limiter: Arc<dyn Limiter>,
    lease: Option<Lease>,
    tokens: AtomicU64,
    cost: AtomicU64,
    _place: Option<CallPlace>,
}

impl Reservation {
    /// Watches over `lease`.
    pub fn new(limiter: Arc<dyn Limiter>, lease: Lease) -> Self {
        Self {
            limiter,
            lease: Some(lease),
            tokens: AtomicU64::new(0),
            cost: AtomicU64::new(0),
            _place: None,
        }
    }

    /// Holds a call's place too.
    #[must_use]
    pub fn at(mut self, place: CallPlace) -> Self {
        self._place = Some(place);
        self
    }

    /// Notes what an attempt used.
    pub fn spend(&self, usage: &Usage) {
        self.tokens.fetch_add(usage.total_tokens(), Ordering::Relaxed);
        self.cost.fetch_add(usage.cost, Ordering::Relaxed);
    }

    /// Returns where the rates stood when it was made.
    pub fn standings(&self) -> &[LimitState] {
        self.lease.as_ref().map_or(&[], |lease| &lease.standings)
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if let Some(lease) = self.lease.take() {
            let spent = Spent {
                tokens: self.tokens.load(Ordering::Relaxed),
                cost: self.cost.load(Ordering::Relaxed),
            };
            self.limiter.settle(lease, spent);
        }
    }
}
