//! Erases what precedes a tombstone, and rebuilds the projections.

use std::ops::ControlFlow;

use copilotd_actors::domain::content::Metadata;
use copilotd_actors::domain::conversation::header::Header;
use copilotd_actors::domain::event::Record;
use copilotd_actors::domain::ids::{ConversationId, Seq, TenantId, TurnId};
use copilotd_actors::ports::LogError;
use rusqlite::{Connection, OptionalExtension, Row, params};
use serde::Deserialize;
use uuid::Uuid;

use super::append::{add_turn, head};
use super::rows;
use crate::adapters::sqlite::failure::Failure;
use crate::adapters::store::text;
use crate::adapters::store::unreadable::skip_unreadable;

/// Most appends deleted in one transaction, so that other writers get their turn in between.
const PIECE: usize = 200;

/// Bytes of records after which a transaction ends: deleted rows are overwritten, which takes as much of the
/// write-ahead log and, on a full disk, of the reserve.
const PIECE_BYTES: usize = 1024 * 1024;

/// What one step of an erasure deleted.
#[derive(Default)]
pub(super) struct Erased {
    pub(super) records: u64,
    pub(super) snapshots: u64,
}

/// The part of a record that an erasure needs; the rest may be unreadable and is deleted all the same.
#[derive(Deserialize)]
struct RecordTurn {
    #[serde(default)]
    turn: Option<TurnId>,
}

/// Deletes some of the oldest appends; breaks when only the tombstone is left.
pub(super) fn erase_some(
    connection: &Connection,
    tenant: &TenantId,
    conversation: ConversationId,
    tombstone: Seq,
) -> Result<ControlFlow<Erased, Erased>, Failure> {
    let Some(head) = head(connection, tenant, conversation)? else {
        return Ok(ControlFlow::Break(Erased::default()));
    };
    if head.tombstone != Some(tombstone) {
        let refusal = format!("record {tombstone} is not the tombstone of {conversation}");
        return Err(LogError::Refused(refusal).into());
    }
    let key = rows::key(conversation);
    let (oldest, more) = oldest(connection, tenant, conversation, tombstone)?;
    let mut erased = Erased::default();
    for OldAppend {
        row,
        first_seq,
        count,
        records,
    } in oldest
    {
        forget_turns(connection, tenant, conversation, first_seq, &records)?;
        erased.records += count;
        connection
            .prepare_cached("DELETE FROM appends WHERE rowid = ?1")?
            .execute([row])?;
    }
    if more {
        return Ok(ControlFlow::Continue(erased));
    }
    erased.records += keep_tombstone(connection, tenant, conversation, tombstone)?;
    let snapshots = connection
        .prepare_cached("DELETE FROM snapshots WHERE tenant = ?1 AND conversation = ?2")?
        .execute(params![tenant.as_str(), key])?;
    erased.snapshots = snapshots as u64;
    keep_header(connection, tenant, conversation, tombstone)?;
    Ok(ControlFlow::Break(erased))
}

/// An append to be deleted. Its numbers may be damaged.
struct OldAppend {
    row: i64,
    first_seq: i64,
    /// Number of its records.
    count: u64,
    records: Vec<u8>,
}

/// Reads the appends other than the tombstone's, as many as one transaction deletes, and whether there are more.
/// Nothing follows a tombstone, so an append with a larger number is damage and is deleted too.
fn oldest(
    connection: &Connection,
    tenant: &TenantId,
    conversation: ConversationId,
    tombstone: Seq,
) -> Result<(Vec<OldAppend>, bool), Failure> {
    let mut statement = connection.prepare_cached(
        "SELECT rowid, first_seq, last_seq, records FROM appends
         WHERE tenant = ?1 AND conversation = ?2 AND tombstone IS NOT ?3 ORDER BY first_seq",
    )?;
    let mut rows = statement.query(params![tenant.as_str(), rows::key(conversation), tombstone])?;
    let (mut found, mut bytes) = (Vec::new(), 0);
    while let Some(row) = rows.next()? {
        if found.len() == PIECE || bytes >= PIECE_BYTES {
            return Ok((found, true));
        }
        let records: Vec<u8> = row.get(3)?;
        bytes += records.len();
        let (first_seq, last_seq): (i64, i64) = (row.get(1)?, row.get(2)?);
        found.push(OldAppend {
            row: row.get(0)?,
            first_seq,
            count: count(first_seq, last_seq),
            records,
        });
    }
    Ok((found, false))
}

/// Number of records of an append; 1 if its numbers make no sense.
fn count(first_seq: i64, last_seq: i64) -> u64 {
    let count = last_seq.saturating_sub(first_seq).saturating_add(1);
    u64::try_from(count).unwrap_or(1).clamp(1, 1 << 32)
}

fn forget_turns(
    connection: &Connection,
    tenant: &TenantId,
    conversation: ConversationId,
    first_seq: i64,
    records: &[u8],
) -> Result<(), Failure> {
    let Ok(turns) = serde_json::from_slice::<Vec<RecordTurn>>(records) else {
        // The append is unreadable, so its turns are unknown: search all turns of the tenant.
        connection
            .prepare_cached("DELETE FROM append_turns WHERE tenant = ?1 AND conversation = ?2 AND first_seq = ?3")?
            .execute(params![tenant.as_str(), rows::key(conversation), first_seq])?;
        return Ok(());
    };
    let mut turns: Vec<Uuid> = turns.iter().filter_map(|of| of.turn).map(TurnId::uuid).collect();
    turns.dedup();
    for turn in turns {
        connection
            .prepare_cached("DELETE FROM append_turns WHERE tenant = ?1 AND turn = ?2 AND first_seq = ?3")?
            .execute(params![tenant.as_str(), turn, first_seq])?;
    }
    Ok(())
}

/// Deletes everything but the tombstone from its append; returns the number of deleted records.
fn keep_tombstone(
    connection: &Connection,
    tenant: &TenantId,
    conversation: ConversationId,
    tombstone: Seq,
) -> Result<u64, Failure> {
    let (row, first_seq, records): (i64, i64, Vec<u8>) = connection
        .prepare_cached(
            "SELECT rowid, first_seq, records FROM appends WHERE tenant = ?1 AND conversation = ?2 AND tombstone = ?3",
        )?
        .query_row(params![tenant.as_str(), rows::key(conversation), tombstone], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?))
        })?;
    let decoded = text::decode_array(&records);
    if rows::bound(tombstone) == first_seq && decoded.is_ok() {
        return Ok(0);
    }
    forget_turns(connection, tenant, conversation, first_seq, &records)?;
    let mut kept = decoded.unwrap_or_default();
    kept.retain(|record| record.seq == tombstone);
    if kept.is_empty() {
        // The tombstone is unreadable; it contains no more than this.
        let header = find_header(connection, tenant, conversation).ok().flatten();
        kept.push(text::tombstone(tombstone, header.as_ref()));
    }
    connection
        .prepare_cached(
            "UPDATE appends SET first_seq = ?2, last_seq = ?2, messages = 0, records = ?3 WHERE rowid = ?1",
        )?
        .execute(params![row, tombstone, text::encode_array(&kept)?])?;
    Ok(count(first_seq, rows::bound(tombstone)) - 1)
}

/// Stores in the log what its first record can no longer provide: the conversation's owner and time.
fn keep_header(
    connection: &Connection,
    tenant: &TenantId,
    conversation: ConversationId,
    tombstone: Seq,
) -> Result<(), Failure> {
    let kept: Option<String> = connection
        .prepare_cached("SELECT header FROM appends WHERE tenant = ?1 AND conversation = ?2 AND first_seq = ?3")?
        .query_row(params![tenant.as_str(), rows::key(conversation), tombstone], |row| {
            row.get(0)
        })?;
    if kept.is_some() {
        return Ok(());
    }
    let Some(mut header) = find_header(connection, tenant, conversation)? else {
        let missing = format!("the header of {conversation} is missing; rebuild the projections");
        return Err(LogError::Corrupt(missing).into());
    };
    header.title = None;
    header.metadata = Metadata::new();
    header.idempotency = None;
    rows::insert(connection, &header, Some(tombstone), false)?;
    connection
        .prepare_cached("UPDATE appends SET header = ?4 WHERE tenant = ?1 AND conversation = ?2 AND first_seq = ?3")?
        .execute(params![
            tenant.as_str(),
            rows::key(conversation),
            tombstone,
            rows::text(&header)?,
        ])?;
    Ok(())
}

/// Records that only the tombstone of an erased conversation is left.
pub(super) fn finish(connection: &Connection, tenant: &TenantId, conversation: ConversationId) -> Result<(), Failure> {
    connection
        .prepare_cached(
            "UPDATE conversations SET due = 0 WHERE tenant = ?1 AND conversation = ?2 AND tombstone IS NOT NULL",
        )?
        .execute(params![tenant.as_str(), rows::key(conversation)])?;
    Ok(())
}

/// Reads the header of one conversation.
pub(super) fn find_header(
    connection: &Connection,
    tenant: &TenantId,
    conversation: ConversationId,
) -> Result<Option<Header>, Failure> {
    let sql = format!(
        "SELECT {} FROM conversations WHERE tenant = ?1 AND conversation = ?2",
        rows::HEADER
    );
    connection
        .prepare_cached(&sql)?
        .query_row(params![tenant.as_str(), rows::key(conversation)], |row| {
            Ok(rows::header(row))
        })
        .optional()?
        .transpose()
}

/// Rebuilds the projections from the log; returns the number of conversations.
pub(super) fn rebuild(connection: &Connection) -> Result<u64, Failure> {
    connection.execute_batch("DELETE FROM append_turns; DELETE FROM conversations; DELETE FROM stored;")?;
    let mut statement = connection.prepare(
        "SELECT tenant, conversation, first_seq, tombstone, header, records FROM appends
         ORDER BY tenant, conversation, first_seq",
    )?;
    let mut appends = statement.query([])?;
    let mut folding: Option<(Header, Option<Seq>, bool)> = None;
    let mut count = 0;
    let mut before: Option<(String, Uuid)> = None;
    while let Some(row) = appends.next()? {
        // An unreadable row still has a position from which the next one is read.
        let place = row.get(0).ok().zip(row.get(1).ok());
        let is_first = place.is_none() || place != before;
        before = place;
        let Some(StoredAppend {
            tenant,
            conversation,
            first_seq,
            tombstone,
            kept,
            records,
        }) = skip_unreadable("append", rows::name_of(row, 1), appended(row))?
        else {
            continue;
        };
        for turn in text::turns(&records) {
            add_turn(connection, &tenant, turn, conversation, first_seq)?;
        }
        let same = |header: &Header| header.id == conversation && header.tenant == tenant;
        match &mut folding {
            Some((header, end, _)) if same(header) => {
                records.iter().for_each(|record| header.apply(record));
                *end = tombstone;
            }
            other => {
                if let Some((header, tombstone, cleaned)) = other.take() {
                    rows::insert(connection, &header, tombstone, cleaned)?;
                }
                let cleaned = kept.is_some() && is_first && tombstone == Some(first_seq);
                let header = match kept {
                    Some(header) => rows::json(&header),
                    None => fold(conversation, &records),
                };
                // The remaining appends of this log are skipped the same way.
                let Some(header) = skip_unreadable("conversation", conversation, header)? else {
                    continue;
                };
                *other = Some((header, tombstone, cleaned));
                count += 1;
            }
        }
    }
    if let Some((header, tombstone, cleaned)) = folding {
        rows::insert(connection, &header, tombstone, cleaned)?;
    }
    Ok(count)
}

/// The part of an append that rebuilding needs.
struct StoredAppend {
    tenant: TenantId,
    conversation: ConversationId,
    first_seq: Seq,
    tombstone: Option<Seq>,
    kept: Option<String>,
    records: Vec<Record>,
}

fn appended(row: &Row<'_>) -> Result<StoredAppend, Failure> {
    let tenant: String = row.get(0)?;
    Ok(StoredAppend {
        tenant: text::stored_scope(&tenant)?.tenant().clone(),
        conversation: rows::conversation(row.get(1)?),
        first_seq: row.get(2)?,
        tombstone: row.get(3)?,
        kept: row.get(4)?,
        records: text::decode_array(row.get_ref(5)?.as_blob().map_err(rusqlite::Error::from)?)?,
    })
}

fn fold(id: ConversationId, records: &[Record]) -> Result<Header, LogError> {
    let opened = records
        .split_first()
        .and_then(|(first, rest)| Some((Header::open(id, first)?, rest)));
    let Some((mut header, rest)) = opened else {
        return Err(LogError::Corrupt(format!(
            "the log of {id} does not begin with its creation"
        )));
    };
    rest.iter().for_each(|record| header.apply(record));
    Ok(header)
}
