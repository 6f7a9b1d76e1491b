//! The meter: what is told of every attempt at a provider, for the ledger and the metrics.

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

/// Told of every attempt, when it begins and when it is over. Called on the way of an answer: it must not wait.
#[async_trait]
pub trait Meter: Send + Sync + fmt::Debug {
    /// An attempt is under way; `lost` says what to put down should its process die, and is asked now and then about one that takes
    /// long. It is told again under the same id when it is over.
    fn began(&self, id: Uuid, lost: Lost) {
        let _ = (id, lost);
    }

    /// An attempt is over.
    fn attempted(&self, attempt: Attempted);

    /// An attempt of an earlier process was over at that moment. One that is told twice is one record.
    fn attempted_at(&self, at: Timestamp, attempt: Attempted) {
        let _ = at;
        self.attempted(attempt);
    }

    /// Returns what attempts of a turn used of which its log may not know: those of earlier processes, or, if so, of this one.
    async fn unreported(
        &self,
        scope: &TenantScope,
        of: &Unreported,
        by_this_process: bool,
    ) -> Result<Vec<LostUsage>, LogError> {
        let _ = (scope, of, by_this_process);
        Ok(Vec::new())
    }

    /// Whether one more call can be accounted for. If not, none may begin.
    fn has_room(&self) -> bool {
        true
    }
}

/// Makes what is to be put down of an attempt should its process die before it is asked again, in that time.
pub type Lost = Box<dyn Fn(Duration) -> Attempted + Send + Sync>;

/// An attempt: one that is over, or what would be said of it if its process died now.
#[derive(Debug, Clone)]
pub struct Attempted {
    /// Its id, where one attempt may be told twice; a new one otherwise.
    pub id: Option<Uuid>,
    /// For whom it was made.
    pub caller: Arc<Caller>,
    /// Name of the route.
    pub route: Arc<str>,
    /// The target.
    pub target: TargetName,
    /// Name of the key.
    pub key: String,
    /// Its number within the request, from 1.
    pub number: u32,
    /// The model, as the provider names it, if it did.
    pub model: Option<String>,
    /// What it used.
    pub usage: Usage,
    /// Whether the usage is our own estimate because nobody said.
    pub is_estimated: bool,
    /// How it ended.
    pub outcome: Outcome,
    /// What the cache had done before.
    pub cache: CacheOutcome,
    /// From the request to the first content.
    pub first_content: Option<Duration>,
    /// From the request to the end.
    pub took: Duration,
}

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Well.
    Finished(Finish),
    /// In a failure.
    Failed(FailureClass),
    /// Whoever waited for it left.
    Left,
    /// Its process died.
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

/// Which attempts of a turn are looked for, whose usage nobody has told its log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unreported {
    /// The turn.
    pub turn: TurnId,
    /// When the turn's present attempt began: what was made a record by `UsageStore::lose_usage` and is not older is of its last step.
    pub began_at: Timestamp,
    /// When that step's prompt was assembled, if it was: what ended since then, however it did, is that step's too.
    pub asked_at: Option<Timestamp>,
}
