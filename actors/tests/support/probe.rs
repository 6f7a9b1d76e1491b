//! A log that can stop the process at an append and counts reads.

use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use copilotd_actors::domain::conversation::header::Header;
use copilotd_actors::domain::conversation::quota::StoredTotals;
use copilotd_actors::domain::event::Record;
use copilotd_actors::domain::ids::{ConversationId, Seq, TurnId, UserId};
use copilotd_actors::fakes::log::{Fault, MemoryLog};
use copilotd_actors::ports::{
    Append, ErasureReceipt, EventLog, ListQuery, LogError, Order, PendingConversation, Snapshot, TurnRecords,
};
use copilotd_actors::tenancy::TenantScope;
use parking_lot::Mutex;
use tokio::sync::watch;

/// See the module.
pub struct Probe {
    log: MemoryLog,
    /// Number of appends until the process stops, and whether it stops before or after that append takes effect.
    armed: Mutex<Option<(u64, Fault)>>,
    stopped: watch::Sender<bool>,
    records_read: AtomicU64,
    /// Event names of each append that took effect.
    appends: Mutex<Vec<Vec<&'static str>>>,
}

impl Probe {
    pub fn new(log: MemoryLog) -> Self {
        Self {
            log,
            armed: Mutex::new(None),
            stopped: watch::Sender::new(false),
            records_read: AtomicU64::new(0),
            appends: Mutex::default(),
        }
    }

    /// Makes the `nth` append from now on (1 is the next one) never return.
    pub fn stop_at(&self, nth: u64, fault: Fault) {
        *self.armed.lock() = Some((nth, fault));
    }

    pub fn disarm(&self) {
        *self.armed.lock() = None;
        self.stopped.send_replace(false);
    }

    /// Waits until that append was reached.
    pub async fn stopped(&self) {
        let _ = self.stopped.subscribe().wait_for(|stopped| *stopped).await;
    }

    /// Returns the number of records returned by `read` so far.
    pub fn records_read(&self) -> u64 {
        self.records_read.load(Ordering::Relaxed)
    }

    /// Returns the event names of each append that took effect, oldest first.
    pub fn appends(&self) -> Vec<Vec<&'static str>> {
        self.appends.lock().clone()
    }

    async fn through(&self, scope: &TenantScope, append: &Append) -> Result<(), LogError> {
        self.log.append(scope, append).await?;
        let names = append.records.iter().map(|record| record.event.name()).collect();
        self.appends.lock().push(names);
        Ok(())
    }

    fn step(&self) -> Option<Fault> {
        let mut armed = self.armed.lock();
        let (left, fault) = armed.as_mut()?;
        // Every append after the stop hangs too.
        *left = left.saturating_sub(1);
        (*left == 0).then_some(*fault)
    }
}

#[async_trait]
impl EventLog for Probe {
    async fn append(&self, scope: &TenantScope, append: &Append) -> Result<(), LogError> {
        let first = !*self.stopped.borrow();
        match self.step() {
            None => self.through(scope, append).await,
            Some(fault) => {
                if fault == Fault::After && first {
                    self.through(scope, append).await?;
                }
                self.stopped.send_replace(true);
                std::future::pending().await
            }
        }
    }

    async fn read(
        &self,
        scope: &TenantScope,
        conversation: ConversationId,
        after: Seq,
        limit: usize,
    ) -> Result<Vec<Record>, LogError> {
        let page = self.log.read(scope, conversation, after, limit).await?;
        self.records_read.fetch_add(page.len() as u64, Ordering::Relaxed);
        Ok(page)
    }

    async fn read_turn(&self, scope: &TenantScope, turn: TurnId) -> Result<Option<TurnRecords>, LogError> {
        self.log.read_turn(scope, turn).await
    }

    async fn read_messages(
        &self,
        scope: &TenantScope,
        conversation: ConversationId,
        cursor: Option<Seq>,
        order: Order,
        limit: usize,
    ) -> Result<Vec<Record>, LogError> {
        self.log.read_messages(scope, conversation, cursor, order, limit).await
    }

    async fn header(&self, scope: &TenantScope, conversation: ConversationId) -> Result<Option<Header>, LogError> {
        self.log.header(scope, conversation).await
    }

    async fn list(&self, scope: &TenantScope, query: &ListQuery) -> Result<Vec<Header>, LogError> {
        self.log.list(scope, query).await
    }

    async fn snapshot(&self, scope: &TenantScope, conversation: ConversationId) -> Result<Option<Snapshot>, LogError> {
        self.log.snapshot(scope, conversation).await
    }

    async fn save_snapshot(
        &self,
        scope: &TenantScope,
        conversation: ConversationId,
        snapshot: &Snapshot,
    ) -> Result<(), LogError> {
        self.log.save_snapshot(scope, conversation, snapshot).await
    }

    async fn pending(
        &self,
        cursor: Option<&PendingConversation>,
        limit: usize,
    ) -> Result<Vec<PendingConversation>, LogError> {
        self.log.pending(cursor, limit).await
    }

    async fn erase(
        &self,
        scope: &TenantScope,
        conversation: ConversationId,
        tombstone: Seq,
    ) -> Result<ErasureReceipt, LogError> {
        self.log.erase(scope, conversation, tombstone).await
    }

    async fn stored(&self, scope: &TenantScope, user: &UserId) -> Result<StoredTotals, LogError> {
        self.log.stored(scope, user).await
    }

    async fn rebuild(&self) -> Result<u64, LogError> {
        self.log.rebuild().await
    }

    async fn ready(&self) -> Result<(), LogError> {
        self.log.ready().await
    }
}
