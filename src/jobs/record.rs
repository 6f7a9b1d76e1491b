//! A job as it is stored.

use copilotd_actors::domain::event::Idempotency;
use copilotd_actors::domain::ids::{JobId, TenantId};
use copilotd_actors::tenancy::TenantScope;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::scopes::Scopes;

/// How long a finished deletion can be looked up.
const DELETION_LIFE: SignedDuration = SignedDuration::from_hours(30 * 24);
/// How long a finished export can be looked up and its result be read.
const EXPORT_LIFE: SignedDuration = SignedDuration::from_hours(24);

/// A job.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    /// Its id.
    pub id: JobId,
    /// The tenant whose credential started it.
    pub scope: TenantScope,
    /// Everything else; stored as JSON.
    pub state: JobState,
}

/// What is stored of a job besides its id and its tenant.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobState {
    /// What it does.
    pub work: Work,
    /// How far it is.
    pub status: JobStatus,
    /// Steps that are done, of all.
    pub progress: Progress,
    /// Why it failed, for its reader.
    #[serde(default)]
    pub error: Option<String>,
    /// What was erased, by store.
    #[serde(default)]
    pub receipt: Vec<Receipt>,
    /// The key and body of the request that started it, if it bore a key.
    #[serde(default)]
    pub idempotency: Option<Idempotency>,
    /// When it was started.
    pub created_at: Timestamp,
    /// When it ended.
    #[serde(default)]
    pub finished_at: Option<Timestamp>,
}

/// What a job does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Work {
    /// Erases a tenant.
    TenantDeletion {
        /// Which.
        tenant: TenantId,
    },
    /// Writes the conversations of the tenant that started it as JSON lines.
    Export {
        /// Created at this moment or later.
        from: Option<Timestamp>,
        /// Created before this moment.
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

    /// Returns the scope that starts such a job and may look it up.
    pub fn scopes(&self) -> Scopes {
        match self {
            Self::TenantDeletion { .. } => Scopes::OPERATOR,
            Self::Export { .. } => Scopes::ADMIN,
        }
    }
}

/// How far a job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobStatus {
    /// It waits for its turn.
    Queued,
    /// It is being worked on.
    Running,
    /// It is done.
    Completed,
    /// It cannot be done.
    Failed,
}

impl JobStatus {
    /// Whether nothing more happens.
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Completed | Self::Failed)
    }
}

/// Steps that are done, of all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Done.
    pub done: u64,
    /// All, as far as they are known.
    pub total: u64,
}

/// That a store holds nothing any more of what was erased.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// Name of the store.
    pub store: String,
    /// How much was erased there.
    pub erased: u64,
    /// When the last of it was.
    pub at: Timestamp,
}

impl Job {
    /// A job that waits for its turn.
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

    /// When it and its result are deleted; none while it has not ended.
    pub fn expires_at(&self) -> Option<Timestamp> {
        let life = match self.state.work {
            Work::TenantDeletion { .. } => DELETION_LIFE,
            Work::Export { .. } => EXPORT_LIFE,
        };
        self.state.finished_at?.checked_add(life).ok()
    }

    /// Whether its time is over at `now`.
    pub fn is_expired(&self, now: Timestamp) -> bool {
        self.expires_at().is_some_and(|end| end <= now)
    }

    /// Whether it has a result to read at `now`.
    pub fn has_result(&self, now: Timestamp) -> bool {
        let is_export = matches!(self.state.work, Work::Export { .. });
        is_export && self.state.status == JobStatus::Completed && !self.is_expired(now)
    }

    pub(super) fn finish(&mut self, error: Option<String>, now: Timestamp) {
        self.state.status = match error {
            Some(_) => JobStatus::Failed,
            None => JobStatus::Completed,
        };
        self.state.error = error;
        self.state.finished_at = Some(now);
    }

    /// Notes what was erased in a store; more of the same store is added up.
    pub(super) fn erased(&mut self, store: &str, count: u64, at: Timestamp) {
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
