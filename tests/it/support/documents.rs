//! The knowledge of applications in tests: an index in memory, and vectors that follow from words.

use std::sync::Arc;

use copilotd::app::KnowledgeParts;
use copilotd_actors::fakes::embedder::FakeEmbedder;
use copilotd_knowledge::chunk::Estimate;
use copilotd_knowledge::extract::{Extractor, Limits, NoPdf};
use copilotd_knowledge::fakes::{MemoryIndex, MemoryTurnVectors};
use copilotd_knowledge::ingest::Engine;

/// Returns an empty knowledge.
pub fn documents() -> KnowledgeParts {
    let engine = Engine {
        embedder: Arc::new(FakeEmbedder::default()),
        space: "fake".into(),
    };
    KnowledgeParts {
        index: Arc::new(MemoryIndex::new()),
        engine: Some(engine.clone()),
        previous: None,
        recall: Some(engine),
        is_configured: false,
        extractor: Extractor::new(Arc::new(NoPdf), Limits::default()),
        turn_vectors: Some(Arc::new(MemoryTurnVectors::default())),
        is_remote: false,
        pdf: None,
        pdf_reader: None,
        tokens: Arc::new(Estimate),
    }
}
