//! The compute pool: low-priority threads for work that keeps a processor busy, such as tokenizing a prompt or parsing
//! a large body.
//!
//! Tokio's workers serve every tenant: a millisecond that one tenant computes on them is a millisecond that all others
//! wait. Work above [`INLINE_COST`] therefore goes through [`run`]. There is one pool per process, created by
//! [`start`], because there is one set of processors. A process that never calls [`start`] (tests, the command line)
//! uses tokio's blocking threads.
//!
//! Invariants: tenants share the pool by cost (start-time fair queueing), so one tenant's backlog delays another by at
//! most the job that each thread is running; the queue is bounded, per tenant and in total; a job whose caller has gone
//! is removed at once, unrun. Jobs cannot be interrupted: split what takes longer than about ten milliseconds.

mod counting;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock};

use metrics::{counter, histogram};
use parking_lot::{Condvar, Mutex, MutexGuard};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::domain::ids::TenantId;
use crate::fairness::fair_queue::{Bounds, EntryId, FairQueue, QueueFull};
pub use counting::{SLICE, count_tokens};

/// Work up to this cost may run on the calling thread. One unit is the time it takes to parse one byte of JSON, so this
/// is a fraction of a millisecond.
pub const INLINE_COST: usize = 64 * 1024;

/// Bounds of the queue. The one per tenant exceeds the turns and calls that a tenant can have running by default.
const QUEUE_BOUNDS: Bounds = Bounds {
    owner: 16 * 1024,
    all: 256 * 1024,
};

type Job = Box<dyn FnOnce() + Send>;

/// Why work has no result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ComputeError {
    /// The tenant has too many queued jobs.
    #[error("too many compute jobs of this tenant are queued")]
    Full,
    /// The work panicked; the panic hook has logged where.
    #[error("compute job panicked")]
    Panicked,
}

static POOL: OnceLock<Arc<Pool>> = OnceLock::new();

/// Starts the pool of this process. `prepare` runs first on each thread, to lower its priority. Later calls do nothing.
pub fn start(threads: usize, prepare: fn()) -> std::io::Result<()> {
    let mut started = Ok(());
    POOL.get_or_init(|| {
        let pool = Arc::new(Pool::default());
        started = (0..threads.max(1)).try_for_each(|number| {
            let pool = Arc::clone(&pool);
            let thread = std::thread::Builder::new().name(format!("compute-{number}"));
            // Never joined: the threads live as long as the process and own nothing that needs cleanup.
            thread
                .spawn(move || {
                    prepare();
                    pool.work();
                })
                .map(drop)
        });
        pool
    });
    started
}

/// Returns the number of threads that leaves one processor to request handling; at least one.
pub fn default_threads() -> usize {
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    (processors - 1).max(1)
}

/// Runs `work` for `tenant`: inline if it is cheap, else on the pool. Dropping the future before the work has started
/// drops it.
pub async fn run<T: Send + 'static>(
    tenant: Option<&TenantId>,
    cost: usize,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ComputeError> {
    if cost <= INLINE_COST {
        return Ok(work());
    }
    match POOL.get() {
        // Boxed, so that callers reserve no memory for it when they compute inline.
        Some(pool) => Box::pin(pool.run(tenant, cost, work)).await,
        None => tokio::task::spawn_blocking(work)
            .await
            .map_err(|_| ComputeError::Panicked),
    }
}

struct Pool {
    queue: Mutex<FairQueue<Option<TenantId>, Job>>,
    ready: Condvar,
}

impl Default for Pool {
    fn default() -> Self {
        Self {
            queue: Mutex::new(FairQueue::new(QUEUE_BOUNDS)),
            ready: Condvar::new(),
        }
    }
}

/// A queued job. Removes it from the queue on drop if it has not started.
struct QueuedJob<'a> {
    pool: &'a Pool,
    tenant: Option<TenantId>,
    id: EntryId,
}

impl Drop for QueuedJob<'_> {
    fn drop(&mut self) {
        let job = self.pool.queue().remove(&self.tenant, self.id);
        // Dropped after the lock is released: the job may be large.
        drop(job);
    }
}

impl Pool {
    async fn run<T: Send + 'static>(
        &self,
        tenant: Option<&TenantId>,
        cost: usize,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ComputeError> {
        let (reply, answer) = oneshot::channel();
        let queued = Instant::now();
        let job: Job = Box::new(move || {
            if reply.is_closed() {
                return;
            }
            histogram!("copilotd_compute_wait_seconds").record(queued.elapsed().as_secs_f64());
            let result = catch_unwind(AssertUnwindSafe(work)).map_err(|_| ComputeError::Panicked);
            // If the caller has gone meanwhile, the result is dropped here, not on the caller's thread.
            drop(reply.send(result));
        });
        let tenant = tenant.cloned();
        let pushed = self.queue().push(tenant.clone(), cost as u64, job);
        let id = pushed.map_err(|QueueFull| {
            counter!("copilotd_compute_refused_total").increment(1);
            ComputeError::Full
        })?;
        let pool = self;
        let _waiting = QueuedJob { pool, tenant, id };
        self.ready.notify_one();
        answer.await.unwrap_or(Err(ComputeError::Panicked))
    }

    /// Runs jobs until the process ends.
    fn work(&self) {
        loop {
            let mut queue = self.queue();
            let job = loop {
                match queue.pop() {
                    Some(job) => break job,
                    None => self.ready.wait(&mut queue),
                }
            };
            drop(queue);
            job();
        }
    }

    fn queue(&self) -> MutexGuard<'_, FairQueue<Option<TenantId>, Job>> {
        self.queue.lock()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    fn tenant(name: &str) -> TenantId {
        name.parse().unwrap()
    }

    fn pool_with_one_thread() -> Arc<Pool> {
        let pool = Arc::new(Pool::default());
        let worker = Arc::clone(&pool);
        std::thread::spawn(move || worker.work());
        pool
    }

    #[tokio::test]
    async fn a_backlog_of_one_tenant_delays_another_by_one_job() {
        let pool = pool_with_one_thread();
        let (gate, opened) = mpsc::channel::<()>();
        let order = Arc::new(Mutex::new(Vec::new()));
        let (acme, globex) = (tenant("acme"), tenant("globex"));
        let note = |name: &'static str| {
            let order = Arc::clone(&order);
            move || order.lock().push(name)
        };
        let first = pool.run(Some(&acme), 1, move || opened.recv().unwrap());
        let backlog = (0..50).map(|_| pool.run(Some(&acme), 100, note("acme")));
        let other = async {
            // Polled after the backlog, which is queued by then.
            let done = pool.run(Some(&globex), 100, note("globex"));
            tokio::pin!(done);
            assert!(futures::poll!(&mut done).is_pending());
            gate.send(()).unwrap();
            done.await
        };
        let (first, backlog, other) = futures::join!(first, futures::future::join_all(backlog), other);
        assert_eq!((first, other), (Ok(()), Ok(())));
        assert!(backlog.iter().all(Result::is_ok));
        let order = order.lock();
        let place = order.iter().position(|name| *name == "globex").unwrap();
        assert!(place <= 1, "{order:?}");
    }

    #[tokio::test]
    async fn a_panic_is_an_error_and_ends_no_thread() {
        let pool = pool_with_one_thread();
        let panicked: Result<(), _> = pool.run(None, 1, || panic!("a fault of the work")).await;
        assert_eq!(panicked, Err(ComputeError::Panicked));
        assert_eq!(pool.run(None, 1, || 7).await, Ok(7));
    }

    #[tokio::test]
    async fn work_whose_caller_has_gone_is_not_run() {
        let pool = pool_with_one_thread();
        let (gate, opened) = mpsc::channel::<()>();
        let (ran, runs) = mpsc::channel::<()>();
        let mut held = Box::pin(pool.run(None, 1, move || opened.recv().unwrap()));
        assert!(futures::poll!(&mut held).is_pending());
        let mut left = Box::pin(pool.run(None, 1, move || ran.send(()).unwrap()));
        assert!(futures::poll!(&mut left).is_pending());
        drop(left);
        gate.send(()).unwrap();
        held.await.unwrap();
        pool.run(None, 1, || ()).await.unwrap();
        assert!(runs.recv().is_err(), "the job ran although its caller was gone");
    }

    #[tokio::test]
    async fn work_whose_caller_has_gone_takes_no_room_in_the_queue() {
        let pool = Pool::default();
        let mut left: Vec<_> = (0..100).map(|_| Box::pin(pool.run(None, 1, || ()))).collect();
        for one in &mut left {
            assert!(futures::poll!(one).is_pending());
        }
        assert_eq!(pool.queue().len(), 100);
        drop(left);
        assert_eq!(pool.queue().len(), 0);
    }
}
