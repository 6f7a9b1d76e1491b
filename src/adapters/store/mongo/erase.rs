//! Snapshots, and erasing what precedes a tombstone.

use copilotd_actors::domain::conversation::header::Header;
use copilotd_actors::domain::event::Record;
use copilotd_actors::domain::ids::Seq;
use copilotd_actors::ports::{ErasureReceipt, LogError, Snapshot};
use futures::TryStreamExt;
use mongodb::bson::spec::BinarySubtype;
use mongodb::bson::{Binary, DateTime, Document, doc};

use super::append::{self, Heads};
use super::collections::Collections;
use super::documents::{AppendDocument, Head, Key, Projected, from_json, json, number, seq};
use super::failure::Failure;
use super::fold;
use super::quota::{self, CountedHeader};
use super::read::typed;
use crate::adapters::store::text::{self, MAX_APPEND_BYTES};

/// Stores a snapshot unless a newer one exists or the conversation is erased: a snapshot stored after the tombstone
/// would bring back what was erased.
pub(super) async fn save_snapshot(
    collections: &Collections,
    heads: &Heads,
    key: &Key,
    snapshot: &Snapshot,
) -> Result<(), Failure> {
    let Some(Head { tombstone: None, .. }) = append::head(collections, heads, key).await? else {
        return Ok(());
    };
    if snapshot.state.len() > MAX_APPEND_BYTES {
        let refusal = format!(
            "the snapshot has {} bytes; at most {MAX_APPEND_BYTES} are stored",
            snapshot.state.len()
        );
        return Err(LogError::Refused(refusal).into());
    }
    let at = number(snapshot.seq)?;
    let older = doc! { "_id": key.id(), "seq": { "$lte": at } };
    let set = doc! { "$set": {
        "seq": at,
        "version": i64::from(snapshot.version),
        "state": Binary { subtype: BinarySubtype::Generic, bytes: snapshot.state.clone() },
        "at": DateTime::now(),
    } };
    let written = collections
        .call(collections.snapshots.update_one(older, set).upsert(true))
        .await;
    match written {
        // A newer one is stored, so the filter excluded it and the upsert collided with its `_id`.
        Err(failure) if failure.is_duplicate() => return Ok(()),
        outcome => drop(outcome?),
    }
    // The conversation was erased meanwhile, and perhaps cleaned already: then this snapshot was stored after that.
    let end = append::head(collections, heads, key).await?;
    if end.is_none_or(|end| end.tombstone.is_some()) {
        let late = collections.snapshots.delete_one(doc! { "_id": key.id() });
        collections.call(late).await?;
    }
    Ok(())
}

/// Deletes everything of a conversation but its tombstone.
pub(super) async fn erase(
    collections: &Collections,
    heads: &Heads,
    key: &Key,
    tombstone: Seq,
) -> Result<ErasureReceipt, Failure> {
    let Some(head) = fold::head(collections, key).await? else {
        return Ok(ErasureReceipt::default());
    };
    let at = number(tombstone)?;
    if head.tombstone != Some(at) {
        let refusal = format!("record {tombstone} is not the tombstone of {}", key.conversation);
        return Err(LogError::Refused(refusal).into());
    }
    heads.learn(key, head);
    // First the header, which cannot be folded any more once the first record is gone.
    let projected = keep_header(collections, key, tombstone).await?;

    // Everything but the tombstone's append: nothing follows it, and numbers may be damaged.
    let mut rest = key.filter();
    rest.insert("_id", doc! { "$ne": head.append_id });
    let mut records = 0_u64;
    let appends = collections.appends.clone_with_type::<Document>();
    let mut found = collections
        .call(appends.find(rest.clone()).projection(Head::projection()))
        .await?;
    while let Some(append) = collections.call(found.try_next()).await? {
        let count = Head::read(&append).map_or(1, |append| {
            append.last_seq.saturating_sub(append.first_seq).saturating_add(1)
        });
        records = records.saturating_add(u64::try_from(count).unwrap_or(1));
    }
    collections.call(collections.appends.delete_many(rest)).await?;
    records += keep_tombstone(collections, key, (&head, at), &projected.header).await?;
    let snapshots = collections
        .call(collections.snapshots.delete_one(doc! { "_id": key.id() }))
        .await?;

    let everything = doc! { "$set": projected.everything()? };
    let counting = collections.counting.read().await;
    let headers = collections.conversations.clone_with_type::<CountedHeader>();
    let replace = headers
        .find_one_and_update(doc! { "_id": key.id() }, everything)
        .projection(CountedHeader::projection())
        .upsert(true);
    let before = collections.call(replace).await?;
    quota::moved(collections, before, &projected.header).await?;
    drop(counting);
    Ok(ErasureReceipt {
        stores: vec![
            ("mongodb.records".to_owned(), records),
            ("mongodb.snapshots".to_owned(), snapshots.deleted_count),
        ],
    })
}

/// Stores in the log what its first record can no longer provide: the conversation's owner and time.
async fn keep_header(collections: &Collections, key: &Key, tombstone: Seq) -> Result<Projected, Failure> {
    let mut own = key.filter();
    own.insert("tombstone", number(tombstone)?);
    let appends = collections.appends.clone_with_type::<Document>();
    let last = collections
        .call(appends.find_one(own.clone()).projection(doc! { "header": 1 }))
        .await?;
    let kept = last.as_ref().and_then(|last| last.get_str("header").ok());
    let header = match kept {
        Some(kept) => from_json(kept)?,
        None => {
            let Some(found) = fold::projected(collections, key).await? else {
                let missing = format!("the log of {} does not begin with its creation", key.conversation);
                return Err(LogError::Corrupt(missing).into());
            };
            let mut header = found.header;
            fold::strip(&mut header);
            let set = doc! { "$set": { "header": json(&header)? } };
            collections.call(appends.update_one(own, set)).await?;
            header
        }
    };
    Ok(Projected {
        header,
        tombstone: Some(tombstone),
        cleaned: true,
    })
}

/// Deletes everything but the tombstone from its append; returns the number of deleted records.
async fn keep_tombstone(
    collections: &Collections,
    key: &Key,
    (head, tombstone): (&Head, i64),
    header: &Header,
) -> Result<u64, Failure> {
    let own = doc! { "_id": head.append_id, "tenant": key.tenant.as_str() };
    let appends = collections.appends.clone_with_type::<Document>();
    let Some(append) = collections.call(appends.find_one(own.clone())).await? else {
        return Ok(0);
    };
    let append = typed::<AppendDocument>(append);
    let decoded = append.and_then(|append| {
        let records: Result<Vec<Record>, LogError> = append.records.iter().map(|record| text::decode(record)).collect();
        Ok(records?)
    });
    if head.first_seq == tombstone && decoded.is_ok() {
        return Ok(0);
    }
    let at = seq(tombstone)?;
    let mut kept = decoded.unwrap_or_default();
    kept.retain(|record| record.seq == at);
    if kept.is_empty() {
        // The tombstone is unreadable; it contains no more than this.
        kept.push(text::tombstone(at, Some(header)));
    }
    let kept: Result<Vec<String>, LogError> = kept.iter().map(json).collect();
    let change = doc! {
        "$set": { "first_seq": tombstone, "last_seq": tombstone, "messages": 0, "records": kept? },
        "$unset": { "turns": "" },
    };
    collections.call(appends.update_one(own, change)).await?;
    Ok(seq(tombstone.saturating_sub(head.first_seq).max(0))?)
}
