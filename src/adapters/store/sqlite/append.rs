//! Writes appends and snapshots to the tables.

use copilotd_actors::domain::conversation::header::Header;
use copilotd_actors::domain::ids::{ConversationId, Seq, TenantId, TurnId};
use copilotd_actors::ports::{Append, LogError, Snapshot};
use rusqlite::{Connection, OptionalExtension, params};
use uuid::Uuid;

use super::rows::{self, Changes};
use crate::adapters::sqlite::failure::Failure;
use crate::adapters::store::text;

/// An append encoded for the writer: once, however often it is tried.
pub(super) struct EncodedAppend {
    conversation: ConversationId,
    append_id: Uuid,
    first_seq: Seq,
    last_seq: Seq,
    messages: usize,
    tombstone: Option<Seq>,
    turns: Vec<TurnId>,
    records: Vec<u8>,
    header: Header,
    changes: Changes,
}

impl EncodedAppend {
    /// Encodes an append; refused if it is too large.
    pub(super) fn new(append: &Append) -> Result<Self, LogError> {
        Ok(Self {
            conversation: append.conversation,
            append_id: append.append_id,
            first_seq: append.first_seq(),
            last_seq: append.last_seq(),
            messages: text::messages(&append.records),
            tombstone: append.tombstone(),
            turns: text::turns(&append.records),
            records: text::encode_array(&append.records)?,
            header: append.header.clone(),
            changes: Changes::of(&append.records),
        })
    }

    /// Returns whether it erases the conversation.
    pub(super) fn is_erasure(&self) -> bool {
        self.tombstone.is_some()
    }

    /// Writes the append and its projections.
    pub(super) fn write(&self, connection: &Connection) -> Result<(), Failure> {
        let (tenant, key) = (self.header.tenant.as_str(), rows::key(self.conversation));
        let head = head(connection, &self.header.tenant, self.conversation)?;
        match &head {
            Some(head) if head.append_id == Some(self.append_id) => return Ok(()),
            Some(head) if head.last_seq >= self.first_seq && self.is_stored(connection)? => return Ok(()),
            Some(head) if head.tombstone.is_some() => return Err(LogError::Erased.into()),
            _ => {}
        }
        if self.first_seq != head.map_or(0, |head| head.last_seq) + 1 {
            return Err(LogError::Conflict(self.first_seq).into());
        }
        // The log's first record, which names the owner, is about to be deleted and may be damaged already.
        let kept = match self.tombstone {
            Some(_) => Some(rows::text(&self.header)?),
            None => None,
        };
        connection
            .prepare_cached(
                "INSERT INTO appends (tenant, conversation, first_seq, last_seq, append_id, messages, tombstone, records, header)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
            )?
            .execute(params![
                tenant,
                key,
                self.first_seq,
                self.last_seq,
                self.append_id,
                self.messages,
                self.tombstone,
                self.records,
                kept,
            ])?;
        for turn in &self.turns {
            add_turn(
                connection,
                &self.header.tenant,
                *turn,
                self.conversation,
                self.first_seq,
            )?;
        }
        let updated = rows::update(connection, &self.header, self.changes)?;
        if !updated {
            rows::insert(connection, &self.header, self.tombstone, false)?;
        }
        Ok(())
    }

    /// Counts the bytes handed to the database: the values of the statements above, as they are.
    pub(super) fn count(&self) {
        const INTEGER: usize = 8;
        const ID: usize = 16;
        let key = self.header.tenant.as_str().len() + ID;
        let records = key + ID + 4 * INTEGER + self.records.len();
        let turns = self.turns.len() * (key + INTEGER + ID);
        let row = match self.changes {
            Changes::Counters | Changes::Turns => 0,
            Changes::Usage => length(&self.header.usage),
            Changes::Everything => length(&self.header),
        };
        let projections = turns + key + 5 * INTEGER + row;
        count_bytes("records", records);
        count_bytes("projections", projections);
    }

    /// Returns whether this very append is already stored at its sequence number.
    fn is_stored(&self, connection: &Connection) -> Result<bool, Failure> {
        let standing: Option<Uuid> = connection
            .prepare_cached("SELECT append_id FROM appends WHERE tenant = ?1 AND conversation = ?2 AND first_seq = ?3")?
            .query_row(
                params![
                    self.header.tenant.as_str(),
                    rows::key(self.conversation),
                    self.first_seq
                ],
                |row| row.get(0),
            )
            .optional()?;
        Ok(standing == Some(self.append_id))
    }
}

/// Length of a value as JSON text; it has been encoded successfully before.
fn length<T: serde::Serialize>(value: &T) -> usize {
    rows::text(value).map_or(0, |text| text.len())
}

fn count_bytes(part: &'static str, bytes: usize) {
    metrics::counter!("copilotd_store_bytes_total", "store" => "sqlite", "part" => part).increment(bytes as u64);
}

/// Records in `append_turns` that an append has records of a turn.
pub(super) fn add_turn(
    connection: &Connection,
    tenant: &TenantId,
    turn: TurnId,
    conversation: ConversationId,
    first_seq: Seq,
) -> Result<(), Failure> {
    connection
        .prepare_cached(
            "INSERT OR IGNORE INTO append_turns (tenant, turn, first_seq, conversation) VALUES (?1, ?2, ?3, ?4)",
        )?
        .execute(params![
            tenant.as_str(),
            turn.uuid(),
            first_seq,
            rows::key(conversation)
        ])?;
    Ok(())
}

/// The last append of a log.
pub(super) struct Head {
    pub(super) last_seq: Seq,
    /// `None` if unreadable.
    pub(super) append_id: Option<Uuid>,
    pub(super) tombstone: Option<Seq>,
}

/// Larger sequence numbers are damage: no log grows so long.
const MAX_SEQ: Seq = 1 << 53;

/// More records in one append are damage: its size is limited.
const MAX_RECORDS: Seq = 1 << 20;

/// Finds the last append of a log, from the log itself, without reading its records, which may be damaged.
pub(super) fn head(
    connection: &Connection,
    tenant: &TenantId,
    conversation: ConversationId,
) -> Result<Option<Head>, Failure> {
    let head = connection
        .prepare_cached(
            "SELECT first_seq, last_seq, append_id, tombstone FROM appends
             WHERE tenant = ?1 AND conversation = ?2 AND first_seq BETWEEN 1 AND ?3
             ORDER BY first_seq DESC LIMIT 1",
        )?
        .query_row(params![tenant.as_str(), rows::key(conversation), MAX_SEQ], |row| {
            let first_seq: Seq = row.get(0)?;
            let last_seq = row.get(1).ok();
            let is_plausible = |last_seq: &Seq| (first_seq..first_seq + MAX_RECORDS).contains(last_seq);
            Ok(Head {
                last_seq: last_seq.filter(is_plausible).unwrap_or(first_seq),
                append_id: row.get(2).ok(),
                tombstone: row.get(3).unwrap_or_default(),
            })
        })
        .optional()?;
    Ok(head)
}

/// Returns whether the log exists and has no tombstone.
pub(super) fn is_readable(
    connection: &Connection,
    tenant: &TenantId,
    conversation: ConversationId,
) -> Result<bool, Failure> {
    let head = head(connection, tenant, conversation)?;
    Ok(matches!(head, Some(Head { tombstone: None, .. })))
}

/// Stores a snapshot unless a newer one exists or the conversation is erased: a snapshot stored after the tombstone
/// would bring back what was erased.
pub(super) fn save_snapshot(
    connection: &Connection,
    tenant: &TenantId,
    conversation: ConversationId,
    snapshot: &Snapshot,
) -> Result<(), Failure> {
    if !is_readable(connection, tenant, conversation)? {
        return Ok(());
    }
    connection
        .prepare_cached(
            "INSERT INTO snapshots (tenant, conversation, seq, version, state) VALUES (?1, ?2, ?3, ?4, ?5)
             ON CONFLICT (tenant, conversation) DO UPDATE
             SET seq = excluded.seq, version = excluded.version, state = excluded.state WHERE excluded.seq >= seq",
        )?
        .execute(params![
            tenant.as_str(),
            rows::key(conversation),
            snapshot.seq,
            snapshot.version,
            snapshot.state,
        ])?;
    count_bytes("snapshots", snapshot.state.len());
    Ok(())
}
