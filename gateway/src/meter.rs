//! The meter: receives every attempt at a provider, for the ledger and the metrics.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use copilotd_actors::domain::content::Finish;
use copilotd_actors::domain::failure::FailureClass;
use copilotd_actors::domain::ids::TurnId;
use copilotd_actors::domain::usage::{LostUsage, Usage};
use copilotd_actors::ports::LogError;
use copilotd_actors::tenancy::TenantScope;
use jiff::Timestamp;
use uuid::Uuid;

use crate::request::call::{CacheOutcome, Caller};
use crate::target::TargetName;

/// Receives every attempt when it begins and when it ends. Called while an answer is streaming, so it must not block.
#[async_trait]
pub trait Meter: Send + Sync + fmt::Debug {
    /// An attempt is in flight. `lost` estimates what to record if the process dies; it is called again now and then
    /// for a long attempt. The end of the attempt is reported under the same id.
    fn began(&self, id: Uuid, lost: LostEstimate) {
        let _ = (id, lost);
    }

    /// An attempt ended.
    fn attempted(&self, attempt: AttemptRecord);

    /// An attempt of an earlier process ended at `at`. Reporting one twice gives one record.
    fn attempted_at(&self, at: Timestamp, attempt: AttemptRecord) {
        let _ = at;
        self.attempted(attempt);
    }

    /// Returns usage of a turn's attempts that the turn's log may lack: of earlier processes, or of this one if
    /// `by_this_process`.
    async fn unreported(
        &self,
        scope: &TenantScope,
        of: &UnreportedAttempts,
        by_this_process: bool,
    ) -> Result<Vec<LostUsage>, LogError> {
        let _ = (scope, of, by_this_process);
        Ok(Vec::new())
    }

    /// Whether one more call can be recorded. If not, no call may begin.
    fn has_room(&self) -> bool {
        true
    }

    /// Waits until one more call can be recorded. Returns false if that is not to be expected soon.
    async fn wait_for_room(&self) -> bool {
        self.has_room()
    }
}

/// Estimates what to record for an attempt if its process dies within the given time, before it is asked again.
pub type LostEstimate = Box<dyn Fn(Duration) -> AttemptRecord + Send + Sync>;

/// An attempt that ended, or the estimate to record if its process died now.
#[derive(Debug, Clone)]
pub struct AttemptRecord {
    /// Id of the attempt if it may be reported twice; otherwise the record gets a new one.
    pub id: Option<Uuid>,
    /// Who made the call.
    pub caller: Arc<Caller>,
    /// Name of the route.
    pub route: Arc<str>,
    /// The target.
    pub target: TargetName,
    /// Name of the key.
    pub key: String,
    /// Number of the attempt within the request, from 1.
    pub number: u32,
    /// Model name as reported by the provider, if it reported one.
    pub model: Option<String>,
    /// What it used.
    pub usage: Usage,
    /// Whether the usage is our estimate because the provider reported none.
    pub is_estimated: bool,
    /// How it ended.
    pub outcome: Outcome,
    /// What the cache lookup before the attempt gave.
    pub cache: CacheOutcome,
    /// Time from the request to the first content.
    pub first_content: Option<Duration>,
    /// Time from the request to the end.
    pub took: Duration,
}

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Completed.
    Finished(Finish),
    /// Failed.
    Failed(FailureClass),
    /// The caller left before the end.
    Left,
    /// The process died.
    Lost,
}

impl Outcome {
    /// Stable name for logs, metrics and records.
    pub fn code(self) -> &'static str {
        match self {
            Self::Finished(_) => "ok",
            Self::Failed(class) => class.code(),
            Self::Left => "left",
            Self::Lost => "lost",
        }
    }
}

/// Selects attempts of a turn whose usage the turn's log may lack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnreportedAttempts {
    /// The turn.
    pub turn: TurnId,
    /// When the turn's current attempt began: a record that `UsageStore::record_lost_usage` made since then
    /// belongs to its last step.
    pub began_at: Timestamp,
    /// When that step's prompt was assembled, if it was: every attempt that ended since then belongs to that step too.
    pub asked_at: Option<Timestamp>,
}
