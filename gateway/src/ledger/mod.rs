//! The ledger: the usage and cost of every attempt of every call.
//!
//! Records are written in batches off the request path ([`Ledger`]). A process that is killed loses the records of at
//! most [`Ledger::WINDOW`] and those that the store had not accepted; none is counted twice, since each has an id.
//! Records that the store refuses are kept and retried; when too many wait, no new call begins
//! ([`Ledger::MAX_PENDING`]).
//!
//! An attempt that is in flight for longer than [`Ledger::STORED_OPEN_AFTER`] is stored as open, with an estimate
//! that is updated; after a crash it becomes a record with outcome `lost`. A turn's call that died earlier than that is
//! known from the turn's log. A conversation's log has its turns' usage itself; reports and budgets are computed from
//! the ledger.

mod backlog;
mod compact;
mod open;
mod writer;

use std::sync::Arc;

use async_trait::async_trait;
use copilotd_actors::domain::ids::TenantId;
use copilotd_actors::domain::usage::{LostUsage, Usage};
use copilotd_actors::ports::LogError;
use copilotd_actors::tenancy::TenantScope;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use uuid::Uuid;

pub use compact::{read_open, write_open};
pub use writer::Ledger;

use super::limit::StoredStatistics;
use super::meter::UnreportedAttempts;
use super::spending::Spending;

/// Days for which records are kept.
pub const KEPT_DAYS: i64 = 400;

/// The record of one attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsageRecord {
    /// Id of the record; storing it twice gives one record.
    pub id: Uuid,
    /// The tenant that pays.
    pub tenant: TenantId,
    /// When the attempt ended.
    pub at: Timestamp,
    /// The user for whom the call was made.
    pub user: String,
    /// Name of the API key, if one was used.
    pub api_key: Option<String>,
    /// The copilot, if the call was made for one.
    pub copilot: Option<String>,
    /// The conversation, if the call belongs to one.
    pub conversation: Option<String>,
    /// The turn, if the call belongs to one.
    pub turn: Option<String>,
    /// Purpose: `turn`, `summary`, `endpoint`, `embedding`, `audit`, `lookup`.
    pub purpose: String,
    /// The route.
    pub route: String,
    /// The provider.
    pub provider: String,
    /// The model, as the configuration names it.
    pub model: String,
    /// Name of the provider's key.
    pub key: String,
    /// Number of the attempt within its request, from 1; 0 for a cache hit.
    pub attempt: u32,
    /// Usage, including cost.
    pub usage: Usage,
    /// Whether the usage is our estimate.
    pub is_estimated: bool,
    /// Outcome of the cache lookup: `hit` (no model was called), `miss` or `bypass`.
    pub cache: String,
    /// Outcome: `ok`, `left`, `lost`, or the failure class.
    pub outcome: String,
    /// Milliseconds to the first content, if there was any.
    pub first_content_ms: Option<u64>,
    /// Milliseconds to the end.
    pub took_ms: u64,
}

/// Grouping of usage sums.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum GroupBy {
    /// By day, in UTC.
    Day,
    /// By user.
    User,
    /// By copilot; calls without one are in one group with an empty name.
    Copilot,
    /// By model.
    Model,
    /// By API key; calls without one are in one group with an empty name.
    Key,
    /// By route.
    Route,
}

/// Grouping of usage sums over all tenants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum TenantsGroupBy {
    /// By tenant.
    Tenant,
    /// By tenant and its API key; calls without one are in one group with an empty name.
    Key,
    /// By route, over all tenants.
    Route,
    /// By day, in UTC, over all tenants.
    Day,
}

impl TenantsGroupBy {
    /// Whether each tenant has its own sums.
    pub fn by_tenant(self) -> bool {
        matches!(self, Self::Tenant | Self::Key)
    }
}

/// Query for usage sums over all tenants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantsUsageQuery {
    /// Start, inclusive.
    pub from: Timestamp,
    /// End, exclusive.
    pub to: Timestamp,
    /// Only this tenant, if given.
    pub tenant: Option<TenantId>,
    /// Grouping.
    pub group_by: TenantsGroupBy,
    /// Most rows to return, ordered by tenant and name.
    pub limit: usize,
}

/// The sum of one group over all tenants.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TenantsUsageRow {
    /// The tenant, if each has its own sums.
    pub tenant: Option<String>,
    /// The sum.
    pub row: UsageRow,
}

/// Query for a tenant's usage sums.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UsageQuery {
    /// Start, inclusive.
    pub from: Timestamp,
    /// End, exclusive.
    pub to: Timestamp,
    /// Grouping.
    pub group_by: GroupBy,
    /// Most rows to return, ordered by name.
    pub limit: usize,
}

/// The sum of one group.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UsageRow {
    /// Name of the group: a day, a user, …
    pub group: String,
    /// Number of attempts.
    pub calls: u64,
    /// Number of cache hits, which are not attempts.
    pub cache_hits: u64,
    /// Number of attempts whose usage is estimated.
    pub estimated_calls: u64,
    /// Usage of the attempts.
    pub usage: Usage,
}

/// What is stored in one step.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UsageEntries {
    /// Attempts in flight, as they are to be recorded if the process dies now.
    pub begun: Vec<UsageRecord>,
    /// Attempts that ended.
    pub ended: Vec<UsageRecord>,
    /// Ids of ended attempts that were stored as open before.
    pub closed: Vec<Uuid>,
}

impl From<Vec<UsageRecord>> for UsageEntries {
    fn from(ended: Vec<UsageRecord>) -> Self {
        Self {
            ended,
            ..Self::default()
        }
    }
}

/// Storage of the ledger. One test suite checks every implementation.
#[async_trait]
pub trait UsageStore: Send + Sync {
    /// Stores entries. A record whose id exists is left as it is; an open attempt replaces its earlier version. May be
    /// repeated after an error. May use the disk reserve when the disk is full.
    async fn add_usage(&self, entries: &Arc<UsageEntries>) -> Result<(), LogError>;

    /// Like [`UsageStore::add_usage`], but the store may wait until `deadline` for something else to be stored, and
    /// store both together.
    async fn add_usage_by(&self, entries: &Arc<UsageEntries>, deadline: Instant) -> Result<(), LogError> {
        let _ = deadline;
        self.add_usage(entries).await
    }

    /// Whether [`UsageStore::add_usage_by`] waits for something else to be stored. Otherwise it is called at the
    /// deadline.
    fn joins_writes(&self) -> bool {
        false
    }

    /// Turns attempts that are still open into `lost` records. Called at process start, when none of them can be
    /// running. Returns how many.
    async fn record_lost_usage(&self) -> Result<usize, LogError>;

    /// Returns usage of a turn's attempts that the turn's log may lack.
    async fn unreported_usage(&self, scope: &TenantScope, of: &UnreportedAttempts) -> Result<Vec<LostUsage>, LogError>;

    /// Stores statistics about models' answers, replacing those of the same tenant and model.
    async fn save_learned(&self, learned: &[StoredStatistics], at: Timestamp) -> Result<(), LogError>;

    /// Returns the stored statistics, newest first.
    async fn learned(&self, limit: usize) -> Result<Vec<StoredStatistics>, LogError>;

    /// Sums a tenant's records.
    async fn sum_usage(&self, scope: &TenantScope, query: &UsageQuery) -> Result<Vec<UsageRow>, LogError>;

    /// Sums the records of all tenants, for the operator: never by anything that names a user or content.
    async fn sum_tenants_usage(&self, query: &TenantsUsageQuery) -> Result<Vec<TenantsUsageRow>, LogError>;

    /// Sums the money spent by all tenants since the start of a day and of its month, as the starting point of budgets.
    async fn spendings(&self, day: Timestamp, month: Timestamp) -> Result<Vec<Spending>, LogError>;

    /// Deletes records and statistics from before a moment.
    async fn prune_usage(&self, before: Timestamp) -> Result<(), LogError>;
}
