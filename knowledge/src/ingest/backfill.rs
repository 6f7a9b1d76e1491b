//! Embeds published chunks that have no vector of the current model: those ingested without a model, or with another one.
//! Once all have one, the vectors of other models are deleted: nothing searches them any more.
//!
//! It keeps nothing that it would need after a kill: it asks the index what is missing.

use std::collections::HashMap;
use std::sync::Arc;

use copilotd_actors::ports::{EmbedError, EmbedRequest, LogError, Purpose, Urgency};
use copilotd_actors::tenancy::TenantScope;
use metrics::gauge;
use ractor::{Actor, ActorProcessingErr, ActorRef};

use super::worker::embed_patiently;
use super::{Engine, Parts};
use crate::index::Unembedded;

/// The actor; ends when every chunk has a vector, and fails when the index or the model does.
pub(super) struct Backfill {
    pub(super) parts: Arc<Parts>,
    pub(super) engine: Engine,
}

/// Starts it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Run;

/// Why the backfill stopped early.
#[derive(Debug, thiserror::Error)]
enum Stopped {
    #[error(transparent)]
    Index(#[from] LogError),
    #[error(transparent)]
    Model(#[from] EmbedError),
}

/// Chunks after which the progress is logged again.
const REPORTED: u64 = 1_000;

/// Publishes how many chunks wait for a vector.
fn report(missing: u64) {
    gauge!("copilotd_knowledge_chunks_without_vector").set(missing as f64);
}

impl Backfill {
    async fn run(&self) -> Result<(), Stopped> {
        let (space, index) = (&self.engine.space, &self.parts.index);
        let mut embedded = 0_u64;
        let mut missing = index.missing_vectors(None, space, u64::MAX).await?;
        if missing > 0 {
            tracing::info!(%space, chunks = missing, "embedding chunks that have no vector of the current model");
        }
        loop {
            report(missing);
            let chunks = self.parts.index.unembedded(space, &[], self.parts.bounds.batch).await?;
            if chunks.is_empty() {
                break;
            }
            let count = chunks.len() as u64;
            self.embed(chunks).await?;
            let before = embedded;
            embedded += count;
            missing = missing.saturating_sub(count);
            if embedded / REPORTED > before / REPORTED {
                tracing::info!(%space, embedded, missing, "embedding chunks that have no vector of the current model");
            }
        }
        report(0);
        index.drop_spaces(std::slice::from_ref(space)).await?;
        if embedded > 0 {
            tracing::info!(space = %self.engine.space, chunks = embedded, "embedded all chunks that had no vector");
        }
        Ok(())
    }

    async fn embed(&self, chunks: Vec<Unembedded>) -> Result<(), Stopped> {
        let request = EmbedRequest {
            texts: chunks.iter().map(|chunk| chunk.text.clone()).collect(),
            purpose: Purpose::Passage,
            urgency: Urgency::Background,
        };
        let vectors = embed_patiently(&self.engine, request, &self.parts.bounds).await?;
        let mut by_tenant: HashMap<TenantScope, Vec<_>> = HashMap::new();
        for (chunk, vector) in chunks.into_iter().zip(vectors) {
            by_tenant.entry(chunk.scope).or_default().push((chunk.chunk, vector));
        }
        for (scope, vectors) in by_tenant {
            self.parts.index.put_vectors(&scope, vectors).await?;
        }
        Ok(())
    }
}

impl Actor for Backfill {
    type Msg = Run;
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<Run>, (): ()) -> Result<(), ActorProcessingErr> {
        Ok(())
    }

    async fn handle(&self, me: ActorRef<Run>, _: Run, (): &mut ()) -> Result<(), ActorProcessingErr> {
        self.run().await?;
        me.stop(None);
        Ok(())
    }
}
