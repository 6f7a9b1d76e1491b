//! The port to the store of audit entries.

use async_trait::async_trait;

use super::LogError;
use crate::domain::ids::TenantId;

/// A SHA-256 hash or an HMAC-SHA-256.
pub type Digest = [u8; 32];

/// A stored entry. The types are loose because a damaged store may return anything; verification judges it, not
/// reading.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredEntry {
    /// Number of the entry; from 1, without gaps.
    pub n: i64,
    /// The entry (`audit::Body`) as JSON: exactly the bytes that were hashed.
    pub body: Vec<u8>,
    /// Hash over tenant, number, the previous entry's hash and body.
    pub hash: Vec<u8>,
    /// MAC over the hash.
    pub mac: Vec<u8>,
}

/// The newest entry's number and hash, stored separately from the entries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Number of the newest entry; 0 before the first one.
    pub n: i64,
    /// Hash of the newest entry; zeros before the first one.
    pub hash: Vec<u8>,
    /// MAC over tenant, number and hash.
    pub mac: Vec<u8>,
}

/// Stores audit entries. One test suite checks every implementation.
///
/// Contract: an append is durable when it returns; of two entries with the same tenant and number one gets
/// [`LogError::Conflict`]; appending the same entry again succeeds; the head is written with the entry (in one
/// transaction, or right after it and, for the first entry, also before it) and never goes back. Protective entries are
/// written even when the store is too full for anything else (see the reserve in docs/operate/storage.md).
#[async_trait]
pub trait AuditStore: Send + Sync {
    /// Appends an entry and replaces an older head by `head`. `genesis` is the head of an empty log, for stores that
    /// cannot write entry and head atomically. An entry that `is_protective` must be stored even on a full disk.
    async fn append_entry(
        &self,
        tenant: &TenantId,
        entry: &StoredEntry,
        head: &Head,
        genesis: &Head,
        is_protective: bool,
    ) -> Result<(), LogError>;

    /// Returns at most `limit` entries in order: those with larger numbers than `after`, or the first ones, whatever
    /// their numbers.
    async fn entries_after(
        &self,
        tenant: &TenantId,
        after: Option<i64>,
        limit: usize,
    ) -> Result<Vec<StoredEntry>, LogError>;

    /// Returns at most `limit` entries with smaller numbers than `before`, newest first.
    async fn entries_before(
        &self,
        tenant: &TenantId,
        before: Option<i64>,
        limit: usize,
    ) -> Result<Vec<StoredEntry>, LogError>;

    /// Returns the head; none before the first append.
    async fn audit_head(&self, tenant: &TenantId) -> Result<Option<Head>, LogError>;

    /// Returns the anchor: a copy of the head stored separately from entries and heads, if the store has another place
    /// for it. It is written after the head, so after a crash it may lag behind; if it is ahead, entries are missing.
    async fn audit_anchor(&self, _tenant: &TenantId) -> Result<Option<Head>, LogError> {
        Ok(None)
    }
}
