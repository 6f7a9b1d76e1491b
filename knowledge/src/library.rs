//! The knowledge of a process, as its surfaces use it.

use std::fmt;
use std::sync::Arc;

use copilotd_actors::domain::ids::JobId;
use copilotd_actors::ports::{Clock, Ids, LogError};
use copilotd_actors::tenancy::TenantScope;
use ractor::ActorRef;
use sha2::{Digest as _, Sha256};

use crate::document::{AttributeChanges, DocumentKey, Format};
use crate::index::{KnowledgeIndex, Quota, Submission, Submitted};
use crate::ingest;
use crate::retrieve::Retriever;

/// Stores and finds documents.
pub struct Library {
    /// The index.
    pub index: Arc<dyn KnowledgeIndex>,
    /// Searches it.
    pub retriever: Arc<Retriever>,
    /// Ingests what is stored.
    pub ingestion: ActorRef<ingest::Msg>,
    /// Returns what a tenant may store.
    pub quota: Arc<dyn Fn(&TenantScope) -> Quota + Send + Sync>,
    /// Whether there is an embedding model; none if none is configured.
    pub embeds: Option<bool>,
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// Source of new ids.
    pub ids: Arc<dyn Ids>,
    /// Largest content of a document, in bytes.
    pub max_bytes: usize,
}

/// A content as it was received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    /// Its format.
    pub format: Format,
    /// The bytes.
    pub bytes: Vec<u8>,
}

impl Content {
    /// Returns the SHA-256 of format and bytes. Takes a few milliseconds per MiB.
    pub fn hash(&self) -> [u8; 32] {
        let format = match self.format {
            Format::Text => "text",
            Format::Markdown => "markdown",
            Format::Html => "html",
            Format::Pdf => "pdf",
            Format::Csv => "csv",
            Format::Docx => "docx",
            Format::Json => "json",
        };
        // A byte that no format's name has ends the name.
        let hash = Sha256::new().chain_update(format).chain_update([0]);
        hash.chain_update(&self.bytes).finalize().into()
    }
}

impl Library {
    /// Stores a content under a key, with its hash; its ingestion starts as soon as a worker is free.
    pub async fn store(
        &self,
        scope: &TenantScope,
        key: DocumentKey,
        content: Content,
        content_hash: [u8; 32],
        changes: AttributeChanges,
    ) -> Result<Submitted, LogError> {
        let submission = Submission {
            key,
            format: content.format,
            content: content.bytes,
            content_hash,
            changes,
            job: JobId::new(self.ids.uuid()),
            at: self.clock.now(),
        };
        let submitted = self.index.submit(scope, submission, &(self.quota)(scope)).await?;
        if matches!(submitted, Submitted::Accepted(_)) {
            // If it has ended the process is stopping, and the next one finds what waits.
            let _ = self.ingestion.cast(ingest::Msg::Wake);
        }
        Ok(submitted)
    }
}

impl fmt::Debug for Library {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Library")
            .field("index", &self.index)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_bytes_in_another_format_are_another_content() {
        let of = |format| {
            Content {
                format,
                bytes: b"a".to_vec(),
            }
            .hash()
        };
        assert_ne!(of(Format::Text), of(Format::Markdown));
        assert_eq!(of(Format::Text), of(Format::Text));
    }
}
