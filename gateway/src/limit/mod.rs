//! Limits and budgets: a call's usage is reserved before it and settled after it.
//!
//! Invariants: a reservation covers all limits of tenant, user and key at once, or none; each request has one, for all
//! its retries and fallbacks; it is settled exactly once, when the last of its attempts has ended or was dropped, with
//! their actual usage, which may cause debt and is never skipped.

mod account;
mod learned;
mod local;
mod period;
pub(crate) mod permits;
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
use copilotd_actors::tenancy::TenantScope;
use jiff::Timestamp;
use uuid::Uuid;

pub use account::Limits;
pub use learned::{AnswerStatistics, CompletedAnswer, InFlightCall, MAX_PAIRS, StoredStatistics};
pub use local::{LocalLimiter, TenantLimits};
pub use period::Period;
pub use permits::{CallPermit, CallPermits};
pub use shared::{AccountUsage, exhausted, judge, standings};

pub use super::error::LimitName;
use super::error::{GatewayError, GatewayErrorKind, LimitState};
use super::spending::{Spending, Subject};

/// The current time by both clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// Calendar time: days and months of budgets.
    pub wall: Timestamp,
    /// Monotonic time, independent of the calendar: rates.
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

/// Expected usage of a request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Demand {
    /// Requests; 0 for a run step of a turn, which was counted when it was submitted.
    pub requests: u64,
    /// Tokens of prompt and answer.
    pub tokens: u64,
    /// Concurrent calls.
    pub calls: u64,
    /// Money.
    pub cost: NanoUsd,
}

/// Actual usage of a request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ActualUsage {
    /// Tokens of prompts and answers.
    pub tokens: u64,
    /// Money.
    pub cost: NanoUsd,
}

/// A reservation that was made.
#[derive(Debug, Clone)]
pub struct Lease {
    /// Id in the store shared between processes; `None` if only this process knows it.
    pub id: Option<Uuid>,
    /// The tenant.
    pub scope: TenantScope,
    /// The accounts that it covers.
    pub subjects: Vec<Subject>,
    /// What was reserved.
    pub demand: Demand,
    /// State of the tightest rate limits, for the headers of the answer.
    pub standings: Vec<LimitState>,
}

/// A limit that was reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LimitExceeded {
    /// Which limit.
    pub name: LimitName,
    /// Whose: `tenant`, `user` or `key`.
    pub of: &'static str,
    /// When to retry; `None` if it can never fit.
    pub retry_after: Option<Duration>,
    /// State of the limit.
    pub state: LimitState,
}

/// Why nothing was reserved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LimitRefusal {
    /// A limit was reached.
    LimitExceeded(LimitExceeded),
    /// The store of the limits does not respond, and this cannot be granted without it.
    Unavailable {
        /// What cannot be checked.
        what: &'static str,
        /// When to retry.
        retry_after: Duration,
    },
}

impl From<LimitExceeded> for LimitRefusal {
    fn from(exceeded: LimitExceeded) -> Self {
        Self::LimitExceeded(exceeded)
    }
}

impl From<LimitRefusal> for GatewayError {
    fn from(refused: LimitRefusal) -> Self {
        match refused {
            LimitRefusal::LimitExceeded(exceeded) => exceeded.into(),
            LimitRefusal::Unavailable { what, retry_after } => {
                let message = format!("{what} cannot be checked at the moment");
                let mut error = Self::new(GatewayErrorKind::LimitsUnavailable, message);
                error.retry_after = Some(retry_after);
                error
            }
        }
    }
}

impl From<LimitExceeded> for GatewayError {
    fn from(exceeded: LimitExceeded) -> Self {
        let LimitExceeded {
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
                "is smaller than what this request needs",
            ),
        };
        let mut error = Self::new(kind, format!("the {of}'s limit {} {what}", name.code()));
        error.retry_after = retry_after;
        error.limit = Some(state);
        error
    }
}

/// Reserves and settles usage. Implementations keep it in process or share it between processes; one test suite checks
/// them.
#[async_trait]
pub trait Limiter: Send + Sync + fmt::Debug {
    /// Reserves `demand` on all accounts of `subjects`, or on none.
    async fn reserve(&self, scope: &TenantScope, subjects: Vec<Subject>, demand: Demand)
    -> Result<Lease, LimitRefusal>;

    /// Replaces what was reserved by what was used. Must not block: it is called when an answer is dropped.
    fn settle(&self, lease: Lease, spent: ActualUsage);

    /// Returns the budget that is exhausted or cannot be checked, without reserving anything.
    async fn exhausted(&self, scope: &TenantScope, subjects: Vec<Subject>) -> Option<LimitRefusal>;

    /// Replaces the limits of all tenants by those of the configuration. What was used stays used.
    fn replace(&self, tenants: HashMap<TenantId, TenantLimits>);

    /// Sets the spending of the day and the month from the ledger. A limiter that reads the ledger itself ignores it.
    fn spent(&self, spendings: &[Spending]) {
        let _ = spendings;
    }

    /// Waits until everything settled is visible to other processes.
    async fn settled(&self) {}

    /// Deletes the counters of a tenant that has no limits any more. Returns how many there were.
    ///
    /// # Errors
    /// When the store shared with other processes does not respond.
    async fn forget(&self, scope: &TenantScope) -> Result<u64, String> {
        let _ = scope;
        Ok(0)
    }

    /// Whether the store shared with other processes responds; `None` if there is no such store.
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
    _permit: Option<CallPermit>,
}

impl Reservation {
    /// Wraps `lease`.
    pub fn new(limiter: Arc<dyn Limiter>, lease: Lease) -> Self {
        Self {
            limiter,
            lease: Some(lease),
            tokens: AtomicU64::new(0),
            cost: AtomicU64::new(0),
            _permit: None,
        }
    }

    /// Also holds a concurrent-call permit.
    #[must_use]
    pub fn at(mut self, permit: CallPermit) -> Self {
        self._permit = Some(permit);
        self
    }

    /// Adds the usage of an attempt.
    pub fn spend(&self, usage: &Usage) {
        self.tokens.fetch_add(usage.total_tokens(), Ordering::Relaxed);
        self.cost.fetch_add(usage.cost, Ordering::Relaxed);
    }

    /// Returns the state of the rate limits when the reservation was made.
    pub fn standings(&self) -> &[LimitState] {
        self.lease.as_ref().map_or(&[], |lease| &lease.standings)
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if let Some(lease) = self.lease.take() {
            let spent = ActualUsage {
                tokens: self.tokens.load(Ordering::Relaxed),
                cost: self.cost.load(Ordering::Relaxed),
            };
            self.limiter.settle(lease, spent);
        }
    }
}
