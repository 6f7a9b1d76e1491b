//! The append-only logs and what is derived from them.

use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::domain::conversation::header::Header;
use crate::domain::conversation::quota::StoredTotals;
use crate::domain::event::{Channel, Event, Record};
use crate::domain::ids::{ConversationId, Seq, TurnId, UserId};
use crate::tenancy::TenantScope;

/// One atomic append to a log: either all its records are written or none.
#[derive(Debug, Clone)]
pub struct Append {
    /// The conversation whose log is appended to.
    pub conversation: ConversationId,
    /// The owner of the conversation; reads by id are filtered by it.
    pub user: UserId,
    /// Distinguishes this append from another one at the same sequence number.
    pub append_id: Uuid,
    /// The records, numbered without gaps; the `seq` of the first is the expected next number. Never empty.
    pub records: Arc<[Record]>,
    /// The conversation's header after these records, for the projection.
    pub header: Header,
}

impl Append {
    /// Returns the cost of writing its records as JSON; see [`Record::weight`].
    pub fn weight(&self) -> usize {
        self.records.iter().map(Record::weight).sum()
    }

    /// Returns the sequence number of the first record.
    pub fn first_seq(&self) -> Seq {
        self.records.first().map_or(0, |record| record.seq)
    }

    /// Returns the sequence number of the last record.
    pub fn last_seq(&self) -> Seq {
        self.records.last().map_or(0, |record| record.seq)
    }

    /// Returns the sequence number of the tombstone if this append erases the conversation.
    pub fn tombstone(&self) -> Option<Seq> {
        let last = self.records.last()?;
        matches!(last.event, Event::ConversationErased { .. }).then_some(last.seq)
    }

    /// Rejects an append that no store may accept: empty, with gaps, or with a header that does not belong to it. Every
    /// implementation calls this first, so that a bug in the core is never persisted.
    pub fn check(&self, scope: &TenantScope) -> Result<(), LogError> {
        let numbered = self
            .records
            .iter()
            .zip(self.first_seq()..)
            .all(|(record, seq)| record.seq == seq);
        let refusal = if self.first_seq() == 0 || !numbered {
            "the sequence numbers have a gap or start at 0"
        } else if self.header.id != self.conversation || self.header.user != self.user {
            "the header belongs to another conversation or user"
        } else if self.header.tenant != *scope.tenant() {
            "the header belongs to another tenant"
        } else if self.header.last_seq != self.last_seq() || (self.tombstone().is_some() && !self.header.erased) {
            "the header does not include the last record"
        } else {
            return Ok(());
        };
        Err(LogError::Refused(format!(
            "invalid append to {}: {refusal}",
            self.conversation
        )))
    }
}

/// Why an append or a read failed.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// Another append already wrote this sequence number: the writer's state is out of date.
    #[error("record {0} was already written by another append")]
    Conflict(Seq),
    /// The conversation was erased; its tombstone rejects every append.
    #[error("the conversation was erased")]
    Erased,
    /// The store did not answer, or not in time; the outcome is unknown. Retrying is safe.
    #[error("the store is unavailable: {0}")]
    Unavailable(String),
    /// The store rejects the request permanently: disk full, read-only, record too large. Nothing was written.
    #[error("the store rejected the request: {0}")]
    Refused(String),
    /// The stored data cannot be read.
    #[error("the stored data cannot be read: {0}")]
    Corrupt(String),
}

/// The text of [`LogError::Refused`] when no disk space is left.
pub const DISK_FULL: &str = "disk full";

impl LogError {
    /// Returns whether the store rejected the request because no disk space is left.
    pub fn is_disk_full(&self) -> bool {
        matches!(self, Self::Refused(reason) if reason == DISK_FULL)
    }
}

/// A cached fold of a log up to `seq`. It may be lost, and is ignored if its version differs from the reader's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// The last record that is folded in.
    pub seq: Seq,
    /// The version of the format.
    pub version: u32,
    /// The state as serialised by the domain; it refers to messages by `seq`.
    pub state: Vec<u8>,
}

/// What an erasure deleted, store by store.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErasureReceipt {
    /// The name of each store and the number of items deleted there.
    pub stores: Vec<(String, u64)>,
}

/// The append-only logs and their projections.
///
/// Contract (one test suite checks every implementation): an append is atomic, and durable when it returns; of two
/// appends at the same sequence number, one gets [`LogError::Conflict`]; repeating an append with the same `append_id`
/// succeeds; once an append has returned, every later read sees it, also after a restart; data of one tenant is never
/// returned in the scope of another. `append` retries an unknown outcome by itself until its deadline (30 s).
#[async_trait]
pub trait EventLog: Send + Sync {
    /// Appends records.
    async fn append(&self, scope: &TenantScope, append: &Append) -> Result<(), LogError>;

    /// Reads records with `seq > after`, in order, at most `limit`. Empty at the end and for an unknown log.
    async fn read(
        &self,
        scope: &TenantScope,
        conversation: ConversationId,
        after: Seq,
        limit: usize,
    ) -> Result<Vec<Record>, LogError>;

    /// Reads all records of one turn, with its conversation.
    async fn read_turn(&self, scope: &TenantScope, turn: TurnId) -> Result<Option<TurnRecords>, LogError>;

    /// Reads all records of a turn, and then the header of its conversation, which is not older.
    async fn read_turn_and_header(
        &self,
        scope: &TenantScope,
        turn: TurnId,
    ) -> Result<Option<(TurnRecords, Header)>, LogError> {
        let Some(found) = self.read_turn(scope, turn).await? else {
            return Ok(None);
        };
        let header = self.header(scope, found.conversation).await?;
        Ok(header.map(|header| (found, header)))
    }

    /// Reads the records of one conversation that are messages (`Event::is_message`), in either order, starting after
    /// `cursor` (exclusive), at most `limit`.
    async fn read_messages(
        &self,
        scope: &TenantScope,
        conversation: ConversationId,
        cursor: Option<Seq>,
        order: Order,
        limit: usize,
    ) -> Result<Vec<Record>, LogError>;

    /// Returns the header of one conversation, with its owner, as of its last append (read-your-writes); also for
    /// erased conversations.
    async fn header(&self, scope: &TenantScope, conversation: ConversationId) -> Result<Option<Header>, LogError>;

    /// Returns the sequence number of a log's last record, even if records are missing or unreadable; 0 for an unknown
    /// log. An append at the next number is valid.
    async fn end(&self, scope: &TenantScope, conversation: ConversationId) -> Result<Seq, LogError> {
        let header = self.header(scope, conversation).await?;
        Ok(header.map_or(0, |header| header.last_seq))
    }

    /// Lists the conversations of one user (or of all, for admins), newest first; may lag by a second. Includes erased
    /// ones only if `erased` is set.
    async fn list(&self, scope: &TenantScope, query: &ListQuery) -> Result<Vec<Header>, LogError>;

    /// Returns the newest snapshot.
    async fn snapshot(&self, scope: &TenantScope, conversation: ConversationId) -> Result<Option<Snapshot>, LogError>;

    /// Stores a snapshot, replacing an older one.
    async fn save_snapshot(
        &self,
        scope: &TenantScope,
        conversation: ConversationId,
        snapshot: &Snapshot,
    ) -> Result<(), LogError>;

    /// Lists the conversations of all tenants that the reconciler has to check: those with open turns, and erased ones
    /// that are not cleaned yet; after `cursor`, at most `limit`, ordered by (tenant, conversation).
    async fn pending(
        &self,
        cursor: Option<&PendingConversation>,
        limit: usize,
    ) -> Result<Vec<PendingConversation>, LogError>;

    /// Deletes everything before the tombstone of an erased conversation, in every store, whether readable or not;
    /// idempotent. The tombstone stays.
    async fn erase(
        &self,
        scope: &TenantScope,
        conversation: ConversationId,
        tombstone: Seq,
    ) -> Result<ErasureReceipt, LogError>;

    /// Returns how much a tenant and one of its users have stored, from counters that every append and erasure updates;
    /// no log is read. May lag by a second.
    async fn stored(&self, scope: &TenantScope, user: &UserId) -> Result<StoredTotals, LogError>;

    /// Rebuilds every projection from the log; returns the number of conversations.
    async fn rebuild(&self) -> Result<u64, LogError>;

    /// Checks whether the store answers (`/readyz`).
    async fn ready(&self) -> Result<(), LogError>;

    /// Checks whether the store accepts ordinary writes, by a trial write that replaces the previous one. Called every
    /// few seconds.
    async fn probe(&self) -> Result<(), LogError> {
        self.ready().await
    }

    /// Returns how many acknowledged commits were found missing when the store was opened, as far as it can tell.
    fn missing_commits(&self) -> u64 {
        0
    }
}

/// The records of one turn.
#[derive(Debug, Clone, PartialEq)]
pub struct TurnRecords {
    /// The conversation of the turn.
    pub conversation: ConversationId,
    /// The owner of the conversation.
    pub user: UserId,
    /// The records, in order.
    pub records: Vec<Record>,
}

/// The order of a page.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Order {
    /// Oldest first.
    #[default]
    Asc,
    /// Newest first.
    Desc,
}

/// Which conversations to list.
#[derive(Debug, Clone, Default)]
pub struct ListQuery {
    /// Only conversations of this owner.
    pub user: Option<UserId>,
    /// Only conversations of this channel.
    pub channel: Option<Channel>,
    /// Whether to include erased conversations.
    pub erased: bool,
    /// Only conversations older than this position (creation time and id of the last one on the previous page).
    pub before: Option<(Timestamp, ConversationId)>,
    /// The maximum number of conversations.
    pub limit: usize,
}

/// A conversation that the reconciler has to check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PendingConversation {
    /// The tenant, as stored by a verified request.
    pub scope: TenantScope,
    /// The conversation's id.
    pub conversation: ConversationId,
    /// Sequence number of the tombstone if the conversation is erased and not cleaned yet; otherwise it has open turns.
    pub tombstone: Option<Seq>,
    /// The time of the last append.
    pub updated_at: Timestamp,
    /// Sequence number of the last record; may lag by a second.
    pub last_seq: Seq,
}
