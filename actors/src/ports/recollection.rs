//! The earlier messages of a conversation, as a turn uses them: those that bear on its question.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;

use crate::domain::context::recalled::Speaker;
use crate::domain::context_record::RetrievalStep;
use crate::domain::ids::{ConversationId, Seq};
use crate::tenancy::TenantScope;

/// Finds earlier messages of a conversation. The log is the only record: everything else that an implementation keeps
/// can be lost and is made again.
///
/// Contract (`fakes::recollection::contract` checks it):
/// - *Tenancy*: a call sees the conversation of its scope only, also if another tenant has one with the same id. The
///   caller has verified that the scope may read the conversation.
/// - *Only what was said*: the messages are those of [`recalled`](crate::domain::context::recalled), verbatim, each once,
///   oldest first. One that is later than `before` is never returned.
/// - *Bounded*: the tokens of all messages together are at most the budget, and their number at most `limit`. One call
///   reads a bounded part of the log; if there is more, [`Recalled::is_complete`] is false, and a later call finds more.
/// - *No effects*: a search changes nothing that a caller can see, and the same question has the same answer, apart from
///   vectors that are made meanwhile.
/// - *Erased*: once [`erase`](Self::erase) has returned, nothing of the conversation is kept or written again, whatever
///   was under way. It can be repeated.
/// - *Cancel-safe*: a dropped call leaves nothing half done. The caller limits the time.
#[async_trait]
pub trait Recollection: Send + Sync + fmt::Debug {
    /// Finds the messages that bear on a question.
    async fn recall(&self, scope: &TenantScope, query: &RecallQuery) -> Result<Recalled, RecallError>;

    /// Prepares in the background what the next turn will search: the messages up to a record, the end of a turn. Never
    /// waits; it is dropped if too much is waiting already.
    fn prepare(&self, scope: &TenantScope, conversation: ConversationId, upto_seq: Seq);

    /// Deletes everything that is kept of a conversation beside its log. Returns the number of items that were stored;
    /// durable when it returns.
    async fn erase(&self, scope: &TenantScope, conversation: ConversationId) -> Result<u64, RecallError>;

    /// Deletes the same of all conversations of a tenant whose logs are deleted already.
    async fn erase_tenant(&self, scope: &TenantScope) -> Result<u64, RecallError>;
}

/// What a turn searches its conversation for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecallQuery {
    /// The conversation.
    pub conversation: ConversationId,
    /// The question.
    pub question: String,
    /// Messages that were said after this record are in the prompt already.
    pub before: Seq,
    /// The end of the last turn before the running one; not less than `before`. Messages up to here count for the
    /// search, later ones do not exist.
    pub upto_seq: Seq,
    /// Tokens that the lines of all messages may have together.
    pub budget_tokens: u64,
    /// Maximum number of messages.
    pub limit: usize,
}

/// What a search found.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Recalled {
    /// The messages, oldest first.
    pub messages: Vec<RecalledMessage>,
    /// Messages with anything to do with the question that had no place.
    pub omitted: u64,
    /// Whether vectors took part; if not, words alone decided.
    pub is_semantic: bool,
    /// Whether all messages up to `before` were searched, or only the older part.
    pub is_complete: bool,
    /// How long each step took, in the order in which they ran.
    pub steps: Vec<(RetrievalStep, Duration)>,
}

/// A message that a search found.
#[derive(Debug, Clone, PartialEq)]
pub struct RecalledMessage {
    /// The record with the message.
    pub seq: Seq,
    /// Who said it.
    pub speaker: Speaker,
    /// When it was written.
    pub at: Timestamp,
    /// Its text, verbatim.
    pub text: String,
    /// Tokens of its [`line`](crate::domain::context::recalled::line); estimated if it is long.
    pub tokens: u64,
    /// Its relevance, as far as the messages of this answer are compared with each other.
    pub score: f64,
    /// Why it was found.
    pub reason: RecallReason,
}

/// Why a message was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecallReason {
    /// It bears on the question.
    Relevant,
    /// A message beside it does.
    Neighbour,
}

/// Why nothing was recalled or erased.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecallError {
    /// There was no answer in time.
    #[error("no answer within {} ms", .0.as_millis())]
    TimedOut(
        /// The time limit.
        Duration,
    ),
    /// The earlier messages cannot be searched at present.
    #[error("unavailable: {0}")]
    Unavailable(String),
}
