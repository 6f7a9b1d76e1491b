//! Queries. Each is limited to one tenant; only `pending` reads those of all tenants.

use copilotd_actors::domain::conversation::header::Header;
use copilotd_actors::domain::event::Record;
use copilotd_actors::domain::ids::{Seq, TurnId, UserId};
use copilotd_actors::ports::{ListQuery, LogError, Order, PendingConversation, Snapshot, TurnRecords};
use copilotd_actors::tenancy::TenantScope;
use futures::TryStreamExt;
use mongodb::bson::{Document, doc};

use super::collections::Collections;
use super::documents::{
    AppendDocument, DueDocument, HeaderDocument, Key, Projected, channel, key, nanos, seq, time, turn_key, uuid,
};
use super::failure::Failure;
use crate::adapters::store::text;
use crate::adapters::store::unreadable::skip_unreadable;

/// Returns records after a sequence number. The page may begin in the middle of an append.
pub(super) async fn records(
    collections: &Collections,
    key: &Key,
    after: Seq,
    limit: usize,
) -> Result<Vec<Record>, Failure> {
    upwards(collections, key, after, limit, Document::new(), |_| true).await
}

/// Returns a page of messages.
pub(super) async fn messages(
    collections: &Collections,
    key: &Key,
    cursor: Option<Seq>,
    order: Order,
    limit: usize,
) -> Result<Vec<Record>, Failure> {
    let is_message = |record: &Record| record.event.is_message();
    let only = doc! { "messages": { "$gt": 0 } };
    match order {
        Order::Asc => upwards(collections, key, cursor.unwrap_or(0), limit, only, is_message).await,
        Order::Desc => {
            let mut filter = key.filter();
            filter.extend(only);
            if let Some(cursor) = cursor {
                filter.insert("first_seq", doc! { "$lt": bound(cursor) });
            }
            let mut page = Vec::new();
            if limit == 0 {
                return Ok(page);
            }
            let found = collections
                .appends
                .find(filter)
                .sort(doc! { "first_seq": -1 })
                .limit(bound(limit));
            let mut found = collections.call(found).await?;
            while page.len() < limit
                && let Some(append) = collections.call(found.try_next()).await?
            {
                let earlier = |record: &Record| cursor.is_none_or(|cursor| record.seq < cursor);
                let records = decode(&append)?.into_iter().rev();
                page.extend(records.filter(|record| is_message(record) && earlier(record)));
            }
            page.truncate(limit);
            Ok(page)
        }
    }
}

async fn upwards(
    collections: &Collections,
    key: &Key,
    after: Seq,
    limit: usize,
    only: Document,
    wanted: impl Fn(&Record) -> bool,
) -> Result<Vec<Record>, Failure> {
    let mut page = Vec::new();
    // To MongoDB a limit of 0 means none.
    if limit == 0 {
        return Ok(page);
    }
    let after_number = bound(after);
    let mut filter = key.filter();
    filter.extend(only);
    let mut containing = filter.clone();
    containing.insert("first_seq", doc! { "$lte": after_number });
    filter.insert("first_seq", doc! { "$gt": after_number });
    let mut add = |append: &AppendDocument| -> Result<usize, Failure> {
        let records = decode(append)?.into_iter();
        page.extend(records.filter(|record| record.seq > after && wanted(record)));
        Ok(page.len())
    };
    // The page begins inside this append or right after it. Two bounded queries, since one by `last_seq` would need an
    // index of its own.
    let before = async {
        if after == 0 {
            return Ok(None);
        }
        let last = collections.appends.find_one(containing).sort(doc! { "first_seq": -1 });
        collections.call(last).await
    };
    let later = collections
        .appends
        .find(filter)
        .sort(doc! { "first_seq": 1 })
        .limit(bound(limit));
    let (before, mut later) = tokio::try_join!(before, collections.call(later))?;
    let mut length = before.map_or(Ok(0), |append| add(&append))?;
    while length < limit
        && let Some(append) = collections.call(later.try_next()).await?
    {
        length = add(&append)?;
    }
    page.truncate(limit);
    Ok(page)
}

/// Returns all records of one turn.
pub(super) async fn turn(
    collections: &Collections,
    scope: &TenantScope,
    turn: TurnId,
) -> Result<Option<TurnRecords>, Failure> {
    let filter = doc! { "tenant": scope.tenant().as_str(), "turns": turn_key(turn) };
    let found = collections.appends.find(filter).sort(doc! { "first_seq": 1 });
    let mut found = collections.call(found).await?;
    let mut records = None;
    while let Some(append) = collections.call(found.try_next()).await? {
        if records.is_none() {
            let user: Result<UserId, _> = append.user.parse();
            records = Some(TurnRecords {
                conversation: append.key()?.conversation,
                user: user.map_err(|error| LogError::Corrupt(format!("a user: {error}")))?,
                records: Vec::new(),
            });
        }
        let own = decode(&append)?.into_iter().filter(|record| record.turn == Some(turn));
        if let Some(records) = &mut records {
            records.records.extend(own);
        }
    }
    Ok(records)
}

/// Returns a page of conversations, newest first.
pub(super) async fn list(
    collections: &Collections,
    scope: &TenantScope,
    query: &ListQuery,
) -> Result<Vec<Header>, Failure> {
    let mut page = Vec::new();
    if query.limit == 0 {
        return Ok(page);
    }
    let mut filter = doc! { "tenant": scope.tenant().as_str() };
    if let Some(user) = &query.user {
        filter.insert("user", user.as_str());
    }
    if let Some(wanted) = query.channel {
        filter.insert("channel", channel(wanted)?);
    }
    if !query.erased {
        filter.insert("erased", false);
    }
    if let Some((created_at, id)) = query.before {
        let created_at = nanos(created_at)?;
        let earlier = doc! { "created_at": { "$lt": created_at } };
        let same = doc! { "created_at": created_at, "conversation": { "$lt": uuid(id.uuid()) } };
        filter.insert("$or", vec![earlier, same]);
    }
    let newest_first = doc! { "created_at": -1, "conversation": -1 };
    // No limit here: a skipped unreadable document must not make a page look like the last one.
    let conversations = collections.conversations.clone_with_type::<Document>();
    let found = conversations
        .find(filter)
        .sort(newest_first)
        .batch_size(batch(query.limit));
    let mut found = collections.call(found).await?;
    while page.len() < query.limit
        && let Some(document) = collections.call(found.try_next()).await?
    {
        let id = name_of(&document);
        let header = typed::<HeaderDocument>(document).and_then(|document| Ok(Projected::try_from(document)?.header));
        page.extend(skip_unreadable("conversation", id, header)?);
    }
    Ok(page)
}

/// Returns the newest snapshot.
pub(super) async fn snapshot(collections: &Collections, key: &Key) -> Result<Option<Snapshot>, Failure> {
    let found = collections
        .call(collections.snapshots.find_one(doc! { "_id": key.id() }))
        .await?;
    let Some(found) = found else { return Ok(None) };
    Ok(Some(Snapshot {
        seq: seq(found.seq)?,
        version: u32::try_from(found.version).map_err(|_| LogError::Corrupt("a snapshot's version".to_owned()))?,
        state: found.state.bytes,
    }))
}

/// Returns conversations that the reconciler has to look at.
pub(super) async fn pending(
    collections: &Collections,
    cursor: Option<&PendingConversation>,
    limit: usize,
) -> Result<Vec<PendingConversation>, Failure> {
    let mut pending = Vec::new();
    if limit == 0 {
        return Ok(pending);
    }
    let mut filter = doc! { "due": true };
    if let Some(cursor) = cursor {
        let tenant = cursor.scope.tenant().as_str();
        let later = doc! { "tenant": { "$gt": tenant } };
        let same = doc! { "tenant": tenant, "conversation": { "$gt": uuid(cursor.conversation.uuid()) } };
        filter.insert("$or", vec![later, same]);
    }
    let due = collections.conversations.clone_with_type::<Document>();
    let found = due
        .find(filter)
        .sort(doc! { "tenant": 1, "conversation": 1 })
        .batch_size(batch(limit))
        .projection(doc! { "tenant": 1, "conversation": 1, "tombstone": 1, "updated_at": 1, "applied_seq": 1 });
    let mut found = collections.call(found).await?;
    while pending.len() < limit
        && let Some(document) = collections.call(found.try_next()).await?
    {
        let id = name_of(&document);
        let due = typed::<DueDocument>(document).and_then(|due| Ok(pending_of(&due)?));
        pending.extend(skip_unreadable("conversation", id, due)?);
    }
    Ok(pending)
}

fn pending_of(document: &DueDocument) -> Result<PendingConversation, LogError> {
    Ok(PendingConversation {
        scope: text::stored_scope(&document.tenant)?,
        conversation: key(&document.tenant, document.conversation)?.conversation,
        tombstone: document.tombstone.map(seq).transpose()?,
        updated_at: time(document.updated_at)?,
        // Only a hint: an unreadable number does not prevent a turn from being resumed.
        last_seq: document
            .applied_seq
            .as_i64()
            .and_then(|number| seq(number).ok())
            .unwrap_or(0),
    })
}

/// Reads one document of a list, so that an unreadable one can be skipped.
pub(super) fn typed<T: serde::de::DeserializeOwned>(document: Document) -> Result<T, Failure> {
    mongodb::bson::deserialize_from_document(document)
        .map_err(mongodb::error::Error::from)
        .map_err(Failure::from)
}

/// Names a document for the log, as far as it is readable.
pub(super) fn name_of(document: &Document) -> String {
    let id = document.get("_id").map_or_else(|| "?".to_owned(), ToString::to_string);
    match document.get("conversation") {
        Some(conversation) => format!("{id} (conversation {conversation})"),
        None => id,
    }
}

/// How many documents the server sends at once.
fn batch(limit: usize) -> u32 {
    u32::try_from(limit).unwrap_or(u32::MAX).clamp(1, 1_000)
}

fn decode(append: &AppendDocument) -> Result<Vec<Record>, LogError> {
    append.records.iter().map(|record| text::decode(record)).collect()
}

/// A limit or a number to compare with, capped at BSON's largest integer; no record has a larger one.
fn bound(number: impl TryInto<i64>) -> i64 {
    number.try_into().unwrap_or(i64::MAX)
}
