//! The port to the index: a tenant's documents, their chunks, and the two searches over them.
//!
//! The index is also where ingestion is recorded: a document waits in it with its content until its chunks can be searched, so
//! that document, chunks, vectors and the statistics of the lexical search change in one transaction.

use std::fmt;

use async_trait::async_trait;
use copilotd_actors::domain::ids::{ChunkId, CollectionName, DocumentId, ExternalId, JobId};
use copilotd_actors::ports::{ErasureReceipt, LogError, Space, Vector};
use copilotd_actors::tenancy::TenantScope;
use jiff::Timestamp;
use serde_json::Value;

use crate::chunk::{Chunk, ChunkDraft};
use crate::document::{AttributeChanges, Document, DocumentKey, Format, IngestFailure, Reader, Version};

/// Content and attributes that a caller stores under a key.
#[derive(Debug, Clone)]
pub struct Submission {
    /// Where it is stored.
    pub key: DocumentKey,
    /// Format of the content.
    pub format: Format,
    /// The content, as it was received.
    pub content: Vec<u8>,
    /// SHA-256 of format and content.
    pub content_hash: [u8; 32],
    /// Changes to its attributes.
    pub changes: AttributeChanges,
    /// The job that will ingest it, if there is work.
    pub job: JobId,
    /// The time.
    pub at: Timestamp,
}

/// What became of a submission.
#[derive(Debug, Clone, PartialEq)]
pub enum Submitted {
    /// The content is new; its job waits.
    Accepted(Document),
    /// The content is the one that is stored or being ingested. The attributes were changed.
    Unchanged(Document),
    /// Nothing was stored: the tenant would have more than its quota allows. A new document needs room for at least one
    /// chunk; how many it has is checked when it is published.
    QuotaExceeded(QuotaKind),
}

/// What a tenant may store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    /// Documents.
    pub documents: u64,
    /// Bytes of content of all documents.
    pub bytes: u64,
    /// Searchable chunks.
    pub chunks: u64,
}

/// Which part of a [`Quota`] is exhausted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QuotaKind {
    /// [`Quota::documents`].
    Documents,
    /// [`Quota::bytes`].
    Bytes,
    /// [`Quota::chunks`].
    Chunks,
}

/// What a tenant has stored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Documents.
    pub documents: u64,
    /// Bytes of their newest content, as it was received.
    pub bytes: u64,
    /// Searchable chunks.
    pub chunks: u64,
}

/// A version that waits to be ingested.
#[derive(Debug, Clone)]
pub struct Pending {
    /// Its tenant, recovered from what a verified credential stored.
    pub scope: TenantScope,
    /// The document.
    pub document: Document,
    /// Its content.
    pub content: Vec<u8>,
    /// Attempts at it since a new chunk was last staged; see [`KnowledgeIndex::begin`].
    pub attempts: u32,
}

/// A chunk to be stored, with what searches need of it.
#[derive(Debug, Clone, PartialEq)]
pub struct NewChunk {
    /// See [`ChunkId::derived`].
    pub id: ChunkId,
    /// The chunk.
    pub draft: ChunkDraft,
    /// The terms of [`ChunkDraft::context_text`] with the number of their occurrences, in any order, each once.
    pub terms: Vec<(String, u32)>,
}

/// A chunk without a vector of some space.
#[derive(Debug, Clone, PartialEq)]
pub struct Unembedded {
    /// Its tenant.
    pub scope: TenantScope,
    /// The chunk.
    pub chunk: ChunkId,
    /// The text to embed: [`ChunkDraft::context_text`].
    pub text: String,
}

/// The progress of the job that ingests one version of a document.
#[derive(Debug, Clone, PartialEq)]
pub struct IngestJob {
    /// Its id.
    pub id: JobId,
    /// The document.
    pub key: DocumentKey,
    /// How far it has come.
    pub status: IngestStatus,
    /// Chunks that were staged for the version; all of them once it is published.
    pub done: u64,
    /// All chunks of the version; none until they are cut.
    pub total: Option<u64>,
    /// When it was submitted.
    pub created_at: Timestamp,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
}

/// The state of an [`IngestJob`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IngestStatus {
    /// It waits for a worker.
    Queued,
    /// Its chunks are being stored.
    Running,
    /// Searches find the version.
    Completed,
    /// The version could not be ingested.
    Failed(IngestFailure),
    /// A newer version was submitted, or the document was deleted, before it ended.
    Superseded,
}

/// What is searched for.
#[derive(Debug, Clone)]
pub struct Search {
    /// The collections to search; nothing is found if there are none.
    pub collections: Vec<CollectionName>,
    /// Who searches.
    pub reader: Reader,
    /// Metadata that a document must have: every name with exactly this value.
    pub filter: Vec<(String, Value)>,
    /// Terms of the question, each once.
    pub terms: Vec<String>,
    /// Vector of the question; none if there is no embedding model.
    pub vector: Option<Vector>,
    /// Number of hits wanted of each of the two searches.
    pub limit: usize,
}

/// What the two searches found, best first; ties in order of the chunk id.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Candidates {
    /// By BM25 over the tenant's own statistics; see [`crate::lexical`].
    pub lexical: Vec<Hit>,
    /// By cosine; only chunks whose vector has the space of the question's.
    pub semantic: Vec<Hit>,
    /// Chunks of `lexical`, in its order, that have no vector of the question's space yet; none if the question has no
    /// vector. That they are missing in `semantic` says nothing about them.
    pub unembedded: Vec<ChunkId>,
}

/// A chunk that a search found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Hit {
    /// The chunk.
    pub chunk: ChunkId,
    /// Its score: a BM25 sum or a cosine.
    pub score: f64,
}

/// Stores and searches documents.
///
/// Contract (one test suite checks every implementation):
/// - *Tenancy*: a call sees and changes data of its scope only; what one tenant stores changes neither what another one
///   finds nor a single score of it. All filters apply inside the search: `limit` readable hits are returned if there
///   are that many.
/// - *Durability*: what a call changed is durable when it returns, all of it or nothing.
/// - *Fencing*: a call that names a version changes nothing and returns `false` (or [`Published::Superseded`]) if that
///   version is not the newest one any more, does not wait any more, or the document is gone.
/// - *Erasure*: after `delete` and `erase_tenant` no search, read or raw file of the index has any of the content.
#[async_trait]
pub trait KnowledgeIndex: Send + Sync + fmt::Debug {
    /// Stores a document's content and attributes. The content waits for [`pending`](Self::pending); until it is
    /// published, searches find the version before it, and it waits in the place of a version that it supersedes.
    /// Content that failed before is accepted again.
    async fn submit(&self, scope: &TenantScope, submission: Submission, quota: &Quota) -> Result<Submitted, LogError>;

    /// Changes the attributes of a document; in force for every later search. `at` becomes the time of its last change if
    /// that makes a difference. None if there is no such document.
    async fn change_attributes(
        &self,
        scope: &TenantScope,
        key: &DocumentKey,
        changes: &AttributeChanges,
        at: Timestamp,
    ) -> Result<Option<Document>, LogError>;

    /// Returns a document.
    async fn document(&self, scope: &TenantScope, key: &DocumentKey) -> Result<Option<Document>, LogError>;

    /// Returns at most `limit` documents of a collection with greater external ids than `after`, in their order.
    async fn documents(
        &self,
        scope: &TenantScope,
        collection: &CollectionName,
        after: Option<&ExternalId>,
        limit: usize,
    ) -> Result<Vec<Document>, LogError>;

    /// Returns at most `limit` current chunks of a document from position `from` on; none if there is no such document.
    async fn chunks(
        &self,
        scope: &TenantScope,
        key: &DocumentKey,
        from: u32,
        limit: usize,
    ) -> Result<Option<Vec<Chunk>>, LogError>;

    /// Deletes a document with everything derived from it. None if there is no such document. Its jobs stay for their
    /// day: they hold no content.
    async fn delete(
        &self,
        scope: &TenantScope,
        key: &DocumentKey,
        at: Timestamp,
    ) -> Result<Option<ErasureReceipt>, LogError>;

    /// Returns what the tenant has stored.
    async fn totals(&self, scope: &TenantScope) -> Result<Totals, LogError>;

    /// Returns the job that ingests a version; for a day after it has ended.
    async fn job(&self, scope: &TenantScope, job: JobId) -> Result<Option<IngestJob>, LogError>;

    /// Returns the oldest waiting version of each of at most `limit` tenants that are not in `busy`, those that waited
    /// longest first.
    async fn pending(&self, busy: &[TenantScope], limit: usize) -> Result<Vec<Pending>, LogError>;

    /// Counts an attempt to ingest a version that waits, before it begins. Returns the number of attempts since a new
    /// chunk of the version was last staged, with this one; none if the version does not wait. So a version that ends
    /// every process that ingests it is noticed, and one that needs many processes is not.
    async fn begin(&self, scope: &TenantScope, document: DocumentId, version: Version)
    -> Result<Option<u32>, LogError>;

    /// Stores how many chunks a version has, for the progress of its job.
    async fn start(
        &self,
        scope: &TenantScope,
        document: DocumentId,
        version: Version,
        total: u64,
    ) -> Result<bool, LogError>;

    /// Returns which of these chunks of the document are stored already, current or staged, and have a vector of
    /// `space`, or which are stored at all if there is none; in the order asked for. A cited chunk that left the
    /// searches has to be staged again.
    async fn known_chunks(
        &self,
        scope: &TenantScope,
        document: DocumentId,
        chunks: &[ChunkId],
        space: Option<&Space>,
    ) -> Result<Vec<ChunkId>, LogError>;

    /// Stores chunks of a version that waits, with their vectors if there is a model (none or one for each). A chunk that
    /// is stored keeps its row, and its vector if it has one of the same space.
    async fn stage(
        &self,
        scope: &TenantScope,
        document: DocumentId,
        version: Version,
        chunks: Vec<NewChunk>,
        vectors: Vec<Vector>,
    ) -> Result<bool, LogError>;

    /// Makes a version the searchable one, with the title that was found in its content. The chunks are all those of the
    /// version in order, each stored before and with its place in this version. Chunks that are no longer part of it leave the searches; they are deleted unless they are
    /// cited. The content is deleted. Fails with [`Published::QuotaExceeded`] if the tenant would have too many chunks,
    /// and with an error if a chunk is not stored or occurs twice.
    async fn publish(
        &self,
        scope: &TenantScope,
        document: DocumentId,
        version: Version,
        contents: Contents,
        quota: &Quota,
        at: Timestamp,
    ) -> Result<Published, LogError>;

    /// Records that a version could not be ingested; deletes its content and all chunks of the document that were only
    /// staged.
    async fn fail(
        &self,
        scope: &TenantScope,
        document: DocumentId,
        version: Version,
        failure: IngestFailure,
        at: Timestamp,
    ) -> Result<bool, LogError>;

    /// Returns at most `limit` current chunks that have no vector of `space`, of tenants that are not in `skip`: some of
    /// each, as far as the limit allows.
    async fn unembedded(&self, space: &Space, skip: &[TenantScope], limit: usize) -> Result<Vec<Unembedded>, LogError>;

    /// Returns how many current chunks have no vector of `space`, of one tenant or of all; counts at most up to `most`.
    async fn missing_vectors(&self, scope: Option<&TenantScope>, space: &Space, most: u64) -> Result<u64, LogError>;

    /// Stores vectors for current chunks, replacing those of the same space. Chunks that are gone are skipped.
    async fn put_vectors(&self, scope: &TenantScope, vectors: Vec<(ChunkId, Vector)>) -> Result<(), LogError>;

    /// Returns the spaces that may have vectors, in the order of their names.
    async fn spaces(&self) -> Result<Vec<Space>, LogError>;

    /// Deletes all vectors of other spaces than those in `keep`.
    async fn drop_spaces(&self, keep: &[Space]) -> Result<(), LogError>;

    /// Searches.
    async fn search(&self, scope: &TenantScope, search: &Search) -> Result<Candidates, LogError>;

    /// Reads those of these chunks that the reader may read, in the order asked for; also cited chunks that are no
    /// longer current.
    async fn read(&self, scope: &TenantScope, reader: &Reader, chunks: &[ChunkId]) -> Result<Vec<Chunk>, LogError>;

    /// Marks published chunks as cited: they stay readable when an update removes them, until their document is deleted.
    /// Chunks that are gone are skipped.
    async fn cite(&self, scope: &TenantScope, chunks: &[ChunkId]) -> Result<(), LogError>;

    /// Deletes jobs that ended before a time; returns their number.
    async fn forget_jobs(&self, ended_before: Timestamp) -> Result<u64, LogError>;

    /// Returns how far the documents of a source have come: what was last stored under this name.
    async fn source_position(&self, scope: &TenantScope, name: &str) -> Result<Option<String>, LogError>;

    /// Stores how far the documents of a source have come. It belongs here: the documents that were stored before it are
    /// in this index, and nowhere else.
    async fn put_source_position(&self, scope: &TenantScope, name: &str, position: &str) -> Result<(), LogError>;

    /// Deletes everything of a tenant.
    async fn erase_tenant(&self, scope: &TenantScope) -> Result<ErasureReceipt, LogError>;

    /// Checks that the index answers.
    async fn ready(&self) -> Result<(), LogError>;
}

/// What a version consists of when it becomes the searchable one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Contents {
    /// The title that its content states; see [`Attributes::content_title`](crate::document::Attributes::content_title).
    pub title: Option<String>,
    /// All its chunks, in order.
    pub chunks: Vec<(ChunkId, ChunkPlace)>,
}

impl From<Vec<(ChunkId, ChunkPlace)>> for Contents {
    /// Contents that state no title.
    fn from(chunks: Vec<(ChunkId, ChunkPlace)>) -> Self {
        Self { title: None, chunks }
    }
}

/// What changes of a chunk when an update moves it within its document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkPlace {
    /// See [`ChunkDraft::page`].
    pub page: Option<u32>,
    /// See [`ChunkDraft::start`].
    pub start: u64,
    /// See [`ChunkDraft::end`].
    pub end: u64,
}

/// What became of a version that was to be published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Published {
    /// Searches find it.
    Done,
    /// A newer version was submitted, the document was deleted, or the version had ended before.
    Superseded,
    /// Nothing was changed: the tenant would have more chunks than its quota allows.
    QuotaExceeded,
}

/// Puts a question's terms, each with the number of chunks that contain it, in the order in which their weights are
/// added up: the rarest first, which say most. Every implementation adds in this order, so that scores agree to the last
/// bit.
pub fn by_rarity(terms: &mut [(String, u64)]) {
    terms.sort_by(|(a, rare), (b, common)| rare.cmp(common).then_with(|| a.cmp(b)));
}
