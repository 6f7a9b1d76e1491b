//! Headers as rows of `conversations`.

use copilotd_actors::domain::conversation::header::Header;
use copilotd_actors::domain::event::{Event, Record};
use copilotd_actors::domain::ids::{ConversationId, Seq};
use copilotd_actors::ports::LogError;
use jiff::Timestamp;
use rusqlite::{Connection, Row, params};
use serde::Serialize;
use serde::de::DeserializeOwned;
use uuid::Uuid;

use crate::adapters::sqlite::failure::Failure;
use crate::adapters::store::text::unreadable;

/// Columns of a header, in the order in which [`header`] reads them.
pub(super) const HEADER: &str = "conversation, tenant, user, copilot, channel, title, metadata, erased, created_at, \
                                 updated_at, turn_count, open_turns, last_seq, usage, idempotency, log_bytes";

/// Which columns of a header an append may have changed, besides its counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Changes {
    /// Only numbers that no index contains.
    Counters,
    /// Also whether the conversation has open turns.
    Turns,
    /// Also what its turns used.
    Usage,
    Everything,
}

impl Changes {
    /// Finds what records change. Mirrors `Header::apply`; the contract suite compares headers after every kind of event.
    pub(super) fn of(records: &[Record]) -> Self {
        let mut changes = Self::Counters;
        for record in records {
            match record.event {
                Event::ConversationCreated { .. }
                | Event::ConversationUpdated { .. }
                | Event::ConversationTitled { .. }
                | Event::ConversationErased { .. } => return Self::Everything,
                Event::TurnCompleted { .. }
                | Event::TurnFailed { .. }
                | Event::TurnCancelled { .. }
                | Event::MemoryCompressed { .. } => changes = Self::Usage,
                Event::TurnQueued { .. } => changes = changes.max(Self::Turns),
                _ => {}
            }
        }
        changes
    }
}

/// Reads a header from a row of [`HEADER`].
pub(super) fn header(row: &Row<'_>) -> Result<Header, Failure> {
    Ok(Header {
        id: conversation(row.get(0)?),
        tenant: name(row.get(1)?)?,
        user: name(row.get(2)?)?,
        copilot: name(row.get(3)?)?,
        channel: json(&row.get::<_, String>(4)?)?,
        title: row.get(5)?,
        metadata: json(&row.get::<_, String>(6)?)?,
        erased: row.get(7)?,
        created_at: time(row.get(8)?)?,
        updated_at: time(row.get(9)?)?,
        turn_count: row.get(10)?,
        open_turns: row.get(11)?,
        last_seq: row.get(12)?,
        usage: json(&row.get::<_, String>(13)?)?,
        idempotency: row.get::<_, Option<String>>(14)?.map(|text| json(&text)).transpose()?,
        log_bytes: row.get(15)?,
    })
}

/// Inserts or replaces a whole row.
pub(super) fn insert(
    connection: &Connection,
    header: &Header,
    tombstone: Option<Seq>,
    cleaned: bool,
) -> Result<(), Failure> {
    connection
        .prepare_cached(
            "INSERT OR REPLACE INTO conversations (tenant, conversation, last_seq, updated_at, turn_count, open_turns,
                due, tombstone, erased, created_at, user, copilot, channel, usage, idempotency, title, metadata,
                log_bytes)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18)",
        )?
        .execute(params![
            header.tenant.as_str(),
            key(header.id),
            header.last_seq,
            nanos(header.updated_at)?,
            header.turn_count,
            header.open_turns,
            is_due(header, tombstone, cleaned),
            tombstone,
            header.erased,
            nanos(header.created_at)?,
            header.user.as_str(),
            header.copilot.as_str(),
            text(&header.channel)?,
            text(&header.usage)?,
            header.idempotency.as_ref().map(text).transpose()?,
            header.title,
            text(&header.metadata)?,
            header.log_bytes,
        ])?;
    Ok(())
}

/// Updates the columns that an append changes; none of them can be long. A column is left out unless it changes: SQLite
/// writes the entries of an index again when one of its columns is assigned. Returns false if there is no row, or if
/// everything has to be written.
pub(super) fn update(connection: &Connection, header: &Header, changes: Changes) -> Result<bool, Failure> {
    let (tenant, key) = (header.tenant.as_str(), key(header.id));
    let (updated_at, due) = (nanos(header.updated_at)?, is_due(header, None, false));
    let (last_seq, log_bytes) = (header.last_seq, header.log_bytes);
    let rows = match changes {
        Changes::Everything => return Ok(false),
        Changes::Counters => connection
            .prepare_cached(
                "UPDATE conversations SET last_seq = ?3, updated_at = ?4, log_bytes = ?5
                 WHERE tenant = ?1 AND conversation = ?2",
            )?
            .execute(params![tenant, key, last_seq, updated_at, log_bytes])?,
        Changes::Turns => connection
            .prepare_cached(
                "UPDATE conversations SET last_seq = ?3, updated_at = ?4, log_bytes = ?5, turn_count = ?6,
                    open_turns = ?7, due = ?8 WHERE tenant = ?1 AND conversation = ?2",
            )?
            .execute(params![
                tenant,
                key,
                last_seq,
                updated_at,
                log_bytes,
                header.turn_count,
                header.open_turns,
                due,
            ])?,
        Changes::Usage => connection
            .prepare_cached(
                "UPDATE conversations SET last_seq = ?3, updated_at = ?4, log_bytes = ?5, turn_count = ?6,
                    open_turns = ?7, due = ?8, usage = ?9 WHERE tenant = ?1 AND conversation = ?2",
            )?
            .execute(params![
                tenant,
                key,
                last_seq,
                updated_at,
                log_bytes,
                header.turn_count,
                header.open_turns,
                due,
                text(&header.usage)?,
            ])?,
    };
    Ok(rows == 1)
}

/// Returns whether the reconciler has to look at a conversation.
fn is_due(header: &Header, tombstone: Option<Seq>, cleaned: bool) -> bool {
    if tombstone.is_some() {
        !cleaned
    } else {
        header.open_turns > 0
    }
}

/// Names the conversation of a row for the log, as far as it is readable.
pub(super) fn name_of(row: &Row<'_>, column: usize) -> String {
    row.get::<_, Uuid>(column)
        .map_or_else(|_| "?".to_owned(), |key| conversation(key).to_string())
}

/// A conversation's id as a key: 16 bytes, which sort like the ids.
pub(super) fn key(id: ConversationId) -> Uuid {
    id.uuid()
}

/// The conversation of a key.
pub(super) fn conversation(key: Uuid) -> ConversationId {
    ConversationId::new(key)
}

/// A sequence number to compare with, capped at SQLite's largest integer; no record has a larger one.
pub(super) fn bound(seq: Seq) -> i64 {
    i64::try_from(seq).unwrap_or(i64::MAX)
}

/// A time as a number, sortable and without loss.
pub(super) fn nanos(time: Timestamp) -> Result<i64, LogError> {
    i64::try_from(time.as_nanosecond())
        .map_err(|_| LogError::Refused(format!("time {time} is not between the years 1678 and 2262")))
}

/// The time of a number.
pub(super) fn time(nanos: i64) -> Result<Timestamp, LogError> {
    Timestamp::from_nanosecond(i128::from(nanos)).map_err(|error| LogError::Corrupt(format!("a time: {error}")))
}

fn name<T: std::str::FromStr<Err: std::fmt::Display>>(text: String) -> Result<T, LogError> {
    text.parse()
        .map_err(|error| LogError::Corrupt(format!("a name: {error}")))
}

/// Encodes a value as JSON.
pub(super) fn text<T: Serialize>(value: &T) -> Result<String, LogError> {
    serde_json::to_string(value).map_err(|error| LogError::Refused(format!("a header: {error}")))
}

/// Decodes a value from JSON.
pub(super) fn json<T: DeserializeOwned>(text: &str) -> Result<T, LogError> {
    serde_json::from_str(text).map_err(|error| unreadable("a header", &error))
}
