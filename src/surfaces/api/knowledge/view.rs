//! What clients see of documents and chunks.

use std::collections::{BTreeMap, BTreeSet};

use copilotd_actors::domain::ids::{ChunkId, CollectionName, DocumentId, ExternalId, JobId, UserId};
use copilotd_knowledge::chunk::Chunk;
use copilotd_knowledge::document::{Access, Document, Format, IngestFailure, Stage, Version};
use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;

/// A document in a response.
#[derive(Debug, Serialize)]
pub struct DocumentView {
    id: DocumentId,
    collection: CollectionName,
    external_id: ExternalId,
    title: Option<String>,
    uri: Option<String>,
    metadata: BTreeMap<String, Value>,
    /// `None` for everybody.
    allowed_users: Option<BTreeSet<UserId>>,
    /// `None` for everybody.
    allowed_roles: Option<BTreeSet<String>>,
    format: Format,
    bytes: u64,
    version: Version,
    status: Stage,
    error: Option<IngestFailure>,
    chunks: u64,
    job_id: JobId,
    created_at: Timestamp,
    updated_at: Timestamp,
}

impl From<Document> for DocumentView {
    fn from(document: Document) -> Self {
        let title = document.attributes.shown_title().map(str::to_owned);
        let (allowed_users, allowed_roles) = match document.attributes.access {
            Access::Everyone => (None, None),
            Access::Listed { users, roles } => (Some(users), Some(roles)),
        };
        Self {
            id: document.id,
            collection: document.key.collection,
            external_id: document.key.external_id,
            title,
            uri: document.attributes.uri,
            metadata: document.attributes.metadata,
            allowed_users,
            allowed_roles,
            format: document.format,
            bytes: document.bytes,
            version: document.version,
            status: document.stage,
            error: document.failure,
            chunks: document.chunks,
            job_id: document.job,
            created_at: document.created_at,
            updated_at: document.updated_at,
        }
    }
}

/// A chunk in a response.
#[derive(Debug, Serialize)]
pub struct ChunkView {
    chunk_id: ChunkId,
    document_id: DocumentId,
    collection: CollectionName,
    external_id: ExternalId,
    title: Option<String>,
    uri: Option<String>,
    heading: String,
    text: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    page: Option<u32>,
    /// Offsets in the document's extracted text, in bytes.
    start: u64,
    end: u64,
    is_current: bool,
}

impl From<Chunk> for ChunkView {
    fn from(chunk: Chunk) -> Self {
        Self {
            chunk_id: chunk.id,
            document_id: chunk.document,
            collection: chunk.key.collection,
            external_id: chunk.key.external_id,
            title: chunk.title,
            uri: chunk.uri,
            heading: chunk.draft.heading,
            text: chunk.draft.text,
            page: chunk.draft.page,
            start: chunk.draft.start,
            end: chunk.draft.end,
            is_current: chunk.is_current,
        }
    }
}

/// A chunk that a search found.
#[derive(Debug, Serialize)]
pub struct FoundView {
    #[serde(flatten)]
    chunk: ChunkView,
    score: f64,
}

impl From<(Chunk, f64)> for FoundView {
    fn from((chunk, score): (Chunk, f64)) -> Self {
        Self {
            chunk: chunk.into(),
            score,
        }
    }
}
