//! The stored form of a job.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::domain::access::scopes::Scopes;
use crate::domain::event::Idempotency;
use crate::domain::ids::{JobId, TenantId};
use crate::tenancy::TenantScope;

/// How long a finished deletion stays visible.
const DELETION_LIFE: SignedDuration = SignedDuration::from_hours(30 * 24);
/// How long a finished export stays visible and its result readable.
const EXPORT_LIFE: SignedDuration = SignedDuration::from_hours(24);

/// A job.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    /// Id of the job.
    pub id: JobId,
    /// The tenant whose credential started it.
    pub scope: TenantScope,
    /// Everything else, stored as JSON.
    pub state: JobState,
}

/// The stored state of a job, without its id and tenant.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobState {
    /// The work to do.
    pub work: Work,
    /// Status of the job.
    pub status: JobStatus,
    /// Steps done, out of all.
    pub progress: Progress,
    /// Why it failed, for API clients.
    #[serde(default)]
    pub error: Option<String>,
    /// The deletion receipt: what was erased, by store.
    #[serde(default)]
    pub receipt: Vec<Receipt>,
    /// Idempotency key and body hash of the request that started it, if it had a key.
    #[serde(default)]
    pub idempotency: Option<Idempotency>,
    /// When it was started.
    pub created_at: Timestamp,
    /// When it ended.
    #[serde(default)]
    pub finished_at: Option<Timestamp>,
}

/// The work of a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Work {
    /// Erases a tenant.
    TenantDeletion {
        /// The tenant to erase.
        tenant: TenantId,
    },
    /// Exports the conversations of the tenant that started it as JSON lines.
    Export {
        /// Only conversations created at this time or later.
        from: Option<Timestamp>,
        /// Only conversations created before this time.
        to: Option<Timestamp>,
    },
}

impl Work {
    /// Returns the name of the kind.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::TenantDeletion { .. } => "tenant_deletion",
            Self::Export { .. } => "export",
        }
    }

    /// Returns the scope that is needed to start such a job and to see it.
    pub fn scopes(&self) -> Scopes {
        match self {
            Self::TenantDeletion { .. } => Scopes::OPERATOR,
            Self::Export { .. } => Scopes::ADMIN,
        }
    }
}

/// Status of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobStatus {
    /// Waiting for a permit.
    Queued,
    /// In progress.
    Running,
    /// Finished successfully.
    Completed,
    /// Finished with an error.
    Failed,
}

impl JobStatus {
    /// Whether the job has ended.
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Completed | Self::Failed)
    }
}

/// Progress of a job.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Steps done.
    pub done: u64,
    /// All steps, as far as they are known.
    pub total: u64,
}

/// A line of a deletion receipt: the store no longer contains any of the erased data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// Name of the store.
    pub store: String,
    /// Number of erased items.
    pub erased: u64,
    /// When the last item was erased.
    pub at: Timestamp,
}

impl Job {
    /// A new, queued job.
    pub fn new(id: JobId, scope: TenantScope, work: Work, now: Timestamp) -> Self {
        Self {
            id,
            scope,
            state: JobState {
                work,
                status: JobStatus::Queued,
                progress: Progress::default(),
                error: None,
                receipt: Vec::new(),
                idempotency: None,
                created_at: now,
                finished_at: None,
            },
        }
    }

    /// Returns when it and its result will be deleted; none until it has ended.
    pub fn expires_at(&self) -> Option<Timestamp> {
        let life = match self.state.work {
            Work::TenantDeletion { .. } => DELETION_LIFE,
            Work::Export { .. } => EXPORT_LIFE,
        };
        self.state.finished_at?.checked_add(life).ok()
    }

    /// Whether it has expired at `now`.
    pub fn is_expired(&self, now: Timestamp) -> bool {
        self.expires_at().is_some_and(|end| end <= now)
    }

    /// Whether it has a readable result at `now`.
    pub fn has_result(&self, now: Timestamp) -> bool {
        let is_export = matches!(self.state.work, Work::Export { .. });
        is_export && self.state.status == JobStatus::Completed && !self.is_expired(now)
    }

    /// Ends the job, with an error if it failed, and sets its expiry.
    pub fn finish(&mut self, error: Option<String>, now: Timestamp) {
        self.state.status = match error {
            Some(_) => JobStatus::Failed,
            None => JobStatus::Completed,
        };
        self.state.error = error;
        self.state.finished_at = Some(now);
    }

    /// Adds what was erased in a store to the receipt; counts of the same store are summed.
    pub fn erased(&mut self, store: &str, count: u64, at: Timestamp) {
        match self.state.receipt.iter_mut().find(|line| line.store == store) {
            Some(line) if count > 0 => {
                line.erased = line.erased.saturating_add(count);
                line.at = at;
            }
            Some(_) => {}
            None => self.state.receipt.push(Receipt {
                store: store.to_owned(),
                erased: count,
                at,
            }),
        }
    }
}
