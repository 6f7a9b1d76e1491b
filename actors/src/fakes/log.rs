//! An in-memory [`EventLog`] with injectable failures.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::watch;
use uuid::Uuid;

use crate::domain::content::Metadata;
use crate::domain::conversation::header::Header;
use crate::domain::conversation::quota::StoredTotals;
use crate::domain::event::Record;
use crate::domain::ids::{ConversationId, Seq, TenantId, TurnId, UserId};
use crate::ports::{
    Append, ErasureReceipt, EventLog, ListQuery, LogError, Order, PendingConversation, Snapshot, TurnRecords,
};
use crate::tenancy::TenantScope;

/// When an injected failure occurs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Before anything is written.
    Before,
    /// After everything is written: only the answer is lost.
    After,
}

/// The logs of all conversations, in memory. Clones share the data, so a test simulates a crash and restart by dropping
/// all actors and starting new ones on a clone.
#[derive(Debug, Clone, Default)]
pub struct MemoryLog {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    store: Mutex<Store>,
    commits: watch::Sender<u64>,
    held: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct Store {
    logs: BTreeMap<(TenantId, ConversationId), Log>,
    attempts: u64,
    faults: BTreeMap<u64, Fault>,
    refusals: BTreeMap<u64, String>,
    delay: Duration,
    down: bool,
    reads: u64,
}

#[derive(Debug)]
struct Log {
    appends: Vec<(Uuid, Vec<Record>)>,
    header: Header,
    snapshot: Option<Snapshot>,
    tombstone: Option<Seq>,
    cleaned: bool,
}

impl Log {
    fn records(&self) -> impl DoubleEndedIterator<Item = &Record> {
        self.appends.iter().flat_map(|(_, records)| records)
    }
}

impl MemoryLog {
    /// Creates an empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes the `nth` append from now on (1 is the next one) fail with an unknown outcome.
    pub fn fail_append(&self, nth: u64, fault: Fault) {
        let mut store = self.store();
        let at = store.attempts + nth;
        store.faults.insert(at, fault);
    }

    /// Makes the `nth` append from now on (1 is the next one) fail permanently.
    pub fn refuse_append(&self, nth: u64, reason: &str) {
        let mut store = self.store();
        let at = store.attempts + nth;
        store.refusals.insert(at, reason.to_owned());
    }

    /// Delays every later append by `delay` of tokio's time before it takes effect.
    pub fn delay_appends(&self, delay: Duration) {
        self.store().delay = delay;
    }

    /// Holds appends before they take effect, until [`MemoryLog::release`].
    pub fn hold(&self) {
        self.shared.held.send_replace(true);
    }

    /// Releases held appends.
    pub fn release(&self) {
        self.shared.held.send_replace(false);
    }

    /// Makes every call fail as unavailable, or stops doing so.
    pub fn set_down(&self, down: bool) {
        self.store().down = down;
    }

    /// Returns how often a log, a header or a snapshot was read.
    pub fn reads(&self) -> u64 {
        self.store().reads
    }

    /// Returns how many appends took effect.
    pub fn commits(&self) -> u64 {
        *self.shared.commits.borrow()
    }

    /// Returns how many appends were attempted, including failed ones.
    pub fn attempts(&self) -> u64 {
        self.store().attempts
    }

    /// Waits until `n` appends took effect, counted from the store's creation.
    pub async fn wait_for_commits(&self, n: u64) {
        let mut commits = self.shared.commits.subscribe();
        // The sender lives in `self`, so waiting cannot fail before this call is over.
        let _ = commits.wait_for(|count| *count >= n).await;
    }

    /// Returns all records of a conversation of any tenant.
    pub fn records(&self, conversation: ConversationId) -> Vec<Record> {
        let store = self.store();
        let log = store.logs.iter().find(|((_, id), _)| *id == conversation);
        log.map(|(_, log)| log.records().cloned().collect()).unwrap_or_default()
    }

    /// Deletes one record of a conversation, as a damaged store might.
    pub fn lose_record(&self, conversation: ConversationId, seq: Seq) {
        let mut store = self.store();
        let log = store.logs.iter_mut().find(|((_, id), _)| *id == conversation);
        if let Some((_, log)) = log {
            for (_, records) in &mut log.appends {
                records.retain(|record| record.seq != seq);
            }
        }
    }

    fn store(&self) -> MutexGuard<'_, Store> {
        self.shared.store.lock()
    }

    fn open(&self) -> Result<MutexGuard<'_, Store>, LogError> {
        let store = self.store();
        if store.down {
            return Err(unavailable("switched off by the test"));
        }
        Ok(store)
    }

    fn with<T>(
        &self,
        scope: &TenantScope,
        conversation: ConversationId,
        read: impl FnOnce(&Log) -> T,
    ) -> Result<Option<T>, LogError> {
        let mut store = self.open()?;
        store.reads += 1;
        Ok(store.logs.get(&(scope.tenant().clone(), conversation)).map(read))
    }
}

impl Store {
    /// Commits an append after the checks of every store: a repeated append, the tombstone, the sequence number.
    fn commit(&mut self, scope: &TenantScope, append: &Append) -> Result<bool, LogError> {
        let key = (scope.tenant().clone(), append.conversation);
        let Some(log) = self.logs.get_mut(&key) else {
            if append.first_seq() != 1 {
                return Err(LogError::Conflict(append.first_seq()));
            }
            self.logs.insert(
                key,
                Log {
                    appends: vec![(append.append_id, append.records.to_vec())],
                    header: append.header.clone(),
                    snapshot: None,
                    tombstone: append.tombstone(),
                    cleaned: false,
                },
            );
            return Ok(true);
        };
        if log.appends.iter().any(|(id, _)| *id == append.append_id) {
            return Ok(false);
        }
        if log.tombstone.is_some() {
            return Err(LogError::Erased);
        }
        if append.first_seq() != log.header.last_seq + 1 {
            return Err(LogError::Conflict(append.first_seq()));
        }
        log.appends.push((append.append_id, append.records.to_vec()));
        log.header = append.header.clone();
        log.tombstone = append.tombstone();
        Ok(true)
    }
}

fn unavailable(why: &str) -> LogError {
    LogError::Unavailable(why.to_owned())
}

#[async_trait]
impl EventLog for MemoryLog {
    async fn append(&self, scope: &TenantScope, append: &Append) -> Result<(), LogError> {
        append.check(scope)?;
        let (fault, delay) = {
            let mut store = self.store();
            store.attempts += 1;
            let attempt = store.attempts;
            if store.down {
                return Err(unavailable("switched off by the test"));
            }
            if let Some(reason) = store.refusals.remove(&attempt) {
                return Err(LogError::Refused(reason));
            }
            (store.faults.remove(&attempt), store.delay)
        };
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        // The sender lives in `self`, so waiting cannot fail before this call is over.
        let _ = self.shared.held.subscribe().wait_for(|held| !held).await;
        if fault == Some(Fault::Before) {
            return Err(unavailable("failed by the test before it was written"));
        }
        let new = self.open()?.commit(scope, append)?;
        if new {
            self.shared.commits.send_modify(|commits| *commits += 1);
        }
        if fault == Some(Fault::After) {
            return Err(unavailable("failed by the test after it was written"));
        }
        Ok(())
    }

    async fn read(
        &self,
        scope: &TenantScope,
        conversation: ConversationId,
        after: Seq,
        limit: usize,
    ) -> Result<Vec<Record>, LogError> {
        let page = self.with(scope, conversation, |log| {
            let later = log.records().filter(|record| record.seq > after);
            later.take(limit).cloned().collect()
        })?;
        Ok(page.unwrap_or_default())
    }

    async fn read_turn(&self, scope: &TenantScope, turn: TurnId) -> Result<Option<TurnRecords>, LogError> {
        let mut store = self.open()?;
        store.reads += 1;
        for ((tenant, conversation), log) in &store.logs {
            let records: Vec<Record> = log.records().filter(|r| r.turn == Some(turn)).cloned().collect();
            if tenant == scope.tenant() && !records.is_empty() {
                return Ok(Some(TurnRecords {
                    conversation: *conversation,
                    user: log.header.user.clone(),
                    records,
                }));
            }
        }
        Ok(None)
    }

    async fn read_messages(
        &self,
        scope: &TenantScope,
        conversation: ConversationId,
        cursor: Option<Seq>,
        order: Order,
        limit: usize,
    ) -> Result<Vec<Record>, LogError> {
        let page = self.with(scope, conversation, |log| {
            let messages = log.records().filter(|record| record.event.is_message());
            match order {
                Order::Asc => messages
                    .filter(|record| cursor.is_none_or(|cursor| record.seq > cursor))
                    .take(limit)
                    .cloned()
                    .collect(),
                Order::Desc => messages
                    .rev()
                    .filter(|record| cursor.is_none_or(|cursor| record.seq < cursor))
                    .take(limit)
                    .cloned()
                    .collect(),
            }
        })?;
        Ok(page.unwrap_or_default())
    }

    async fn header(&self, scope: &TenantScope, conversation: ConversationId) -> Result<Option<Header>, LogError> {
        self.with(scope, conversation, |log| log.header.clone())
    }

    async fn list(&self, scope: &TenantScope, query: &ListQuery) -> Result<Vec<Header>, LogError> {
        let store = self.open()?;
        let mut headers: Vec<Header> = store
            .logs
            .iter()
            .filter(|((tenant, _), _)| tenant == scope.tenant())
            .map(|(_, log)| &log.header)
            .filter(|header| query.user.as_ref().is_none_or(|user| *user == header.user))
            .filter(|header| query.channel.is_none_or(|channel| channel == header.channel))
            .filter(|header| query.erased || !header.erased)
            .filter(|header| {
                query
                    .before
                    .is_none_or(|before| (header.created_at, header.id) < before)
            })
            .cloned()
            .collect();
        headers.sort_by_key(|header| std::cmp::Reverse((header.created_at, header.id)));
        headers.truncate(query.limit);
        Ok(headers)
    }

    async fn snapshot(&self, scope: &TenantScope, conversation: ConversationId) -> Result<Option<Snapshot>, LogError> {
        Ok(self.with(scope, conversation, |log| log.snapshot.clone())?.flatten())
    }

    async fn save_snapshot(
        &self,
        scope: &TenantScope,
        conversation: ConversationId,
        snapshot: &Snapshot,
    ) -> Result<(), LogError> {
        let mut store = self.open()?;
        let log = store.logs.get_mut(&(scope.tenant().clone(), conversation));
        // A snapshot that arrives after the tombstone would bring back erased content.
        if let Some(log) = log.filter(|log| log.tombstone.is_none())
            && log.snapshot.as_ref().is_none_or(|old| old.seq <= snapshot.seq)
        {
            log.snapshot = Some(snapshot.clone());
        }
        Ok(())
    }

    async fn pending(
        &self,
        cursor: Option<&PendingConversation>,
        limit: usize,
    ) -> Result<Vec<PendingConversation>, LogError> {
        let store = self.open()?;
        let after = cursor.map(|cursor| (cursor.scope.tenant().clone(), cursor.conversation));
        let pending = store.logs.iter().filter(|(key, log)| {
            let due = if log.tombstone.is_some() {
                !log.cleaned
            } else {
                log.header.open_turns > 0
            };
            due && after.as_ref().is_none_or(|after| *key > after)
        });
        #[expect(
            clippy::disallowed_methods,
            reason = "recovery: the tenant comes from the log of a verified request"
        )]
        let scope = TenantScope::from_verified;
        Ok(pending
            .take(limit)
            .map(|((tenant, conversation), log)| PendingConversation {
                scope: scope(tenant.clone()),
                conversation: *conversation,
                tombstone: log.tombstone,
                updated_at: log.header.updated_at,
                last_seq: log.header.last_seq,
            })
            .collect())
    }

    async fn erase(
        &self,
        scope: &TenantScope,
        conversation: ConversationId,
        tombstone: Seq,
    ) -> Result<ErasureReceipt, LogError> {
        let mut store = self.open()?;
        let Some(log) = store.logs.get_mut(&(scope.tenant().clone(), conversation)) else {
            return Ok(ErasureReceipt::default());
        };
        if log.tombstone != Some(tombstone) {
            return Err(LogError::Refused(format!(
                "record {tombstone} is not the tombstone of {conversation}"
            )));
        }
        let before = log.records().count();
        log.appends.retain_mut(|(_, records)| {
            records.retain(|record| record.seq >= tombstone);
            !records.is_empty()
        });
        let records = before - log.records().count();
        let snapshots = u64::from(log.snapshot.take().is_some());
        log.header.title = None;
        log.header.metadata = Metadata::new();
        log.header.idempotency = None;
        log.cleaned = true;
        Ok(ErasureReceipt {
            stores: vec![
                ("memory.records".to_owned(), records as u64),
                ("memory.snapshots".to_owned(), snapshots),
            ],
        })
    }

    async fn stored(&self, scope: &TenantScope, user: &UserId) -> Result<StoredTotals, LogError> {
        let store = self.open()?;
        let mut totals = StoredTotals::default();
        for ((tenant, _), log) in &store.logs {
            if tenant != scope.tenant() {
                continue;
            }
            let stored = log.header.stored();
            let of_user = (log.header.user == *user).then_some(&mut totals.user);
            for total in [Some(&mut totals.tenant), of_user].into_iter().flatten() {
                total.conversations += stored.conversations;
                total.bytes += stored.bytes;
            }
        }
        Ok(totals)
    }

    async fn rebuild(&self) -> Result<u64, LogError> {
        let mut store = self.open()?;
        for ((_, id), log) in &mut store.logs {
            let mut records = log.appends.iter().flat_map(|(_, records)| records);
            // The rest of an erased log does not begin with its creation; its header is kept instead.
            let Some(mut header) = records.next().and_then(|first| Header::open(*id, first)) else {
                continue;
            };
            records.for_each(|record| header.apply(record));
            log.header = header;
        }
        Ok(store.logs.len() as u64)
    }

    async fn ready(&self) -> Result<(), LogError> {
        self.open().map(|_| ())
    }
}
