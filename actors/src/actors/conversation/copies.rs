//! Copies of a submission: the id of a turn with an idempotency key is derived from the key, so that the log itself knows
//! which turn an earlier copy created.

use jiff::Timestamp;

use crate::domain::conversation::KEY_LIFETIME;
use crate::domain::event::{Event, Idempotency, Record};
use crate::domain::ids::{ConversationId, TurnId};
use crate::ports::{EventLog, LogError};
use crate::tenancy::TenantScope;

/// Uses of one key after its expiry that are told apart; beyond that the client must choose another key.
const MAX_ROUNDS: u32 = 64;

/// What the log knows of an idempotency key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyUse {
    /// An earlier request with the same key and body created this turn.
    Copy(TurnId),
    /// The key is free; the submission's turn gets this id.
    Free(TurnId),
    /// It was used for something else.
    Taken,
}

/// Finds what a submission's key was used for during its life.
///
/// # Errors
/// Those of reading the log.
pub async fn find(
    log: &dyn EventLog,
    scope: &TenantScope,
    conversation: ConversationId,
    asked: &Idempotency,
    now: Timestamp,
) -> Result<KeyUse, LogError> {
    for round in 0..MAX_ROUNDS {
        let id = TurnId::derived(conversation, &asked.key, round);
        let Some(found) = log.read_turn(scope, id).await? else {
            return Ok(KeyUse::Free(id));
        };
        match found.records.first() {
            Some(first) if now.duration_since(first.at) >= KEY_LIFETIME => {}
            Some(first) if used_for(first) == Some(asked) => return Ok(KeyUse::Copy(id)),
            _ => break,
        }
    }
    Ok(KeyUse::Taken)
}

/// Returns the idempotency key recorded in a turn's first record.
fn used_for(first: &Record) -> Option<&Idempotency> {
    match &first.event {
        Event::TurnQueued { idempotency, .. } => idempotency.as_ref(),
        _ => None,
    }
}
