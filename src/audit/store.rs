//! Where audit entries are kept.

use async_trait::async_trait;
use copilotd_actors::domain::ids::TenantId;
use copilotd_actors::ports::LogError;

/// A SHA-256 hash or an HMAC-SHA-256.
pub type Digest = [u8; 32];

/// One entry as it is stored. Fields are as loose as a damaged store may return them: verifying judges, not reading.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredEntry {
    /// Its number; from 1, without gaps.
    pub n: i64,
    /// The entry ([`Body`](super::Body)) as JSON; the very bytes that were hashed.
    pub body: Vec<u8>,
    /// Hash over tenant, number, the previous entry's hash, and body.
    pub hash: Vec<u8>,
    /// MAC over the hash.
    pub mac: Vec<u8>,
}

/// The newest entry's number and hash, kept apart from the entries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Its number; 0 before the first entry.
    pub n: i64,
    /// Its hash; zeros before the first entry.
    pub hash: Vec<u8>,
    /// MAC over tenant, number and hash.
    pub mac: Vec<u8>,
}

/// Keeps audit entries. One suite checks every implementation.
///
/// Contract: an append is durable when it returns; of two entries with one (tenant, number) one gets
/// [`LogError::Conflict`]; appending the same entry again is success; the head is written with the entry (in one
/// transaction, or right behind it and, for the first entry, also before it), and never goes back. Protective entries are
/// written also when the store is too full for anything else (see the reserve in docs/storage.md).
#[async_trait]
pub trait AuditStore: Send + Sync {
    /// Adds an entry, and replaces an older head by `head`. `genesis` is the head of an empty log, for stores that cannot
    /// write entry and head at once. `is_protective`: a full disk must not keep it out.
    async fn append_entry(
        &self,
        tenant: &TenantId,
        entry: &StoredEntry,
        head: &Head,
        genesis: &Head,
        is_protective: bool,
    ) -> Result<(), LogError>;

    /// Returns entries in order, at most `limit`: those with larger numbers than `after`, or the first ones, whatever
    /// their numbers are.
    async fn entries_after(
        &self,
        tenant: &TenantId,
        after: Option<i64>,
        limit: usize,
    ) -> Result<Vec<StoredEntry>, LogError>;

    /// Returns entries newest first, at most `limit`, with smaller numbers than `before`.
    async fn entries_before(
        &self,
        tenant: &TenantId,
        before: Option<i64>,
        limit: usize,
    ) -> Result<Vec<StoredEntry>, LogError>;

    /// Returns the head; none before the first append.
    async fn audit_head(&self, tenant: &TenantId) -> Result<Option<Head>, LogError>;

    /// Returns a copy of the head that is kept apart from entries and heads, where the store has another place for it. It is
    /// written after the head, so a crash may leave it behind; one that is ahead says that entries are missing.
    async fn audit_anchor(&self, _tenant: &TenantId) -> Result<Option<Head>, LogError> {
        Ok(None)
    }
}
