//! Ingestion: turns stored content into searchable chunks, in the background and durably.
//!
//! [`Ingestion`] is the supervisor. It asks the index which versions wait, and gives each to a `Worker`, at most
//! one per tenant and [`Bounds::workers`] in all; while nothing waits, it embeds chunks that have no vector yet. Everything that
//! must survive is in the index, so a worker that dies is replaced, and after a restart chunks that were stored are not made
//! again.
//!
//! Invariant: a version ends as failed after [`Bounds::attempts`] attempts without progress, whatever ended them: a panic, or
//! the whole process. The count is in the index. A version whose last attempt ended with its process is ingested alone until
//! it makes progress: should it end this process too, no other version is counted as its cause.

mod backfill;
mod pieces;
mod worker;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use copilotd_actors::domain::ids::DocumentId;
use copilotd_actors::ports::{Clock, EmbedError, EmbedRequest, Embedder, Space, Vector};
use copilotd_actors::tenancy::TenantScope;
use jiff::SignedDuration;
use ractor::{Actor, ActorId, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::time::Instant;

use self::backfill::Backfill;
use self::worker::{Task, Worker};
use crate::chunk::TokenCount;
use crate::extract::Extractor;
use crate::index::{KnowledgeIndex, Pending, Quota};

/// An embedding model and the space of its vectors.
#[derive(Debug, Clone)]
pub struct Engine {
    /// The model.
    pub embedder: Arc<dyn Embedder>,
    /// The space of all its vectors.
    pub space: Space,
}

impl Engine {
    /// Embeds texts of a tenant: one vector for each.
    pub async fn embed(&self, scope: &TenantScope, request: EmbedRequest) -> Result<Vec<Vector>, EmbedError> {
        let wanted = request.texts.len();
        let vectors = match self.embedder.of_tenant(scope) {
            Some(own) => own.embed(request).await?,
            None => self.embedder.embed(request).await?,
        };
        let is_whole = vectors.len() == wanted && vectors.iter().all(|vector| *vector.space() == self.space);
        is_whole
            .then_some(vectors)
            .ok_or_else(|| EmbedError::Failed("the model did not return one vector of its space per text".to_owned()))
    }
}

/// What ingestion needs.
pub struct Parts {
    /// The index.
    pub index: Arc<dyn KnowledgeIndex>,
    /// Reads contents.
    pub extractor: Extractor,
    /// Counts the tokens of chunks.
    pub tokens: Arc<dyn TokenCount>,
    /// Embeds chunks; without it they are found by their words alone, until there is one.
    pub engine: Option<Engine>,
    /// Returns what a tenant may store.
    pub quota: Arc<dyn Fn(&TenantScope) -> Quota + Send + Sync>,
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// Bounds.
    pub bounds: Bounds,
}

/// Bounds of ingestion.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Versions that are ingested at the same time.
    pub workers: usize,
    /// Chunks that are embedded and stored together.
    pub batch: usize,
    /// Attempts at a version that ended before a new chunk was stored, in a panic or with the process, after which it
    /// has failed. Restarts of the server count: a few of them must not fail what is slow to read.
    pub attempts: u32,
    /// Refusals for lack of capacity in a row: of a reader, after which a version has failed; of the model, after which
    /// chunks are stored without vectors for now.
    pub refusals: u32,
    /// Pause after a failure of the index, doubled with each further one up to `longest_pause`.
    pub pause: Duration,
    /// See `pause`.
    pub longest_pause: Duration,
    /// Interval at which the index is asked even if nobody has submitted anything.
    pub poll: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            workers: 2,
            batch: 16,
            attempts: 5,
            // With the pauses between them, more than six minutes of a reader and two of the model.
            refusals: 12,
            pause: Duration::from_secs(1),
            longest_pause: Duration::from_secs(60),
            poll: Duration::from_secs(30),
        }
    }
}

/// Messages to [`Ingestion`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Msg {
    /// Something was submitted.
    Wake,
    /// A timer: ask the index.
    Poll,
    /// Some chunks of the document's version were stored.
    Progressed(DocumentId),
}

/// The supervisor; see the module.
pub struct Ingestion(pub Arc<Parts>);

/// State of [`Ingestion`].
#[derive(Default)]
pub struct State {
    running: HashMap<ActorId, Running>,
    /// Documents whose last worker panicked: a panic ends no other version's attempt.
    panicked: HashSet<DocumentId>,
    backfill: Option<ActorId>,
    /// Whether all vectors were there when the backfill last looked, and nothing was published since.
    is_filled: bool,
    /// Backfills in a row that stopped early.
    stopped: u32,
    /// No backfill starts earlier.
    not_before: Option<Instant>,
    failures: u32,
}

/// The version that a worker ingests.
struct Running {
    scope: TenantScope,
    document: DocumentId,
    /// Whether nothing else may run now.
    is_alone: bool,
}

/// How long a job is kept after it has ended.
pub const JOBS_KEPT: SignedDuration = SignedDuration::from_hours(24);

impl Ingestion {
    /// Gives waiting versions to workers, as many as may run.
    async fn fill(&self, me: &ActorRef<Msg>, state: &mut State) -> Result<(), ActorProcessingErr> {
        let free = self.0.bounds.workers.saturating_sub(state.running.len());
        if free == 0 || state.running.values().any(|running| running.is_alone) {
            return Ok(());
        }
        let busy: Vec<TenantScope> = state.running.values().map(|running| running.scope.clone()).collect();
        let pending = match self.0.index.pending(&busy, free).await {
            Ok(pending) => pending,
            Err(error) => {
                tracing::warn!(%error, "could not read which documents wait to be ingested; trying again");
                self.poll_later(me, state);
                return Ok(());
            }
        };
        state.failures = 0;
        let is_idle = pending.is_empty() && state.running.is_empty();
        for pending in pending {
            let is_alone = pending.attempts > 0 && !state.panicked.contains(&pending.document.id);
            // It waits until the others have ended, and what came after it waits for it.
            if is_alone && !state.running.is_empty() {
                break;
            }
            self.start(me, state, pending, is_alone).await?;
            if is_alone {
                break;
            }
        }
        let is_due = state.not_before.is_none_or(|not_before| not_before <= Instant::now());
        if is_idle && is_due && !state.is_filled && state.backfill.is_none() {
            self.start_backfill(me, state).await?;
        }
        Ok(())
    }

    async fn start(
        &self,
        me: &ActorRef<Msg>,
        state: &mut State,
        pending: Pending,
        is_alone: bool,
    ) -> Result<(), ActorProcessingErr> {
        let running = Running {
            scope: pending.scope.clone(),
            document: pending.document.id,
            is_alone,
        };
        let worker = Worker {
            parts: Arc::clone(&self.0),
            supervisor: me.clone(),
        };
        let (worker, _) = Actor::spawn_linked(None, worker, (), me.get_cell()).await?;
        state.running.insert(worker.get_id(), running);
        worker.cast(Task(Box::new(pending)))?;
        Ok(())
    }

    async fn start_backfill(&self, me: &ActorRef<Msg>, state: &mut State) -> Result<(), ActorProcessingErr> {
        let Some(engine) = self.0.engine.clone() else {
            return Ok(());
        };
        let backfill = Backfill {
            parts: Arc::clone(&self.0),
            engine,
        };
        let (worker, _) = Actor::spawn_linked(None, backfill, (), me.get_cell()).await?;
        state.backfill = Some(worker.get_id());
        worker.cast(backfill::Run)?;
        Ok(())
    }

    /// Does what the index wants done now and then.
    async fn tidy(&self) {
        // It also restores what it holds back for a full disk.
        if let Err(error) = self.0.index.ready().await {
            tracing::warn!(%error, "the index of documents does not answer");
            return;
        }
        let before = self.0.clock.now() - JOBS_KEPT;
        if let Err(error) = self.0.index.forget_jobs(before).await {
            tracing::warn!(%error, "could not delete old ingestion jobs; trying again");
        }
    }

    fn poll_later(&self, me: &ActorRef<Msg>, state: &mut State) {
        let pause = self.pause(state.failures);
        state.failures = state.failures.saturating_add(1);
        me.send_after(pause, || Msg::Poll);
    }

    /// Returns the pause after so many failures in a row.
    fn pause(&self, failures: u32) -> Duration {
        let bounds = &self.0.bounds;
        let pause = bounds.pause.saturating_mul(2_u32.saturating_pow(failures.min(16)));
        pause.min(bounds.longest_pause)
    }

    /// A worker has ended, with a panic if there is an error: its version is published, failed, superseded, or still waiting.
    async fn ended(
        &self,
        me: &ActorRef<Msg>,
        state: &mut State,
        who: ActorId,
        error: Option<String>,
    ) -> Result<(), ActorProcessingErr> {
        if state.backfill == Some(who) {
            state.backfill = None;
            state.is_filled = error.is_none();
            let Some(error) = error else {
                (state.stopped, state.not_before) = (0, None);
                return Ok(());
            };
            let pause = self.pause(state.stopped);
            tracing::warn!(
                error,
                pause_s = pause.as_secs(),
                "embedding of older chunks stopped; trying again"
            );
            state.stopped = state.stopped.saturating_add(1);
            state.not_before = Some(Instant::now() + pause);
            me.send_after(pause, || Msg::Poll);
            return Ok(());
        }
        let Some(running) = state.running.remove(&who) else {
            return Ok(());
        };
        if state.running.is_empty() {
            // What is started next is alone anyway.
            state.panicked.clear();
        }
        if let Some(error) = error {
            state.panicked.insert(running.document);
            let (tenant, document) = (running.scope.tenant(), running.document);
            tracing::error!(%tenant, %document, error, "the ingestion of a document panicked");
        }
        // Its chunks may have been published without vectors while the model was busy.
        self.fill(me, state).await
    }
}

impl Actor for Ingestion {
    type Msg = Msg;
    type State = State;
    type Arguments = ();

    async fn pre_start(&self, me: ActorRef<Msg>, (): ()) -> Result<State, ActorProcessingErr> {
        me.cast(Msg::Wake)?;
        me.send_interval(self.0.bounds.poll, || Msg::Poll);
        Ok(State::default())
    }

    async fn handle(&self, me: ActorRef<Msg>, message: Msg, state: &mut State) -> Result<(), ActorProcessingErr> {
        match message {
            Msg::Wake => state.is_filled = false,
            Msg::Poll => self.tidy().await,
            Msg::Progressed(document) => {
                let known = state.running.values_mut().find(|running| running.document == document);
                if let Some(running) = known {
                    running.is_alone = false;
                }
            }
        }
        self.fill(&me, state).await
    }

    async fn handle_supervisor_evt(
        &self,
        me: ActorRef<Msg>,
        event: SupervisionEvent,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match event {
            SupervisionEvent::ActorFailed(who, error) => {
                self.ended(&me, state, who.get_id(), Some(error.to_string())).await
            }
            SupervisionEvent::ActorTerminated(who, _, _) => self.ended(&me, state, who.get_id(), None).await,
            SupervisionEvent::ActorStarted(_) | SupervisionEvent::ProcessGroupChanged(_) => Ok(()),
        }
    }
}
