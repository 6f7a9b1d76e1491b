//! Ingests one version of a document.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use copilotd_actors::compute::{self, ComputeError};
use copilotd_actors::crash;
use copilotd_actors::domain::ids::ChunkId;
use copilotd_actors::ports::{EmbedError, EmbedRequest, LogError, Purpose, Urgency, Vector};
use copilotd_actors::tenancy::TenantScope;
use metrics::{counter, histogram};
use ractor::{Actor, ActorProcessingErr, ActorRef};

use super::pieces::{Piece, identify};
use super::{Bounds, Engine, Msg, Parts};
use crate::chunk::{ChunkDraft, chunk};
use crate::document::{Document, IngestFailure};
use crate::extract::{ExtractError, Extracted};
use crate::index::{Contents, NewChunk, Pending, Published};
use crate::lexical;

/// Cost of cutting a byte into chunks, in the unit of [`compute`].
const CHUNK_COST_PER_BYTE: usize = 32;
/// Cost of stemming a byte, in the unit of [`compute`].
const TERMS_COST_PER_BYTE: usize = 8;
/// Most attempts to embed a batch with a model that fails or does not answer in time.
const EMBED_ATTEMPTS: u32 = 5;

/// Most characters of a title that a content states; as many as the API takes of one.
const TITLE_CHARS: usize = 512;

/// The actor; ends after one version.
pub(super) struct Worker {
    pub(super) parts: Arc<Parts>,
    /// Notified of the first progress.
    pub(super) supervisor: ActorRef<Msg>,
}

/// The version to ingest.
pub(super) struct Task(pub(super) Box<Pending>);

/// Why a version was not published.
#[derive(Debug, thiserror::Error)]
enum Stopped {
    /// It cannot be ingested, now or later.
    #[error("{}", .0.message)]
    Failed(IngestFailure),
    /// A newer version was submitted, or the document was deleted.
    #[error("a newer version was submitted or the document was deleted")]
    Superseded,
    /// The index failed: the version keeps waiting.
    #[error(transparent)]
    Index(#[from] LogError),
    /// Too much work of the tenant is queued: the version keeps waiting.
    #[error("{0}")]
    Busy(String),
}

impl From<ExtractError> for Stopped {
    fn from(error: ExtractError) -> Self {
        if error.is_transient() {
            return Self::Busy(error.to_string());
        }
        Self::Failed(IngestFailure {
            code: error.code().to_owned(),
            message: error.to_string(),
        })
    }
}

impl From<ComputeError> for Stopped {
    fn from(error: ComputeError) -> Self {
        match error {
            ComputeError::Full => Self::Busy(error.to_string()),
            // As in a worker that panics itself: the supervisor counts it.
            ComputeError::Panicked => panic!("{error}"),
        }
    }
}

impl Worker {
    /// Ingests a version; tries again while the index does not answer.
    async fn run(&self, pending: Pending) {
        let Pending {
            scope,
            document,
            content,
            ..
        } = pending;
        let mut pause = self.parts.bounds.pause;
        let (tenant, id, version) = (scope.tenant(), document.id, document.version);
        let (mut is_counted, mut refusals) = (false, 0);
        loop {
            let mut result = match is_counted {
                true => self.ingest(&scope, &document, content.clone()).await,
                false => match self.begin(&scope, &document).await {
                    Ok(()) => {
                        is_counted = true;
                        self.ingest(&scope, &document, content.clone()).await
                    }
                    Err(stopped) => Err(stopped),
                },
            };
            match &result {
                Err(Stopped::Busy(_)) => refusals += 1,
                _ => refusals = 0,
            }
            if refusals >= self.parts.bounds.refusals {
                result = Err(Stopped::Failed(IngestFailure {
                    code: ExtractError::Busy.code().to_owned(),
                    message: "The server had no capacity to read this document for a long time. Store it again later."
                        .to_owned(),
                }));
            }
            if let Err(Stopped::Failed(failure)) = &result {
                let (index, now) = (&self.parts.index, self.parts.clock.now());
                match index.fail(&scope, id, version, failure.clone(), now).await {
                    Ok(_) => {
                        counter!("copilotd_ingested_documents_total", "outcome" => "failed").increment(1);
                        tracing::info!(%tenant, document = %id, code = failure.code, "a document could not be ingested");
                        return;
                    }
                    Err(error) => result = Err(error.into()),
                }
            }
            match result {
                Ok(()) => {
                    counter!("copilotd_ingested_documents_total", "outcome" => "searchable").increment(1);
                    return;
                }
                Err(Stopped::Superseded | Stopped::Failed(_)) => return,
                Err(error @ (Stopped::Index(_) | Stopped::Busy(_))) => {
                    tracing::warn!(%tenant, document = %id, %error, "ingestion of a document was interrupted; trying again");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(self.parts.bounds.longest_pause);
                }
            }
        }
    }

    /// Counts this attempt; fails if there were too many that something else ended.
    async fn begin(&self, scope: &TenantScope, document: &Document) -> Result<(), Stopped> {
        crash::point("ingest.before:begin");
        let attempt = self.parts.index.begin(scope, document.id, document.version).await?;
        match attempt {
            None => Err(Stopped::Superseded),
            Some(attempt) if attempt > self.parts.bounds.attempts => Err(Stopped::Failed(IngestFailure {
                code: "internal".to_owned(),
                message:
                    "Reading this document ended the reader or the whole server each time. The server's log has the \
                          cause."
                        .to_owned(),
            })),
            Some(_) => {
                crash::point("ingest.after:begin");
                Ok(())
            }
        }
    }

    async fn ingest(&self, scope: &TenantScope, document: &Document, content: Vec<u8>) -> Result<(), Stopped> {
        let started = tokio::time::Instant::now();
        let extracted = self
            .parts
            .extractor
            .extract(scope.tenant(), content, document.format, None)
            .await?;
        crash::point("ingest.after:extract");
        histogram!("copilotd_extraction_seconds").record(started.elapsed());
        let stated = extracted.title.as_deref().and_then(stated_title);
        let title = document.attributes.title.clone().or_else(|| stated.clone());
        let drafts = self.cut(scope, extracted).await?;
        if drafts.is_empty() {
            return Err(ExtractError::NoText.into());
        }
        let pieces = identify(document.id, drafts);
        let (id, version) = (document.id, document.version);
        let index = &self.parts.index;
        if !index.start(scope, id, version, pieces.len() as u64).await? {
            return Err(Stopped::Superseded);
        }
        crash::point("ingest.after:start");
        let ids: Vec<ChunkId> = pieces.iter().map(|piece| piece.id).collect();
        let space = self.parts.engine.as_ref().map(|engine| &engine.space);
        let known = index.known_chunks(scope, id, &ids, space).await?;
        let known: HashSet<ChunkId> = known.into_iter().collect();
        let new: Vec<&Piece> = pieces.iter().filter(|piece| !known.contains(&piece.id)).collect();
        // Once it has failed, the rest of a version does not wait for it: the backfill asks again, later.
        let mut engine = self.parts.engine.as_ref();
        for (number, batch) in new.chunks(self.parts.bounds.batch.max(1)).enumerate() {
            self.stage(scope, document, title.as_deref(), batch, &mut engine)
                .await?;
            crash::point("ingest.after:stage");
            if number == 0 {
                // If it has ended the process is stopping.
                let _ = self.supervisor.cast(Msg::Progressed(id));
            }
        }
        counter!("copilotd_ingested_chunks_total", "outcome" => "kept").increment(known.len() as u64);
        let contents = Contents {
            title: stated,
            chunks: pieces.iter().map(Piece::place).collect(),
        };
        let (quota, now) = ((self.parts.quota)(scope), self.parts.clock.now());
        crash::point("ingest.before:publish");
        let published = index.publish(scope, id, version, contents, &quota, now);
        match timed("publish", published).await? {
            Published::Done => {
                crash::point("ingest.after:publish");
                Ok(())
            }
            Published::Superseded => Err(Stopped::Superseded),
            Published::QuotaExceeded => Err(Stopped::Failed(IngestFailure {
                code: "quota_exceeded".to_owned(),
                message: format!(
                    "the tenant may have at most {} chunks; delete documents or raise the quota",
                    quota.chunks
                ),
            })),
        }
    }

    async fn cut(&self, scope: &TenantScope, extracted: Extracted) -> Result<Vec<ChunkDraft>, Stopped> {
        let (cost, tokens) = (
            extracted.text.len() * CHUNK_COST_PER_BYTE,
            Arc::clone(&self.parts.tokens),
        );
        let cut = compute::run(Some(scope.tenant()), cost, move || chunk(&extracted, &*tokens));
        Ok(timed("chunk", cut).await?)
    }

    /// Stores some of a version's chunks, with their terms, and their vectors while there is an engine.
    async fn stage(
        &self,
        scope: &TenantScope,
        document: &Document,
        title: Option<&str>,
        pieces: &[&Piece],
        engine: &mut Option<&Engine>,
    ) -> Result<(), Stopped> {
        let texts: Vec<String> = pieces.iter().map(|piece| piece.draft.context_text(title)).collect();
        let cost = texts.iter().map(String::len).sum::<usize>() * TERMS_COST_PER_BYTE;
        let stemmed = texts.clone();
        let stem = move || stemmed.iter().map(|text| lexical::terms(text)).collect::<Vec<_>>();
        let terms = timed("stem", compute::run(Some(scope.tenant()), cost, stem)).await?;
        let vectors = timed("embed", self.vectors(scope, texts, engine)).await;
        let new = |(piece, terms): (&&Piece, Vec<(String, u32)>)| NewChunk {
            id: piece.id,
            draft: piece.draft.clone(),
            terms,
        };
        let chunks: Vec<NewChunk> = pieces.iter().zip(terms).map(new).collect();
        counter!("copilotd_ingested_chunks_total", "outcome" => "new").increment(chunks.len() as u64);
        let index = &self.parts.index;
        let stored = index.stage(scope, document.id, document.version, chunks, vectors);
        let stored = timed("store", stored).await?;
        if stored { Ok(()) } else { Err(Stopped::Superseded) }
    }

    /// Returns the vectors of texts; none without a model or when it fails, and then the backfill makes them later.
    async fn vectors(&self, scope: &TenantScope, texts: Vec<String>, engine: &mut Option<&Engine>) -> Vec<Vector> {
        let Some(model) = *engine else {
            return Vec::new();
        };
        let request = EmbedRequest {
            texts,
            purpose: Purpose::Passage,
            urgency: Urgency::Background,
        };
        let error = match embed_patiently(model, scope, request, &self.parts.bounds).await {
            Ok(vectors) => return vectors,
            Err(error) => error,
        };
        let tenant = scope.tenant();
        tracing::warn!(%tenant, %error, "chunks could not be embedded; they are found by their words alone for now");
        if !matches!(error, EmbedError::TooLarge(_)) {
            *engine = None;
        }
        Vec::new()
    }
}

/// Records how long a step takes, with its waits.
async fn timed<T>(step: &'static str, work: impl Future<Output = T>) -> T {
    let started = tokio::time::Instant::now();
    let done = work.await;
    histogram!("copilotd_ingestion_step_seconds", "step" => step).record(started.elapsed());
    done
}

/// Embeds texts of a tenant in the background. A model that is busy, late or fails is asked again a few times: texts
/// without a vector get one from the backfill, later.
pub(super) async fn embed_patiently(
    engine: &Engine,
    scope: &TenantScope,
    request: EmbedRequest,
    bounds: &Bounds,
) -> Result<Vec<Vector>, EmbedError> {
    let (mut pause, mut failures, mut refusals) = (Duration::from_millis(50), 0, 0);
    loop {
        let error = match engine.embed(scope, request.clone()).await {
            Ok(vectors) => return Ok(vectors),
            Err(error) => error,
        };
        match error {
            EmbedError::TooLarge(_) | EmbedError::Denied(_) => return Err(error),
            EmbedError::Busy if refusals + 1 >= bounds.refusals => return Err(error),
            EmbedError::Busy => refusals += 1,
            EmbedError::Failed(_) | EmbedError::Timeout if failures + 1 >= EMBED_ATTEMPTS => return Err(error),
            EmbedError::Failed(_) | EmbedError::Timeout => failures += 1,
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(bounds.longest_pause);
    }
}

/// Returns a title that a content states on one line and of a bounded length; none if it is blank.
fn stated_title(title: &str) -> Option<String> {
    let words = title.split_whitespace().flat_map(|word| [word, " "]);
    let title: String = words.flat_map(str::chars).take(TITLE_CHARS).collect();
    let title = title.trim_end();
    (!title.is_empty()).then(|| title.to_owned())
}

impl Actor for Worker {
    type Msg = Task;
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<Task>, (): ()) -> Result<(), ActorProcessingErr> {
        Ok(())
    }

    async fn handle(&self, me: ActorRef<Task>, Task(pending): Task, (): &mut ()) -> Result<(), ActorProcessingErr> {
        self.run(*pending).await;
        me.stop(None);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stated_title_is_one_line_of_a_bounded_length() {
        let long = "é".repeat(2 * TITLE_CHARS);
        for (stated, title) in [
            ("Refunds", Some("Refunds".to_owned())),
            ("  Refunds\n and\tinvoices ", Some("Refunds and invoices".to_owned())),
            (" \n ", None),
            ("", None),
            (long.as_str(), Some("é".repeat(TITLE_CHARS))),
        ] {
            assert_eq!(stated_title(stated), title, "{stated}");
        }
    }
}
