//! How records are stored everywhere: as JSON text, written once by serde and returned byte for byte.

use copilotd_actors::domain::conversation::header::Header;
use copilotd_actors::domain::event::{Event, Record};
use copilotd_actors::domain::ids::{Seq, TenantId, TurnId};
use copilotd_actors::ports::{Append, LogError};
use copilotd_actors::tenancy::TenantScope;
use jiff::Timestamp;

/// Longest append, as JSON text, that a store accepts. MongoDB's documents end at 16 MiB, and a conversation must be
/// able to move from one store to the other.
pub const MAX_APPEND_BYTES: usize = 12 * 1024 * 1024;

/// Encodes the records of an append, each as its own text.
pub(crate) fn encode_each(append: &Append) -> Result<Vec<String>, LogError> {
    let texts: Result<Vec<String>, _> = append.records.iter().map(serde_json::to_string).collect();
    let texts = texts.map_err(|error| LogError::Refused(format!("a record cannot be written as JSON: {error}")))?;
    let bytes: usize = texts.iter().map(|text| text.len() + 1).sum();
    check_size(bytes)?;
    Ok(texts)
}

/// Encodes the records of an append as one JSON array.
pub(crate) fn encode_array(records: &[Record]) -> Result<Vec<u8>, LogError> {
    let text = serde_json::to_vec(records)
        .map_err(|error| LogError::Refused(format!("a record cannot be written as JSON: {error}")))?;
    check_size(text.len())?;
    Ok(text)
}

fn check_size(bytes: usize) -> Result<(), LogError> {
    if bytes > MAX_APPEND_BYTES {
        return Err(LogError::Refused(format!(
            "the append has {bytes} bytes; at most {MAX_APPEND_BYTES} are stored"
        )));
    }
    Ok(())
}

/// Decodes one record.
pub(crate) fn decode(text: &str) -> Result<Record, LogError> {
    serde_json::from_str(text).map_err(|error| unreadable("a record", &error))
}

/// Decodes an array of records.
pub(crate) fn decode_array(text: &[u8]) -> Result<Vec<Record>, LogError> {
    serde_json::from_slice(text).map_err(|error| unreadable("records", &error))
}

/// Describes what is unreadable, and where. serde's own message quotes the value, which may be a prompt, and this is
/// logged.
pub(crate) fn unreadable(what: &str, error: &serde_json::Error) -> LogError {
    let (kind, line, column) = (error.classify(), error.line(), error.column());
    LogError::Corrupt(format!("{what}: {kind:?} error at line {line}, column {column}"))
}

/// Creates a tombstone in place of an unreadable one.
pub(crate) fn tombstone(seq: Seq, header: Option<&Header>) -> Record {
    Record {
        seq,
        at: header.map_or(Timestamp::UNIX_EPOCH, |header| header.updated_at),
        turn: None,
        event: Event::ConversationErased {
            by: header.map_or_else(|| "unknown".to_owned(), |header| header.user.to_string()),
        },
    }
}

/// Returns the turns that records belong to, each once.
pub(crate) fn turns(records: &[Record]) -> Vec<TurnId> {
    let mut turns: Vec<TurnId> = records.iter().filter_map(|record| record.turn).collect();
    turns.sort_unstable();
    turns.dedup();
    turns
}

/// Counts the records that clients page through.
pub(crate) fn messages(records: &[Record]) -> usize {
    records.iter().filter(|record| record.event.is_message()).count()
}

/// Returns the scope of a tenant whose name a verified request once stored.
#[expect(clippy::disallowed_methods, reason = "recovery: a verified request once stored it")]
pub(crate) fn stored_scope(tenant: &str) -> Result<TenantScope, LogError> {
    let tenant: TenantId = tenant
        .parse()
        .map_err(|error| LogError::Corrupt(format!("a tenant's name: {error}")))?;
    Ok(TenantScope::from_verified(tenant))
}
