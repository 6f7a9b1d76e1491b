//! The ledger: what every attempt of every call used and cost.
//!
//! Written off the way of answers, in batches ([`Ledger`]): a process that is killed loses the records of at most
//! [`Ledger::WINDOW`] and of what could not be stored meanwhile; none is ever counted twice, since each has an id. What the store
//! refuses is kept and tried again; when too much waits, no new call begins ([`Ledger::ROOM`]).
//!
//! What is under way for longer than [`Ledger::NOTED`] is put down as open, with an estimate that follows it; after a death it becomes
//! a record `lost`. A turn's call that died earlier is known from its log. The log of a conversation holds its turns' usage by itself;
//! the ledger is what reports and budgets are made of.

mod backlog;
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
use uuid::Uuid;

pub use writer::Ledger;

use super::limit::LearnedAnswers;
use super::meter::Unreported;
use super::spending::Spending;

/// Days for which records are kept.
pub const KEPT_DAYS: i64 = 400;

/// One attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsageRecord {
    /// Its id: a record that is stored twice is one record.
    pub id: Uuid,
    /// Who pays.
    pub tenant: TenantId,
    /// When it ended.
    pub at: Timestamp,
    /// For whom it was made.
    pub user: String,
    /// Name of the API key, if one was used.
    pub api_key: Option<String>,
    /// The copilot, if it was one's.
    pub copilot: Option<String>,
    /// The conversation, if it was one's.
    pub conversation: Option<String>,
    /// The turn, if it was one's.
    pub turn: Option<String>,
    /// What for: `turn`, `summary`, `endpoint`, `embedding`, `audit`, `lookup`.
    pub purpose: String,
    /// The route.
    pub route: String,
    /// The provider.
    pub provider: String,
    /// The model, as the configuration names it.
    pub model: String,
    /// Name of the provider's key.
    pub key: String,
    /// Number of the attempt within its request, from 1.
    pub attempt: u32,
    /// What was used, cost included.
    pub usage: Usage,
    /// Whether the usage is our own estimate.
    pub is_estimated: bool,
    /// What the cache did with the request: `hit` (no model was asked), `miss` or `bypass`.
    pub cache: String,
    /// How it ended: `ok`, `left`, `lost`, or the class of its failure.
    pub outcome: String,
    /// Milliseconds to the first content, if there was any.
    pub first_content_ms: Option<u64>,
    /// Milliseconds to the end.
    pub took_ms: u64,
}

/// What sums are made by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum GroupBy {
    /// The day, in UTC.
    Day,
    /// The user.
    User,
    /// The copilot; calls without one are together under an empty name.
    Copilot,
    /// The model.
    Model,
    /// The API key; calls without one are together under an empty name.
    Key,
    /// The route.
    Route,
}

/// What sums over all tenants are made by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum TenantsGroupBy {
    /// The tenant.
    Tenant,
    /// The tenant and its API key; calls without one are together under an empty name.
    Key,
    /// The route, over all tenants.
    Route,
    /// The day, in UTC, over all tenants.
    Day,
}

impl TenantsGroupBy {
    /// Whether each tenant has sums of its own.
    pub fn by_tenant(self) -> bool {
        matches!(self, Self::Tenant | Self::Key)
    }
}

/// Which sums over all tenants are wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantsUsageQuery {
    /// From this moment on.
    pub from: Timestamp,
    /// Before this moment.
    pub to: Timestamp,
    /// Of this tenant alone, if given.
    pub tenant: Option<TenantId>,
    /// What by.
    pub group_by: TenantsGroupBy,
    /// At most so many rows, the first by tenant and name.
    pub limit: usize,
}

/// The sum of a group over all tenants.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TenantsUsageRow {
    /// The tenant, where each has sums of its own.
    pub tenant: Option<String>,
    /// The sum.
    pub row: UsageRow,
}

/// Which sums are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UsageQuery {
    /// From this moment on.
    pub from: Timestamp,
    /// Before this moment.
    pub to: Timestamp,
    /// What by.
    pub group_by: GroupBy,
    /// At most so many rows, the first by name.
    pub limit: usize,
}

/// The sum of a group.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UsageRow {
    /// What the sum is of: a day, a user, …
    pub group: String,
    /// Attempts.
    pub calls: u64,
    /// Answers of the cache, which are no attempts.
    pub cache_hits: u64,
    /// Attempts whose usage is an estimate.
    pub estimated_calls: u64,
    /// What they used.
    pub usage: Usage,
}

/// What is put down together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Entries {
    /// Attempts that are under way, as they stand in the ledger should the process die now.
    pub begun: Vec<UsageRecord>,
    /// Attempts that are over.
    pub ended: Vec<UsageRecord>,
    /// Ids of those among them that were put down as begun before.
    pub closed: Vec<Uuid>,
}

impl From<Vec<UsageRecord>> for Entries {
    fn from(ended: Vec<UsageRecord>) -> Self {
        Self {
            ended,
            ..Self::default()
        }
    }
}

/// Reads a record that a store kept of an open attempt. One that cannot be read is lost, and said to be.
pub fn read_open(text: &str) -> Option<UsageRecord> {
    let record = serde_json::from_str(text);
    if let Err(error) = &record {
        tracing::error!(%error, "what was put down of an open call of a model cannot be read");
    }
    record.ok()
}

/// Where the ledger is kept. One suite checks every implementation.
#[async_trait]
pub trait UsageStore: Send + Sync {
    /// Keeps entries; a record whose id is there already is left as it is, a note of an open attempt replaces an earlier one. May be
    /// repeated after an error. On a full disk it may use a part of what is reserved there.
    async fn add_usage(&self, entries: &Arc<Entries>) -> Result<(), LogError>;

    /// Makes records of the attempts that are still open. For the start of a process, when nobody can be at work on them.
    /// Returns how many.
    async fn lose_usage(&self) -> Result<usize, LogError>;

    /// Returns what attempts of a turn used of which its log may not know.
    async fn unreported_usage(&self, scope: &TenantScope, of: &Unreported) -> Result<Vec<LostUsage>, LogError>;

    /// Keeps what was learned of models' answers, in the place of what was known of the same tenant and model.
    async fn save_learned(&self, learned: &[LearnedAnswers], at: Timestamp) -> Result<(), LogError>;

    /// Returns what was learned, the newest first.
    async fn learned(&self, limit: usize) -> Result<Vec<LearnedAnswers>, LogError>;

    /// Sums up a tenant's records.
    async fn sum_usage(&self, scope: &TenantScope, query: &UsageQuery) -> Result<Vec<UsageRow>, LogError>;

    /// Sums up the records of all tenants, for who runs the server: by nothing that names a user or content.
    async fn sum_tenants_usage(&self, query: &TenantsUsageQuery) -> Result<Vec<TenantsUsageRow>, LogError>;

    /// Sums up money over all tenants since the beginnings of a day and its month: what budgets begin with.
    async fn spendings(&self, day: Timestamp, month: Timestamp) -> Result<Vec<Spending>, LogError>;

    /// Deletes records, and what was learned, from before a moment.
    async fn prune_usage(&self, before: Timestamp) -> Result<(), LogError>;
}
