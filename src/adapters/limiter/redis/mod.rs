//! Limits shared by several processes, in Redis.
//!
//! Redis stores what was used; how much may be used is sent with each request. One script decides over all accounts of
//! a request atomically, by the server's clock. Invariants: what a process reserved and cannot settle any more, because
//! it died or was cut off, expires and is charged in full, once; without Redis no money is granted, and of the rates
//! only a share, for a limited time; no request waits longer than [`RedisOptions::request_timeout`] for Redis, and none at all
//! while Redis is known to be away; after Redis has lost its data, budgets start from what the ledger knows.

mod leases;
mod link;
mod ping;
mod script;
mod seed;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use copilotd_actors::domain::ids::TenantId;
use copilotd_actors::ports::Clock;
use copilotd_actors::tenancy::TenantScope;
use metrics::counter;
use parking_lot::{Mutex, MutexGuard, RwLock};
use secrecy::{ExposeSecret as _, SecretString};
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;
use tokio::time::Instant;
use uuid::Uuid;

use self::leases::Settlement;
use self::link::{Link, RedisUnavailable};
pub use self::ping::ping;
use copilotd_gateway::ledger::UsageStore;
use copilotd_gateway::limit::{
    ActualUsage, Demand, Lease, LimitRefusal, Limiter, Limits, LocalLimiter, TenantLimits, exhausted, judge, standings,
};
use copilotd_gateway::spending::Subject;

use self::script::{KeyNames, OpenReservation, Operation, Reply, Request, Verdict};

/// The retry time that callers are told while Redis is away; reconnecting is tried about that often.
const PAUSE: Duration = Duration::from_secs(1);

#[derive(Debug, Clone)]
pub struct RedisOptions {
    /// Address; may contain a password.
    pub url: SecretString,
    /// Prefix of all key names; without braces.
    pub prefix: String,
    /// Share of each rate that this process may use while Redis is away.
    pub local_share: f64,
    /// How long it may use that share.
    pub max_outage: Duration,
    /// Longest wait for an answer, and for a connection.
    pub request_timeout: Duration,
    /// A reservation that was not renewed expires after this time. Its process renews it three times in it.
    pub lease_life: Duration,
    /// Pause between two attempts to reconnect.
    pub pause: Duration,
    /// Whether to use the server's clock rather than this process's.
    pub server_time: bool,
}

impl RedisOptions {
    /// Options with default values.
    pub fn new(url: SecretString) -> Self {
        Self {
            url,
            prefix: "copilotd".to_owned(),
            local_share: 0.25,
            max_outage: Duration::from_secs(60),
            request_timeout: Duration::from_millis(250),
            lease_life: Duration::from_secs(60),
            pause: PAUSE,
            server_time: true,
        }
    }
}

/// The limiter. Reservations that are open when it is dropped expire, as if its process had died.
pub struct RedisLimiter {
    shared: Arc<Shared>,
    tasks: [AbortHandle; 3],
}

struct Shared {
    options: RedisOptions,
    clock: Arc<dyn Clock>,
    link: Arc<Link>,
    ledger: Arc<dyn UsageStore>,
    table: RwLock<Arc<Table>>,
    /// Grants reservations while Redis is away.
    local: LocalLimiter,
    /// Reservations to be renewed.
    open: Mutex<HashMap<Uuid, (TenantId, OpenReservation)>>,
    settlements: mpsc::Sender<Settlement>,
    /// Number of settlements not done yet.
    unsettled: watch::Sender<usize>,
    has_overflowed: AtomicBool,
    /// Whether budgets were seeded from the ledger since the process started.
    has_begun: AtomicBool,
    seeding: tokio::sync::Mutex<()>,
}

/// One version of the limits. With new limits the ledger is read again: what is limited now may not have been counted
/// before.
#[derive(Default)]
struct Table {
    tenants: HashMap<TenantId, TenantLimits>,
    is_seeded: AtomicBool,
}

impl RedisLimiter {
    /// Limits the tenants that have limits; all others are unlimited. Budgets start from what `ledger` knows. Fails
    /// only when the address is invalid; the connection is opened in the background, on the runtime that this is called
    /// on.
    pub fn start(
        options: RedisOptions,
        tenants: impl IntoIterator<Item = (TenantId, TenantLimits)>,
        ledger: Arc<dyn UsageStore>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, redis::RedisError> {
        let (url, prefix) = (options.url.expose_secret(), &options.prefix);
        let link = Arc::new(Link::new(url, prefix, options.request_timeout, options.pause)?);
        let (settlements, queue) = mpsc::channel(leases::QUEUE);
        let shared = Arc::new(Shared {
            local: LocalLimiter::new([], Arc::clone(&clock)),
            options,
            clock,
            link: Arc::clone(&link),
            ledger,
            table: RwLock::default(),
            open: Mutex::default(),
            settlements,
            unsettled: watch::Sender::new(0),
            has_overflowed: AtomicBool::new(false),
            has_begun: AtomicBool::new(false),
            seeding: tokio::sync::Mutex::default(),
        });
        let tasks = [
            tokio::spawn(link.run()).abort_handle(),
            tokio::spawn(leases::settle(Arc::clone(&shared), queue)).abort_handle(),
            tokio::spawn(leases::run(Arc::clone(&shared))).abort_handle(),
        ];
        let limiter = Self { shared, tasks };
        limiter.replace(tenants.into_iter().collect());
        Ok(limiter)
    }
}

/// How long to wait for pending settlements before a tenant's counters are deleted.
const SETTLING: Duration = Duration::from_secs(2);

impl Drop for RedisLimiter {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

impl Shared {
    fn table(&self) -> Arc<Table> {
        Arc::clone(&self.table.read())
    }

    fn open(&self) -> MutexGuard<'_, HashMap<Uuid, (TenantId, OpenReservation)>> {
        self.open.lock()
    }

    fn names<'a>(&'a self, tenant: &'a TenantId) -> KeyNames<'a> {
        KeyNames {
            prefix: &self.options.prefix,
            tenant,
        }
    }

    fn time(&self) -> Option<i64> {
        (!self.options.server_time).then(|| self.clock.now().as_millisecond())
    }

    fn life(&self) -> u128 {
        self.options.lease_life.as_millis()
    }

    /// A request that asks for nothing yet.
    fn request<'a>(&'a self, tenant: &'a TenantId, subjects: &'a [Subject]) -> Request<'a> {
        Request {
            names: self.names(tenant),
            now: self.time(),
            life: self.life(),
            marked: false,
            id: None,
            demand: Demand::default(),
            spent: ActualUsage::default(),
            limits: TenantLimits::default(),
            subjects,
            owed: &[],
        }
    }

    /// Runs an operation; where money is limited, the ledger's sums are written first if necessary.
    async fn ask(&self, table: &Table, request: &Request<'_>, operation: Operation) -> Result<Reply, RedisUnavailable> {
        if request.marked {
            self.seed(table).await?;
        }
        let reply = self.link.ask(&request.invocation(operation)).await?;
        if reply.verdict != Verdict::Unmarked {
            return Ok(reply);
        }
        table.is_seeded.store(false, Ordering::SeqCst);
        self.seed(table).await?;
        self.link.ask(&request.invocation(operation)).await
    }

    fn settle(&self, lease: Lease, spent: ActualUsage) {
        let settlement = Settlement {
            lease,
            spent,
            at: Instant::now(),
        };
        self.unsettled.send_modify(|count| *count += 1);
        if self.settlements.try_send(settlement).is_err() {
            self.unsettled.send_modify(|count| *count -= 1);
            counter!("copilotd_limits_settlements_lost_total").increment(1);
            if !self.has_overflowed.swap(true, Ordering::Relaxed) {
                tracing::error!(
                    "too many settlements are waiting for the limits store (Redis); dropping further ones, so their reservations are charged in full"
                );
            }
        }
    }

    /// Grants a share of the rates while Redis is away; no money, and only for a limited time.
    async fn reserve_locally(
        &self,
        limits: &TenantLimits,
        scope: &TenantScope,
        subjects: Vec<Subject>,
        demand: Demand,
        away: RedisUnavailable,
    ) -> Result<Lease, LimitRefusal> {
        if has_budget(limits, &subjects) {
            return Err(unavailable("the budget"));
        }
        if away.since.elapsed() > self.options.max_outage {
            return Err(unavailable("the limits"));
        }
        match self.local.reserve(scope, subjects, demand).await {
            // The request is larger than the share; it may well fit the whole.
            Err(LimitRefusal::LimitExceeded(exceeded)) if exceeded.retry_after.is_none() => {
                Err(unavailable("the limits"))
            }
            other => other,
        }
    }
}

fn unavailable(what: &'static str) -> LimitRefusal {
    LimitRefusal::Unavailable {
        what,
        retry_after: PAUSE,
    }
}

fn has_budget(limits: &TenantLimits, subjects: &[Subject]) -> bool {
    subjects.iter().any(|subject| limits.of(subject).has_budget())
}

/// Returns the share of the rates that one process may use by itself. No money: without Redis none is granted.
fn share(limits: &Limits, share: f64) -> Limits {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a share of a limit need not be exact to the token"
    )]
    let part = |limit: u64| ((limit as f64 * share) as u64).max(1);
    Limits {
        requests_per_minute: limits.requests_per_minute.map(part),
        tokens_per_minute: limits.tokens_per_minute.map(part),
        concurrent_calls: limits.concurrent_calls.map(part),
        usd_per_day: None,
        usd_per_month: None,
    }
}

/// A reservation in flight. If its answer never comes, it may have been made all the same: it is then released.
struct PendingReservation<'a> {
    shared: &'a Shared,
    lease: Option<Lease>,
}

impl Drop for PendingReservation<'_> {
    fn drop(&mut self) {
        if let Some(lease) = self.lease.take().filter(|lease| lease.id.is_some()) {
            self.shared.settle(lease, ActualUsage::default());
        }
    }
}

#[async_trait]
impl Limiter for RedisLimiter {
    async fn reserve(
        &self,
        scope: &TenantScope,
        subjects: Vec<Subject>,
        demand: Demand,
    ) -> Result<Lease, LimitRefusal> {
        let tenant = scope.tenant();
        let shared = &*self.shared;
        let table = shared.table();
        let mut lease = Lease {
            id: None,
            scope: scope.clone(),
            subjects: Vec::new(),
            demand,
            standings: Vec::new(),
        };
        let Some(limits) = table.tenants.get(tenant) else {
            return Ok(lease);
        };
        let mut subjects = subjects;
        subjects.retain(|subject| !limits.of(subject).is_empty());
        if subjects.is_empty() {
            return Ok(lease);
        }
        // A request that only counts as one needs no settlement: nothing of it is returned.
        if demand.tokens > 0 || demand.calls > 0 || demand.cost > 0 {
            lease.id = Some(Uuid::now_v7());
            lease.subjects.clone_from(&subjects);
        }
        let request = Request {
            marked: has_budget(limits, &subjects),
            id: lease.id,
            demand,
            limits: *limits,
            ..shared.request(tenant, &subjects)
        };
        let mut asked = PendingReservation {
            shared,
            lease: Some(lease.clone()),
        };
        let reply = match shared.ask(&table, &request, Operation::Reserve).await {
            Ok(reply) => reply,
            Err(away) => {
                if !away.sent {
                    asked.lease = None;
                }
                return shared.reserve_locally(limits, scope, subjects, demand, away).await;
            }
        };
        asked.lease = None;
        let accounts = reply.accounts(&subjects, limits);
        match reply.verdict {
            Verdict::Done => {}
            Verdict::Full => {
                judge(&accounts, &demand, reply.now)?;
                // Only where numbers exceed what Redis counts exactly.
                return Err(unavailable("the limits"));
            }
            Verdict::Unmarked => return Err(unavailable("the budget")),
        }
        if let Some(id) = lease.id {
            let subjects = subjects.clone();
            let open = OpenReservation { id, demand, subjects };
            shared.open().insert(id, (tenant.clone(), open));
        }
        lease.standings = standings(&accounts, reply.now);
        Ok(lease)
    }

    fn settle(&self, lease: Lease, spent: ActualUsage) {
        match lease.id {
            Some(id) => {
                self.shared.open().remove(&id);
                self.shared.settle(lease, spent);
            }
            // Reserved while Redis was away, or nothing was reserved.
            None => self.shared.local.settle(lease, spent),
        }
    }

    async fn exhausted(&self, scope: &TenantScope, subjects: Vec<Subject>) -> Option<LimitRefusal> {
        let tenant = scope.tenant();
        let table = self.shared.table();
        let limits = table.tenants.get(tenant)?;
        let mut subjects = subjects;
        subjects.retain(|subject| limits.of(subject).has_budget());
        if subjects.is_empty() {
            return None;
        }
        let request = Request {
            marked: true,
            limits: *limits,
            ..self.shared.request(tenant, &subjects)
        };
        match self.shared.ask(&table, &request, Operation::Look).await {
            Ok(reply) if reply.verdict == Verdict::Done => {
                exhausted(&reply.accounts(&subjects, limits), reply.now).map(LimitRefusal::LimitExceeded)
            }
            _ => Some(unavailable("the budget")),
        }
    }

    fn replace(&self, tenants: HashMap<TenantId, TenantLimits>) {
        // If the limits did not change, the ledger need not be read for them.
        if self.shared.table().tenants == tenants {
            return;
        }
        let part = |limits: &Limits| share(limits, self.shared.options.local_share);
        let reserve_locally = tenants.iter().map(|(tenant, limits)| {
            let limits = TenantLimits {
                tenant: part(&limits.tenant),
                user: part(&limits.user),
                key: part(&limits.key),
            };
            (tenant.clone(), limits)
        });
        self.shared.local.replace(reserve_locally.collect());
        let table = Table {
            tenants,
            is_seeded: AtomicBool::new(false),
        };
        *self.shared.table.write() = Arc::new(table);
    }

    async fn settled(&self) {
        // The sender is owned by this limiter and outlives the wait.
        let _ = self.shared.unsettled.subscribe().wait_for(|count| *count == 0).await;
    }

    async fn forget(&self, scope: &TenantScope) -> Result<u64, String> {
        // Settlements still in flight would restore counters after the deletion.
        let _ = tokio::time::timeout(SETTLING, self.settled()).await;
        self.shared
            .link
            .delete_all(&self.shared.names(scope.tenant()).pattern())
            .await
    }

    fn is_ready(&self) -> Option<bool> {
        Some(self.shared.link.is_up())
    }
}

impl fmt::Debug for RedisLimiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisLimiter")
            .field("link", &self.shared.link)
            .finish_non_exhaustive()
    }
}
