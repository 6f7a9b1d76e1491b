//! The port to where facts are stored.

use std::fmt;
use std::ops::Range;

use async_trait::async_trait;
use copilotd_actors::domain::ids::{ConversationId, FactId, TurnId, UserId};
use copilotd_actors::ports::LogError;
use copilotd_actors::tenancy::TenantScope;
use jiff::Timestamp;

use super::book::{Fact, MAX_STORED};

/// Attempts to learn from a turn after which it is given up.
pub const MAX_ATTEMPTS: u32 = 3;

/// Stores facts, and which turns were learned from. One suite checks every implementation.
///
/// Contract:
/// - *Tenancy*: a call finds and changes facts of its tenant and user only.
/// - *Once*: a turn whose lesson is closed is never open again; closing it again stores nothing.
/// - *Atomic*: the facts of a lesson and its end are stored together or not at all.
/// - *Erased*: once a conversation has its tombstone, no fact that was learned in it is stored any more, and its erasure deletes those
///   that were, with the marks of its turns. The same holds for a conversation that is not in the log.
/// - *Bounded*: the caller keeps a user's facts within [`MAX_STORED`]; a read returns no more.
/// - *Retry-safe*: every call can be repeated.
#[async_trait]
pub trait FactStore: Send + Sync + fmt::Debug {
    /// Returns all facts of a user, the one said last first; those that have ended are among them.
    async fn facts(&self, scope: &TenantScope, user: &UserId) -> Result<Vec<StoredFact>, LogError>;

    /// Records that a turn is to be learned from, unless that is known.
    async fn open_lesson(&self, scope: &TenantScope, lesson: &Lesson) -> Result<LessonState, LogError>;

    /// Returns lessons of a user that are open, the oldest first.
    async fn open_lessons(&self, scope: &TenantScope, user: &UserId, limit: usize) -> Result<Vec<Lesson>, LogError>;

    /// Counts a failed attempt at a lesson; with the [`MAX_ATTEMPTS`]th it is closed. Returns whether it is closed.
    async fn fail_lesson(&self, scope: &TenantScope, lesson: &Lesson) -> Result<bool, LogError>;

    /// Closes a lesson and changes the user's facts. Returns whether it did: not if it was closed before, or its conversation
    /// is erased.
    async fn close_lesson(&self, scope: &TenantScope, lesson: &Lesson, change: &Change) -> Result<bool, LogError>;

    /// Deletes the facts that rest on a turn, and closes its lesson for good, also if it was never opened. Nothing is recorded
    /// for a conversation that is erased.
    async fn withdraw(&self, scope: &TenantScope, lesson: &Lesson) -> Result<(), LogError>;

    /// Changes a user's facts.
    async fn change(&self, scope: &TenantScope, user: &UserId, change: &Change) -> Result<(), LogError>;
}

/// A fact as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredFact {
    /// Its id.
    pub id: FactId,
    /// What it says and when.
    pub fact: Fact,
    /// The conversation of the turn on which it rests.
    pub conversation: ConversationId,
    /// The turn on which it rests.
    pub turn: TurnId,
    /// The bytes of the turn's message on which it rests.
    pub range: Range<usize>,
    /// Whether a person wrote its text in place of an earlier one.
    pub is_corrected: bool,
}

/// A turn to learn from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lesson {
    /// Who wrote the message.
    pub user: UserId,
    /// The conversation of the turn.
    pub conversation: ConversationId,
    /// The turn.
    pub turn: TurnId,
    /// When the message was written.
    pub said_at: Timestamp,
}

/// How far a lesson is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LessonState {
    /// It is still to be done.
    Open,
    /// It is done, or was given up.
    Closed,
    /// Its conversation is erased, or unknown.
    Erased,
}

/// A change of one user's facts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Change {
    /// Facts to store, each in place of the one with its id.
    pub put: Vec<StoredFact>,
    /// Facts to delete.
    pub delete: Vec<FactId>,
}

impl StoredFact {
    /// Returns whether it is valid now.
    pub fn is_valid(&self) -> bool {
        self.fact.valid_to.is_none()
    }
}

/// Returns which facts of a user are too many: those that ended first.
pub(super) fn surplus(facts: &[StoredFact]) -> Vec<FactId> {
    let more = facts.len().saturating_sub(MAX_STORED);
    let mut ended: Vec<&StoredFact> = facts.iter().filter(|fact| !fact.is_valid()).collect();
    ended.sort_by_key(|fact| (fact.fact.valid_to, fact.id));
    ended.into_iter().take(more).map(|fact| fact.id).collect()
}
