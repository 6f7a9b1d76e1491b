//! A tenant's knowledge, as a turn uses it: passages of documents that answer a question, and the record that some of
//! them were cited.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use async_trait::async_trait;

use crate::domain::context_record::RetrievalStep;
use crate::domain::ids::{ChunkId, CollectionName, DocumentId, ExternalId, UserId};
use crate::tenancy::TenantScope;

/// Searches the documents of a tenant.
///
/// Contract (`fakes::knowledge::contract` checks it):
/// - *Tenancy*: a call finds and changes chunks of its scope only.
/// - *Access*: who may read a document is decided while the search runs, by the documents' access lists as they are
///   then. A chunk that the reader may not read is never returned, whatever the limit, and takes no place of another.
/// - *Best first*: chunks come in order of relevance, each once, at most as many as asked for. Scores are finite and
///   never rise from one to the next. Without collections, or without a word in the texts, nothing is found, and that
///   is no error.
/// - *Repeatable*: the same query on the same documents has the same answer. A search has no effects.
/// - *Cancel-safe*: a dropped call leaves nothing behind. A citation is stored or not stored; it can be repeated.
/// - *Bounded*: it bounds, for each tenant, what waits and what runs, and answers [`KnowledgeError::Busy`] beyond. The
///   caller limits the time.
#[async_trait]
pub trait Knowledge: Send + Sync + fmt::Debug {
    /// Finds the chunks that best answer a query.
    async fn retrieve(&self, scope: &TenantScope, query: &KnowledgeQuery) -> Result<Retrieved, KnowledgeError>;

    /// Marks chunks as cited: they stay readable when an update removes them. Durable when it returns. Chunks that are
    /// gone are skipped; citing a chunk again changes nothing.
    async fn cite(&self, scope: &TenantScope, chunks: &[ChunkId]) -> Result<(), KnowledgeError>;
}

/// What a turn searches for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnowledgeQuery {
    /// The collections to search.
    pub collections: Vec<CollectionName>,
    /// The user who asks; none for a caller that acts for nobody, who sees only documents for everybody.
    pub user: Option<UserId>,
    /// The user's roles, as the tenant's identity provider names them.
    pub roles: BTreeSet<String>,
    /// The question, in one or several wordings. What is found by any of them counts.
    pub texts: Vec<String>,
    /// Maximum number of chunks.
    pub limit: usize,
}

/// What a search found.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Retrieved {
    /// The chunks, best first.
    pub chunks: Vec<RetrievedChunk>,
    /// Whether vectors took part; if not, words alone decided.
    pub is_semantic: bool,
    /// How long each step took, in the order in which they ran.
    pub steps: Vec<(RetrievalStep, Duration)>,
}

/// A chunk that a search found.
#[derive(Debug, Clone, PartialEq)]
pub struct RetrievedChunk {
    /// Its id, which belongs to exactly this text.
    pub chunk: ChunkId,
    /// Its document.
    pub document: DocumentId,
    /// The document's id in the tenant's own system.
    pub external_id: ExternalId,
    /// The collection of the document.
    pub collection: CollectionName,
    /// Title of the document.
    pub title: Option<String>,
    /// Address at which people can open the document.
    pub uri: Option<String>,
    /// The headings above the chunk, outermost first, joined by " > "; empty if there is none.
    pub heading: String,
    /// The passage: exactly the bytes of the document's text.
    pub text: String,
    /// The page on which it begins, from 1; none for formats without pages.
    pub page: Option<u32>,
    /// Its relevance, as far as this query's chunks are compared with each other.
    pub score: f64,
}

/// Why nothing was retrieved or cited.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KnowledgeError {
    /// Too many searches of this tenant are waiting.
    #[error("too many searches of this tenant are waiting")]
    Busy,
    /// There was no answer in time.
    #[error("no answer within {} ms", .0.as_millis())]
    TimedOut(
        /// The time limit.
        Duration,
    ),
    /// The knowledge cannot be used at present.
    #[error("unavailable: {0}")]
    Unavailable(String),
}
