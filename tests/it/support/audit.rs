//! An audit log in memory.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use copilotd_actors::domain::ids::TenantId;
use copilotd_actors::ports::{AuditStore, Head, LogError, StoredEntry};
use parking_lot::Mutex;

/// An audit log store in memory.
#[derive(Default)]
pub struct MemoryAudit {
    kept: Mutex<BTreeMap<TenantId, Kept>>,
    /// Whether the store fails.
    pub away: AtomicBool,
}

#[derive(Default)]
struct Kept {
    entries: BTreeMap<i64, StoredEntry>,
    head: Option<Head>,
}

impl MemoryAudit {
    /// Alters a byte of an entry.
    pub fn damage(&self, tenant: &str, n: i64) {
        let mut kept = self.kept.lock();
        let entries = &mut kept.get_mut(&tenant.parse().unwrap()).unwrap().entries;
        entries.get_mut(&n).unwrap().body[10] ^= 1;
    }

    fn kept<T>(&self, tenant: &TenantId, work: impl FnOnce(&mut Kept) -> T) -> Result<T, LogError> {
        if self.away.load(Ordering::Relaxed) {
            return Err(LogError::Unavailable("it is away".to_owned()));
        }
        let mut kept = self.kept.lock();
        Ok(work(kept.entry(tenant.clone()).or_default()))
    }
}

#[async_trait]
impl AuditStore for MemoryAudit {
    async fn append_entry(
        &self,
        tenant: &TenantId,
        entry: &StoredEntry,
        head: &Head,
        _genesis: &Head,
        _is_protective: bool,
    ) -> Result<(), LogError> {
        self.kept(tenant, |kept| {
            let standing = kept.entries.entry(entry.n).or_insert_with(|| entry.clone());
            if standing != entry {
                return Err(LogError::Conflict(entry.n.unsigned_abs()));
            }
            if kept.head.as_ref().is_none_or(|older| older.n < head.n) {
                kept.head = Some(head.clone());
            }
            Ok(())
        })?
    }

    async fn entries_after(
        &self,
        tenant: &TenantId,
        after: Option<i64>,
        limit: usize,
    ) -> Result<Vec<StoredEntry>, LogError> {
        self.kept(tenant, |kept| {
            let later = kept
                .entries
                .values()
                .filter(|entry| after.is_none_or(|after| entry.n > after));
            later.take(limit).cloned().collect()
        })
    }

    async fn entries_before(
        &self,
        tenant: &TenantId,
        before: Option<i64>,
        limit: usize,
    ) -> Result<Vec<StoredEntry>, LogError> {
        self.kept(tenant, |kept| {
            let newest_first = kept.entries.values().rev();
            let earlier = newest_first.filter(|entry| before.is_none_or(|before| entry.n < before));
            earlier.take(limit).cloned().collect()
        })
    }

    async fn audit_head(&self, tenant: &TenantId) -> Result<Option<Head>, LogError> {
        self.kept(tenant, |kept| kept.head.clone())
    }
}
