//! Headers: the projection, and the part of the log beyond it.

use copilotd_actors::domain::content::Metadata;
use copilotd_actors::domain::conversation::header::Header;
use copilotd_actors::domain::ids::Seq;
use copilotd_actors::ports::LogError;
use futures::TryStreamExt;
use mongodb::bson::{Document, doc};

use super::collections::Collections;
use super::documents::{AppendDocument, Head, Key, Projected, from_json, number, seq};
use super::failure::Failure;
use super::quota::{self, CountedHeader};
use super::read::{name_of, typed};
use crate::adapters::store::text;
use crate::adapters::store::unreadable::{log_unreadable, skip_unreadable};

/// Finds the end of a log.
pub(super) async fn head(collections: &Collections, key: &Key) -> Result<Option<Head>, Failure> {
    let appends = collections.appends.clone_with_type::<Document>();
    let mut filter = key.filter();
    filter.insert("first_seq", Head::plausible());
    let last = appends
        .find_one(filter)
        .sort(doc! { "first_seq": -1 })
        .projection(Head::projection());
    let last = collections.call(last).await?;
    Ok(last.map(|last| Head::read(&last)).transpose()?)
}

/// Returns the header as of the last append: the projection with the rest of the log folded onto it.
pub(super) async fn projected(collections: &Collections, key: &Key) -> Result<Option<Projected>, Failure> {
    let found = collections
        .call(collections.conversations.find_one(doc! { "_id": key.id() }))
        .await?;
    let mut fold = Fold::new(found.map(Projected::try_from).transpose()?);
    let mut filter = key.filter();
    let applied = fold.state.as_ref().map_or(0, |state| state.header.last_seq);
    let mut later = Head::plausible();
    later.insert("$gt", number(applied)?);
    filter.insert("first_seq", later);
    let appends = collections.appends.clone_with_type::<Document>();
    let rest = appends.find(filter).sort(doc! { "first_seq": 1 });
    let mut rest = collections.call(rest).await?;
    while let Some(append) = collections.call(rest.try_next()).await? {
        match typed::<AppendDocument>(append) {
            Ok(append) => fold.add(key, &append)?,
            Err(failure) => fold.damaged(failure.into())?,
        }
    }
    Ok(fold.finish()?)
}

/// A header being built, append by append.
#[derive(Default)]
pub(super) struct Fold {
    state: Option<Projected>,
    damage: Option<LogError>,
}

impl Fold {
    pub(super) fn new(state: Option<Projected>) -> Self {
        Self { state, damage: None }
    }

    /// Adds the next append. An unreadable one is not an error yet: a tombstone may follow, which needs nothing of it.
    pub(super) fn add(&mut self, key: &Key, append: &AppendDocument) -> Result<(), LogError> {
        match self.apply(key, append) {
            Err(error) => self.damaged(error),
            Ok(()) => Ok(()),
        }
    }

    /// Records an unreadable append.
    pub(super) fn damaged(&mut self, error: LogError) -> Result<(), LogError> {
        match error {
            LogError::Corrupt(_) => {
                self.damage.get_or_insert(error);
                Ok(())
            }
            error => Err(error),
        }
    }

    /// Returns the header, if the log has one.
    pub(super) fn finish(self) -> Result<Option<Projected>, LogError> {
        match self.damage {
            Some(damage) => Err(damage),
            None => Ok(self.state),
        }
    }

    fn apply(&mut self, key: &Key, append: &AppendDocument) -> Result<(), LogError> {
        let tombstone = append.tombstone.map(seq).transpose()?;
        if let Some(kept) = &append.header {
            // Whether anything precedes it is for the erasure to find out.
            self.state = Some(Projected {
                header: from_json(kept)?,
                tombstone,
                cleaned: false,
            });
            self.damage = None;
            return Ok(());
        }
        for record in &append.records {
            let record = text::decode(record)?;
            match &mut self.state {
                Some(state) => state.header.apply(&record),
                None => {
                    self.state = Header::open(key.conversation, &record).map(|header| Projected {
                        header,
                        tombstone: None,
                        cleaned: false,
                    });
                }
            }
        }
        if let Some(state) = &mut self.state {
            state.tombstone = tombstone;
        }
        Ok(())
    }
}

/// Returns whether only the tombstone of an erased log is left.
async fn is_clean(collections: &Collections, key: &Key, tombstone: Seq) -> Result<bool, Failure> {
    let mut rest = key.filter();
    rest.insert("first_seq", doc! { "$ne": number(tombstone)? });
    let appends = collections.appends.clone_with_type::<Document>();
    let found = appends.find_one(rest).projection(doc! { "_id": 1 });
    Ok(collections.call(found).await?.is_none())
}

/// Removes from a header what an erased conversation must not keep.
pub(super) fn strip(header: &mut Header) {
    header.title = None;
    header.metadata = Metadata::new();
    header.idempotency = None;
}

/// Writes a whole header unless a newer one is stored.
pub(super) async fn write_whole_header(
    collections: &Collections,
    key: &Key,
    projected: &Projected,
) -> Result<(), Failure> {
    let newest = number(projected.header.last_seq)?;
    let mut older = doc! { "_id": key.id(), "applied_seq": { "$lte": newest } };
    if projected.tombstone.is_some() {
        // Nothing follows a tombstone. A header that is further ahead came from records that are lost.
        older = doc! { "_id": key.id(), "$or": [{ "applied_seq": { "$lte": newest } }, { "tombstone": null }] };
    }
    let set = doc! { "$set": projected.everything()? };
    let _counting = collections.counting.read().await;
    let headers = collections.conversations.clone_with_type::<CountedHeader>();
    let write = headers
        .find_one_and_update(older, set)
        .projection(CountedHeader::projection())
        .upsert(true);
    match collections.call(write).await {
        // A newer header is stored, so the filter excluded it and the upsert collided with its `_id`.
        Err(failure) if failure.is_duplicate() => Ok(()),
        Err(failure) => Err(failure),
        Ok(before) => quota::moved(collections, before, &projected.header).await,
    }
}

/// Writes counters onto the header if it is exactly the preceding append's. Returns false if it is another one.
pub(super) async fn write_counters(
    collections: &Collections,
    key: &Key,
    before: Seq,
    projected: &Projected,
) -> Result<bool, Failure> {
    let filter = doc! { "_id": key.id(), "applied_seq": number(before)? };
    let set = doc! { "$set": projected.counters()? };
    let _counting = collections.counting.read().await;
    let headers = collections.conversations.clone_with_type::<CountedHeader>();
    let write = headers
        .find_one_and_update(filter, set)
        .projection(CountedHeader::projection());
    let before = collections.call(write).await?;
    let found = before.is_some();
    if found {
        quota::moved(collections, before, &projected.header).await?;
    }
    Ok(found)
}

/// The header stored with a tombstone, which may be missed where the projection is further ahead than the damaged log.
async fn header_at_tombstone(collections: &Collections, key: &Key) -> Result<Option<Projected>, Failure> {
    let mut tombstone = key.filter();
    tombstone.insert("tombstone", Head::plausible());
    let appends = collections.appends.clone_with_type::<Document>();
    let found = appends
        .find_one(tombstone)
        .projection(doc! { "tombstone": 1, "header": 1 });
    let Some(found) = collections.call(found).await? else {
        return Ok(None);
    };
    let (Ok(tombstone), Ok(header)) = (found.get_i64("tombstone"), found.get_str("header")) else {
        return Ok(None);
    };
    Ok(Some(Projected {
        header: from_json(header)?,
        tombstone: Some(seq(tombstone)?),
        cleaned: false,
    }))
}

/// Projects one conversation up to the end of its log. Its user's stored totals must then be recounted: an earlier
/// write may have ended between the header and the counters. Returns the tenant and the user.
pub(super) async fn refresh(collections: &Collections, key: &Key) -> Result<Option<(String, String)>, Failure> {
    let folded = projected(collections, key).await;
    let header_at_tombstone = match &folded {
        Ok(Some(Projected { tombstone: Some(_), .. })) => None,
        _ => header_at_tombstone(collections, key).await?,
    };
    let Some(projected) = header_at_tombstone.map_or(folded, |header_at_tombstone| Ok(Some(header_at_tombstone)))?
    else {
        return Ok(None);
    };
    write_whole_header(collections, key, &projected).await?;
    let header = &projected.header;
    Ok(Some((header.tenant.to_string(), header.user.to_string())))
}

/// Rebuilds all projections; returns the number of conversations.
pub(super) async fn rebuild(collections: &Collections) -> Result<u64, Failure> {
    // Without a timeout: there may be many.
    collections.conversations.delete_many(Document::new()).await?;
    collections.stored.delete_many(Document::new()).await?;
    let in_order = doc! { "tenant": 1, "conversation": 1, "first_seq": 1 };
    let appends = collections.appends.clone_with_type::<Document>();
    let mut appends = collections.call(appends.find(Document::new()).sort(in_order)).await?;
    let mut current: Option<(Key, Fold)> = None;
    let mut count = 0;
    loop {
        let append = match collections.call(appends.try_next()).await? {
            None => None,
            Some(document) => {
                let id = name_of(&document);
                let append = typed::<AppendDocument>(document).and_then(|append| Ok((append.key()?, append)));
                let Some(append) = skip_unreadable("append", id, append)? else {
                    continue;
                };
                Some(append)
            }
        };
        let same = current.as_ref().map(|(key, _)| key) == append.as_ref().map(|(key, _)| key);
        if !same && let Some((key, fold)) = current.take() {
            match skip_unreadable("conversation", key.id(), fold.finish())? {
                Some(Some(mut projected)) => {
                    if let Some(tombstone) = projected.tombstone {
                        projected.cleaned = is_clean(collections, &key, tombstone).await?;
                    }
                    write_whole_header(collections, &key, &projected).await?;
                    count += 1;
                }
                Some(None) => log_unreadable("conversation", key.id(), "its log does not begin with its creation"),
                None => {}
            }
        }
        let Some((key, append)) = append else {
            return Ok(count);
        };
        let (_, fold) = current.get_or_insert_with(|| (key.clone(), Fold::default()));
        skip_unreadable("append", key.id(), fold.add(&key, &append))?;
    }
}
