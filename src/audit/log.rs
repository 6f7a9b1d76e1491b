//! Recording, listing and verifying audit entries.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use copilotd_actors::domain::ids::TenantId;
use copilotd_actors::ports::{AuditStore, Clock, Head, LogError, StoredEntry};
use copilotd_actors::tenancy::TenantScope;
use metrics::counter;
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use super::chain::{AuditKey, Checker, Verification};
use super::entry::{Body, Entry};

/// Longest time for recording one entry, including the wait for earlier entries of the tenant.
const RECORD_WITHIN: Duration = Duration::from_secs(30);
/// Most tries to append an entry at the next number when it is already taken.
const ATTEMPTS: usize = 64;
/// Entries with this number or a larger one are damage: no log grows that long.
const MAX_NUMBER: i64 = 1 << 53;
/// Entries that are verified at once.
const PAGE: usize = 100;
/// Most logs that are verified at the same time.
const MAX_VERIFYING: usize = 2;
/// How long a verification waits for those of other tenants to finish.
const VERIFY_WAIT: Duration = Duration::from_secs(20);
/// Most tenants whose last number is remembered; beyond that, unused ones are dropped.
const MAX_TENANTS: usize = 20_000;

/// The audit logs of all tenants.
pub struct AuditLog {
    store: Arc<dyn AuditStore>,
    key: AuditKey,
    clock: Arc<dyn Clock>,
    ends: Mutex<HashMap<TenantId, Arc<LogEnd>>>,
    verifying: Semaphore,
}

/// The end of one tenant's log.
#[derive(Default)]
struct LogEnd {
    /// Queue of ordinary entries, which urgent ones (revoking and suspending) bypass.
    ordinary: tokio::sync::Mutex<()>,
    /// Locked while the log is verified, so that each tenant has one verification at a time.
    verifying: tokio::sync::Mutex<()>,
    /// Number and hash of the newest entry, if known. Locked while an entry is appended, so that entries of one process
    /// do not conflict.
    next: tokio::sync::Mutex<Option<(i64, Vec<u8>)>>,
    /// Highest number that this process has seen stored.
    seen: AtomicI64,
}

/// A listed entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedEntry {
    /// Number of the entry.
    pub n: i64,
    /// Content of the entry.
    pub body: Body,
}

/// Why a log was not verified.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// This log, or too many others, are being verified.
    #[error("this audit log is already being verified, or too many others are; try again later")]
    Busy,
    /// The store could not be read.
    #[error(transparent)]
    Store(#[from] LogError),
}

impl AuditLog {
    /// Audit logs in `store`, with MACs under `key`.
    pub fn new(store: Arc<dyn AuditStore>, key: AuditKey, clock: Arc<dyn Clock>) -> Self {
        Self {
            store,
            key,
            clock,
            ends: Mutex::default(),
            verifying: Semaphore::new(MAX_VERIFYING),
        }
    }

    /// Appends an entry to a tenant's log and returns its number. Call it before the action takes effect, and do not
    /// act if it fails: no action may go unrecorded.
    ///
    /// # Errors
    /// When the store refuses the entry, or does not answer within 30 s; in the latter case the entry may have been
    /// recorded.
    pub async fn record(&self, tenant: &TenantId, entry: Entry) -> Result<u64, LogError> {
        let action = entry.action.as_str();
        let recorded = match tokio::time::timeout(RECORD_WITHIN, self.append(tenant, entry)).await {
            Ok(recorded) => recorded,
            Err(_) => Err(LogError::Unavailable(
                "the store did not store the audit entry in time".to_owned(),
            )),
        };
        if let Err(error) = &recorded {
            tracing::error!(%tenant, action, %error, "could not record an audit entry; the action was refused");
        }
        recorded
    }

    async fn append(&self, tenant: &TenantId, entry: Entry) -> Result<u64, LogError> {
        let end = self.end(tenant);
        let _ordinary = match entry.action.is_urgent() {
            true => None,
            false => Some(end.ordinary.lock().await),
        };
        let mut next = end.next.lock().await;
        let is_protective = entry.action.is_protective();
        let body = Body::new(entry, self.clock.now());
        let text = serde_json::to_vec(&body)
            .map_err(|error| LogError::Refused(format!("cannot encode the audit entry as JSON: {error}")))?;
        let genesis = self.key.genesis(tenant);
        for _ in 0..ATTEMPTS {
            let (last, previous) = match next.take() {
                Some(known) => known,
                None => self.stored_end(tenant, &genesis).await?,
            };
            let n = last
                .checked_add(1)
                .ok_or_else(|| LogError::Corrupt("the last audit entry has an invalid number".to_owned()))?;
            let entry = self.key.entry(tenant, n, &previous, text.clone());
            let head = self.key.head(tenant, n, &entry.hash);
            let appended = self.store.append_entry(tenant, &entry, &head, &genesis, is_protective);
            match appended.await {
                Ok(()) => {
                    end.seen.fetch_max(n, Ordering::Relaxed);
                    *next = Some((n, entry.hash));
                    tracing::info!(
                        %tenant, n, action = body.action, actor = body.actor, credential = body.credential,
                        request_id = body.request_id, target = body.target, changed = body.changed.len(),
                        "audit entry recorded"
                    );
                    return Ok(n.unsigned_abs());
                }
                // Another process wrote this number, or an earlier try of ours whose outcome was unknown.
                Err(LogError::Conflict(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Err(LogError::Unavailable(format!(
            "the next audit entry number was already taken {ATTEMPTS} times in a row"
        )))
    }

    /// Finds the end of a log: the head or, if a process died before updating it, the entry after it.
    ///
    /// Invariant: recording never hides damage. Entries missing before a valid head stay missing, because numbers
    /// continue after the head; without a valid head, or if the anchor is ahead, one number is skipped, which every
    /// later `verify` finds.
    async fn stored_end(&self, tenant: &TenantId, genesis: &Head) -> Result<(i64, Vec<u8>), LogError> {
        // The anchor first, so that entries added meanwhile are beyond it.
        let anchor = self.store.audit_anchor(tenant).await?;
        let head = self.store.audit_head(tenant).await?;
        let last = self.store.entries_before(tenant, Some(MAX_NUMBER), 1).await?.pop();
        let good = match &head {
            Some(head) => self.key.is_own(tenant, head),
            None => last.is_none(),
        };
        if !good {
            tracing::error!(
                %tenant,
                "audit log damaged: its head is missing or was changed; skipping one entry number so that verification \
                 finds this"
            );
            let n = last.map_or(0, |last| last.n);
            return Ok((n.saturating_add(1), genesis.hash.clone()));
        }
        let head = head.unwrap_or_else(|| genesis.clone());
        // Only entries that follow the head without a gap were recorded after it. An entry further on is damage: if it
        // counted as the end, one row could keep everything from being recorded, revocations included.
        let (mut end, mut hash) = (head.n, head.hash);
        let behind = self.store.entries_after(tenant, Some(end), ATTEMPTS).await?;
        for entry in behind {
            if entry.n != end.saturating_add(1) {
                break;
            }
            (end, hash) = (entry.n, entry.hash);
        }
        if let Some(anchor) = anchor.filter(|anchor| anchor.n > end && self.key.is_own(tenant, anchor)) {
            tracing::error!(
                %tenant, last = end, anchor = anchor.n,
                "audit log damaged: it ends before its anchor, so entries were deleted or an older database was restored; \
                skipping one entry number so that verification finds this"
            );
            return Ok((anchor.n.saturating_add(1), genesis.hash.clone()));
        }
        Ok((end, hash))
    }

    /// Returns a page of the tenant's entries, newest first, and the `before` of the next page.
    pub async fn page(
        &self,
        scope: &TenantScope,
        before: Option<i64>,
        limit: usize,
    ) -> Result<(Vec<ListedEntry>, Option<i64>), LogError> {
        let tenant = scope.tenant();
        let mut found = self
            .store
            .entries_before(tenant, before, limit.saturating_add(1))
            .await?;
        let more = found.len() > limit;
        found.truncate(limit);
        let next = found.last().filter(|_| more).map(|last| last.n);
        let listed = found.into_iter().filter_map(|entry| listed(tenant, entry));
        Ok((listed.collect(), next))
    }

    /// Verifies the tenant's whole log, page by page.
    pub async fn verify(&self, scope: &TenantScope) -> Result<Verification, VerifyError> {
        let tenant = scope.tenant();
        let end = self.end(tenant);
        // At most one per tenant waits, so that no tenant can block the others.
        let _own = end.verifying.try_lock().map_err(|_| VerifyError::Busy)?;
        let permit = tokio::time::timeout(VERIFY_WAIT, self.verifying.acquire()).await;
        let Ok(Ok(_permit)) = permit else {
            return Err(VerifyError::Busy);
        };
        let known = Some(end.seen.load(Ordering::Relaxed));
        let anchor = self.store.audit_anchor(tenant).await?;
        let mut head = self.store.audit_head(tenant).await?;
        let mut page = self.checked_page(tenant, None).await?;
        if head.is_none() && page.as_ref().is_some_and(|page| !page.is_empty()) {
            // The first entry was added between the two reads; its head was written before it.
            head = self.store.audit_head(tenant).await?;
        }
        let mut checker = Checker::new(&self.key, tenant, head, anchor);
        loop {
            let Some(entries) = page else {
                checker.unreadable();
                break;
            };
            if !checker.take(&entries) {
                break;
            }
            let Some(last) = entries.last() else { break };
            page = self.checked_page(tenant, Some(last.n)).await?;
        }
        let verification = checker.finish(known);
        if let Some(bad) = verification.first_bad {
            tracing::error!(
                %tenant, n = bad.n, fault = bad.fault.as_str(),
                "audit log verification failed: an entry was changed or is missing; compare with a backup"
            );
        }
        Ok(verification)
    }

    /// Reads entries to verify; none if they are unreadable.
    async fn checked_page(&self, tenant: &TenantId, after: Option<i64>) -> Result<Option<Vec<StoredEntry>>, LogError> {
        match self.store.entries_after(tenant, after, PAGE).await {
            Ok(entries) => Ok(Some(entries)),
            Err(LogError::Corrupt(error)) => {
                tracing::error!(%tenant, error, "unreadable audit entries; verification reports the log as altered there");
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Drops what is remembered about a tenant's log, which was erased: its next entry is number 1.
    pub fn forget(&self, tenant: &TenantId) {
        self.ends.lock().remove(tenant);
    }

    fn end(&self, tenant: &TenantId) -> Arc<LogEnd> {
        let mut ends = self.ends.lock();
        if ends.len() >= MAX_TENANTS && !ends.contains_key(tenant) {
            ends.retain(|_, end| Arc::strong_count(end) > 1);
        }
        Arc::clone(ends.entry(tenant.clone()).or_default())
    }
}

fn listed(tenant: &TenantId, entry: StoredEntry) -> Option<ListedEntry> {
    match serde_json::from_slice(&entry.body) {
        Ok(body) => Some(ListedEntry { n: entry.n, body }),
        Err(_) => {
            counter!("copilotd_unreadable_rows_total", "what" => "audit").increment(1);
            tracing::error!(%tenant, n = entry.n, "unreadable audit entry; it is missing from the list");
            None
        }
    }
}

impl std::fmt::Debug for AuditLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AuditLog").finish_non_exhaustive()
    }
}
