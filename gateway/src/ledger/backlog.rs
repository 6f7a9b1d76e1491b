//! Stores the ledger's entries in batches, retrying for as long as it takes.
//!
//! Invariant: a record leaves this task only into the store. Records that the store refuses are kept and retried; those
//! that it refuses while it accepts others are set aside, so that they do not block the others. Records that wait
//! are counted, and the ledger refuses new calls above its bound.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use copilotd_actors::ports::{Clock, LogError};
use jiff::SignedDuration;
use metrics::{counter, gauge};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::Instant;
use uuid::Uuid;

use super::{KEPT_DAYS, Ledger, UsageEntries, UsageRecord, UsageStore};
use crate::limit::AnswerStatistics;

/// Number of records that are stored without waiting for more. Small, because storing takes CPU from running answers.
const ENOUGH: usize = 128;
/// Most records that are stored together, if the store is slower than they come.
const BATCH: usize = 500;
/// How long entries are collected after a write before a store that joins writes is given more of them: half of
/// [`Ledger::WINDOW`], so that what is left of it is time to find another write.
const COLLECTING: Duration = Duration::from_millis(100);
/// Pause after the store refused.
const PAUSE: Duration = Duration::from_secs(1);
/// Consecutive refusals after which the rest of a batch is not tried one by one.
const MAX_REFUSALS: usize = 3;
/// Interval between retries of records that were set aside.
const ASIDE: Duration = Duration::from_secs(30);
/// How often records beyond retention are deleted.
const PRUNING: Duration = Duration::from_secs(6 * 60 * 60);
/// Shortest interval between two writes of the learned statistics.
const LEARNING: Duration = Duration::from_secs(30);

/// What goes to the store; for each attempt in this order.
#[derive(Debug)]
pub(super) enum Entry {
    /// Answered once everything before it is stored.
    Flush(oneshot::Sender<()>),
    Begun(UsageRecord),
    Ended {
        record: UsageRecord,
        /// Whether the attempt was stored as open.
        was_stored_open: bool,
    },
}

/// What is not stored yet, and whether the store accepts it.
#[derive(Debug, Default)]
pub(super) struct BacklogSize {
    /// Records of attempts that ended.
    pub(super) ended: AtomicUsize,
    /// Records of open attempts.
    pub(super) begun: AtomicUsize,
    /// Whether the store refused what it was given last.
    pub(super) is_stuck: AtomicBool,
    /// Wakes those who wait for room: one for each record that is stored, all when the store refuses.
    pub(super) room: Notify,
}

impl BacklogSize {
    fn stored(&self, begun: usize, ended: usize) {
        self.begun.fetch_sub(begun, Ordering::Relaxed);
        let before = self.ended.fetch_sub(ended, Ordering::Relaxed);
        gauge!("copilotd_usage_records_waiting").set((before - ended) as f64);
        for _ in 0..ended {
            self.room.notify_one();
        }
    }
}

/// The task; see the module documentation.
pub(super) struct Backlog {
    pub(super) store: Arc<dyn UsageStore>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) learned: AnswerStatistics,
    pub(super) waiting: Arc<BacklogSize>,
    /// What the store refused while it accepted other records.
    aside: Vec<UsageEntries>,
    looked_aside: Instant,
    pruned: Option<Instant>,
    learned_at: Instant,
    /// When the last batch was taken, and when it was stored.
    last: Option<(Instant, Instant)>,
}

impl Backlog {
    pub(super) fn new(
        store: Arc<dyn UsageStore>,
        clock: Arc<dyn Clock>,
        learned: AnswerStatistics,
        waiting: Arc<BacklogSize>,
    ) -> Self {
        Self {
            store,
            clock,
            learned,
            waiting,
            aside: Vec::new(),
            looked_aside: Instant::now(),
            pruned: None,
            learned_at: Instant::now(),
            last: None,
        }
    }

    /// Runs until all senders are gone and everything is stored.
    pub(super) async fn run(mut self, mut receiver: mpsc::UnboundedReceiver<Entry>) {
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            // Entries that came while the last batch was being stored have waited since then at most.
            let waiting_since = self.last.filter(|_| !receiver.is_empty()).map(|(taken, _)| taken);
            let open = receiver.recv_many(&mut batch, BATCH);
            // Records that were set aside are retried even if nothing else arrives.
            let received = match self.aside.is_empty() {
                true => open.await,
                false => tokio::time::timeout(ASIDE, open).await.unwrap_or(usize::MAX),
            };
            if received == 0 && self.aside.is_empty() {
                break;
            }
            // The process is stopping: records that were set aside are retried at once.
            let is_ending = received == 0;
            if is_ending {
                tokio::time::sleep(PAUSE).await;
            }
            // What arrives within the window is stored together: one commit for many calls.
            let joins = self.store.joins_writes();
            let since = waiting_since.filter(|_| joins).unwrap_or_else(Instant::now);
            let deadline = since + Ledger::WINDOW;
            let until = match self.last {
                // The store looks for another write to join, such as the end of the turn that made the call.
                Some((_, stored)) if joins => (stored + COLLECTING).min(deadline),
                None if joins => since,
                _ => deadline,
            };
            while !batch.is_empty()
                && batch.len() < ENOUGH
                && let Ok(Some(entry)) = tokio::time::timeout_at(until, receiver.recv()).await
            {
                batch.push(entry);
            }
            let is_urgent = receiver.is_closed() || batch.len() >= ENOUGH;
            let flushes = flushes(&mut batch);
            let deadline = if is_urgent || !flushes.is_empty() {
                Instant::now()
            } else {
                deadline
            };
            let taken = Instant::now();
            self.store(&mut batch, deadline).await;
            self.last = Some((taken, Instant::now()));
            for flushed in flushes {
                // The receiver may be gone.
                let _ = flushed.send(());
            }
            self.try_aside(is_ending).await;
            if self.learned_at.elapsed() >= LEARNING {
                self.learned_at = Instant::now();
                self.store_learned().await;
            }
            self.prune().await;
        }
        self.store_learned().await;
    }

    /// Stores a batch by `deadline`, or however long it takes if the store refuses it. Records that are refused
    /// individually are set aside.
    async fn store(&mut self, batch: &mut Vec<Entry>, deadline: Instant) {
        let (begun, ended) = counts(batch);
        let entries = Arc::new(sorted(batch));
        if begun + ended == 0 {
            return;
        }
        let mut stored = HashSet::new();
        while let Err(error) = self.store.add_usage_by(&entries, deadline).await {
            self.warn_once(&error);
            let is_by_record = matches!(error, LogError::Refused(_) | LogError::Corrupt(_)) && !error.is_disk_full();
            if is_by_record && self.store_singly(&entries, &mut stored).await {
                let left = entries.ended.iter().filter(|record| !stored.contains(&record.id));
                let left: Vec<UsageEntries> = left.map(|record| single(&entries, record)).collect();
                tracing::error!(
                    records = left.len(),
                    "store refused some usage records while accepting others; set aside and retried every 30 s"
                );
                counter!("copilotd_usage_records_refused_total").increment(left.len() as u64);
                self.waiting.stored(begun, ended - left.len());
                self.aside.extend(left);
                return;
            }
            tokio::time::sleep(PAUSE).await;
        }
        if self.waiting.is_stuck.swap(false, Ordering::Relaxed) {
            tracing::info!("store accepts usage records again");
        }
        self.waiting.stored(begun, ended);
    }

    /// Stores the records of a batch one by one. Returns whether the store accepted some: then the others are at fault.
    async fn store_singly(&self, entries: &UsageEntries, stored: &mut HashSet<Uuid>) -> bool {
        let mut refused = 0;
        let begun = UsageEntries {
            begun: entries.begun.clone(),
            ..UsageEntries::default()
        };
        // Refusal is harmless: a final record follows for each of them.
        let _ = self.store.add_usage(&Arc::new(begun)).await;
        for record in &entries.ended {
            if stored.is_empty() && refused >= MAX_REFUSALS {
                break;
            }
            match self.store.add_usage(&Arc::new(single(entries, record))).await {
                Ok(()) => drop(stored.insert(record.id)),
                Err(LogError::Unavailable(_)) => return false,
                Err(_) => refused += 1,
            }
        }
        !stored.is_empty()
    }

    async fn try_aside(&mut self, at_once: bool) {
        if self.aside.is_empty() || (!at_once && self.looked_aside.elapsed() < ASIDE) {
            return;
        }
        self.looked_aside = Instant::now();
        for entries in std::mem::take(&mut self.aside) {
            let entries = Arc::new(entries);
            match self.store.add_usage(&entries).await {
                Ok(()) => self.waiting.stored(0, 1),
                Err(_) => self.aside.push(UsageEntries::clone(&entries)),
            }
        }
    }

    fn warn_once(&mut self, error: &LogError) {
        if !self.waiting.is_stuck.swap(true, Ordering::Relaxed) {
            self.waiting.room.notify_waiters();
            let records = self.waiting.ended.load(Ordering::Relaxed);
            tracing::warn!(%error, records, "usage records cannot be stored; keeping and retrying them every second");
        }
    }

    async fn store_learned(&self) {
        let changed = self.learned.take_changed();
        if changed.is_empty() {
            return;
        }
        if let Err(error) = self.store.save_learned(&changed, self.clock.now()).await {
            tracing::debug!(%error, "statistics about models' answers could not be stored; retrying later");
            self.learned.put_back(changed);
        }
    }

    async fn prune(&mut self) {
        if self.pruned.is_some_and(|at| at.elapsed() < PRUNING) {
            return;
        }
        self.pruned = Some(Instant::now());
        let before = self
            .clock
            .now()
            .saturating_sub(SignedDuration::from_hours(24 * KEPT_DAYS));
        let Ok(before) = before else { return };
        if let Err(error) = self.store.prune_usage(before).await {
            tracing::warn!(%error, "old usage records could not be deleted; retrying in 6 h");
        }
    }
}

/// Removes the flush requests from a batch.
fn flushes(batch: &mut Vec<Entry>) -> Vec<oneshot::Sender<()>> {
    let is_flush = |entry: &mut Entry| matches!(entry, Entry::Flush(_));
    let flushes = batch.extract_if(.., is_flush).filter_map(|entry| match entry {
        Entry::Flush(flushed) => Some(flushed),
        Entry::Begun(_) | Entry::Ended { .. } => None,
    });
    flushes.collect()
}

/// Counts the open and the ended records of a batch.
fn counts(batch: &[Entry]) -> (usize, usize) {
    let begun = batch.iter().filter(|entry| matches!(entry, Entry::Begun(_))).count();
    (begun, batch.len() - begun)
}

/// One record of a batch, with the closing of its open entry.
fn single(entries: &UsageEntries, record: &UsageRecord) -> UsageEntries {
    UsageEntries {
        begun: Vec::new(),
        ended: vec![record.clone()],
        closed: entries.closed.iter().copied().filter(|id| *id == record.id).collect(),
    }
}

/// Sorts a batch for the store. Of several entries for one open attempt the last one wins; one that began and ended
/// within the batch is only ended, but closes an open entry that the store may have from before.
fn sorted(batch: &mut Vec<Entry>) -> UsageEntries {
    let mut entries = UsageEntries::default();
    let mut closed: HashSet<Uuid> = HashSet::new();
    let mut noted: HashSet<Uuid> = HashSet::new();
    for entry in batch.drain(..).rev() {
        match entry {
            Entry::Ended {
                record,
                was_stored_open,
            } => {
                if was_stored_open {
                    closed.insert(record.id);
                    entries.closed.push(record.id);
                }
                entries.ended.push(record);
            }
            Entry::Begun(record) if closed.contains(&record.id) || !noted.insert(record.id) => {}
            Entry::Begun(record) => entries.begun.push(record),
            Entry::Flush(_) => {}
        }
    }
    entries.begun.reverse();
    entries.ended.reverse();
    entries
}
