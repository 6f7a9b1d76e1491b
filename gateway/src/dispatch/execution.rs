//! Executes one request over its failover plan: calls a target, holds the answer back until there is content, and tries
//! the next target if that fails.
//!
//! Invariant: nothing of an answer is released before its first content, or in mode buffered before its end. A failure
//! before that leaves no trace in the answer.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use copilotd_actors::domain::content::Finish;
use copilotd_actors::domain::failure::FailureClass;
use copilotd_actors::domain::file::FileKind;
use copilotd_actors::domain::ids::TenantId;
use copilotd_actors::jitter::jitter;
use copilotd_actors::ports::{ModelError, ModelEvent};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::time::Instant;

use super::attempt::{AttemptGuard, CallContext, watch};
use crate::provider::{CallProgress, Piece, PieceStream, Timeouts, UpstreamCall, WholeAnswer};
use crate::request::body::ChatBody;
use crate::request::embed::{EmbedAnswer, EmbedBody};
use crate::request::files;
use crate::routing::{Candidate, FailoverPlan, HedgeBudget, Next, rule};
use crate::target::{Kind, Target};

/// Most that is held back before an answer is released without content: some servers send much metadata before any
/// content.
const MAX_HELD_PIECES: usize = 64;
const MAX_HELD_BYTES: usize = 256 * 1024;
/// Longest stream that is buffered until it is complete.
const MAX_BUFFERED: usize = 8 * 1024 * 1024;

/// A document counts as late only after this multiple of its target's usual time.
const LATE_DOCUMENT: u32 = 3;
/// Least time left in which another request could still be answered.
const SHORTEST_LOOK: Duration = Duration::from_secs(2);
/// How often a document is requested again after silence.
const MOST_SILENCES: u32 = 2;

/// The request body, and the form in which the answer is wanted.
#[derive(Debug, Clone)]
pub(super) enum ExecutionRequest {
    /// A chat.completion.
    Whole(Arc<ChatBody>),
    /// Pieces as they arrive; with the provider's chunks if the flag is set.
    Live(Arc<ChatBody>, bool),
    /// Pieces, once all have arrived.
    Buffered(Arc<ChatBody>),
    /// Embeddings.
    Embed(Arc<EmbedBody>),
}

/// An answer that can be released.
pub(super) enum ReadyAnswer {
    Whole(WholeAnswer),
    Stream { held: VecDeque<Piece>, rest: PieceStream },
    Embedded(EmbedAnswer),
}

/// One request being executed.
#[derive(Debug)]
pub(super) struct Execution {
    pub request: ExecutionRequest,
    pub context: CallContext,
    pub timeouts: Timeouts,
    /// First-token timeout for models that reason before they answer.
    pub first_token_reasoning: Duration,
    pub hedges: Option<Arc<HedgeBudget>>,
    pub plan: FailoverPlan,
    /// Whether it must end much sooner than the route's timeouts, such as the embedding for a cache lookup.
    pub is_time_limited: bool,
    /// Targets that failed this request, in order, with the failure class.
    pub failures: Vec<(Candidate, FailureClass)>,
}

/// A failed attempt.
struct AttemptFailure {
    error: ModelError,
    /// Whether content had arrived, or at least the target was reachable.
    began: bool,
}

/// The failure of a document request. If its whole time passed, the answer may only be long or the connection dead;
/// unlike a refused connection, that is no reason not to try the same target again.
fn document(error: ModelError, is_out_of_time: bool) -> AttemptFailure {
    let began = is_out_of_time && error.class == FailureClass::TimedOut;
    AttemptFailure { error, began }
}

impl From<ModelError> for AttemptFailure {
    fn from(error: ModelError) -> Self {
        Self { error, began: false }
    }
}

type Attempt = Pin<Box<dyn Future<Output = Result<ReadyAnswer, AttemptFailure>> + Send>>;

impl Execution {
    /// Tries candidates until one answers; `None` when the failover plan is exhausted. The plan's failures then say
    /// why.
    pub(super) async fn run(&mut self) -> Option<(Candidate, ReadyAnswer)> {
        if let Some(hedges) = &self.hedges {
            hedges.earn();
        }
        loop {
            let candidate = match self.plan.next(Instant::now(), admit) {
                Next::Try(candidate) => candidate,
                Next::Wait(wait) => {
                    tokio::time::sleep(wait + jitter(rule::PAUSE)).await;
                    continue;
                }
                Next::Exhausted => return None,
            };
            let (candidate, result) = self.attempt_hedged(candidate).await;
            match result {
                Ok(got) => return Some((candidate, got)),
                Err(AttemptFailure { error, began }) => {
                    if let Some(pause) = self.failed(candidate, error, began) {
                        tokio::time::sleep(pause / 2 + jitter(pause)).await;
                    }
                }
            }
        }
    }

    /// Records a failure, before or after content; returns the pause before the next attempt.
    pub(super) fn failed(&mut self, candidate: Candidate, error: ModelError, began: bool) -> Option<Duration> {
        let class = error.class;
        // Not logged: the error's text may quote the request.
        tracing::info!(
            route = %self.context.route, target = %self.plan.target(candidate).name, key = %self.plan.key(candidate).name,
            attempt = self.plan.attempts(), class = class.code(), "model call failed; trying the next candidate, if any"
        );
        self.failures.push((candidate, class));
        self.plan.failed(candidate, error, began, Instant::now())
    }

    /// Makes one attempt. If its first token is later than nearly all of its target's and the hedge budget allows it,
    /// another target is called in parallel: the first one with content wins, the other is dropped.
    async fn attempt_hedged(&mut self, candidate: Candidate) -> (Candidate, Result<ReadyAnswer, AttemptFailure>) {
        let mut first = self.attempt(candidate);
        if let Some(late) = self.late_document(candidate) {
            return self.attempt_last_document(candidate, first, late).await;
        }
        let Some(late) = self.late(candidate) else {
            return (candidate, first.await);
        };
        if let Ok(result) = tokio::time::timeout(late, &mut first).await {
            return (candidate, result);
        }
        let is_affordable = self.hedges.as_ref().is_some_and(|hedges| hedges.take());
        let hedge_candidate = if is_affordable {
            self.plan.hedge_candidate(candidate, Instant::now(), admit)
        } else {
            None
        };
        let Some(other) = hedge_candidate else {
            return (candidate, first.await);
        };
        let mut second = self.attempt(other);
        let (failed, died, left, mut running) = tokio::select! {
            result = &mut first => match result {
                Ok(got) => return (candidate, Ok(got)),
                Err(died) => (candidate, died, other, second),
            },
            result = &mut second => match result {
                Ok(got) => return (other, Ok(got)),
                Err(died) => (other, died, candidate, first),
            },
        };
        self.failed(failed, died.error, died.began);
        (left, (&mut running).await)
    }

    /// Waits for a document from the last target. After `late`, and once more when half of the remaining time has
    /// passed, the document is requested again in parallel; so it is when one of the requests fails. The first answer
    /// wins.
    async fn attempt_last_document(
        &mut self,
        candidate: Candidate,
        first: Attempt,
        late: Duration,
    ) -> (Candidate, Result<ReadyAnswer, AttemptFailure>) {
        let told = |candidate: Candidate, attempt: Attempt| async move { (candidate, attempt.await) };
        let mut running = FuturesUnordered::from_iter([told(candidate, first)]);
        let (mut pause, mut silences, mut is_failure) = (Some(late), 0, false);
        loop {
            let next = running.next();
            let ended = match pause {
                Some(pause) => tokio::time::timeout(pause, next).await.ok(),
                // The requests' own timeouts end them.
                None => Some(next.await),
            };
            match ended.map(|ended| ended.unwrap_or_else(|| unreachable!("the last one that ends is returned"))) {
                Some((other, Err(died))) if !running.is_empty() => {
                    let wish = self.failed(other, died.error, died.began);
                    pause = Some(wish.unwrap_or_default() / 2 + jitter(rule::PAUSE));
                    is_failure = true;
                }
                Some(ended) => return ended,
                None => {
                    let now = Instant::now();
                    let left = self.plan.deadline().saturating_duration_since(now);
                    let is_after_failure = std::mem::take(&mut is_failure);
                    if let Some(other) = self.plan.retry_candidate(candidate, now, admit) {
                        let attempt = self.attempt(other);
                        running.push(told(other, attempt));
                        silences += u32::from(!is_after_failure);
                    }
                    // A target that cannot answer now may be able to later.
                    pause = (silences < MOST_SILENCES && left >= SHORTEST_LOOK).then_some(left / 2);
                }
            }
        }
    }

    /// Time after which the first token of `candidate` is late. `None` if it is unknown or hedging is not allowed: only for
    /// the first attempt of a stream, and only while all targets of the route are healthy.
    fn late(&self, candidate: Candidate) -> Option<Duration> {
        let hedges =
            self.hedges.is_some() && matches!(self.request, ExecutionRequest::Live(..)) && self.plan.attempts() == 1;
        if !hedges
            || self
                .plan
                .targets()
                .any(|target| target.state.with(|health, _| health.is_open()))
        {
            return None;
        }
        self.plan.target(candidate).state.with(|health, _| health.slow())
    }

    /// Time after which a document from the last candidate is doubtful; `None` for anything else. A dead connection
    /// looks the same as a model at work, so the running request is not abandoned.
    fn late_document(&self, candidate: Candidate) -> Option<Duration> {
        let now = Instant::now();
        let is_document = matches!(self.request, ExecutionRequest::Whole(_) | ExecutionRequest::Embed(_));
        if !is_document || self.is_time_limited || self.plan.others_available(candidate, now) > 0 {
            return None;
        }
        let usual = self
            .plan
            .target(candidate)
            .state
            .with(|health, _| health.usual_document());
        let half = self.plan.deadline().saturating_duration_since(now) / 2;
        let late = half.max(usual.unwrap_or_default() * LATE_DOCUMENT);
        // Any later, and a second request would hardly be answered in time.
        (late < half + half / 2).then_some(late)
    }

    fn attempt(&self, candidate: Candidate) -> Attempt {
        let (target, key) = (
            Arc::clone(self.plan.target(candidate)),
            Arc::clone(self.plan.key(candidate)),
        );
        let kind = match self.request {
            ExecutionRequest::Live(..) | ExecutionRequest::Buffered(_) => Kind::Stream,
            ExecutionRequest::Whole(_) | ExecutionRequest::Embed(_) => Kind::Document,
        };
        let timeouts = self.timeouts(candidate);
        let progress = Arc::new(CallProgress::default());
        // Counts as not sent until the future is polled.
        progress.refused();
        let (context, number) = (self.context.clone(), self.plan.attempts());
        let reads = target.reads.clone();
        let mut running = AttemptGuard::begin(context, target, Arc::clone(&key), kind, number, Arc::clone(&progress));
        let conversation = self.context.caller.conversation;
        let tenant = Some(self.context.caller.scope.tenant().clone());
        let request = self.request.clone();
        let begun = Instant::now();
        Box::pin(async move {
            // Before it counts as sent.
            let request = request.for_target(&reads, tenant.as_ref()).await;
            let request = request.inspect_err(|error| running.not_asked(error))?;
            progress.sending();
            let told = Arc::clone(&progress);
            let call = move |body: Arc<ChatBody>, chunks| UpstreamCall {
                body,
                timeouts,
                chunks,
                conversation,
                tenant,
                progress,
            };
            match request {
                ExecutionRequest::Whole(body) => {
                    let answer = running.settle_if_failed(key.upstream.whole(&call(body, true)).await);
                    let answer = answer.map_err(|error| document(error, begun.elapsed() >= timeouts.total))?;
                    running.document(Some(&answer.model), answer.usage, answer.finish);
                    Ok(ReadyAnswer::Whole(answer))
                }
                ExecutionRequest::Embed(body) => {
                    let answer = running.settle_if_failed(key.upstream.embed(&body, timeouts, &told).await);
                    let answer = answer.map_err(|error| document(error, begun.elapsed() >= timeouts.total))?;
                    running.document(None, answer.usage, Finish::Stop);
                    Ok(ReadyAnswer::Embedded(answer))
                }
                ExecutionRequest::Live(body, chunks) => {
                    let pieces = running.settle_if_failed(key.upstream.stream(&call(body, chunks)).await)?;
                    Ok(read_until_content(watch(pieces, running)).await?)
                }
                ExecutionRequest::Buffered(body) => {
                    let pieces = running.settle_if_failed(key.upstream.stream(&call(body, true)).await)?;
                    read_all(watch(pieces, running)).await
                }
            }
        })
    }

    /// Limits the whole execution to `within`. A target that exceeds its share of it counts as silent, and the next one
    /// is tried.
    pub(super) fn limit_time(&mut self, within: Duration) {
        let targets = u32::try_from(self.plan.targets_left().max(1)).unwrap_or(u32::MAX);
        self.timeouts.first_token = self.timeouts.first_token.min(within / targets);
        self.is_time_limited = true;
        self.plan.limit_time(Instant::now() + within);
    }

    /// Timeouts of the next attempt, within the time that is left. A document is silent until it is complete, so
    /// silence cannot be told from work, and a buffered stream shows nothing either: while other candidates can answer,
    /// each gets a share of the time. The last one gets all that is left.
    fn timeouts(&self, candidate: Candidate) -> Timeouts {
        let now = Instant::now();
        let left = self.plan.deadline().saturating_duration_since(now);
        let reasons = self.plan.target(candidate).reasoning || self.request.reasons();
        let first_token = if reasons {
            self.first_token_reasoning
        } else {
            self.timeouts.first_token
        };
        let total = match self.request {
            ExecutionRequest::Live(..) => left,
            ExecutionRequest::Buffered(_) | ExecutionRequest::Whole(_) | ExecutionRequest::Embed(_) => {
                let share = left / self.plan.others_available(candidate, now).saturating_add(1);
                share.max(first_token).min(left)
            }
        };
        Timeouts {
            first_token: first_token.min(left),
            total,
            ..self.timeouts
        }
    }
}

impl ExecutionRequest {
    /// Returns the request with the attached files that a target reads; the others are named in it already.
    async fn for_target(self, reads: &[FileKind], tenant: Option<&TenantId>) -> Result<Self, ModelError> {
        Ok(match self {
            Self::Whole(body) => Self::Whole(files::for_target(body, reads, tenant).await?),
            Self::Live(body, chunks) => Self::Live(files::for_target(body, reads, tenant).await?, chunks),
            Self::Buffered(body) => Self::Buffered(files::for_target(body, reads, tenant).await?),
            Self::Embed(body) => Self::Embed(body),
        })
    }

    /// Whether the request asks the model to reason before it answers.
    fn reasons(&self) -> bool {
        match self {
            Self::Whole(body) | Self::Live(body, _) | Self::Buffered(body) => body.asks_for_reasoning(),
            Self::Embed(_) => false,
        }
    }
}

/// Reads until there is content.
async fn read_until_content(mut pieces: PieceStream) -> Result<ReadyAnswer, ModelError> {
    let (mut held, mut bytes) = (VecDeque::new(), 0);
    while let Some(piece) = pieces.next().await {
        let piece = piece?;
        bytes += size(&piece);
        let released = piece.content || is_last(&piece);
        held.push_back(piece);
        if released || held.len() >= MAX_HELD_PIECES || bytes >= MAX_HELD_BYTES {
            break;
        }
    }
    Ok(ReadyAnswer::Stream { held, rest: pieces })
}

/// Reads to the end.
async fn read_all(mut pieces: PieceStream) -> Result<ReadyAnswer, AttemptFailure> {
    let (mut held, mut bytes, mut began) = (VecDeque::new(), 0, false);
    while let Some(piece) = pieces.next().await {
        let piece = piece.map_err(|error| AttemptFailure { error, began })?;
        began |= piece.content;
        bytes += size(&piece);
        held.push_back(piece);
        if bytes > MAX_BUFFERED {
            let error = ModelError {
                class: FailureClass::Malformed,
                message: "the answer is too long for mode buffered".to_owned(),
                retry_after: None,
                refusal: None,
            };
            return Err(AttemptFailure { error, began });
        }
    }
    Ok(ReadyAnswer::Stream {
        held,
        rest: futures::stream::empty().boxed(),
    })
}

fn is_last(piece: &Piece) -> bool {
    piece
        .events
        .iter()
        .any(|event| matches!(event, ModelEvent::Finished(_)))
}

fn size(piece: &Piece) -> usize {
    let events = piece.events.iter().map(|event| match event {
        ModelEvent::Text(text) => text.len(),
        ModelEvent::ToolCall { arguments, .. } => arguments.len(),
        _ => 0,
    });
    piece.chunk.as_ref().map_or(0, |chunk| chunk.len()) + events.sum::<usize>()
}

fn admit(target: &Target) -> bool {
    let roll = rand::random::<f64>();
    target.state.with(|health, now| health.admit(now, roll))
}
