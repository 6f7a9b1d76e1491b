//! Queries. Each is limited to one tenant; only `pending` reads those of all tenants.

use copilotd_actors::domain::conversation::header::Header;
use copilotd_actors::domain::event::Record;
use copilotd_actors::domain::ids::{ConversationId, Seq, TenantId, TurnId, UserId};
use copilotd_actors::ports::{ListQuery, LogError, Order, PendingConversation, Snapshot, TurnRecords};
use rusqlite::{Connection, OptionalExtension, Row, ToSql, params};
use uuid::Uuid;

use super::rows;
use crate::adapters::sqlite::failure::Failure;
use crate::adapters::store::text;
use crate::adapters::store::unreadable::skip_unreadable;

/// Returns records after a sequence number. The page may begin in the middle of an append.
pub(super) fn records(
    connection: &Connection,
    tenant: &TenantId,
    conversation: ConversationId,
    after: Seq,
    limit: usize,
) -> Result<Vec<Record>, Failure> {
    let mut statement = connection.prepare_cached(
        "SELECT records FROM appends WHERE tenant = ?1 AND conversation = ?2 AND first_seq >= coalesce(
             (SELECT max(first_seq) FROM appends WHERE tenant = ?1 AND conversation = ?2 AND first_seq <= ?3), 0)
         ORDER BY first_seq",
    )?;
    let mut rows = statement.query(params![tenant.as_str(), rows::key(conversation), rows::bound(after)])?;
    let mut page = Vec::new();
    while page.len() < limit
        && let Some(row) = rows.next()?
    {
        let records = text::decode_array(row.get_ref(0)?.as_blob().map_err(rusqlite::Error::from)?)?;
        page.extend(records.into_iter().filter(|record| record.seq > after));
    }
    page.truncate(limit);
    Ok(page)
}

/// Returns all records of one turn.
pub(super) fn turn(connection: &Connection, tenant: &TenantId, turn: TurnId) -> Result<Option<TurnRecords>, Failure> {
    let mut statement = connection.prepare_cached(
        "SELECT a.conversation, c.user, a.records FROM append_turns t
         JOIN appends a USING (tenant, conversation, first_seq)
         JOIN conversations c USING (tenant, conversation)
         WHERE t.tenant = ?1 AND t.turn = ?2 ORDER BY t.first_seq",
    )?;
    let mut rows = statement.query(params![tenant.as_str(), turn.uuid()])?;
    let mut found: Option<TurnRecords> = None;
    while let Some(row) = rows.next()? {
        let conversation = rows::conversation(row.get(0)?);
        let user: String = row.get(1)?;
        let user: UserId = user
            .parse()
            .map_err(|error| LogError::Corrupt(format!("a user: {error}")))?;
        let records = text::decode_array(row.get_ref(2)?.as_blob().map_err(rusqlite::Error::from)?)?;
        let own: Vec<Record> = records.into_iter().filter(|record| record.turn == Some(turn)).collect();
        // Where an append was lost, another one may have its number.
        if own.is_empty() {
            continue;
        }
        let found = found.get_or_insert_with(|| TurnRecords {
            conversation,
            user,
            records: Vec::new(),
        });
        found.records.extend(own);
    }
    Ok(found)
}

/// Appends with messages from a sequence number on. Which ones have messages is read from the index alone.
const MESSAGES: &str = "SELECT records FROM appends WHERE tenant = ?1 AND conversation = ?2 AND messages > 0
         AND first_seq >= coalesce((SELECT first_seq FROM appends
             WHERE tenant = ?1 AND conversation = ?2 AND messages > 0 AND first_seq <= ?3
             ORDER BY first_seq DESC LIMIT 1), 0)
     ORDER BY first_seq";

/// Like [`MESSAGES`], those before a sequence number, the last one first.
const MESSAGES_BACKWARDS: &str = "SELECT records FROM appends
     WHERE tenant = ?1 AND conversation = ?2 AND messages > 0 AND first_seq < ?3
     ORDER BY first_seq DESC";

/// Returns a page of messages.
pub(super) fn messages(
    connection: &Connection,
    tenant: &TenantId,
    conversation: ConversationId,
    cursor: Option<Seq>,
    order: Order,
    limit: usize,
) -> Result<Vec<Record>, Failure> {
    let (sql, cursor) = match order {
        Order::Asc => (MESSAGES, cursor.unwrap_or(0)),
        Order::Desc => (MESSAGES_BACKWARDS, cursor.unwrap_or(Seq::MAX)),
    };
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query(params![tenant.as_str(), rows::key(conversation), rows::bound(cursor)])?;
    let mut page = Vec::new();
    while page.len() < limit
        && let Some(row) = rows.next()?
    {
        let records = text::decode_array(row.get_ref(0)?.as_blob().map_err(rusqlite::Error::from)?)?;
        let messages = records.into_iter().filter(|record| record.event.is_message());
        match order {
            Order::Asc => page.extend(messages.filter(|record| record.seq > cursor)),
            Order::Desc => page.extend(messages.rev().filter(|record| record.seq < cursor)),
        }
    }
    page.truncate(limit);
    Ok(page)
}

/// Returns a page of conversations, newest first.
pub(super) fn list(connection: &Connection, tenant: &TenantId, query: &ListQuery) -> Result<Vec<Header>, Failure> {
    let mut sql = format!("SELECT {} FROM conversations WHERE tenant = ?", rows::HEADER);
    let mut values: Vec<Box<dyn ToSql>> = vec![Box::new(tenant.as_str().to_owned())];
    if let Some(user) = &query.user {
        sql.push_str(" AND user = ?");
        values.push(Box::new(user.as_str().to_owned()));
    }
    if let Some(channel) = &query.channel {
        sql.push_str(" AND channel = ?");
        values.push(Box::new(rows::text(channel)?));
    }
    if !query.erased {
        sql.push_str(" AND erased = 0");
    }
    if let Some((time, id)) = query.before {
        sql.push_str(" AND (created_at, conversation) < (?, ?)");
        values.push(Box::new(rows::nanos(time)?));
        values.push(Box::new(rows::key(id)));
    }
    // No SQL limit: a skipped unreadable row must not make a page look like the last one.
    sql.push_str(" ORDER BY created_at DESC, conversation DESC");
    let mut statement = connection.prepare_cached(&sql)?;
    let mut rows = statement.query(rusqlite::params_from_iter(values))?;
    let mut page = Vec::new();
    while page.len() < query.limit
        && let Some(row) = rows.next()?
    {
        page.extend(skip_unreadable(
            "conversation",
            rows::name_of(row, 0),
            rows::header(row),
        )?);
    }
    Ok(page)
}

/// Returns the newest snapshot.
pub(super) fn snapshot(
    connection: &Connection,
    tenant: &TenantId,
    conversation: ConversationId,
) -> Result<Option<Snapshot>, Failure> {
    let snapshot = connection
        .prepare_cached("SELECT seq, version, state FROM snapshots WHERE tenant = ?1 AND conversation = ?2")?
        .query_row(params![tenant.as_str(), rows::key(conversation)], |row| {
            Ok(Snapshot {
                seq: row.get(0)?,
                version: row.get(1)?,
                state: row.get(2)?,
            })
        })
        .optional()?;
    Ok(snapshot)
}

/// Returns conversations that the reconciler has to look at.
pub(super) fn pending(
    connection: &Connection,
    after: Option<(TenantId, ConversationId)>,
    limit: usize,
) -> Result<Vec<PendingConversation>, Failure> {
    // No tenant's name is empty, so ('', x'') sorts before all of them.
    let (tenant, key) = match &after {
        Some((tenant, id)) => (tenant.as_str(), rows::key(*id).as_bytes().to_vec()),
        None => ("", Vec::new()),
    };
    let mut statement = connection.prepare_cached(
        "SELECT tenant, conversation, tombstone, updated_at, last_seq FROM conversations
         WHERE due = 1 AND (tenant, conversation) > (?1, ?2) ORDER BY tenant, conversation",
    )?;
    let mut rows = statement.query(params![tenant, key])?;
    let mut pending = Vec::new();
    while pending.len() < limit
        && let Some(row) = rows.next()?
    {
        pending.extend(skip_unreadable(
            "conversation",
            rows::name_of(row, 1),
            pending_row(row),
        )?);
    }
    Ok(pending)
}

fn pending_row(row: &Row<'_>) -> Result<PendingConversation, Failure> {
    let tenant: String = row.get(0)?;
    let key: Uuid = row.get(1)?;
    Ok(PendingConversation {
        scope: text::stored_scope(&tenant)?,
        conversation: rows::conversation(key),
        tombstone: row.get(2)?,
        updated_at: rows::time(row.get(3)?)?,
        // Only a hint: an unreadable number does not prevent a turn from being resumed.
        last_seq: row.get(4).unwrap_or(0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapters::sqlite::reserve::Reserve;
    use crate::adapters::sqlite::schema::open_writer;
    use crate::adapters::store::sqlite::tables::SCHEMA;

    /// A user can store any number of appends without a message between two messages.
    #[test]
    fn a_page_of_messages_reads_no_append_without_one() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("copilotd.db");
        let connection = open_writer(&path, &SCHEMA, &Reserve::open(directory.path(), &path)).unwrap();
        for sql in [MESSAGES, MESSAGES_BACKWARDS] {
            let mut plan = connection.prepare(&format!("EXPLAIN {sql}")).unwrap();
            let steps = plan
                .query_map(params!["acme", [0_u8; 16], 5], |row| row.get::<_, String>(1))
                .unwrap();
            let steps: Vec<String> = steps.map(Result::unwrap).collect();
            let at = |step: &str| steps.iter().position(|name| name == step);
            assert!(at("DeferredSeek").is_some(), "{steps:?}");
            assert!(at("Seek").is_none() && at("SorterSort").is_none(), "{steps:?}");
        }
    }
}
