//! The ports to the store of jobs and to the erasure of tenants.

use async_trait::async_trait;
use jiff::Timestamp;

use super::LogError;
use crate::domain::ids::{ConversationId, JobId, TenantId};
use crate::ports::Job;
use crate::tenancy::TenantScope;

/// Stores jobs and their results. One test suite checks every implementation.
#[async_trait]
pub trait JobStore: Send + Sync {
    /// Stores a job, replacing an earlier version.
    async fn put_job(&self, job: &Job) -> Result<(), LogError>;

    /// Finds a job of a tenant.
    async fn job(&self, scope: &TenantScope, id: JobId) -> Result<Option<Job>, LogError>;

    /// Lists at most `limit` jobs of a tenant, newest first.
    async fn jobs_of(&self, scope: &TenantScope, limit: usize) -> Result<Vec<Job>, LogError>;

    /// Lists the unfinished jobs of all tenants, oldest first.
    async fn open_jobs(&self) -> Result<Vec<Job>, LogError>;

    /// Lists at most `limit` jobs of all tenants that have expired ([`Job::expires_at`]) at `now`.
    async fn expired_jobs(&self, now: Timestamp, limit: usize) -> Result<Vec<Job>, LogError>;

    /// Deletes a job and its result.
    async fn delete_job(&self, scope: &TenantScope, id: JobId) -> Result<(), LogError>;

    /// Stores a piece of a job's result, replacing one with the same number, unless its conversation is erased or
    /// unknown. Invariant: once the erasure of a conversation has returned, no piece of it is left, not even one that
    /// was being stored.
    async fn put_piece(&self, scope: &TenantScope, job: JobId, piece: &Piece) -> Result<PieceOutcome, LogError>;

    /// Returns the next piece of a job's result, with a number larger than `after`.
    async fn next_piece(&self, scope: &TenantScope, job: JobId, after: u64) -> Result<Option<Piece>, LogError>;

    /// Deletes a job's result, in bounded steps. Returns the number of pieces.
    async fn delete_pieces(&self, scope: &TenantScope, job: JobId) -> Result<u64, LogError>;
}

/// A piece of a job's result: whole lines about one conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Number of the piece, from 1.
    pub n: u64,
    /// The conversation of these lines. Erasing it deletes them.
    pub conversation: ConversationId,
    /// The lines.
    pub lines: Vec<u8>,
}

/// The outcome of storing a piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PieceOutcome {
    /// The piece is stored.
    Stored,
    /// The conversation is erased or unknown: nothing was stored.
    Erased,
}

/// A kind of a tenant's data in a store; each has a line in the deletion receipt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TenantData {
    /// Records of its conversations.
    Records,
    /// Snapshots of folded logs.
    Snapshots,
    /// Headers of conversations, the index of turns, and quota counters.
    Projections,
    /// Usage records of its model calls, and open calls.
    Usage,
    /// Revocations of user tokens.
    Revocations,
    /// API keys, and when they were last used.
    ApiKeys,
    /// Jobs and their results.
    Jobs,
    /// Facts about its users, and which turns were learned from.
    Facts,
    /// Files that its users attached, piece by piece.
    Files,
    /// The audit log, with head and anchor.
    Audit,
}

impl TenantData {
    /// All kinds, in the order in which they are erased.
    pub const ALL: [Self; 10] = [
        Self::Records,
        Self::Snapshots,
        Self::Projections,
        Self::Usage,
        Self::Revocations,
        Self::ApiKeys,
        Self::Jobs,
        Self::Facts,
        Self::Files,
        Self::Audit,
    ];

    /// Returns the name in a receipt.
    pub fn name(self) -> &'static str {
        match self {
            Self::Records => "records",
            Self::Snapshots => "snapshots",
            Self::Projections => "projections",
            Self::Usage => "usage",
            Self::Revocations => "revocations",
            Self::ApiKeys => "api_keys",
            Self::Jobs => "jobs",
            Self::Facts => "facts",
            Self::Files => "files",
            Self::Audit => "audit",
        }
    }
}

/// Erases tenants. One test suite checks every implementation.
///
/// Contract: from the return of [`close_tenant`](Self::close_tenant) to the call of
/// [`reopen_tenant`](Self::reopen_tenant) this process adds nothing for the tenant: writes in flight have finished,
/// later ones are refused, and usage records are dropped. Erasing can be repeated and resumed at any point.
#[async_trait]
pub trait TenantEraser: Send + Sync {
    /// Refuses the tenant's writes from now on, and waits for those in flight. This is not stored: call it again when a
    /// deletion is resumed.
    async fn close_tenant(&self, tenant: &TenantId) -> Result<(), LogError>;

    /// Accepts the tenant's writes again.
    fn reopen_tenant(&self, tenant: &TenantId);

    /// Deletes a kind of data of a closed tenant, in bounded steps with others' writes in between. Returns how many
    /// items were deleted.
    async fn erase_tenant(&self, tenant: &TenantId, data: TenantData) -> Result<u64, LogError>;

    /// Makes sure that no byte of deleted data is left, if the store retains it.
    async fn scrub(&self) -> Result<(), LogError>;

    /// Deletes the tenant's own record if it is marked for deletion by this job. Returns whether it existed.
    async fn delete_tenant(&self, tenant: &TenantId, job: JobId) -> Result<bool, LogError>;
}
