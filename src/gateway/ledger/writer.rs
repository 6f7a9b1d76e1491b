//! Takes what attempts used off the way of their answers and stores it.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use copilotd_actors::ports::{Clock, Ids, LogError};
use jiff::SignedDuration;
use metrics::counter;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::{KEPT_DAYS, UsageRecord, UsageStore};
use crate::gateway::attempt::{Attempted, Meter};

/// Records that may wait for the store. Beyond it they are lost, and counted and logged as lost.
const QUEUE: usize = 20_000;
/// Most records that are stored together.
const BATCH: usize = 500;
/// Pause after the store refused.
const PAUSE: Duration = Duration::from_secs(1);
/// How long the last records may take at the end of the process.
const LAST: Duration = Duration::from_secs(5);
/// How often what is too old is deleted.
const PRUNING: Duration = Duration::from_secs(6 * 60 * 60);

/// The ledger's writer.
pub struct Ledger {
    records: Mutex<Option<mpsc::Sender<UsageRecord>>>,
    task: Mutex<Option<JoinHandle<()>>>,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn Ids>,
    is_losing: AtomicBool,
}

impl Ledger {
    /// How long a record may wait before it is stored.
    pub const WINDOW: Duration = Duration::from_millis(200);

    /// Starts to write into `store`.
    pub fn start(store: Arc<dyn UsageStore>, clock: Arc<dyn Clock>, ids: Arc<dyn Ids>) -> Arc<Self> {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let task = tokio::spawn(write(receiver, store, Arc::clone(&clock)));
        Arc::new(Self {
            records: Mutex::new(Some(sender)),
            task: Mutex::new(Some(task)),
            clock,
            ids,
            is_losing: AtomicBool::new(false),
        })
    }

    /// Stores what waits, and ends.
    pub async fn close(&self) {
        drop(self.records.lock().unwrap_or_else(PoisonError::into_inner).take());
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(task) = task
            && tokio::time::timeout(LAST, task).await.is_err()
        {
            tracing::error!("the last usage records could not be stored in time");
        }
    }
}

impl Meter for Ledger {
    fn attempted(&self, attempt: Attempted) {
        let record = UsageRecord {
            id: attempt.id.unwrap_or_else(|| self.ids.uuid()),
            tenant: attempt.caller.scope.tenant().clone(),
            at: self.clock.now(),
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
        };
        let records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = records.as_ref().is_some_and(|records| records.try_send(record).is_ok());
        drop(records);
        if taken {
            self.is_losing.store(false, Ordering::Relaxed);
            return;
        }
        counter!("copilotd_usage_records_lost_total").increment(1);
        if !self.is_losing.swap(true, Ordering::Relaxed) {
            tracing::error!("usage records are lost: the store has not taken any for too long");
        }
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

async fn write(mut receiver: mpsc::Receiver<UsageRecord>, store: Arc<dyn UsageStore>, clock: Arc<dyn Clock>) {
    let mut batch = Vec::with_capacity(BATCH);
    let mut pruned: Option<Instant> = None;
    while receiver.recv_many(&mut batch, BATCH).await > 0 {
        // What comes within the window goes together: one commit for many calls.
        let deadline = Instant::now() + Ledger::WINDOW;
        while batch.len() < BATCH
            && let Ok(Some(record)) = tokio::time::timeout_at(deadline, receiver.recv()).await
        {
            batch.push(record);
        }
        let mut said = false;
        while let Err(error) = store.add_usage(&batch).await {
            if let LogError::Refused(_) | LogError::Corrupt(_) = error {
                tracing::error!(%error, records = batch.len(), "the store will not take usage records; they are lost");
                counter!("copilotd_usage_records_lost_total").increment(batch.len() as u64);
                break;
            }
            if !std::mem::replace(&mut said, true) {
                tracing::warn!(%error, "usage records wait for the store");
            }
            tokio::time::sleep(PAUSE).await;
        }
        batch.clear();
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
