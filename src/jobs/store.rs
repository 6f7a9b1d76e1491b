//! Where jobs and their results are kept, and how a store erases a tenant.

use async_trait::async_trait;
use copilotd_actors::domain::ids::{ConversationId, JobId, TenantId};
use copilotd_actors::ports::LogError;
use copilotd_actors::tenancy::TenantScope;
use jiff::Timestamp;

use super::record::Job;

/// Keeps jobs beside the log. One suite checks every implementation.
#[async_trait]
pub trait JobStore: Send + Sync {
    /// Stores a job in the place of what was stored under its id.
    async fn put_job(&self, job: &Job) -> Result<(), LogError>;

    /// Finds a job of a tenant.
    async fn job(&self, scope: &TenantScope, id: JobId) -> Result<Option<Job>, LogError>;

    /// Lists the jobs of a tenant, the newest first, at most `limit`.
    async fn jobs_of(&self, scope: &TenantScope, limit: usize) -> Result<Vec<Job>, LogError>;

    /// Lists the jobs of all tenants that have not ended, the oldest first.
    async fn open_jobs(&self) -> Result<Vec<Job>, LogError>;

    /// Lists jobs of all tenants whose time ([`Job::expires_at`]) is over at `now`, at most `limit`.
    async fn expired_jobs(&self, now: Timestamp, limit: usize) -> Result<Vec<Job>, LogError>;

    /// Deletes a job and its result.
    async fn delete_job(&self, scope: &TenantScope, id: JobId) -> Result<(), LogError>;

    /// Stores a piece of a job's result in the place of what was stored under its number, unless its conversation is erased or
    /// unknown. Invariant: of a conversation whose erasure has returned no piece is left, also of those that were being stored.
    async fn put_piece(&self, scope: &TenantScope, job: JobId, piece: &Piece) -> Result<PieceOutcome, LogError>;

    /// Returns the first piece of a job's result with a larger number than `after`.
    async fn next_piece(&self, scope: &TenantScope, job: JobId, after: u64) -> Result<Option<Piece>, LogError>;

    /// Deletes a job's result, in bounded steps. Returns how many pieces it had.
    async fn delete_pieces(&self, scope: &TenantScope, job: JobId) -> Result<u64, LogError>;
}

/// A part of a job's result: whole lines about one conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Its number; from 1.
    pub n: u64,
    /// Whose lines these are. Erasing the conversation deletes them.
    pub conversation: ConversationId,
    /// The lines.
    pub lines: Vec<u8>,
}

/// What became of a piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PieceOutcome {
    /// It is stored.
    Stored,
    /// Its conversation is erased or gone: nothing was stored.
    Erased,
}

/// What a store keeps of a tenant; each has its line in the receipt of a deletion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TenantData {
    /// The records of its conversations.
    Records,
    /// Folded logs.
    Snapshots,
    /// Headers of conversations, the index of turns, and the counters of quotas.
    Projections,
    /// What its model calls used and cost, and calls that were open.
    Usage,
    /// Revocations of user tokens.
    Revocations,
    /// API keys, and when they were used last.
    ApiKeys,
    /// Its jobs and their results.
    Jobs,
    /// Its audit log, with head and anchor.
    Audit,
}

impl TenantData {
    /// All, in the order in which they are erased.
    pub const ALL: [Self; 8] = [
        Self::Records,
        Self::Snapshots,
        Self::Projections,
        Self::Usage,
        Self::Revocations,
        Self::ApiKeys,
        Self::Jobs,
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
            Self::Audit => "audit",
        }
    }
}

/// Erases tenants. One suite checks every implementation.
///
/// Contract: from when [`close_tenant`](Self::close_tenant) returns until [`reopen_tenant`](Self::reopen_tenant) is called, nothing
/// of the tenant is added by this process: writes that had begun are over, later ones are refused, and usage records are dropped.
/// Erasing can be repeated and continued at any point.
#[async_trait]
pub trait TenantEraser: Send + Sync {
    /// Refuses the tenant's writes from now on, and waits for those that have begun. Not stored: whoever resumes a deletion calls
    /// it again.
    async fn close_tenant(&self, tenant: &TenantId) -> Result<(), LogError>;

    /// Takes the tenant's writes again.
    fn reopen_tenant(&self, tenant: &TenantId);

    /// Deletes a kind of data of a closed tenant, in bounded steps with others' writes in between. Returns how much it was.
    async fn erase_tenant(&self, tenant: &TenantId, data: TenantData) -> Result<u64, LogError>;

    /// Makes sure that no byte of what was deleted is left, where the store keeps deleted data.
    async fn scrub(&self) -> Result<(), LogError>;

    /// Deletes the tenant's own record if it is marked for deletion by this job. Returns whether it was there.
    async fn delete_tenant(&self, tenant: &TenantId, job: JobId) -> Result<bool, LogError>;
}
