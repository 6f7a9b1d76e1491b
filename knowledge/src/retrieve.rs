//! Retrieval: finds the chunks that answer a question, by their words and by their meaning.
//!
//! The question, in parts if it is long, is embedded; the index searches twice (BM25 and cosine); the rankings are fused by their
//! ranks; what repeats a better chunk is dropped; and the best chunks are read. Several wordings of one question count alike.
//!
//! While the model is being replaced, a tenant's chunks are searched by the vectors of both models, each with the question's
//! vector of the same model, until all have one of the new model. The two rankings are merged by ranks: cosines of different
//! models are never compared.
//!
//! Invariants: who may read what is decided by the index while it searches, and again when the chunks are read. A model that
//! does not answer in time costs the search its vectors, never its result.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use copilotd_actors::compute;
use copilotd_actors::domain::context_record::RetrievalStep;
use copilotd_actors::domain::ids::{ChunkId, CollectionName};
use copilotd_actors::ports::{
    EmbedError, EmbedRequest, Knowledge, KnowledgeError, KnowledgeQuery, LogError, Purpose, Retrieved, RetrievedChunk,
    Urgency, Vector,
};
use copilotd_actors::tenancy::TenantScope;
use metrics::{counter, histogram};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::time::Instant;

use crate::chunk::Chunk;
use crate::document::Reader;
use crate::fusion;
use crate::index::{Hit, KnowledgeIndex, Search};
use crate::ingest::Engine;
use crate::lexical;
use crate::query::{self, Part};

/// Candidates of each of the two searches.
pub const CANDIDATES: usize = 100;
/// Chunks that are read to replace those that repeat a better one.
const SPARE: usize = 8;
/// Most wordings of one question.
pub const MAX_TEXTS: usize = 4;
/// Longest part of a wording that is searched for, in bytes; the rest is ignored.
pub const MAX_TEXT_BYTES: usize = 8 * 1024;
/// Longest time that a search waits for the question's vector.
const EMBED_TIMEOUT: Duration = Duration::from_secs(2);
/// Cost of stemming a byte, in the unit of [`compute`].
const TERMS_COST_PER_BYTE: usize = 8;

/// Searches the documents of tenants.
#[derive(Debug, Clone)]
pub struct Retriever {
    index: Arc<dyn KnowledgeIndex>,
    engine: Option<Engine>,
    previous: Option<Arc<Previous>>,
}

/// The model that is being replaced.
#[derive(Debug)]
struct Previous {
    engine: Engine,
    /// Tenants whose chunks all have a vector of the new model.
    replaced: Mutex<HashSet<TenantScope>>,
}

/// A question.
#[derive(Debug, Clone, PartialEq)]
pub struct Question {
    /// The collections to search.
    pub collections: Vec<CollectionName>,
    /// Who asks.
    pub reader: Reader,
    /// Metadata that documents must have.
    pub filter: Vec<(String, Value)>,
    /// The question, in one or several wordings; at most [`MAX_TEXTS`] are searched for.
    pub texts: Vec<String>,
    /// Most chunks to return.
    pub limit: usize,
}

/// The answer of a search.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Found {
    /// The chunks with their scores, best first.
    pub chunks: Vec<(Chunk, f64)>,
    /// Whether vectors took part.
    pub is_semantic: bool,
    /// How long each step took.
    pub steps: Vec<(RetrievalStep, Duration)>,
}

impl Retriever {
    /// Creates a retriever; without an engine only words are compared.
    pub fn new(index: Arc<dyn KnowledgeIndex>, engine: Option<Engine>) -> Self {
        Self {
            index,
            engine,
            previous: None,
        }
    }

    /// Also searches by the vectors of a model that is being replaced, while a tenant has chunks with these only.
    #[must_use]
    pub fn replacing(self, engine: Engine) -> Self {
        let replaced = Mutex::default();
        Self {
            previous: Some(Arc::new(Previous { engine, replaced })),
            ..self
        }
    }

    /// Returns the model that is being replaced, while this tenant needs it.
    async fn previous(&self, scope: &TenantScope) -> Result<Option<&Engine>, LogError> {
        let (Some(previous), Some(current)) = (&self.previous, &self.engine) else {
            return Ok(None);
        };
        if previous.replaced.lock().contains(scope) {
            return Ok(None);
        }
        if self.index.missing_vectors(Some(scope), &current.space, 1).await? > 0 {
            return Ok(Some(&previous.engine));
        }
        previous.replaced.lock().insert(scope.clone());
        tracing::info!(
            tenant = %scope.tenant(), space = %current.space,
            "all documents of a tenant are embedded with the new model; its searches use that model alone"
        );
        Ok(None)
    }

    /// Finds the chunks that best answer a question.
    pub async fn find(&self, scope: &TenantScope, question: &Question) -> Result<Found, LogError> {
        let parts = parts(&question.texts);
        if parts.iter().all(Vec::is_empty) || question.collections.is_empty() || question.limit == 0 {
            return Ok(Found::default());
        }
        let mut clock = Steps::default();
        let texts: Vec<String> = parts.iter().flatten().map(|part| part.text.clone()).collect();
        let previous = self.previous(scope).await?;
        let (older, vectors) = tokio::join!(
            vectors(previous, scope, texts.clone()),
            vectors(self.engine.as_ref(), scope, texts)
        );
        let is_semantic = vectors.iter().chain(&older).any(Option::is_some);
        if self.engine.is_some() {
            clock.end(RetrievalStep::Embed);
        }
        let mut vectors = vectors.into_iter().zip(older);
        let mut rankings = Vec::with_capacity(parts.len());
        for wording in &parts {
            let mut found = Vec::with_capacity(wording.len());
            for part in wording {
                let (vector, older) = vectors.next().unwrap_or_default();
                // Without a model the words of a long message are all there is.
                let terms = if part.is_lexical || (vector.is_none() && older.is_none()) {
                    terms(scope, &part.text).await?
                } else {
                    Vec::new()
                };
                let search = Search {
                    collections: question.collections.clone(),
                    reader: question.reader.clone(),
                    filter: question.filter.clone(),
                    terms,
                    vector,
                    limit: CANDIDATES,
                };
                let candidates = self.index.search(scope, &search).await?;
                let chunks = |hits: &[Hit]| hits.iter().map(|hit| hit.chunk).collect::<Vec<_>>();
                let mut semantic = chunks(&candidates.semantic);
                let mut unembedded = candidates.unembedded;
                if older.is_some() {
                    let search = Search {
                        terms: Vec::new(),
                        vector: older,
                        ..search
                    };
                    let candidates = self.index.search(scope, &search).await?;
                    semantic = in_turns(&chunks(&candidates.semantic), &semantic);
                    // The older model ranks those, too.
                    unembedded.clear();
                }
                found.push(query::Found {
                    lexical: chunks(&candidates.lexical),
                    semantic,
                    unembedded,
                });
            }
            rankings.push(query::combine(&found));
        }
        let fused = sum(rankings);
        clock.end(RetrievalStep::Search);
        let best: Vec<ChunkId> = fused
            .iter()
            .take(question.limit + SPARE)
            .map(|(chunk, _)| *chunk)
            .collect();
        let read = self.index.read(scope, &question.reader, &best).await?;
        let chunks = distinct(read, &fused, question.limit);
        clock.end(RetrievalStep::Read);
        counter!("copilotd_knowledge_searches_total", "vectors" => if is_semantic { "yes" } else { "no" }).increment(1);
        Ok(Found {
            chunks,
            is_semantic,
            steps: clock.steps,
        })
    }
}

/// Returns the vector of each text; none without a model, or if it has no time.
async fn vectors(engine: Option<&Engine>, scope: &TenantScope, texts: Vec<String>) -> Vec<Option<Vector>> {
    let wanted = texts.len();
    let Some(engine) = engine else {
        return vec![None; wanted];
    };
    let request = EmbedRequest {
        texts,
        purpose: Purpose::Query,
        urgency: Urgency::Foreground,
    };
    match tokio::time::timeout(EMBED_TIMEOUT, engine.embed(scope, request)).await {
        Ok(Ok(vectors)) => vectors.into_iter().map(Some).collect(),
        // So it is with each search of the tenant; the log says it when documents are embedded.
        Ok(Err(EmbedError::Denied(cause))) => {
            tracing::debug!(tenant = %scope.tenant(), cause, "a question was not embedded; searching by words alone");
            vec![None; wanted]
        }
        Ok(Err(error)) => {
            tracing::warn!(%error, "a question could not be embedded; searching by words alone");
            vec![None; wanted]
        }
        Err(_) => {
            tracing::warn!("the embedding model did not answer in time; searching by words alone");
            vec![None; wanted]
        }
    }
}

/// Merges two rankings: by turns, each chunk at its better place.
fn in_turns(one: &[ChunkId], other: &[ChunkId]) -> Vec<ChunkId> {
    let mut seen = HashSet::new();
    let places = 0..one.len().max(other.len());
    let both = places.flat_map(|place| [one.get(place), other.get(place)]);
    both.flatten().copied().filter(|chunk| seen.insert(*chunk)).collect()
}

/// Measures steps that follow each other.
struct Steps {
    started: Instant,
    steps: Vec<(RetrievalStep, Duration)>,
}

impl Default for Steps {
    fn default() -> Self {
        Self {
            started: Instant::now(),
            steps: Vec::with_capacity(3),
        }
    }
}

impl Steps {
    fn end(&mut self, step: RetrievalStep) {
        let took = self.started.elapsed();
        self.started += took;
        histogram!("copilotd_knowledge_search_seconds", "step" => step.name()).record(took);
        self.steps.push((step, took));
    }
}

/// Returns what to search for, for each wording.
fn parts(texts: &[String]) -> Vec<Vec<Part>> {
    let clipped = texts.iter().map(|text| text.trim()).filter(|text| !text.is_empty());
    let clipped = clipped.map(|text| &text[..text.floor_char_boundary(MAX_TEXT_BYTES)]);
    clipped.take(MAX_TEXTS).map(query::parts).collect()
}

/// Adds up the scores of each chunk over all wordings.
fn sum(rankings: Vec<Vec<(ChunkId, f64)>>) -> Vec<(ChunkId, f64)> {
    let mut scores: HashMap<ChunkId, f64> = HashMap::new();
    for (chunk, score) in rankings.into_iter().flatten() {
        *scores.entry(chunk).or_default() += score;
    }
    fusion::best_first(scores.into_iter().collect())
}

/// Returns the terms of a question, each once.
async fn terms(scope: &TenantScope, text: &str) -> Result<Vec<String>, LogError> {
    let (cost, text) = (text.len() * TERMS_COST_PER_BYTE, text.to_owned());
    let stem = move || lexical::terms(&text).into_iter().map(|(term, _)| term).collect();
    let terms = compute::run(Some(scope.tenant()), cost, stem).await;
    terms.map_err(|error| LogError::Unavailable(error.to_string()))
}

/// Returns the best chunks with their scores, without those that repeat a better one.
fn distinct(read: Vec<Chunk>, fused: &[(ChunkId, f64)], limit: usize) -> Vec<(Chunk, f64)> {
    let texts: Vec<&str> = read.iter().map(|chunk| chunk.draft.text.as_str()).collect();
    let kept = fusion::distinct(&texts);
    let score = |id: ChunkId| {
        fused
            .iter()
            .find(|(chunk, _)| *chunk == id)
            .map_or(0.0, |(_, score)| *score)
    };
    let chunks = read.into_iter().zip(kept).filter(|(_, kept)| *kept);
    chunks
        .map(|(chunk, _)| (score(chunk.id), chunk))
        .map(|(score, chunk)| (chunk, score))
        .take(limit)
        .collect()
}

#[async_trait]
impl Knowledge for Retriever {
    async fn retrieve(&self, scope: &TenantScope, query: &KnowledgeQuery) -> Result<Retrieved, KnowledgeError> {
        let question = Question {
            collections: query.collections.clone(),
            reader: Reader::Caller {
                user: query.user.clone(),
                roles: query.roles.clone(),
            },
            filter: Vec::new(),
            texts: query.texts.clone(),
            limit: query.limit,
        };
        let found = self.find(scope, &question).await.map_err(unavailable)?;
        Ok(Retrieved {
            chunks: found.chunks.into_iter().map(retrieved).collect(),
            is_semantic: found.is_semantic,
            steps: found.steps,
        })
    }

    async fn cite(&self, scope: &TenantScope, chunks: &[ChunkId]) -> Result<(), KnowledgeError> {
        self.index.cite(scope, chunks).await.map_err(unavailable)
    }
}

fn unavailable(error: LogError) -> KnowledgeError {
    KnowledgeError::Unavailable(error.to_string())
}

fn retrieved((chunk, score): (Chunk, f64)) -> RetrievedChunk {
    RetrievedChunk {
        chunk: chunk.id,
        document: chunk.document,
        external_id: chunk.key.external_id,
        collection: chunk.key.collection,
        title: chunk.title,
        uri: chunk.uri,
        heading: chunk.draft.heading,
        text: chunk.draft.text,
        page: chunk.draft.page,
        score,
    }
}
