//! Takes usage records off the request path and has them stored.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use copilotd_actors::domain::ids::TurnId;
use copilotd_actors::domain::usage::{LostUsage, Usage};
use copilotd_actors::ports::{Clock, Ids, LogError};
use copilotd_actors::tenancy::TenantScope;
use jiff::Timestamp;
use metrics::counter;
use moka::sync::Cache;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use uuid::Uuid;

use super::backlog::{Backlog, BacklogSize, Entry};
use super::open::OpenCalls;
use super::{UsageRecord, UsageStore};
use crate::limit::AnswerStatistics;
use crate::meter::{AttemptRecord, LostEstimate, Meter, UnreportedAttempts};

/// Open attempts that may wait for the store. Beyond it new ones are skipped; each comes again.
const MAX_WAITING_OPEN: usize = 4_000;
/// How long storing the last records may take when the process stops.
const LAST: Duration = Duration::from_secs(5);
/// How often open attempts are checked.
const UPDATE_INTERVAL: Duration = Duration::from_millis(100);
/// Turns whose last attempts are remembered, and for how long: until a turn whose conversation died is resumed.
const RECENT_TURNS: u64 = 10_000;
const RECENT_FOR: Duration = Duration::from_secs(10 * 60);
/// Attempts that are remembered per turn.
const RECENT_ATTEMPTS: usize = 16;

type Recent = Arc<Mutex<Vec<(Timestamp, LostUsage)>>>;

/// The ledger's writer.
pub struct Ledger {
    entries: Mutex<Option<mpsc::UnboundedSender<Entry>>>,
    open: Mutex<OpenCalls>,
    waiting: Arc<BacklogSize>,
    /// Usage of the last attempts of turns, and when they ended.
    recent: Cache<TurnId, Recent>,
    task: Mutex<Option<JoinHandle<()>>>,
    store: Arc<dyn UsageStore>,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn Ids>,
    is_refusing: AtomicBool,
}

impl Ledger {
    /// How long an attempt is in flight before it is stored as open.
    pub const STORED_OPEN_AFTER: Duration = OpenCalls::FIRST_UPDATE;

    /// How long a record may wait before it is stored.
    pub const WINDOW: Duration = Duration::from_millis(200);

    /// Bound on calls in flight plus records waiting for the store. Above it no call begins; calls that have begun may
    /// still make a few attempts, whose records are kept too.
    pub const MAX_PENDING: usize = 20_000;

    /// How long a call waits for the store to make room for its record.
    pub const ROOM_WAIT: Duration = Duration::from_secs(2);

    /// Starts writing to `store`.
    pub fn start(store: Arc<dyn UsageStore>, clock: Arc<dyn Clock>, ids: Arc<dyn Ids>) -> Arc<Self> {
        Self::start_with(store, clock, ids, AnswerStatistics::default())
    }

    /// Like [`Ledger::start`], and stores the learned statistics too.
    pub fn start_with(
        store: Arc<dyn UsageStore>,
        clock: Arc<dyn Clock>,
        ids: Arc<dyn Ids>,
        learned: AnswerStatistics,
    ) -> Arc<Self> {
        let (sender, receiver) = mpsc::unbounded_channel();
        let waiting = Arc::<BacklogSize>::default();
        let backlog = Backlog::new(Arc::clone(&store), Arc::clone(&clock), learned, Arc::clone(&waiting));
        let task = tokio::spawn(backlog.run(receiver));
        let ledger = Arc::new(Self {
            entries: Mutex::new(Some(sender)),
            open: Mutex::default(),
            waiting,
            recent: Cache::builder()
                .max_capacity(RECENT_TURNS)
                .time_to_live(RECENT_FOR)
                .build(),
            task: Mutex::new(Some(task)),
            store,
            clock,
            ids,
            is_refusing: AtomicBool::new(false),
        });
        tokio::spawn(update_due(Arc::downgrade(&ledger)));
        ledger
    }

    /// Waits until everything that has ended so far is stored.
    pub async fn flushed(&self) {
        let sender = self.entries.lock().clone();
        let Some(sender) = sender else { return };
        let (flushed, done) = oneshot::channel();
        if sender.send(Entry::Flush(flushed)).is_ok() {
            // Dropped without an answer when the process stops.
            let _ = done.await;
        }
    }

    /// Stores waiting records, then stops.
    pub async fn close(&self) {
        drop(self.entries.lock().take());
        let task = self.task.lock().take();
        if let Some(mut task) = task
            && tokio::time::timeout(LAST, &mut task).await.is_err()
        {
            task.abort();
            let records = self.waiting.ended.load(Ordering::Relaxed);
            counter!("copilotd_usage_records_lost_total").increment(records as u64);
            tracing::error!(
                records,
                "usage records could not be stored before shutdown and are lost"
            );
        }
    }

    /// Queues open attempts that are due. Returns whether the ledger is open.
    fn queue_open_attempts(&self) -> bool {
        let entries = self.entries.lock();
        let Some(entries) = entries.as_ref() else { return false };
        // Sent under the lock, so that the end of an attempt comes after it.
        self.open.lock().update_due(Instant::now(), |record| {
            if self.waiting.begun.load(Ordering::Relaxed) >= MAX_WAITING_OPEN {
                return false;
            }
            self.waiting.begun.fetch_add(1, Ordering::Relaxed);
            entries.send(Entry::Begun(record)).is_ok()
        });
        true
    }

    /// Returns the number of calls in flight plus records waiting for the store.
    fn pending(&self) -> usize {
        self.open.lock().len() + self.waiting.ended.load(Ordering::Relaxed)
    }

    /// Remembers the usage of a turn's attempt, in case its conversation dies before the log has it.
    fn remember(&self, at: Timestamp, attempt: &AttemptRecord) {
        let Some(turn) = attempt.caller.turn.filter(|_| attempt.usage.total_tokens() > 0) else {
            return;
        };
        let usage = LostUsage {
            model: attempt.target.model.clone(),
            usage: attempt.usage,
        };
        let recent = self.recent.get_with(turn, Arc::default);
        let mut recent = recent.lock();
        if recent.len() == RECENT_ATTEMPTS {
            recent.remove(0);
        }
        recent.push((at, usage));
    }
}

#[async_trait]
impl Meter for Ledger {
    fn began(&self, id: Uuid, lost: LostEstimate) {
        self.open.lock().insert(id, lost, self.clock.now());
    }

    fn attempted(&self, attempt: AttemptRecord) {
        self.attempted_at(self.clock.now(), attempt);
    }

    fn attempted_at(&self, at: Timestamp, attempt: AttemptRecord) {
        self.remember(at, &attempt);
        // Under the same lock, so that no open entry follows its final record.
        let entries = self.entries.lock();
        let was_stored_open = attempt.id.is_some_and(|id| self.open.lock().remove(id));
        let id = attempt.id.unwrap_or_else(|| self.ids.uuid());
        let record = record(attempt, id, at);
        self.waiting.ended.fetch_add(1, Ordering::Relaxed);
        let sent = entries.as_ref().is_some_and(|entries| {
            entries
                .send(Entry::Ended {
                    record,
                    was_stored_open,
                })
                .is_ok()
        });
        if !sent {
            self.waiting.ended.fetch_sub(1, Ordering::Relaxed);
            // The process is stopping. An attempt stored as open becomes a record at the next start.
            if !was_stored_open {
                counter!("copilotd_usage_records_lost_total").increment(1);
                tracing::error!("a model call ended after the ledger was closed; its usage record is lost");
            }
        }
    }

    async fn unreported(
        &self,
        scope: &TenantScope,
        of: &UnreportedAttempts,
        by_this_process: bool,
    ) -> Result<Vec<LostUsage>, LogError> {
        if !by_this_process {
            return self.store.unreported_usage(scope, of).await;
        }
        let (Some(asked_at), Some(recent)) = (of.asked_at, self.recent.get(&of.turn)) else {
            return Ok(Vec::new());
        };
        let recent = recent.lock();
        let since = recent.iter().filter(|(at, _)| *at >= asked_at);
        Ok(since.map(|(_, usage)| usage.clone()).collect())
    }

    fn has_room(&self) -> bool {
        let has_room = self.pending() < Self::MAX_PENDING;
        if has_room && self.is_refusing.load(Ordering::Relaxed) && self.is_refusing.swap(false, Ordering::Relaxed) {
            tracing::info!("usage records are being stored again; accepting new model calls");
        }
        has_room
    }

    /// Calls wait while the store is slow, not while it refuses.
    async fn wait_for_room(&self) -> bool {
        let deadline = Instant::now() + Self::ROOM_WAIT;
        loop {
            // Listens before it looks, so that no change is missed.
            let room = self.waiting.room.notified();
            if self.has_room() {
                return true;
            }
            let is_stuck = self.waiting.is_stuck.load(Ordering::Relaxed);
            if is_stuck || tokio::time::timeout_at(deadline, room).await.is_err() {
                break;
            }
        }
        if !self.is_refusing.swap(true, Ordering::Relaxed) {
            tracing::error!(
                held = self.pending(),
                "too many usage records are waiting for the store; refusing new model calls until it accepts them"
            );
        }
        false
    }
}

pub(super) fn record(attempt: AttemptRecord, id: Uuid, at: Timestamp) -> UsageRecord {
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
        usage: Usage {
            estimated: attempt.is_estimated || attempt.usage.estimated,
            ..attempt.usage
        },
        is_estimated: attempt.is_estimated || attempt.usage.estimated,
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

pub(super) fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

async fn update_due(ledger: Weak<Ledger>) {
    loop {
        tokio::time::sleep(UPDATE_INTERVAL).await;
        let is_open = ledger.upgrade().is_some_and(|ledger| ledger.queue_open_attempts());
        if !is_open {
            return;
        }
    }
}
