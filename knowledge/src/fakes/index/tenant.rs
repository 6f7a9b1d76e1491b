//! What one tenant stored, and what each call does to it.

use std::collections::{BTreeMap, HashMap, HashSet};

use copilotd_actors::domain::ids::{ChunkId, CollectionName, DocumentId, ExternalId, JobId};
use copilotd_actors::ports::{ErasureReceipt, LogError, Space, Vector};
use copilotd_actors::tenancy::TenantScope;
use jiff::Timestamp;

use crate::chunk::{Chunk, ChunkDraft};
use crate::document::{AttributeChanges, Document, DocumentKey, IngestFailure, Reader, Stage, Version};
use crate::index::{
    Contents, IngestJob, IngestStatus, NewChunk, Published, Quota, QuotaKind, Submission, Submitted, Totals, Unembedded,
};

#[derive(Debug, Default)]
pub(super) struct Tenant {
    pub(super) documents: BTreeMap<DocumentKey, Stored>,
    pub(super) chunks: BTreeMap<ChunkId, StoredChunk>,
    jobs: HashMap<JobId, IngestJob>,
    /// Positions of sources, by name.
    pub(super) positions: HashMap<String, String>,
}

#[derive(Debug)]
pub(super) struct Stored {
    pub(super) document: Document,
    /// The content that waits, and since which submission.
    waiting: Option<(u64, Vec<u8>)>,
    /// Attempts at the version that waits since a new chunk of it was staged.
    attempts: u32,
}

#[derive(Debug)]
pub(super) struct StoredChunk {
    pub(super) document: DocumentId,
    since: Version,
    /// Whether it was ever part of a searchable version.
    is_published: bool,
    pub(super) is_current: bool,
    /// Whether it has what searches need; a cited chunk that left the searches has not.
    is_indexed: bool,
    is_cited: bool,
    /// The version for which it was staged last.
    staged_for: Version,
    ordinal: u32,
    draft: ChunkDraft,
    pub(super) terms: Vec<(String, u32)>,
    pub(super) vectors: Vec<Vector>,
}

impl StoredChunk {
    fn put_vector(&mut self, vector: Vector) {
        self.vectors.retain(|known| known.space() != vector.space());
        self.vectors.push(vector);
    }

    /// Takes it out of the searches. Returns whether it stays readable.
    fn retire(&mut self) -> bool {
        self.is_current = false;
        self.is_indexed = false;
        self.terms.clear();
        self.vectors.clear();
        self.is_published && self.is_cited
    }
}

impl Tenant {
    pub(super) fn submit(&mut self, id: DocumentId, submission: Submission, quota: &Quota, number: u64) -> Submitted {
        let Submission {
            key,
            format,
            content,
            content_hash,
            changes,
            job,
            at,
        } = submission;
        let known = self.documents.get_mut(&key);
        if let Some(Stored { document, .. }) = known
            && document.content_hash == content_hash
            && document.stage != Stage::Failed
        {
            change_attributes(document, &changes, at);
            return Submitted::Unchanged(document.clone());
        }
        let known = self.documents.get(&key);
        let (totals, bytes) = (self.totals(), content.len() as u64);
        let replaced = known.map_or(0, |known| known.document.bytes);
        if known.is_none() && totals.documents >= quota.documents {
            return Submitted::QuotaExceeded(QuotaKind::Documents);
        }
        if totals.bytes - replaced + bytes > quota.bytes {
            return Submitted::QuotaExceeded(QuotaKind::Bytes);
        }
        if known.is_none() && totals.chunks >= quota.chunks {
            return Submitted::QuotaExceeded(QuotaKind::Chunks);
        }
        if let Some(older) = known.map(|known| known.document.job) {
            self.end_job(older, at, IngestStatus::Superseded);
        }
        self.jobs.insert(
            job,
            IngestJob {
                id: job,
                key: key.clone(),
                status: IngestStatus::Queued,
                done: 0,
                total: None,
                created_at: at,
                finished_at: None,
            },
        );
        let known = self.documents.remove(&key);
        let place = known.as_ref().and_then(|known| Some(known.waiting.as_ref()?.0));
        let known = known.map(|known| known.document);
        let attributes = known.as_ref().map(|known| known.attributes.clone());
        let document = Document {
            id,
            key: key.clone(),
            attributes: changes.applied_to(attributes.unwrap_or_default()),
            version: known.as_ref().map_or(1, |known| known.version + 1),
            content_hash,
            format,
            bytes,
            stage: Stage::Pending,
            failure: None,
            job,
            chunks: known.as_ref().map_or(0, |known| known.chunks),
            created_at: known.map_or(at, |known| known.created_at),
            updated_at: at,
        };
        let stored = Stored {
            document: document.clone(),
            waiting: Some((place.unwrap_or(number), content)),
            attempts: 0,
        };
        self.documents.insert(key, stored);
        Submitted::Accepted(document)
    }

    pub(super) fn change_attributes(
        &mut self,
        key: &DocumentKey,
        changes: &AttributeChanges,
        at: Timestamp,
    ) -> Option<Document> {
        let document = &mut self.documents.get_mut(key)?.document;
        change_attributes(document, changes, at);
        Some(document.clone())
    }

    pub(super) fn document(&self, key: &DocumentKey) -> Option<Document> {
        Some(self.documents.get(key)?.document.clone())
    }

    pub(super) fn documents(
        &self,
        collection: &CollectionName,
        after: Option<&ExternalId>,
        limit: usize,
    ) -> Vec<Document> {
        let documents = self.documents.values().map(|stored| &stored.document);
        documents
            .filter(|document| document.key.collection == *collection)
            .filter(|document| after.is_none_or(|after| document.key.external_id.as_str() > after.as_str()))
            .take(limit)
            .cloned()
            .collect()
    }

    pub(super) fn current_chunks(&self, key: &DocumentKey, from: u32, limit: usize) -> Option<Vec<Chunk>> {
        let document = &self.documents.get(key)?.document;
        let mut chunks: Vec<Chunk> = self
            .chunks
            .iter()
            .filter(|(_, chunk)| chunk.document == document.id && chunk.is_current && chunk.ordinal >= from)
            .map(|(id, chunk)| chunk_of(document, *id, chunk))
            .collect();
        chunks.sort_by_key(|chunk| chunk.ordinal);
        chunks.truncate(limit);
        Some(chunks)
    }

    pub(super) fn delete(&mut self, key: &DocumentKey, at: Timestamp) -> Option<ErasureReceipt> {
        let Stored { document, .. } = self.documents.remove(key)?;
        self.end_job(document.job, at, IngestStatus::Superseded);
        let mut erased = Tenant::default();
        let (gone, kept) = std::mem::take(&mut self.chunks)
            .into_iter()
            .partition(|(_, chunk)| chunk.document == document.id);
        (erased.chunks, self.chunks) = (gone, kept);
        let stored = Stored {
            document,
            waiting: None,
            attempts: 0,
        };
        erased.documents.insert(key.clone(), stored);
        Some(erased.receipt())
    }

    /// Describes everything of this tenant as erased.
    pub(super) fn receipt(&self) -> ErasureReceipt {
        let vectors: usize = self.chunks.values().map(|chunk| chunk.vectors.len()).sum();
        let stores = [
            ("knowledge_documents", self.documents.len()),
            ("knowledge_chunks", self.chunks.len()),
            ("knowledge_vectors", vectors),
        ];
        ErasureReceipt {
            stores: stores.map(|(name, count)| (name.to_owned(), count as u64)).to_vec(),
        }
    }

    pub(super) fn totals(&self) -> Totals {
        Totals {
            documents: self.documents.len() as u64,
            bytes: self.documents.values().map(|stored| stored.document.bytes).sum(),
            chunks: self.chunks.values().filter(|chunk| chunk.is_current).count() as u64,
        }
    }

    pub(super) fn job(&self, job: JobId) -> Option<IngestJob> {
        self.jobs.get(&job).cloned()
    }

    /// Returns the waiting version that was submitted first, with the number of its submission and its attempts.
    pub(super) fn oldest_waiting(&self) -> Option<(u64, &Document, &[u8], u32)> {
        let waiting = self.documents.values().filter_map(|stored| {
            let (number, content) = stored.waiting.as_ref()?;
            Some((*number, &stored.document, content.as_slice(), stored.attempts))
        });
        waiting.min_by_key(|(number, ..)| *number)
    }

    pub(super) fn begin(&mut self, document: DocumentId, version: Version) -> Option<u32> {
        let stored = self.waiting(document, version)?;
        stored.attempts += 1;
        Some(stored.attempts)
    }

    pub(super) fn start(&mut self, document: DocumentId, version: Version, total: u64) -> bool {
        let Some(stored) = self.waiting(document, version) else {
            return false;
        };
        let job = stored.document.job;
        if let Some(job) = self.jobs.get_mut(&job) {
            job.status = IngestStatus::Running;
            job.total = Some(total);
        }
        true
    }

    pub(super) fn known_chunks(&self, document: DocumentId, chunks: &[ChunkId], space: Option<&Space>) -> Vec<ChunkId> {
        let is_known = |id: &&ChunkId| {
            let chunk = self.chunks.get(id).filter(|chunk| chunk.document == document);
            chunk.is_some_and(|chunk| {
                let has_vector = |space| chunk.vectors.iter().any(|vector| vector.space() == space);
                chunk.is_indexed && space.is_none_or(has_vector)
            })
        };
        chunks.iter().filter(is_known).copied().collect()
    }

    pub(super) fn stage(
        &mut self,
        document: DocumentId,
        version: Version,
        chunks: Vec<NewChunk>,
        vectors: Vec<Vector>,
    ) -> Result<bool, LogError> {
        if !vectors.is_empty() && vectors.len() != chunks.len() {
            return Err(LogError::Refused("chunks and vectors differ in number".to_owned()));
        }
        let Some(stored) = self.waiting(document, version) else {
            return Ok(false);
        };
        let job = stored.document.job;
        let mut vectors = vectors.into_iter();
        let mut done = 0;
        for NewChunk { id, draft, terms } in chunks {
            let chunk = self.chunks.entry(id).or_insert_with(|| StoredChunk {
                document,
                since: version,
                is_published: false,
                is_current: false,
                is_indexed: false,
                is_cited: false,
                staged_for: 0,
                ordinal: 0,
                draft,
                terms: Vec::new(),
                vectors: Vec::new(),
            });
            if !chunk.is_indexed {
                chunk.is_indexed = true;
                chunk.terms = terms;
            }
            if chunk.staged_for != version {
                chunk.staged_for = version;
                done += 1;
            }
            if let Some(vector) = vectors.next()
                && chunk.vectors.iter().all(|known| known.space() != vector.space())
            {
                chunk.vectors.push(vector);
            }
        }
        if let Some(job) = self.jobs.get_mut(&job) {
            job.done += done;
        }
        if done > 0
            && let Some(stored) = self.waiting(document, version)
        {
            stored.attempts = 0;
        }
        Ok(true)
    }

    pub(super) fn publish(
        &mut self,
        document: DocumentId,
        version: Version,
        Contents { title, chunks }: Contents,
        quota: &Quota,
        at: Timestamp,
    ) -> Result<Published, LogError> {
        let totals = self.totals();
        let Some(stored) = self.waiting(document, version) else {
            return Ok(Published::Superseded);
        };
        let (count, before) = (chunks.len() as u64, stored.document.chunks);
        let listed: HashSet<ChunkId> = chunks.iter().map(|(id, _)| *id).collect();
        let stored = |id: &ChunkId| {
            let chunk = self.chunks.get(id);
            chunk.is_some_and(|chunk| chunk.document == document && chunk.is_indexed)
        };
        if listed.len() != chunks.len() || !listed.iter().all(stored) {
            return Err(LogError::Refused(
                "a chunk to be published is not stored, or occurs twice".to_owned(),
            ));
        }
        if totals.chunks - before + count > quota.chunks {
            return Ok(Published::QuotaExceeded);
        }
        for (ordinal, (id, place)) in (0..).zip(&chunks) {
            let Some(chunk) = self.chunks.get_mut(id) else { continue };
            if !chunk.is_published {
                chunk.since = version;
            }
            (chunk.is_published, chunk.is_current, chunk.ordinal) = (true, true, ordinal);
            (chunk.draft.page, chunk.draft.start, chunk.draft.end) = (place.page, place.start, place.end);
        }
        self.chunks
            .retain(|id, chunk| chunk.document != document || listed.contains(id) || chunk.retire());
        let Some(stored) = self.waiting(document, version) else {
            return Ok(Published::Superseded);
        };
        stored.waiting = None;
        stored.document.stage = Stage::Searchable;
        stored.document.chunks = count;
        stored.document.attributes.content_title = title;
        let job = stored.document.job;
        if let Some(job) = self.jobs.get_mut(&job) {
            (job.done, job.total) = (count, Some(count));
        }
        self.end_job(job, at, IngestStatus::Completed);
        Ok(Published::Done)
    }

    pub(super) fn fail(
        &mut self,
        document: DocumentId,
        version: Version,
        failure: IngestFailure,
        at: Timestamp,
    ) -> bool {
        let Some(stored) = self.waiting(document, version) else {
            return false;
        };
        stored.waiting = None;
        stored.document.stage = Stage::Failed;
        stored.document.failure = Some(failure.clone());
        let job = stored.document.job;
        self.chunks
            .retain(|_, chunk| chunk.document != document || chunk.is_current || chunk.retire());
        self.end_job(job, at, IngestStatus::Failed(failure));
        true
    }

    pub(super) fn unembedded(&self, scope: &TenantScope, space: &Space, limit: usize) -> Vec<Unembedded> {
        let chunks = self.chunks.iter().filter(|(_, chunk)| {
            let has_vector = chunk.vectors.iter().any(|vector| vector.space() == space);
            chunk.is_current && !has_vector
        });
        let described = chunks.filter_map(|(id, chunk)| {
            let title = self.of(chunk.document)?.attributes.shown_title();
            Some(Unembedded {
                scope: scope.clone(),
                chunk: *id,
                text: chunk.draft.context_text(title),
            })
        });
        described.take(limit).collect()
    }

    pub(super) fn put_vectors(&mut self, vectors: Vec<(ChunkId, Vector)>) {
        for (id, vector) in vectors {
            if let Some(chunk) = self.chunks.get_mut(&id).filter(|chunk| chunk.is_current) {
                chunk.put_vector(vector);
            }
        }
    }

    pub(super) fn spaces(&self) -> impl Iterator<Item = Space> {
        let vectors = self.chunks.values().flat_map(|chunk| &chunk.vectors);
        vectors.map(|vector| Space::clone(vector.space()))
    }

    pub(super) fn drop_spaces(&mut self, keep: &[Space]) {
        for chunk in self.chunks.values_mut() {
            chunk.vectors.retain(|vector| keep.contains(vector.space()));
        }
    }

    pub(super) fn read(&self, reader: &Reader, chunks: &[ChunkId]) -> Vec<Chunk> {
        let readable = chunks.iter().filter_map(|id| {
            let chunk = self.chunks.get(id).filter(|chunk| chunk.is_published)?;
            let document = self.of(chunk.document)?;
            reader
                .may_read(&document.attributes.access)
                .then(|| chunk_of(document, *id, chunk))
        });
        readable.collect()
    }

    pub(super) fn cite(&mut self, chunks: &[ChunkId]) {
        for id in chunks {
            if let Some(chunk) = self.chunks.get_mut(id).filter(|chunk| chunk.is_published) {
                chunk.is_cited = true;
            }
        }
    }

    pub(super) fn forget_jobs(&mut self, ended_before: Timestamp) -> u64 {
        let before = self.jobs.len();
        self.jobs
            .retain(|_, job| job.finished_at.is_none_or(|finished| finished >= ended_before));
        (before - self.jobs.len()) as u64
    }

    pub(super) fn of(&self, id: DocumentId) -> Option<&Document> {
        let mut documents = self.documents.values().map(|stored| &stored.document);
        documents.find(|document| document.id == id)
    }

    /// Returns the document if this version of it waits.
    fn waiting(&mut self, id: DocumentId, version: Version) -> Option<&mut Stored> {
        let mut documents = self.documents.values_mut();
        documents
            .find(|stored| stored.document.id == id && stored.document.version == version && stored.waiting.is_some())
    }

    fn end_job(&mut self, job: JobId, at: Timestamp, status: IngestStatus) {
        if let Some(job) = self.jobs.get_mut(&job).filter(|job| job.finished_at.is_none()) {
            job.status = status;
            job.finished_at = Some(at);
        }
    }
}

fn change_attributes(document: &mut Document, changes: &AttributeChanges, at: Timestamp) {
    let attributes = changes.applied_to(document.attributes.clone());
    if document.attributes != attributes {
        document.attributes = attributes;
        document.updated_at = at;
    }
}

fn chunk_of(document: &Document, id: ChunkId, chunk: &StoredChunk) -> Chunk {
    Chunk {
        id,
        document: document.id,
        key: document.key.clone(),
        title: document.attributes.shown_title().map(str::to_owned),
        uri: document.attributes.uri.clone(),
        since: chunk.since,
        is_current: chunk.is_current,
        ordinal: chunk.ordinal,
        draft: chunk.draft.clone(),
    }
}
