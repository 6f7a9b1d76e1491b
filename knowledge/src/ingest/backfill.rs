//! Embeds published chunks that have no vector of the current model: those ingested without a model, or with another one.
//! Once all have one, the vectors of other models are deleted: nothing searches them any more.
//!
//! A tenant whose chunks the model does not embed, since it may not use the model or its budget is exhausted, holds up no
//! other tenant; while there is one, vectors of other models stay.
//!
//! It keeps nothing that it would need after a kill: it asks the index what is missing.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use copilotd_actors::domain::ids::ChunkId;
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
    #[error("the model did not embed the chunks of {tenants} tenants; the first one, {first}: {error}")]
    Postponed {
        tenants: usize,
        first: String,
        error: EmbedError,
    },
}

/// Chunks after which the progress is logged again.
const REPORTED: u64 = 1_000;
/// Most chunks of a tenant that the model may refuse before the others wait, too: with so many it is not the texts.
const MAX_REFUSED: usize = 64;

/// Publishes how many chunks wait for a vector.
fn report(missing: u64) {
    gauge!("copilotd_knowledge_chunks_without_vector").set(missing as f64);
}

/// What a run leaves out.
#[derive(Default)]
struct LeftOut {
    /// Tenants whose chunks the model does not embed now.
    tenants: Vec<TenantScope>,
    /// Why, of the first one.
    error: Option<EmbedError>,
    /// Chunks of other tenants that the model refuses: words find them.
    chunks: HashMap<TenantScope, HashSet<ChunkId>>,
}

impl Backfill {
    async fn run(&self) -> Result<(), Stopped> {
        let (space, index, batch) = (&self.engine.space, &self.parts.index, self.parts.bounds.batch);
        let mut embedded = 0_u64;
        let mut missing = index.missing_vectors(None, space, u64::MAX).await?;
        if missing > 0 {
            tracing::info!(%space, chunks = missing, "embedding chunks that have no vector of the current model");
        }
        let mut left_out = LeftOut::default();
        loop {
            report(missing);
            let at_most = batch + left_out.refused();
            let mut chunks = index.unembedded(space, &left_out.tenants, at_most).await?;
            chunks.retain(|chunk| !left_out.has(chunk));
            if chunks.is_empty() {
                break;
            }
            let count = self.embed(chunks, &mut left_out).await?;
            let before = embedded;
            embedded += count;
            missing = missing.saturating_sub(count);
            if embedded / REPORTED > before / REPORTED {
                tracing::info!(%space, embedded, missing, "embedding chunks that have no vector of the current model");
            }
        }
        if embedded > 0 {
            tracing::info!(%space, chunks = embedded, "embedded chunks that had no vector");
        }
        if let (Some(error), Some(first)) = (left_out.error.take(), left_out.tenants.first()) {
            return Err(Stopped::Postponed {
                tenants: left_out.tenants.len(),
                first: first.tenant().to_string(),
                error,
            });
        }
        let chunks = left_out.refused();
        report(chunks as u64);
        if chunks > 0 {
            tracing::warn!(%space, chunks, "the model refused to embed some chunks; they are found by their words alone");
        }
        index.drop_spaces(std::slice::from_ref(space)).await?;
        Ok(())
    }

    /// Embeds chunks, those of each tenant in a request of its own if that makes a difference. Returns the number of
    /// vectors that were stored.
    async fn embed(&self, chunks: Vec<Unembedded>, left_out: &mut LeftOut) -> Result<u64, Stopped> {
        let mut stored = 0;
        for (scope, chunks) in by_tenant(chunks) {
            match self.embed_of(&scope, &chunks).await {
                Ok(()) => stored += chunks.len() as u64,
                Err(Stopped::Model(EmbedError::TooLarge(_))) if chunks.len() > 1 => {
                    for chunk in chunks {
                        match self.embed_of(&scope, std::slice::from_ref(&chunk)).await {
                            Ok(()) => stored += 1,
                            Err(Stopped::Model(error @ EmbedError::TooLarge(_))) => left_out.refuse(&chunk, error),
                            Err(error) => {
                                left_out.postpone_or(&scope, error)?;
                                break;
                            }
                        }
                    }
                }
                Err(Stopped::Model(error @ EmbedError::TooLarge(_))) => {
                    chunks.iter().for_each(|chunk| left_out.refuse(chunk, error.clone()));
                }
                Err(error) => left_out.postpone_or(&scope, error)?,
            }
        }
        Ok(stored)
    }

    async fn embed_of(&self, scope: &TenantScope, chunks: &[Unembedded]) -> Result<(), Stopped> {
        let request = EmbedRequest {
            texts: chunks.iter().map(|chunk| chunk.text.clone()).collect(),
            purpose: Purpose::Passage,
            urgency: Urgency::Background,
        };
        let vectors = embed_patiently(&self.engine, scope, request, &self.parts.bounds).await?;
        let vectors = chunks.iter().map(|chunk| chunk.chunk).zip(vectors).collect();
        Ok(self.parts.index.put_vectors(scope, vectors).await?)
    }
}

impl LeftOut {
    /// Returns the number of chunks that are left out.
    fn refused(&self) -> usize {
        self.chunks.values().map(HashSet::len).sum()
    }

    fn has(&self, chunk: &Unembedded) -> bool {
        let of_tenant = self.chunks.get(&chunk.scope);
        of_tenant.is_some_and(|chunks| chunks.contains(&chunk.chunk))
    }

    fn refuse(&mut self, chunk: &Unembedded, error: EmbedError) {
        let of_tenant = self.chunks.entry(chunk.scope.clone()).or_default();
        of_tenant.insert(chunk.chunk);
        if of_tenant.len() > MAX_REFUSED {
            self.postpone(&chunk.scope, error);
        }
    }

    /// Leaves out a tenant if the error concerns it alone.
    fn postpone_or(&mut self, scope: &TenantScope, error: Stopped) -> Result<(), Stopped> {
        match error {
            Stopped::Model(error @ (EmbedError::Denied(_) | EmbedError::Busy)) => {
                self.postpone(scope, error);
                Ok(())
            }
            error => Err(error),
        }
    }

    fn postpone(&mut self, scope: &TenantScope, error: EmbedError) {
        self.chunks.remove(scope);
        if !self.tenants.contains(scope) {
            self.tenants.push(scope.clone());
        }
        self.error.get_or_insert(error);
    }
}

/// Groups chunks by their tenants, in the order of the first chunk of each.
fn by_tenant(chunks: Vec<Unembedded>) -> Vec<(TenantScope, Vec<Unembedded>)> {
    let mut places: HashMap<TenantScope, usize> = HashMap::new();
    let mut groups: Vec<(TenantScope, Vec<Unembedded>)> = Vec::new();
    for chunk in chunks {
        let place = *places.entry(chunk.scope.clone()).or_insert_with(|| {
            groups.push((chunk.scope.clone(), Vec::new()));
            groups.len() - 1
        });
        groups[place].1.push(chunk);
    }
    groups
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
