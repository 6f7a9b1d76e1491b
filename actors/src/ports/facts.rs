//! Facts about a user, as a turn uses them: what is known, and a message from which more can be learned.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;

use crate::domain::ids::{ConversationId, CopilotName, FactId, TurnId, UserId};
use crate::tenancy::TenantScope;

/// Remembers facts about users.
///
/// Contract:
/// - *Tenancy*: a fact belongs to one user of one tenant. Nobody else's turns are given it.
/// - *Own words*: facts come from the message of a [`LearnRequest`] and from nothing else.
/// - *Repeatable*: a turn is learned from once. Asking again changes nothing, also after its facts were deleted.
/// - *Available in the next turn*: [`Facts::known`] waits a short, bounded time for what is being learned from the user's other
///   turns.
/// - *Erased*: once a conversation is erased nothing is learned from it, also if the request came before.
/// - *Bounded*: it bounds, for each tenant, what waits and what runs. The caller limits the time of a call.
/// - *Cancel-safe*: a dropped call leaves nothing half done.
#[async_trait]
pub trait Facts: Send + Sync + fmt::Debug {
    /// Returns what is known about a user and valid now.
    async fn known(&self, scope: &TenantScope, query: &FactsQuery) -> Result<KnownFacts, FactsError>;

    /// Takes a message to learn from, in the background. Durable when it returns: what cannot be done now is done with a later
    /// turn of that user.
    async fn learn(&self, scope: &TenantScope, request: LearnRequest) -> Result<(), FactsError>;

    /// Deletes what was learned from a turn, because another one replaces it. Once this has returned, nothing is learned from
    /// it any more, also if that is under way.
    async fn withdraw(&self, scope: &TenantScope, turn: &WithdrawnTurn) -> Result<(), FactsError>;
}

/// A turn whose user took back what they said in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WithdrawnTurn {
    /// Who wrote its message.
    pub user: UserId,
    /// The conversation of the turn.
    pub conversation: ConversationId,
    /// The turn.
    pub turn: TurnId,
}

/// Whose facts a turn asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FactsQuery {
    /// The user.
    pub user: UserId,
    /// The turn that asks: what is being learned from it is not waited for.
    pub turn: TurnId,
    /// What the user wrote: facts that share words with it come first.
    pub text: String,
    /// Maximum number of facts.
    pub limit: usize,
}

/// What is known about a user.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KnownFacts {
    /// The facts: those that share most words with the question first, among equals the one said last.
    pub facts: Vec<KnownFact>,
    /// Whether something said in an earlier turn is still being learned.
    pub is_late: bool,
}

/// A fact that is valid now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownFact {
    /// Its id.
    pub id: FactId,
    /// The statement.
    pub text: String,
    /// When the user said it.
    pub said_at: Timestamp,
}

/// A message in the user's own words, as the log holds it, and on whose account a model may read it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LearnRequest {
    /// Who wrote it.
    pub user: UserId,
    /// The conversation of the turn.
    pub conversation: ConversationId,
    /// The turn of the message.
    pub turn: TurnId,
    /// The message.
    pub message: String,
    /// When it was written.
    pub said_at: Timestamp,
    /// The copilot, for accounting.
    pub copilot: CopilotName,
    /// The route of the small model.
    pub route: String,
    /// The API key that submitted the turn: its limits apply to the model call.
    pub api_key: Option<String>,
}

/// Why facts are not known or not learned.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FactsError {
    /// There was no answer in time.
    #[error("no answer within {} ms", .0.as_millis())]
    TimedOut(
        /// The time limit.
        Duration,
    ),
    /// The facts cannot be used at present.
    #[error("unavailable: {0}")]
    Unavailable(String),
}
