//! How values of the domain are stored by every index: as JSON, numbers and names.

use std::str::FromStr;

use copilotd_actors::ports::LogError;
use copilotd_actors::tenancy::TenantScope;
use copilotd_knowledge::document::{DocumentKey, Stage};
use copilotd_knowledge::index::IngestStatus;
use jiff::Timestamp;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The number of [`IngestStatus::Queued`].
pub(super) const QUEUED: i16 = 0;
/// The number of [`IngestStatus::Running`].
pub(super) const RUNNING: i16 = 1;
const COMPLETED: i16 = 2;
const FAILED: i16 = 3;
const SUPERSEDED: i16 = 4;

/// Returns a status as a number, and its failure as JSON.
pub(super) fn status_columns(status: &IngestStatus) -> Result<(i16, Option<String>), LogError> {
    Ok(match status {
        IngestStatus::Queued => (QUEUED, None),
        IngestStatus::Running => (RUNNING, None),
        IngestStatus::Completed => (COMPLETED, None),
        IngestStatus::Failed(failure) => (FAILED, Some(encode(failure)?)),
        IngestStatus::Superseded => (SUPERSEDED, None),
    })
}

/// Reads the columns of [`status_columns`].
pub(super) fn status(number: i16, failure: Option<&str>) -> Result<IngestStatus, LogError> {
    Ok(match (number, failure) {
        (QUEUED, _) => IngestStatus::Queued,
        (RUNNING, _) => IngestStatus::Running,
        (COMPLETED, _) => IngestStatus::Completed,
        (FAILED, Some(failure)) => IngestStatus::Failed(decode(failure)?),
        _ => IngestStatus::Superseded,
    })
}

/// Returns the number of a stage. Statements name 0: the version waits.
pub(super) fn stage_number(stage: Stage) -> i16 {
    match stage {
        Stage::Pending => 0,
        Stage::Searchable => 1,
        Stage::Failed => 2,
    }
}

/// Reads the number of a stage.
pub(super) fn stage(number: i16) -> Stage {
    match number {
        0 => Stage::Pending,
        1 => Stage::Searchable,
        _ => Stage::Failed,
    }
}

/// Reads the key of a document.
pub(super) fn document_key(collection: &str, external_id: &str) -> Result<DocumentKey, LogError> {
    Ok(DocumentKey {
        collection: parse(collection)?,
        external_id: parse(external_id)?,
    })
}

/// Returns the scope of a tenant whose name a verified request once stored.
#[expect(clippy::disallowed_methods, reason = "recovery: a verified request once stored it")]
pub(super) fn stored_scope(tenant: &str) -> Result<TenantScope, LogError> {
    Ok(TenantScope::from_verified(parse(tenant)?))
}

/// Encodes a value as JSON.
pub(super) fn encode<T: Serialize>(value: &T) -> Result<String, LogError> {
    serde_json::to_string(value)
        .map_err(|error| LogError::Refused(format!("a value cannot be written as JSON: {error}")))
}

/// Decodes JSON. serde's own message quotes the value, which may be content, and this is logged.
pub(super) fn decode<T: DeserializeOwned>(text: &str) -> Result<T, LogError> {
    serde_json::from_str(text).map_err(|error| {
        let (kind, line, column) = (error.classify(), error.line(), error.column());
        LogError::Corrupt(format!(
            "a value of the index: {kind:?} error at line {line}, column {column}"
        ))
    })
}

fn parse<T: FromStr>(text: &str) -> Result<T, LogError> {
    text.parse()
        .map_err(|_| LogError::Corrupt("a name in the index is none".to_owned()))
}

/// Times outside the years 1678 to 2262 become the nearest inside.
pub(super) fn nanoseconds(at: Timestamp) -> i64 {
    let nanoseconds = at.as_nanosecond();
    i64::try_from(nanoseconds).unwrap_or(if nanoseconds < 0 { i64::MIN } else { i64::MAX })
}

/// Reads what [`nanoseconds`] returned.
pub(super) fn time(nanoseconds: i64) -> Result<Timestamp, LogError> {
    Timestamp::from_nanosecond(i128::from(nanoseconds))
        .map_err(|_| LogError::Corrupt("a time in the index is none".to_owned()))
}
