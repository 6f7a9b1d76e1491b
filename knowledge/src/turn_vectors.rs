//! The port that stores the vectors of a conversation's messages.

use std::fmt;

use async_trait::async_trait;
use copilotd_actors::domain::ids::{ConversationId, Seq};
use copilotd_actors::ports::{LogError, Space, Vector};
use copilotd_actors::tenancy::TenantScope;

use crate::recall;

/// The vectors of a message; see [`Recall::to_embed`](recall::Recall::to_embed).
#[derive(Debug, Clone, PartialEq)]
pub struct TurnVector {
    /// The record with the message.
    pub seq: Seq,
    /// Of the message.
    pub alone: Vector,
    /// Of the message after the one before it. Of the same space.
    pub after_previous: Vector,
}

/// Stores the vectors of messages, so that each is made once. They can be lost: they are made again from the log.
///
/// Contract (`fakes::turn_vectors::contract` checks it):
/// - *Tenancy*: every call sees and changes rows of its scope only.
/// - *One space*: a message has the vectors that were put last, whatever their space; [`load`](Self::load) returns those
///   of one space. Components may lose precision: they are those of [`recall::packed`].
/// - *Erased stays erased*: once [`erase`](Self::erase) has returned, nothing is stored for the conversation ever again: a
///   `put` that comes later, or that was under way, answers false or its rows are gone.
/// - *No trace*: what was erased is in no byte of the store's files; on a server, once its operator has rewritten the
///   tables.
/// - *Cancel-safe and repeatable*: every call can be dropped and repeated.
#[async_trait]
pub trait TurnVectors: Send + Sync + fmt::Debug {
    /// Stores vectors. Returns false if the conversation was erased: nothing is stored then.
    async fn put(
        &self,
        scope: &TenantScope,
        conversation: ConversationId,
        vectors: Vec<TurnVector>,
    ) -> Result<bool, LogError>;

    /// Returns the vectors of one space of the messages whose records are in `from..=upto`, in order.
    async fn load(
        &self,
        scope: &TenantScope,
        conversation: ConversationId,
        space: &Space,
        from: Seq,
        upto: Seq,
    ) -> Result<Vec<TurnVector>, LogError>;

    /// Deletes the vectors of a conversation for good. Returns the number of messages that had some.
    async fn erase(&self, scope: &TenantScope, conversation: ConversationId) -> Result<u64, LogError>;

    /// Deletes everything of a tenant, also what remembers its erased conversations. Returns the number of messages that
    /// had vectors.
    async fn erase_tenant(&self, scope: &TenantScope) -> Result<u64, LogError>;
}

/// Writes a vector with a byte for each component.
pub fn to_bytes(vector: &Vector) -> Vec<u8> {
    recall::packed(vector).into_iter().map(i8::cast_unsigned).collect()
}

/// Reads a vector; none if it has no direction.
pub fn from_bytes(space: &Space, bytes: &[u8]) -> Option<Vector> {
    let values = bytes.iter().map(|byte| f32::from(byte.cast_signed()));
    Vector::unit(space, values.collect())
}
