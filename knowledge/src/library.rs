//! The knowledge of a process, as its surfaces use it.

use std::fmt;
use std::sync::Arc;

use copilotd_actors::domain::ids::JobId;
use copilotd_actors::ports::{Clock, Ids, LogError, Space};
use copilotd_actors::tenancy::TenantScope;
use ractor::ActorRef;
use sha2::{Digest as _, Sha256};

use crate::document::{AttributeChanges, DocumentKey, Format};
use crate::index::{KnowledgeIndex, Quota, Submission, Submitted};
use crate::ingest::{self, Engine};
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
    /// The embedding models; none if none is configured.
    pub models: Option<Models>,
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// Source of new ids.
    pub ids: Arc<dyn Ids>,
    /// Largest content of a document, in bytes.
    pub max_bytes: usize,
}

/// The embedding models of documents.
#[derive(Debug, Clone)]
pub struct Models {
    /// The one that embeds; none if it could not be loaded.
    pub current: Option<Engine>,
    /// The one that is being replaced.
    pub previous: Option<Engine>,
}

impl Models {
    /// Returns those of some spaces that no model has a question's vector for: vectors in them are not searched.
    pub fn without_model<'a>(&self, spaces: &'a [Space]) -> Vec<&'a Space> {
        let known = |space: &Space| {
            let mut engines = self.current.iter().chain(&self.previous);
            engines.any(|engine| engine.space == *space)
        };
        spaces.iter().filter(|space| !known(space)).collect()
    }
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
    /// Whether questions and documents can be embedded, as far as is known; none if no model is configured.
    pub fn embeds(&self) -> Option<bool> {
        let models = self.models.as_ref()?;
        Some(models.current.as_ref().is_some_and(|engine| engine.embedder.is_ready()))
    }

    /// Whether documents that another model embedded before are found by meaning, too, until they are embedded again;
    /// none if there are no vectors of another model, or no model.
    pub async fn searches_previous(&self) -> Result<Option<bool>, LogError> {
        let Some(models) = &self.models else { return Ok(None) };
        let Some(current) = &models.current else {
            return Ok(None);
        };
        let spaces = self.index.spaces().await?;
        let is_replaced = spaces.iter().any(|space| *space != current.space);
        Ok(is_replaced.then(|| models.without_model(&spaces).is_empty()))
    }

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
    use copilotd_actors::fakes::embedder::FakeEmbedder;

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

    #[test]
    fn models_know_whose_vectors_they_search() {
        let engine = |space: &str| Engine {
            embedder: Arc::new(FakeEmbedder::new(space)),
            space: space.into(),
        };
        let spaces: [Space; 3] = ["a".into(), "b".into(), "c".into()];
        for (current, previous, expected) in [
            (Some("a"), None, vec!["b", "c"]),
            (Some("a"), Some("c"), vec!["b"]),
            (None, Some("c"), vec!["a", "b"]),
        ] {
            let models = Models {
                current: current.map(engine),
                previous: previous.map(engine),
            };
            let without: Vec<&str> = models.without_model(&spaces).into_iter().map(AsRef::as_ref).collect();
            assert_eq!(without, expected);
        }
    }
}
