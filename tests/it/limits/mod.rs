//! Limits: one suite for local limits and those in Redis, and what only shared ones have to withstand.

mod clock;
mod contract;
mod crowd;
mod doors;
mod example;
mod lost;
mod outage;
mod random;
mod shared;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use copilotd::adapters::limiter::redis::{RedisLimiter, RedisOptions};
use copilotd_actors::domain::ids::TenantId;
use copilotd_actors::domain::usage::LostUsage;
use copilotd_actors::ports::{Clock, LogError};
use copilotd_actors::tenancy::TenantScope;
use copilotd_gateway::ledger::{TenantsUsageQuery, TenantsUsageRow, UsageEntries, UsageQuery, UsageRow, UsageStore};
use copilotd_gateway::limit::{
    ActualUsage, Demand, Lease, LimitExceeded, LimitRefusal, Limiter, Limits, LocalLimiter, StoredStatistics,
    TenantLimits,
};
use copilotd_gateway::meter::UnreportedAttempts;
use copilotd_gateway::spending::{Spending, Subject};
use jiff::Timestamp;
use parking_lot::Mutex;

use crate::support::redis::Redis;

/// A clock that a test sets.
#[derive(Debug)]
struct TestClock {
    wall: AtomicI64,
    elapsed: AtomicU64,
}

impl TestClock {
    fn at(text: &str) -> Arc<Self> {
        Arc::new(Self {
            wall: AtomicI64::new(time(text).as_millisecond()),
            elapsed: AtomicU64::new(0),
        })
    }

    /// Lets time pass.
    fn pass(&self, ms: u64) {
        self.elapsed.fetch_add(ms, Ordering::SeqCst);
        self.step(i64::try_from(ms).unwrap());
    }

    /// Sets the calendar forward or back.
    fn step(&self, ms: i64) {
        self.wall.fetch_add(ms, Ordering::SeqCst);
    }

    fn set(&self, now: Timestamp) {
        self.wall.store(now.as_millisecond(), Ordering::SeqCst);
    }
}

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millisecond(self.wall.load(Ordering::SeqCst)).unwrap()
    }

    fn elapsed(&self) -> Duration {
        Duration::from_millis(self.elapsed.load(Ordering::SeqCst))
    }
}

/// A ledger that returns what a test sets.
#[derive(Default)]
struct FakeLedger(Mutex<Vec<Spending>>);

#[async_trait]
impl UsageStore for FakeLedger {
    async fn add_usage(&self, _: &Arc<UsageEntries>) -> Result<(), LogError> {
        unreachable!("limits write no ledger")
    }

    async fn record_lost_usage(&self) -> Result<usize, LogError> {
        unreachable!("limits end no calls")
    }

    async fn unreported_usage(&self, _: &TenantScope, _: &UnreportedAttempts) -> Result<Vec<LostUsage>, LogError> {
        unreachable!("limits recover no turns")
    }

    async fn save_learned(&self, _: &[StoredStatistics], _: Timestamp) -> Result<(), LogError> {
        unreachable!("limits write no ledger")
    }

    async fn learned(&self, _: usize) -> Result<Vec<StoredStatistics>, LogError> {
        unreachable!("limits begin with nothing learned")
    }

    async fn sum_usage(&self, _: &TenantScope, _: &UsageQuery) -> Result<Vec<UsageRow>, LogError> {
        unreachable!("limits read no reports")
    }

    async fn sum_tenants_usage(&self, _: &TenantsUsageQuery) -> Result<Vec<TenantsUsageRow>, LogError> {
        unreachable!("limits read no reports")
    }

    async fn spendings(&self, _: Timestamp, _: Timestamp) -> Result<Vec<Spending>, LogError> {
        Ok(self.0.lock().clone())
    }

    async fn prune_usage(&self, _: Timestamp) -> Result<(), LogError> {
        unreachable!("limits prune no ledger")
    }
}

/// A limiter, and what a test does to it.
struct LimiterFixture {
    limiter: Arc<dyn Limiter>,
    local: Option<Arc<LocalLimiter>>,
    watch: Arc<TestClock>,
    ledger: Arc<FakeLedger>,
    _server: Option<Redis>,
}

impl LimiterFixture {
    fn local(limits: TenantLimits) -> Self {
        let watch = TestClock::at("2027-01-15T08:00:00Z");
        let limiter = Arc::new(LocalLimiter::new([(tenant(), limits)], Arc::clone(&watch) as _));
        Self {
            limiter: Arc::clone(&limiter) as _,
            local: Some(limiter),
            watch,
            ledger: Arc::default(),
            _server: None,
        }
    }

    async fn redis(limits: TenantLimits) -> Self {
        let server = Redis::start().await;
        let (watch, ledger) = (TestClock::at("2027-01-15T08:00:00Z"), Arc::new(FakeLedger::default()));
        // The clock leaps, and a process's own reservation never expires while the process lives.
        let options = RedisOptions {
            lease_life: Duration::from_hours(24 * 365),
            ..patient(&server)
        };
        let limiter = start(options, limits, &ledger, &watch);
        Self {
            limiter: Arc::new(limiter),
            local: None,
            watch,
            ledger,
            _server: Some(server),
        }
    }

    async fn both(limits: TenantLimits) -> [Self; 2] {
        [Self::local(limits), Self::redis(limits).await]
    }

    async fn reserve(&self, user: &str, demand: Demand) -> Result<Lease, LimitRefusal> {
        self.limiter.reserve(&scope(), subjects(user), demand).await
    }

    /// Settles, and waits until that is done.
    async fn settle(&self, lease: Lease, tokens: u64, cost: u64) {
        self.limiter.settle(lease, ActualUsage { tokens, cost });
        self.limiter.settled().await;
    }

    fn replace(&self, limits: TenantLimits) {
        self.limiter.replace(HashMap::from([(tenant(), limits)]));
    }

    /// Adds spending to the ledger.
    fn owe(&self, spendings: Vec<Spending>, limits: TenantLimits) {
        if let Some(local) = &self.local {
            local.spent(&spendings);
        }
        *self.ledger.0.lock() = spendings;
        if self.local.is_none() {
            // Unchanged limits are no reason to read the ledger.
            self.limiter.replace(HashMap::new());
        }
        self.replace(limits);
    }
}

fn start(
    options: RedisOptions,
    limits: TenantLimits,
    ledger: &Arc<FakeLedger>,
    watch: &Arc<TestClock>,
) -> RedisLimiter {
    let ledger = Arc::clone(ledger) as _;
    RedisLimiter::start(options, [(tenant(), limits)], ledger, Arc::clone(watch) as _).unwrap()
}

/// For a busy machine, by a clock that the test sets.
fn patient(server: &Redis) -> RedisOptions {
    RedisOptions {
        request_timeout: Duration::from_secs(10),
        lease_life: Duration::from_hours(1),
        pause: Duration::from_millis(20),
        server_time: false,
        ..RedisOptions::new(server.url().into())
    }
}

fn time(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn tenant() -> TenantId {
    "acme".parse().unwrap()
}

fn scope() -> TenantScope {
    TenantScope::from_verified(tenant())
}

fn subjects(user: &str) -> Vec<Subject> {
    vec![Subject::Tenant, Subject::User(user.parse().unwrap())]
}

fn of_tenant(tenant: Limits) -> TenantLimits {
    TenantLimits {
        tenant,
        ..TenantLimits::default()
    }
}

/// A token costs ten.
fn demand(tokens: u64) -> Demand {
    Demand {
        requests: 1,
        tokens,
        calls: 1,
        cost: tokens * 10,
    }
}

fn spending(user: &str, day: u64, month: u64) -> Spending {
    Spending {
        tenant: tenant(),
        user: user.to_owned(),
        api_key: None,
        day,
        month,
    }
}

fn exceeded<T: std::fmt::Debug>(answer: Result<T, LimitRefusal>) -> LimitExceeded {
    match answer.unwrap_err() {
        LimitRefusal::LimitExceeded(exceeded) => exceeded,
        unavailable @ LimitRefusal::Unavailable { .. } => panic!("{unavailable:?}"),
    }
}

fn is_unavailable<T>(answer: &Result<T, LimitRefusal>) -> bool {
    matches!(answer, Err(LimitRefusal::Unavailable { .. }))
}
