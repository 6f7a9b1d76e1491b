//! Fair shares of the serving threads, so that one tenant's flood does not become everybody's latency.
//!
//! The time that a tenant's work takes on these threads is measured poll by poll ([`metered`]) and added to the
//! tenant's debt, which drains at a fixed rate. A new request of a tenant that owes more than [`BURST`] waits in
//! [`Shares::enter`] until the debt has drained, in order of arrival. This applies only while another tenant is active
//! too: alone, a tenant may use the whole machine. Accepted work is never delayed here, only the next request.
//!
//! Invariant: a request waits at most [`LONGEST_WAIT`], and at most [`MAX_WAITING`] requests of one tenant wait.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use dashmap::DashMap;
use futures::{Stream, StreamExt as _, stream};
use metrics::{counter, histogram};
use parking_lot::{Mutex, MutexGuard};
use tokio::time::Instant;

use crate::domain::ids::TenantId;

/// Debt that a tenant may have before its requests wait: enough for the requests of a page being opened.
pub const BURST: Duration = Duration::from_millis(20);
/// Upper bound of the debt, so that a tenant that was alone does not wait long when another one becomes active.
const MAX_DEBT: Duration = Duration::from_millis(250);
/// Share of one processor's time at which debt drains, per serving thread. Together with the work that is not measured,
/// such as that of connections, a flood then leaves about half of the threads' time to others.
const DRAIN: f64 = 0.4;
/// Approximate cost of a connection and its requests besides the measured polls.
pub const UNMEASURED: Duration = Duration::from_micros(150);
/// Charged when a request enters and returned when it is answered, so that waiting requests do not all enter at once.
const ADVANCE: Duration = Duration::from_millis(1);
/// A tenant counts as active for this long after a request.
const ACTIVE: Duration = Duration::from_secs(2);
/// Longest wait for entry.
pub const LONGEST_WAIT: Duration = Duration::from_secs(10);
/// Requests of one tenant that may wait for entry.
pub const MAX_WAITING: usize = 1024;
/// Tenants remembered before those without debt are forgotten.
const MAX_IDLE: usize = 1024;

/// A request was refused: too many are waiting, or it waited too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this tenant sends more requests than its share of this server can handle")]
pub struct ShareExceeded;

/// The shares of all tenants.
#[derive(Debug)]
pub struct Shares {
    tenants: DashMap<TenantId, Arc<Share>>,
    /// Shared by all requests without a credential.
    anonymous: Arc<Share>,
    active: Mutex<Active>,
    /// Seconds of debt that drain per second.
    drain: f64,
}

/// The two tenants seen last, and when.
#[derive(Debug, Default)]
struct Active {
    last: Option<(TenantId, Instant)>,
    other: Option<(TenantId, Instant)>,
}

/// One tenant's share and debt.
#[derive(Debug)]
pub struct Share {
    debt: Mutex<Debt>,
    drain: f64,
    waiting: AtomicUsize,
    /// Held by the request that is next.
    turn: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
struct Debt {
    seconds: f64,
    at: Instant,
}

impl Default for Shares {
    fn default() -> Self {
        Self::new(std::thread::available_parallelism().map_or(1, std::num::NonZero::get))
    }
}

impl Shares {
    /// Creates the shares of a process with this many serving threads.
    #[expect(clippy::cast_precision_loss, reason = "a machine has few processors")]
    pub fn new(threads: usize) -> Self {
        Self {
            tenants: DashMap::new(),
            anonymous: Arc::new(Share::new(DRAIN * threads as f64)),
            active: Mutex::default(),
            drain: DRAIN * threads as f64,
        }
    }

    /// Returns a tenant's share.
    pub fn of(&self, tenant: &TenantId) -> Arc<Share> {
        if let Some(share) = self.tenants.get(tenant) {
            return Arc::clone(&share);
        }
        if self.tenants.len() >= MAX_IDLE {
            // Holders of a share continue with it; it just cannot be found any more.
            let now = Instant::now();
            self.tenants
                .retain(|_, share| Arc::strong_count(share) > 1 || share.owed(now) > 0.0);
        }
        let share = self
            .tenants
            .entry(tenant.clone())
            .or_insert_with(|| Arc::new(Share::new(self.drain)));
        Arc::clone(&share)
    }

    /// Admits a request of `tenant`, at once or in its turn.
    pub async fn enter(&self, tenant: &TenantId) -> Result<AdmittedRequest, ShareExceeded> {
        let alone = !self.record_active(tenant, Instant::now());
        Self::pass(self.of(tenant), alone).await
    }

    /// Admits a request without a credential, at once or in its turn: while a tenant is active, all of these have one
    /// share.
    pub async fn enter_anonymous(&self) -> Result<AdmittedRequest, ShareExceeded> {
        let alone = !self.is_another_active(None, Instant::now());
        Self::pass(Arc::clone(&self.anonymous), alone).await
    }

    /// Waits, at most `most`, while the tenant owes and another one is active: between the parts of a long answer. What
    /// arrives meanwhile is sent together with the next part.
    pub async fn pause(&self, tenant: &TenantId, share: &Share, most: Duration) {
        let now = Instant::now();
        if let Err(wait) = share.check_debt(now)
            && self.is_another_active(Some(tenant), now)
        {
            tokio::time::sleep(wait.min(most)).await;
        }
    }

    async fn pass(share: Arc<Share>, alone: bool) -> Result<AdmittedRequest, ShareExceeded> {
        if alone || (share.waiting.load(Ordering::Relaxed) == 0 && share.check_debt(Instant::now()).is_ok()) {
            return Ok(AdmittedRequest::of(share));
        }
        let started = Instant::now();
        let entered = match WaitingRequest::begin(&share) {
            Some(_waiting) => tokio::time::timeout(LONGEST_WAIT, share.next())
                .await
                .map_err(|_elapsed| ShareExceeded),
            None => Err(ShareExceeded),
        };
        match entered {
            Ok(()) => {
                histogram!("copilotd_fair_share_wait_seconds").record(started.elapsed().as_secs_f64());
                Ok(AdmittedRequest::of(share))
            }
            Err(exceeded) => {
                counter!("copilotd_fair_share_refused_total").increment(1);
                Err(exceeded)
            }
        }
    }

    /// Returns whether any tenant other than `tenant` is active.
    fn is_another_active(&self, tenant: Option<&TenantId>, now: Instant) -> bool {
        let active = self.active.lock();
        let mut seen = [&active.last, &active.other].into_iter().flatten();
        seen.any(|(name, at)| Some(name) != tenant && now.duration_since(*at) < ACTIVE)
    }

    /// Records that `tenant` is active; returns whether another one is.
    fn record_active(&self, tenant: &TenantId, now: Instant) -> bool {
        let mut active = self.active.lock();
        match &mut active.last {
            Some((last, at)) if last == tenant => *at = now,
            _ => {
                let before = active.last.replace((tenant.clone(), now));
                active.other = before.or(active.other.take());
            }
        }
        active
            .other
            .as_ref()
            .is_some_and(|(_, at)| now.duration_since(*at) < ACTIVE)
    }
}

impl Share {
    fn new(drain: f64) -> Self {
        Self {
            debt: Mutex::new(Debt {
                seconds: 0.0,
                at: Instant::now(),
            }),
            drain,
            waiting: AtomicUsize::new(0),
            turn: tokio::sync::Mutex::new(()),
        }
    }

    /// Adds used time to the debt.
    pub fn charge(&self, used: Duration) {
        let mut debt = self.drained(Instant::now());
        debt.seconds = (debt.seconds + used.as_secs_f64()).min(MAX_DEBT.as_secs_f64());
    }

    /// Returns the current debt.
    pub fn current_debt(&self) -> Duration {
        Duration::from_secs_f64(self.owed(Instant::now()))
    }

    fn refund(&self, used: Duration) {
        let mut debt = self.drained(Instant::now());
        debt.seconds = (debt.seconds - used.as_secs_f64()).max(0.0);
    }

    fn owed(&self, now: Instant) -> f64 {
        self.drained(now).seconds
    }

    fn drained(&self, now: Instant) -> MutexGuard<'_, Debt> {
        let mut debt = self.debt.lock();
        let passed = now.saturating_duration_since(debt.at).as_secs_f64();
        debt.seconds = (debt.seconds - passed * self.drain).max(0.0);
        debt.at = debt.at.max(now);
        debt
    }

    /// Returns `Ok` if another request may enter, else the time until one may.
    fn check_debt(&self, now: Instant) -> Result<(), Duration> {
        let above = self.owed(now) - BURST.as_secs_f64();
        if above <= 0.0 {
            return Ok(());
        }
        Err(Duration::from_secs_f64(above / self.drain))
    }

    /// Waits until it is next and the debt has drained.
    async fn next(&self) {
        let _turn = self.turn.lock().await;
        while let Err(wait) = self.check_debt(Instant::now()) {
            // Timers are no finer than this, and the debt may have grown by then.
            tokio::time::sleep(wait.max(Duration::from_millis(1))).await;
        }
    }
}

/// Counts a waiting request until dropped.
struct WaitingRequest<'a>(&'a Share);

impl<'a> WaitingRequest<'a> {
    fn begin(share: &'a Share) -> Option<Self> {
        let below = |waiting: usize| (waiting < MAX_WAITING).then_some(waiting + 1);
        let counted = share.waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, below);
        counted.ok().map(|_| Self(share))
    }
}

impl Drop for WaitingRequest<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A request that was admitted.
#[derive(Debug)]
pub struct AdmittedRequest(Arc<Share>);

impl AdmittedRequest {
    fn of(share: Arc<Share>) -> Self {
        share.charge(ADVANCE + UNMEASURED);
        Self(share)
    }

    /// Returns the share that its work is charged to.
    pub fn share(&self) -> &Arc<Share> {
        &self.0
    }
}

impl Drop for AdmittedRequest {
    fn drop(&mut self) {
        self.0.refund(ADVANCE);
    }
}

thread_local! {
    static CURRENT: RefCell<Option<Arc<Share>>> = const { RefCell::new(None) };
}

/// Returns the share that the current poll is charged to, so that work continued on another thread can be charged to it
/// as well.
pub fn current() -> Option<Arc<Share>> {
    CURRENT.with_borrow(Clone::clone)
}

/// Runs `future` and charges the time of each poll to `share`. Callers pin it: an `async fn` that pins its own argument
/// reserves memory for it twice.
pub async fn metered<F: Future + Unpin>(share: Arc<Share>, mut future: F) -> F::Output {
    poll_fn(|context| {
        let before = CURRENT.replace(Some(Arc::clone(&share)));
        let _back = Restore(before);
        let started = Instant::now();
        let polled = Pin::new(&mut future).poll(context);
        share.charge(started.elapsed());
        polled
    })
    .await
}

/// Paces a stream: each poll is charged to the tenant's share, and while the tenant owes and another one is active, the
/// next item is delayed by at most `most`.
pub fn paced<S>(shares: Arc<Shares>, tenant: TenantId, most: Duration, items: S) -> impl Stream<Item = S::Item> + Send
where
    S: Stream + Send,
{
    let share = shares.of(&tenant);
    let start = (Box::pin(items), shares, share, tenant);
    stream::unfold(start, move |(mut items, shares, share, tenant)| async move {
        shares.pause(&tenant, &share, most).await;
        let item = metered(Arc::clone(&share), items.next()).await?;
        Some((item, (items, shares, share, tenant)))
    })
}

/// Restores the previous current share, even when a poll panics.
struct Restore(Option<Arc<Share>>);

impl Drop for Restore {
    fn drop(&mut self) {
        CURRENT.set(self.0.take());
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    fn tenant(name: &str) -> TenantId {
        name.parse().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_tenant_alone_never_waits() {
        let (shares, acme) = (Shares::new(1), tenant("acme"));
        for _ in 0..1_000 {
            let passage = shares
                .enter(&acme)
                .now_or_never()
                .expect("nobody else is there")
                .unwrap();
            passage.share().charge(Duration::from_millis(10));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_owes_waits_and_who_does_not_enters() {
        let (shares, acme, globex) = (Shares::new(1), tenant("acme"), tenant("globex"));
        shares.enter(&globex).await.unwrap();
        let started = Instant::now();
        for _ in 0..100 {
            let passage = shares.enter(&acme).await.unwrap();
            passage.share().charge(Duration::from_millis(5));
            // The other tenant stays active and never waits.
            shares.enter(&globex).now_or_never().expect("it owes nothing").unwrap();
        }
        // 515 ms of work at two fifths of a processor, minus the burst.
        let took = started.elapsed();
        assert!(
            (Duration::from_millis(1_150)..Duration::from_millis(1_350)).contains(&took),
            "{took:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn those_who_wait_enter_in_order_and_one_by_one() {
        let (shares, acme, globex) = (Shares::new(1), tenant("acme"), tenant("globex"));
        shares.enter(&globex).await.unwrap();
        shares.of(&acme).charge(Duration::from_millis(50));
        let (order, started) = (Mutex::new(Vec::new()), Instant::now());
        let enter = |number: u64| {
            let (shares, order, acme) = (&shares, &order, &acme);
            async move {
                let passage = shares.enter(acme).await.unwrap();
                order.lock().push((number, started.elapsed().as_millis()));
                // Its work is charged only after the waiting requests were asked for the first time.
                passage.share().charge(Duration::from_millis(4));
            }
        };
        futures::future::join_all((0..8).map(enter)).await;
        let order = order.into_inner();
        assert!(order.is_sorted_by(|a, b| a.0 < b.0 && a.1 < b.1), "{order:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_ends_and_the_number_of_those_who_wait_is_bounded() {
        let (shares, acme, globex) = (Shares::new(1), tenant("acme"), tenant("globex"));
        shares.enter(&globex).await.unwrap();
        let share = shares.of(&acme);
        share.charge(MAX_DEBT);
        let held = share.turn.lock().await;
        let waiting: Vec<_> = (0..=MAX_WAITING).map(|_| shares.enter(&acme)).collect();
        let started = Instant::now();
        let ended = futures::future::join_all(waiting).await;
        assert!(ended.iter().all(Result::is_err));
        assert_eq!(started.elapsed(), LONGEST_WAIT);
        assert_eq!(share.waiting.load(Ordering::Relaxed), 0);
        drop(held);
    }

    #[tokio::test(start_paused = true)]
    async fn polls_are_charged_and_know_their_share() {
        let share = Arc::new(Share::new(0.0));
        assert!(current().is_none());
        let work = async {
            current().expect("inside").charge(Duration::from_millis(3));
            tokio::time::sleep(Duration::from_secs(1)).await;
        };
        metered(Arc::clone(&share), Box::pin(work)).await;
        assert!(current().is_none());
        // Time spent waiting costs nothing.
        let owed = share.owed(Instant::now());
        assert!((0.003..0.004).contains(&owed), "{owed}");
    }

    #[test]
    fn tenants_are_forgotten_when_they_owe_nothing() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build();
        runtime.unwrap().block_on(async {
            let shares = Shares::new(1);
            for number in 0..5_000 {
                shares.of(&tenant(&format!("t{number}")));
            }
            assert!(shares.tenants.len() <= MAX_IDLE + 1);
        });
    }

    #[tokio::test(start_paused = true)]
    async fn requests_without_a_credential_share_one_share_while_a_tenant_is_active() {
        let (shares, acme) = (Shares::new(1), tenant("acme"));
        for _ in 0..100 {
            let passage = shares.enter_anonymous().now_or_never().expect("no tenant is there");
            passage.unwrap().share().charge(Duration::from_millis(10));
        }
        shares.enter(&acme).now_or_never().expect("it owes nothing").unwrap();
        assert!(shares.enter_anonymous().now_or_never().is_none(), "it waits");
        let started = Instant::now();
        shares.enter_anonymous().await.unwrap();
        assert!(
            started.elapsed() > Duration::from_millis(100),
            "{:?}",
            started.elapsed()
        );
        shares.enter(&acme).now_or_never().expect("it owes nothing").unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_long_answer_waits_while_its_tenant_owes_and_another_is_active() {
        let shares = Arc::new(Shares::new(1));
        let (acme, globex) = (tenant("acme"), tenant("globex"));
        let expensive = || {
            let share = shares.of(&acme);
            stream::iter(0..10).inspect(move |_| share.charge(Duration::from_millis(10)))
        };
        let read = || paced(Arc::clone(&shares), acme.clone(), Duration::from_secs(1), expensive());
        let started = Instant::now();
        assert_eq!(read().count().await, 10);
        assert_eq!(started.elapsed(), Duration::ZERO, "it is alone");
        shares.enter(&globex).await.unwrap();
        assert_eq!(read().count().await, 10);
        assert!(
            started.elapsed() > Duration::from_millis(100),
            "{:?}",
            started.elapsed()
        );
    }
}
