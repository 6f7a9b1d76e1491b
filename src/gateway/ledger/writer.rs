//! Takes what attempts used off the way of their answers and stores it.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use copilotd_actors::ports::{Clock, Ids, LogError};
use jiff::{SignedDuration, Timestamp};
use metrics::counter;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use uuid::Uuid;

use super::{Entries, KEPT_DAYS, UsageRecord, UsageStore};
use crate::gateway::attempt::{Attempted, Lost, Meter};

/// Records that may wait for the store. Beyond it they are lost, and counted and logged as lost.
const QUEUE: usize = 20_000;
/// Records that are stored without waiting for more. Few: what stores them takes the processor from answers meanwhile.
const ENOUGH: usize = 128;
/// Most records that are stored together, where the store is slower than they come.
const BATCH: usize = 500;
/// Pause after the store refused.
const PAUSE: Duration = Duration::from_secs(1);
/// How long the last records may take at the end of the process.
const LAST: Duration = Duration::from_secs(5);
/// How often what is too old is deleted.
const PRUNING: Duration = Duration::from_secs(6 * 60 * 60);

/// How often is looked for what has become worth noting.
const LOOK: Duration = Duration::from_millis(250);

/// The ledger's writer.
pub struct Ledger {
    entries: Mutex<Option<mpsc::Sender<Entry>>>,
    open: Mutex<HashMap<Uuid, Open>>,
    task: Mutex<Option<JoinHandle<()>>>,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn Ids>,
    is_losing: AtomicBool,
}

/// What goes to the store, in this order for each attempt.
#[derive(Debug)]
enum Entry {
    /// Answered once everything before it is stored.
    Flush(oneshot::Sender<()>),
    Begun(UsageRecord),
    Ended {
        record: UsageRecord,
        /// Whether it was put down as begun.
        was_noted: bool,
    },
}

/// An attempt that is under way.
struct Open {
    lost: Lost,
    at: Timestamp,
    since: Instant,
    is_noted: bool,
}

impl Ledger {
    /// For how long an attempt is under way before it is put down as open.
    pub const NOTED: Duration = Duration::from_millis(500);

    /// How long a record may wait before it is stored.
    pub const WINDOW: Duration = Duration::from_millis(200);

    /// Starts to write into `store`.
    pub fn start(store: Arc<dyn UsageStore>, clock: Arc<dyn Clock>, ids: Arc<dyn Ids>) -> Arc<Self> {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let task = tokio::spawn(write(receiver, store, Arc::clone(&clock)));
        let ledger = Arc::new(Self {
            entries: Mutex::new(Some(sender)),
            open: Mutex::default(),
            task: Mutex::new(Some(task)),
            clock,
            ids,
            is_losing: AtomicBool::new(false),
        });
        tokio::spawn(look(Arc::downgrade(&ledger)));
        ledger
    }

    /// Waits until everything that has ended by now is stored.
    pub async fn flushed(&self) {
        let sender = lock(&self.entries).clone();
        let Some(sender) = sender else { return };
        let (flushed, done) = oneshot::channel();
        if sender.send(Entry::Flush(flushed)).await.is_ok() {
            // Dropped without an answer at the end of the process.
            let _ = done.await;
        }
    }

    /// Stores what waits, and ends.
    pub async fn close(&self) {
        drop(lock(&self.entries).take());
        let task = lock(&self.task).take();
        if let Some(task) = task
            && tokio::time::timeout(LAST, task).await.is_err()
        {
            tracing::error!("the last usage records could not be stored in time");
        }
    }
}

impl Ledger {
    /// Puts down what has been under way for long enough. Returns whether the ledger is open.
    fn note(&self) -> bool {
        let entries = lock(&self.entries);
        let Some(entries) = entries.as_ref() else { return false };
        // Sent under the lock: what ends now comes after it.
        for (id, open) in lock(&self.open).iter_mut() {
            if !open.is_noted && open.since.elapsed() >= Self::NOTED {
                let mut record = record((open.lost)(), *id, open.at);
                record.took_ms = milliseconds(open.since.elapsed());
                open.is_noted = entries.try_send(Entry::Begun(record)).is_ok();
            }
        }
        true
    }
}

impl Meter for Ledger {
    fn began(&self, id: Uuid, lost: Lost) {
        let open = Open {
            lost,
            at: self.clock.now(),
            since: Instant::now(),
            is_noted: false,
        };
        lock(&self.open).insert(id, open);
    }

    fn attempted(&self, attempt: Attempted) {
        let open = attempt.id.and_then(|id| lock(&self.open).remove(&id));
        let was_noted = open.is_some_and(|open| open.is_noted);
        let id = attempt.id.unwrap_or_else(|| self.ids.uuid());
        let record = record(attempt, id, self.clock.now());
        let entry = Entry::Ended { record, was_noted };
        let entries = lock(&self.entries);
        let taken = entries.as_ref().is_some_and(|entries| entries.try_send(entry).is_ok());
        drop(entries);
        if taken {
            self.is_losing.store(false, Ordering::Relaxed);
            return;
        }
        // What was noted becomes a record at the next start.
        if was_noted {
            return;
        }
        counter!("copilotd_usage_records_lost_total").increment(1);
        if !self.is_losing.swap(true, Ordering::Relaxed) {
            tracing::error!("usage records are lost: the store has not taken any for too long");
        }
    }
}

fn record(attempt: Attempted, id: Uuid, at: Timestamp) -> UsageRecord {
    UsageRecord {
        id,
        tenant: attempt.caller.scope.tenant().clone(),
        at,
        user: attempt.caller.user.as_str().to_owned(),
        api_key: attempt.caller.api_key.clone(),
        copilot: attempt.caller.copilot.as_ref().map(ToString::to_string),
        conversation: attempt.caller.conversation.map(|id| id.to_string()),
        turn: attempt.caller.turn.map(|id| id.to_string()),
        purpose: attempt.caller.purpose.code().to_owned(),
        route: attempt.route.as_ref().to_owned(),
        provider: attempt.target.provider,
        model: attempt.target.model,
        key: attempt.key,
        attempt: attempt.number,
        usage: attempt.usage,
        is_estimated: attempt.is_estimated,
        cache: attempt.cache.code().to_owned(),
        outcome: attempt.outcome.code().to_owned(),
        first_content_ms: attempt.first_content.map(milliseconds),
        took_ms: milliseconds(attempt.took),
    }
}

impl fmt::Debug for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ledger").finish_non_exhaustive()
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Locks; what is behind it is whole between any two calls.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn look(ledger: Weak<Ledger>) {
    loop {
        tokio::time::sleep(LOOK).await;
        let is_open = ledger.upgrade().is_some_and(|ledger| ledger.note());
        if !is_open {
            return;
        }
    }
}

/// Sorts what goes to the store together. What began and ended within it has only ended.
fn sorted(batch: &mut Vec<Entry>) -> (Entries, Vec<oneshot::Sender<()>>) {
    let (mut entries, mut flushes) = (Entries::default(), Vec::new());
    for entry in batch.drain(..) {
        match entry {
            Entry::Flush(flushed) => flushes.push(flushed),
            Entry::Begun(record) => entries.begun.push(record),
            Entry::Ended { record, was_noted } => {
                if was_noted {
                    entries.closed.push(record.id);
                }
                entries.ended.push(record);
            }
        }
    }
    if !entries.begun.is_empty() && !entries.closed.is_empty() {
        let closed: HashSet<Uuid> = entries.closed.iter().copied().collect();
        let both: HashSet<Uuid> = entries
            .begun
            .iter()
            .map(|record| record.id)
            .filter(|id| closed.contains(id))
            .collect();
        entries.begun.retain(|record| !both.contains(&record.id));
        entries.closed.retain(|id| !both.contains(id));
    }
    (entries, flushes)
}

async fn write(mut receiver: mpsc::Receiver<Entry>, store: Arc<dyn UsageStore>, clock: Arc<dyn Clock>) {
    let mut batch = Vec::with_capacity(BATCH);
    let mut pruned: Option<Instant> = None;
    while receiver.recv_many(&mut batch, BATCH).await > 0 {
        // What comes within the window goes together: one commit for many calls.
        let deadline = Instant::now() + Ledger::WINDOW;
        while batch.len() < ENOUGH
            && let Ok(Some(record)) = tokio::time::timeout_at(deadline, receiver.recv()).await
        {
            batch.push(record);
        }
        let (entries, flushes) = sorted(&mut batch);
        let entries = Arc::new(entries);
        let mut said = false;
        while let Err(error) = store.add_usage(&entries).await {
            if let LogError::Refused(_) | LogError::Corrupt(_) = error {
                tracing::error!(%error, records = entries.ended.len(), "the store will not take usage records; they are lost");
                counter!("copilotd_usage_records_lost_total").increment(entries.ended.len() as u64);
                break;
            }
            if !std::mem::replace(&mut said, true) {
                tracing::warn!(%error, "usage records wait for the store");
            }
            tokio::time::sleep(PAUSE).await;
        }
        for flushed in flushes {
            // Whoever waited may have gone.
            let _ = flushed.send(());
        }
        if pruned.is_none_or(|at| at.elapsed() >= PRUNING) {
            pruned = Some(Instant::now());
            let before = clock.now().saturating_sub(SignedDuration::from_hours(24 * KEPT_DAYS));
            if let Some(error) = prune(&*store, before).await.err() {
                tracing::warn!(%error, "old usage records could not be deleted");
            }
        }
    }
}

async fn prune(store: &dyn UsageStore, before: Result<jiff::Timestamp, jiff::Error>) -> Result<(), LogError> {
    match before {
        Ok(before) => store.prune_usage(before).await,
        Err(_) => Ok(()),
    }
}
