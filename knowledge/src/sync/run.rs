//! One run of a source: reads what changed, and stores it.

use std::collections::{HashSet, VecDeque};
use std::pin::Pin;
use std::time::Duration;

use copilotd_actors::compute;
use copilotd_actors::crash;
use copilotd_actors::domain::ids::{CollectionName, ExternalId, JobId};
use copilotd_actors::ports::LogError;
use jiff::Timestamp;
use metrics::counter;
use serde::{Deserialize, Serialize};

use super::feed::{Documents, FeedError, Item, Page, SOURCE, SourceDocument, Stream};
use super::source::Source;
use crate::document::{AttributeChanges, Document, DocumentKey, Stage};
use crate::index::{IngestStatus, QuotaKind, Submitted};

/// Documents that are listed at once.
const LISTED: usize = 200;
/// Most items of one stream that are compared with the index; what more there is stays as it is.
const MAX_COMPARED: usize = 1_000_000;
/// Most items that are remembered as left out.
const MAX_SKIPPED: usize = 10_000;
/// Cost of hashing a byte, in the unit of [`compute`], as one over this.
const BYTES_PER_HASH_COST: usize = 4;

/// Why a run ended early.
#[derive(Debug)]
pub(super) struct Stopped(pub(super) String);

impl From<LogError> for Stopped {
    fn from(error: LogError) -> Self {
        tracing::warn!(%error, "the index of documents failed while a source was read");
        Self("the index of documents failed; the log has the cause".to_owned())
    }
}

/// What a source remembers from one run to the next.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// Items that are left out.
    skipped: HashSet<String>,
    /// Jobs of submitted documents that have not ended, as far as is known; oldest first.
    waiting: VecDeque<JobId>,
}

/// How far a stream has come, as it is stored.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Position {
    /// The stream's settings when everything was read.
    settings: String,
    /// Where its documents are, and of which account.
    #[serde(default)]
    place: Option<Place>,
    /// The collection that they left, until everything was read again.
    #[serde(default)]
    left: Option<CollectionName>,
    /// The feed's own position.
    after: Option<String>,
    /// When it was last compared with everything that there is.
    compared_at: Option<Timestamp>,
}

/// The collection of a stream's documents, and the account that they are from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Place {
    collection: CollectionName,
    account: String,
}

impl Place {
    fn of(stream: &Stream) -> Self {
        Self {
            collection: stream.collection.clone(),
            account: stream.account.clone(),
        }
    }
}

/// See the module.
pub(super) struct Run<'a> {
    source: &'a Source,
    memory: &'a mut Memory,
}

impl<'a> Run<'a> {
    pub(super) fn new(source: &'a Source, memory: &'a mut Memory) -> Self {
        Self { source, memory }
    }

    /// Counts the documents that are stored.
    pub(super) async fn count(&mut self) -> Result<(), Stopped> {
        let mut documents = 0;
        for stream in self.source.spec.feed.streams() {
            let mut after = None;
            loop {
                let found = self.stored(&stream.collection, after.as_ref()).await?;
                documents += found.own.len() as u64;
                match found.next {
                    Some(next) => after = Some(next),
                    None => break,
                }
            }
        }
        self.status(|status| status.documents = documents);
        Ok(())
    }

    /// Reads all streams to their ends.
    pub(super) async fn all(&mut self) -> Result<(), Stopped> {
        // Documents of the run before that could not be ingested are shown by now.
        self.forget_ended().await?;
        let feed = std::sync::Arc::clone(&self.source.spec.feed);
        // All of them before anything is read: two streams may have swapped their collections.
        for stream in feed.streams() {
            self.leave_old_place(stream).await?;
        }
        let mut first_failure = None;
        for stream in feed.streams() {
            // One stream may lack a permission that the other one has.
            if let Err(stopped) = self.stream(stream).await {
                first_failure.get_or_insert(Stopped(format!("{}: {}", stream.name, stopped.0)));
            }
        }
        first_failure.map_or(Ok(()), Err)
    }

    fn name_of(&self, stream: &Stream) -> String {
        format!("{}/{}", self.source.spec.name, stream.name)
    }

    async fn position(&self, stream: &Stream) -> Result<Position, Stopped> {
        let (index, scope) = (&self.source.library.index, &self.source.spec.scope);
        let stored = index.source_position(scope, &self.name_of(stream)).await?;
        Ok(stored
            .and_then(|text| serde_json::from_str(&text).ok())
            .unwrap_or_default())
    }

    /// Deletes the documents of a stream that has another collection or account now, and starts it over.
    async fn leave_old_place(&mut self, stream: &Stream) -> Result<(), Stopped> {
        let place = Place::of(stream);
        let old = match self.position(stream).await?.place {
            Some(old) if old != place => old,
            _ => return Ok(()),
        };
        self.clear(&old.collection, old.collection == place.collection).await?;
        let (tenant, source) = (self.source.spec.scope.tenant(), &self.source.spec.name);
        tracing::info!(
            %tenant, source, stream = stream.name, from = %old.collection, to = %place.collection,
            "a source stores its documents elsewhere now; those stored before were deleted, and everything is read again"
        );
        let restarted = Position {
            place: Some(place),
            left: Some(old.collection),
            ..Position::default()
        };
        self.keep(&self.name_of(stream), &restarted).await
    }

    /// Deletes all documents of the source in a collection; `is_counted` says whether [`Run::count`] counted them.
    async fn clear(&mut self, collection: &CollectionName, is_counted: bool) -> Result<(), Stopped> {
        let mut after = None;
        loop {
            let found = self.stored(collection, after.as_ref()).await?;
            for document in found.own {
                self.delete(&document.key, is_counted).await?;
                crash::point("sync.after:leave");
            }
            match found.next {
                Some(next) => after = Some(next),
                None => return Ok(()),
            }
        }
    }

    async fn stream(&mut self, stream: &Stream) -> Result<(), Stopped> {
        let name = self.name_of(stream);
        let mut position = self.position(stream).await?;
        if position.settings != stream.settings {
            self.restrict(stream).await?;
            position = Position {
                settings: stream.settings.clone(),
                place: Some(Place::of(stream)),
                left: position.left,
                ..Position::default()
            };
            // Before anything is stored: what is stored must be found again if the place changes.
            self.keep(&name, &position).await?;
        }
        position.place.get_or_insert_with(|| Place::of(stream));
        loop {
            let after = position.after.clone();
            let page = self.page(stream, after.as_deref(), false).await?;
            let is_last = page.is_last || (page.next.is_none() || page.next == after);
            let next = page.next.clone();
            self.apply(stream, page).await?;
            position.after = next.or(after);
            self.keep(&name, &position).await?;
            if is_last {
                break;
            }
        }
        if let Some(left) = position.left.take() {
            // What the run that a change of the configuration ended had under way may have been stored after all.
            let is_used = self
                .source
                .spec
                .feed
                .streams()
                .iter()
                .any(|stream| stream.collection == left);
            if !is_used {
                self.clear(&left, false).await?;
            }
            self.keep(&name, &position).await?;
        }
        if stream.deletes_silently && self.is_comparison_due(&position) {
            self.compare(stream).await?;
            position.compared_at = Some(self.source.library.clock.now());
            self.keep(&name, &position).await?;
        }
        Ok(())
    }

    fn is_comparison_due(&self, position: &Position) -> bool {
        let now = self.source.library.clock.now();
        position.compared_at.is_none_or(|at| {
            let since = Duration::try_from(now.duration_since(at));
            // The clock was set back.
            since.map_or(true, |since| since >= self.source.bounds.compare)
        })
    }

    async fn keep(&self, name: &str, position: &Position) -> Result<(), Stopped> {
        let text = serde_json::to_string(position).map_err(|error| Stopped(error.to_string()))?;
        let (index, scope) = (&self.source.library.index, &self.source.spec.scope);
        crash::point("sync.before:position");
        index.put_source_position(scope, name, &text).await?;
        crash::point("sync.after:position");
        Ok(())
    }

    /// Brings the readers of all stored documents in line with changed settings, before their contents are read again.
    async fn restrict(&mut self, stream: &Stream) -> Result<(), Stopped> {
        let Some(roles) = &stream.roles else { return Ok(()) };
        let changes = AttributeChanges {
            users: Some(None),
            roles: Some(Some(roles.clone())),
            ..AttributeChanges::default()
        };
        let mut after = None;
        loop {
            let found = self.stored(&stream.collection, after.as_ref()).await?;
            let now = self.source.library.clock.now();
            for document in found.own {
                let (index, scope) = (&self.source.library.index, &self.source.spec.scope);
                index.change_attributes(scope, &document.key, &changes, now).await?;
            }
            match found.next {
                Some(next) => after = Some(next),
                None => return Ok(()),
            }
        }
    }

    /// Applies the items of a page, one after the other.
    async fn apply(&mut self, stream: &Stream, page: Page) -> Result<(), Stopped> {
        for what in page.unreadable {
            self.skip(&what, "its record cannot be read");
        }
        for item in page.items {
            self.apply_item(stream, &item).await?;
        }
        Ok(())
    }

    async fn apply_item(&mut self, stream: &Stream, item: &Item) -> Result<(), Stopped> {
        let Documents { documents, left_out } = self.documents(stream, item).await?;
        match left_out {
            Some(reason) => self.skip(&item.id, &reason),
            None => self.unskip(&item.id),
        }
        let kept: HashSet<ExternalId> = documents.iter().map(|document| document.external_id.clone()).collect();
        // First what must not be found any more.
        for stored in self.stored_of(stream, &item.id).await? {
            if !kept.contains(&stored.key.external_id) {
                self.delete(&stored.key, true).await?;
                crash::point("sync.after:delete");
            }
        }
        for document in documents {
            crash::point("sync.before:store");
            self.store(stream, document).await?;
            crash::point("sync.after:store");
        }
        Ok(())
    }

    /// Stores a document, and waits if too many were submitted.
    async fn store(&mut self, stream: &Stream, document: SourceDocument) -> Result<(), Stopped> {
        self.wait_for_room().await?;
        let (external_id, content, changes) = document.into_parts(&self.source.spec.name);
        let (library, scope) = (&self.source.library, &self.source.spec.scope);
        let key = DocumentKey {
            collection: stream.collection.clone(),
            external_id: external_id.clone(),
        };
        let (size, most) = (content.bytes.len(), library.max_bytes);
        let reason = if size > most {
            format!("it has {size} bytes, and a document may have {most}")
        } else if size == 0 {
            "it is empty".to_owned()
        } else {
            let cost = size / BYTES_PER_HASH_COST;
            let hashed = compute::run(Some(scope.tenant()), cost, move || (content.hash(), content)).await;
            let (hash, content) = hashed.map_err(|error| Stopped(error.to_string()))?;
            match library
                .store(scope, key.clone(), content, hash, changes.clone())
                .await?
            {
                Submitted::Accepted(document) => {
                    counter!("copilotd_source_documents_total", "outcome" => "stored").increment(1);
                    if document.version == 1 {
                        self.status(|status| status.documents += 1);
                    }
                    self.memory.waiting.push_back(document.job);
                    self.unskip(external_id.as_str());
                    return Ok(());
                }
                Submitted::Unchanged(document) => {
                    counter!("copilotd_source_documents_total", "outcome" => "unchanged").increment(1);
                    if document.stage == Stage::Pending {
                        self.memory.waiting.push_back(document.job);
                    }
                    return Ok(());
                }
                Submitted::QuotaExceeded(kind) => {
                    let what = match kind {
                        QuotaKind::Documents => "documents",
                        QuotaKind::Bytes => "bytes of documents",
                        QuotaKind::Chunks => "chunks of documents",
                    };
                    format!("the tenant may not store more {what}")
                }
            }
        };
        self.skip(external_id.as_str(), &reason);
        // The version before stays, for those who may read the new one.
        let now = library.clock.now();
        library.index.change_attributes(scope, &key, &changes, now).await?;
        Ok(())
    }

    /// Deletes a document; `is_counted` says whether [`Run::count`] counted it.
    async fn delete(&mut self, key: &DocumentKey, is_counted: bool) -> Result<(), Stopped> {
        let (library, scope) = (&self.source.library, &self.source.spec.scope);
        if library.index.delete(scope, key, library.clock.now()).await?.is_some() {
            counter!("copilotd_source_documents_total", "outcome" => "deleted").increment(1);
            let counted = u64::from(is_counted);
            self.status(|status| status.documents = status.documents.saturating_sub(counted));
        }
        Ok(())
    }

    /// Waits until fewer submitted documents than are allowed wait to be ingested.
    async fn wait_for_room(&mut self) -> Result<(), Stopped> {
        while self.memory.waiting.len() >= self.source.bounds.waiting {
            self.forget_ended().await?;
            if self.memory.waiting.len() >= self.source.bounds.waiting {
                tokio::time::sleep(self.source.bounds.look).await;
            }
        }
        Ok(())
    }

    /// Forgets the oldest jobs up to the first that has not ended; documents that could not be ingested are left out.
    async fn forget_ended(&mut self) -> Result<(), Stopped> {
        while let Some(oldest) = self.memory.waiting.front() {
            let (index, scope) = (&self.source.library.index, &self.source.spec.scope);
            let job = index.job(scope, *oldest).await?;
            match job.map(|job| (job.status, job.key.external_id)) {
                Some((IngestStatus::Queued | IngestStatus::Running, _)) => break,
                Some((IngestStatus::Failed(failure), id)) => self.skip(id.as_str(), &failure.message),
                _ => {}
            }
            self.memory.waiting.pop_front();
        }
        Ok(())
    }

    /// Compares the index with everything that the other system has: deletes what is gone, and stores what is missing.
    async fn compare(&mut self, stream: &Stream) -> Result<(), Stopped> {
        let mut listed = HashSet::new();
        let mut after: Option<String> = None;
        loop {
            let page = self.page(stream, after.as_deref(), true).await?;
            for item in page.items {
                // The whole item also shows what the list of changes may have missed.
                if stream.lists_whole_items || self.stored_of(stream, &item.id).await?.is_empty() {
                    self.apply_item(stream, &item).await?;
                }
                listed.insert(item.id);
            }
            if listed.len() > MAX_COMPARED {
                return Err(Stopped(format!("more than {MAX_COMPARED} items cannot be compared")));
            }
            match page.next {
                Some(next) if !page.is_last && Some(&next) != after.as_ref() => after = Some(next),
                _ => break,
            }
        }
        let mut after = None;
        loop {
            let found = self.stored(&stream.collection, after.as_ref()).await?;
            for document in found.own {
                let id = item_of(&document.key.external_id);
                if listed.contains(id) {
                    continue;
                }
                // It may have been listed on a page that had been read already.
                match self.item(stream, id).await? {
                    Some(item) => self.apply_item(stream, &item).await?,
                    None => self.delete(&document.key, true).await?,
                }
            }
            match found.next {
                Some(next) => after = Some(next),
                None => return Ok(()),
            }
        }
    }

    /// Returns some of the source's documents in a collection of the index.
    async fn stored(&self, collection: &CollectionName, after: Option<&ExternalId>) -> Result<Found, Stopped> {
        let (index, scope) = (&self.source.library.index, &self.source.spec.scope);
        let found = index.documents(scope, collection, after, LISTED).await?;
        let is_full = found.len() >= LISTED;
        Ok(Found {
            next: found
                .last()
                .filter(|_| is_full)
                .map(|last| last.key.external_id.clone()),
            own: found.into_iter().filter(|document| self.is_own(document)).collect(),
        })
    }

    /// Returns the documents of an item in the index.
    async fn stored_of(&self, stream: &Stream, item: &str) -> Result<Vec<Document>, Stopped> {
        let (index, scope) = (&self.source.library.index, &self.source.spec.scope);
        let Ok(first) = item.parse::<ExternalId>() else {
            return Ok(Vec::new());
        };
        let key = DocumentKey {
            collection: stream.collection.clone(),
            external_id: first,
        };
        let mut all: Vec<Document> = index.document(scope, &key).await?.into_iter().collect();
        let prefix = format!("{item}-");
        let Ok(before) = prefix.parse::<ExternalId>() else {
            return Ok(all);
        };
        let more = index
            .documents(scope, &stream.collection, Some(&before), LISTED)
            .await?;
        all.extend(
            more.into_iter()
                .take_while(|document| document.key.external_id.as_str().starts_with(&prefix)),
        );
        all.retain(|document| self.is_own(document));
        Ok(all)
    }

    fn is_own(&self, document: &Document) -> bool {
        let source = document.attributes.metadata.get(SOURCE);
        source.is_some_and(|name| *name == self.source.spec.name)
    }

    async fn page(&self, stream: &Stream, after: Option<&str>, all: bool) -> Result<Page, Stopped> {
        let (feed, tenant) = (&self.source.spec.feed, self.source.spec.scope.tenant());
        let ask = || match all {
            true => feed.list(tenant, stream, after),
            false => feed.changes(tenant, stream, after),
        };
        self.patiently(ask).await
    }

    async fn item(&self, stream: &Stream, id: &str) -> Result<Option<Item>, Stopped> {
        let (feed, tenant) = (&self.source.spec.feed, self.source.spec.scope.tenant());
        self.patiently(|| feed.item(tenant, stream, id)).await
    }

    async fn documents(&self, stream: &Stream, item: &Item) -> Result<Documents, Stopped> {
        let (feed, tenant) = (&self.source.spec.feed, self.source.spec.scope.tenant());
        self.patiently(|| feed.documents(tenant, stream, item)).await
    }

    /// Asks until there is an answer, or it is clear that there is none for now.
    async fn patiently<'f, T>(&self, ask: impl Fn() -> Asked<'f, T>) -> Result<T, Stopped> {
        let bounds = &self.source.bounds;
        let (mut pause, mut failures, mut waits) = (bounds.pause, 0, 0);
        loop {
            let wait = match ask().await {
                Ok(answer) => {
                    if failures + waits > 0 {
                        self.status(|status| status.last_error = None);
                    }
                    return Ok(answer);
                }
                Err(FeedError::Refused(reason)) => return Err(Stopped(reason)),
                Err(error @ FeedError::Failed(_)) => {
                    failures += 1;
                    if failures >= bounds.attempts {
                        return Err(Stopped(error.to_string()));
                    }
                    self.status(|status| status.last_error = Some(error.to_string()));
                    pause
                }
                Err(error @ FeedError::Busy(wait)) => {
                    waits += 1;
                    if waits >= bounds.busy_waits {
                        return Err(Stopped(error.to_string()));
                    }
                    self.status(|status| status.last_error = Some(error.to_string()));
                    wait.map_or(pause, |wait| wait.max(bounds.pause))
                }
            };
            tokio::time::sleep(wait.min(bounds.longest_pause)).await;
            pause = (pause * 2).min(bounds.longest_pause);
        }
    }

    fn skip(&mut self, what: &str, reason: &str) {
        counter!("copilotd_source_documents_total", "outcome" => "skipped").increment(1);
        let (tenant, source) = (self.source.spec.scope.tenant(), &self.source.spec.name);
        let is_known = self.memory.skipped.contains(what);
        if !is_known && self.memory.skipped.len() < MAX_SKIPPED {
            self.memory.skipped.insert(what.to_owned());
        }
        if !is_known {
            tracing::info!(%tenant, source, item = what, reason, "an item of a source is left out");
        }
        self.show_skipped();
    }

    fn unskip(&mut self, what: &str) {
        if self.memory.skipped.remove(what) {
            self.show_skipped();
        }
    }

    fn show_skipped(&self) {
        let skipped = self.memory.skipped.len() as u64;
        self.status(|status| status.skipped = skipped);
    }

    fn status(&self, change: impl FnOnce(&mut super::status::SourceStatus)) {
        let (tenant, name) = (self.source.spec.scope.tenant(), &self.source.spec.name);
        self.source.book.update(tenant, name, change);
    }
}

/// A call of the feed.
type Asked<'f, T> = Pin<Box<dyn Future<Output = Result<T, FeedError>> + Send + 'f>>;

/// Some of the documents of a source.
struct Found {
    own: Vec<Document>,
    /// The last one of the collection that was looked at, if there are more.
    next: Option<ExternalId>,
}

/// Returns the id of the item that a document belongs to: its own up to the second `-`, if there is one.
fn item_of(id: &ExternalId) -> &str {
    let text = id.as_str();
    let mut dashes = text.match_indices('-').map(|(at, _)| at);
    dashes.nth(1).map_or(text, |at| &text[..at])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_name_their_items() {
        for (id, item) in [
            ("article-7", "article-7"),
            ("article-7-en-us", "article-7"),
            ("article-70-de", "article-70"),
            ("ticket-1", "ticket-1"),
            ("other", "other"),
        ] {
            assert_eq!(item_of(&id.parse().unwrap()), item);
        }
    }
}
