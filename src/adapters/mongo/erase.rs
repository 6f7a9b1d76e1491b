//! Snapshots, and erasing what stands before a tombstone.

use copilotd_actors::domain::ids::Seq;
use copilotd_actors::ports::{ErasureReceipt, LogError, Snapshot};
use futures::TryStreamExt;
use mongodb::bson::spec::BinarySubtype;
use mongodb::bson::{Binary, DateTime, doc};

use super::append::{self, Heads};
use super::collections::Collections;
use super::documents::{Head, Key, Projected, from_json, json, number, seq};
use super::failure::Failure;
use super::fold;
use super::quota::{self, Counted};
use crate::adapters::{MAX_APPEND_BYTES, text};

/// Keeps a snapshot unless a newer one is there or the conversation is erased: a snapshot that comes after the
/// tombstone would bring back what was erased.
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
            "a snapshot of {} bytes, and the most is {MAX_APPEND_BYTES}",
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
    match collections
        .call(collections.snapshots.update_one(older, set).upsert(true))
        .await
    {
        // A newer one stands there, so the filter missed it and the upsert met its `_id`.
        Err(failure) if failure.is_duplicate() => Ok(()),
        outcome => outcome.map(drop),
    }
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

    let mut before = key.filter();
    before.insert("first_seq", doc! { "$lt": at });
    let mut records = 0;
    let appends = collections.appends.clone_with_type::<Head>();
    let mut found = collections
        .call(appends.find(before.clone()).projection(Head::projection()))
        .await?;
    while let Some(append) = collections.call(found.try_next()).await? {
        records += seq(append.last_seq.min(at - 1) + 1 - append.first_seq)?;
    }
    before.insert("last_seq", doc! { "$lt": at });
    collections.call(collections.appends.delete_many(before)).await?;
    keep_tombstone(collections, key, tombstone).await?;
    let snapshots = collections
        .call(collections.snapshots.delete_one(doc! { "_id": key.id() }))
        .await?;

    let everything = doc! { "$set": projected.everything()? };
    let counting = collections.counting.read().await;
    let headers = collections.conversations.clone_with_type::<Counted>();
    let replace = headers
        .find_one_and_update(doc! { "_id": key.id() }, everything)
        .projection(Counted::projection())
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

/// Leaves in the log what its first record will no longer tell: whose conversation it was, and when.
async fn keep_header(collections: &Collections, key: &Key, tombstone: Seq) -> Result<Projected, Failure> {
    let last = collections
        .appends
        .find_one(key.filter())
        .sort(doc! { "first_seq": -1 });
    let last = collections.call(last).await?;
    let kept = last.as_ref().and_then(|last| last.header.as_deref());
    let header = match kept {
        Some(kept) => from_json(kept)?,
        None => {
            let Some(found) = fold::projected(collections, key).await? else {
                let missing = format!("the log of {} does not begin with its creation", key.conversation);
                return Err(LogError::Corrupt(missing).into());
            };
            let mut header = found.header;
            fold::strip(&mut header);
            let mut end = key.filter();
            end.insert("last_seq", number(tombstone)?);
            let set = doc! { "$set": { "header": json(&header)? } };
            collections.call(collections.appends.update_one(end, set)).await?;
            header
        }
    };
    Ok(Projected {
        header,
        tombstone: Some(tombstone),
        cleaned: true,
    })
}

/// Takes everything but the tombstone out of its append.
async fn keep_tombstone(collections: &Collections, key: &Key, tombstone: Seq) -> Result<(), Failure> {
    let at = number(tombstone)?;
    let mut longer = key.filter();
    longer.insert("last_seq", at);
    longer.insert("first_seq", doc! { "$lt": at });
    let Some(append) = collections.call(collections.appends.find_one(longer.clone())).await? else {
        return Ok(());
    };
    let mut kept = Vec::new();
    for record in append.records {
        if text::decode(&record)?.seq >= tombstone {
            kept.push(record);
        }
    }
    let change = doc! { "$set": { "first_seq": at, "messages": 0, "records": kept }, "$unset": { "turns": "" } };
    collections.call(collections.appends.update_one(longer, change)).await?;
    Ok(())
}
