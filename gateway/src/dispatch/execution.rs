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
use copilotd_actors::ports::{ModelError, ModelEvent};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::time::Instant;

use super::attempt::{Books, Running, watched};
use crate::provider::{CallProgress, Piece, PieceStream, Timeouts, UpstreamCall, WholeAnswer};
use crate::request::body::ChatBody;
use crate::request::embed::{EmbedAnswer, EmbedBody};
use crate::routing::{HedgeBudget, Next, Place, Trip, rule};
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
pub(super) enum Ask {
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
pub(super) enum Got {
    Whole(WholeAnswer),
    Stream { held: VecDeque<Piece>, rest: PieceStream },
    Embedded(EmbedAnswer),
}

/// One request being executed.
#[derive(Debug)]
pub(super) struct Drive {
    pub ask: Ask,
    pub books: Books,
    pub timeouts: Timeouts,
    /// First-token timeout for models that reason before they answer.
    pub first_token_reasoning: Duration,
    pub hedges: Option<Arc<HedgeBudget>>,
    pub trip: Trip,
    /// Whether it must end much sooner than the route's timeouts, such as the embedding for a cache lookup.
    pub is_hurried: bool,
    /// Targets that failed this request, in order, with the failure class.
    pub failures: Vec<(Place, FailureClass)>,
}

/// A failed attempt.
struct Died {
    error: ModelError,
    /// Whether content had arrived, or at least the target was reachable.
    began: bool,
}

/// The failure of a document request. If its whole time passed, the answer may only be long or the connection dead;
/// unlike a refused connection, that is no reason not to try the same target again.
fn document(error: ModelError, is_out_of_time: bool) -> Died {
    let began = is_out_of_time && error.class == FailureClass::TimedOut;
    Died { error, began }
}

impl From<ModelError> for Died {
    fn from(error: ModelError) -> Self {
        Self { error, began: false }
    }
}

type Attempt = Pin<Box<dyn Future<Output = Result<Got, Died>> + Send>>;

impl Drive {
    /// Tries candidates until one answers; `None` when the failover plan is exhausted. The plan's failures then say
    /// why.
    pub(super) async fn run(&mut self) -> Option<(Place, Got)> {
        if let Some(hedges) = &self.hedges {
            hedges.earn();
        }
        loop {
            let place = match self.trip.next(Instant::now(), admit) {
                Next::Ask(place) => place,
                Next::Wait(wait) => {
                    tokio::time::sleep(wait + jitter(rule::PAUSE)).await;
                    continue;
                }
                Next::Over => return None,
            };
            let (place, result) = self.hedged(place).await;
            match result {
                Ok(got) => return Some((place, got)),
                Err(Died { error, began }) => {
                    if let Some(pause) = self.failed(place, error, began) {
                        tokio::time::sleep(pause / 2 + jitter(pause)).await;
                    }
                }
            }
        }
    }

    /// Records a failure, before or after content; returns the pause before the next attempt.
    pub(super) fn failed(&mut self, place: Place, error: ModelError, began: bool) -> Option<Duration> {
        let class = error.class;
        // Not logged: the error's text may quote the request.
        tracing::info!(
            route = %self.books.route, target = %self.trip.target(place).name, key = %self.trip.key(place).name,
            attempt = self.trip.attempts(), class = class.code(), "model call failed; trying the next candidate, if any"
        );
        self.failures.push((place, class));
        self.trip.failed(place, error, began, Instant::now())
    }

    /// Makes one attempt. If its first token is later than nearly all of its target's and the hedge budget allows it,
    /// another target is called in parallel: the first one with content wins, the other is dropped.
    async fn hedged(&mut self, place: Place) -> (Place, Result<Got, Died>) {
        let mut first = self.attempt(place);
        if let Some(late) = self.late_document(place) {
            return self.doubted(place, first, late).await;
        }
        let Some(late) = self.late(place) else {
            return (place, first.await);
        };
        if let Ok(result) = tokio::time::timeout(late, &mut first).await {
            return (place, result);
        }
        let is_affordable = self.hedges.as_ref().is_some_and(|hedges| hedges.take());
        let beside = if is_affordable {
            self.trip.beside(place, Instant::now(), admit)
        } else {
            None
        };
        let Some(other) = beside else {
            return (place, first.await);
        };
        let mut second = self.attempt(other);
        let (failed, died, left, mut running) = tokio::select! {
            result = &mut first => match result {
                Ok(got) => return (place, Ok(got)),
                Err(died) => (place, died, other, second),
            },
            result = &mut second => match result {
                Ok(got) => return (other, Ok(got)),
                Err(died) => (other, died, place, first),
            },
        };
        self.failed(failed, died.error, died.began);
        (left, (&mut running).await)
    }

    /// Waits for a document from the last target. After `late`, and once more when half of the remaining time has
    /// passed, the document is requested again in parallel; so it is when one of the requests fails. The first answer
    /// wins.
    async fn doubted(&mut self, place: Place, first: Attempt, late: Duration) -> (Place, Result<Got, Died>) {
        let told = |place: Place, attempt: Attempt| async move { (place, attempt.await) };
        let mut running = FuturesUnordered::from_iter([told(place, first)]);
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
                    let left = self.trip.deadline().saturating_duration_since(now);
                    let is_after_failure = std::mem::take(&mut is_failure);
                    if let Some(other) = self.trip.once_more(place, now, admit) {
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

    /// Time after which the first token of `place` is late. `None` if it is unknown or hedging is not allowed: only for
    /// the first attempt of a stream, and only while all targets of the route are healthy.
    fn late(&self, place: Place) -> Option<Duration> {
        let hedges = self.hedges.is_some() && matches!(self.ask, Ask::Live(..)) && self.trip.attempts() == 1;
        if !hedges
            || self
                .trip
                .targets()
                .any(|target| target.state.with(|health, _| health.is_open()))
        {
            return None;
        }
        self.trip.target(place).state.with(|health, _| health.slow())
    }

    /// Time after which a document from the last candidate is doubtful; `None` for anything else. A dead connection
    /// looks the same as a model at work, so the running request is not abandoned.
    fn late_document(&self, place: Place) -> Option<Duration> {
        let now = Instant::now();
        let is_document = matches!(self.ask, Ask::Whole(_) | Ask::Embed(_));
        if !is_document || self.is_hurried || self.trip.others_able(place, now) > 0 {
            return None;
        }
        let usual = self.trip.target(place).state.with(|health, _| health.usual_document());
        let half = self.trip.deadline().saturating_duration_since(now) / 2;
        let late = half.max(usual.unwrap_or_default() * LATE_DOCUMENT);
        // Any later, and a second request would hardly be answered in time.
        (late < half + half / 2).then_some(late)
    }

    fn attempt(&self, place: Place) -> Attempt {
        let (target, key) = (Arc::clone(self.trip.target(place)), Arc::clone(self.trip.key(place)));
        let kind = match self.ask {
            Ask::Live(..) | Ask::Buffered(_) => Kind::Stream,
            Ask::Whole(_) | Ask::Embed(_) => Kind::Document,
        };
        let timeouts = self.timeouts(place);
        let progress = Arc::new(CallProgress::default());
        // Counts as not sent until the future is polled.
        progress.refused();
        let (books, number) = (self.books.clone(), self.trip.attempts());
        let mut running = Running::begin(books, target, Arc::clone(&key), kind, number, Arc::clone(&progress));
        let conversation = self.books.caller.conversation;
        let tenant = Some(self.books.caller.scope.tenant().clone());
        let ask = self.ask.clone();
        let begun = Instant::now();
        Box::pin(async move {
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
            match ask {
                Ask::Whole(body) => {
                    let answer = running.settling(key.upstream.whole(&call(body, true)).await);
                    let answer = answer.map_err(|error| document(error, begun.elapsed() >= timeouts.total))?;
                    running.document(Some(&answer.model), answer.usage, answer.finish);
                    Ok(Got::Whole(answer))
                }
                Ask::Embed(body) => {
                    let answer = running.settling(key.upstream.embed(&body, timeouts, &told).await);
                    let answer = answer.map_err(|error| document(error, begun.elapsed() >= timeouts.total))?;
                    running.document(None, answer.usage, Finish::Stop);
                    Ok(Got::Embedded(answer))
                }
                Ask::Live(body, chunks) => {
                    let pieces = running.settling(key.upstream.stream(&call(body, chunks)).await)?;
                    Ok(opened(watched(pieces, running)).await?)
                }
                Ask::Buffered(body) => {
                    let pieces = running.settling(key.upstream.stream(&call(body, true)).await)?;
                    collected(watched(pieces, running)).await
                }
            }
        })
    }

    /// Limits the whole execution to `within`. A target that exceeds its share of it counts as silent, and the next one
    /// is tried.
    pub(super) fn hurry(&mut self, within: Duration) {
        let targets = u32::try_from(self.trip.targets_left().max(1)).unwrap_or(u32::MAX);
        self.timeouts.first_token = self.timeouts.first_token.min(within / targets);
        self.is_hurried = true;
        self.trip.hurry(Instant::now() + within);
    }

    /// Timeouts of the next attempt, within the time that is left. A document is silent until it is complete, so
    /// silence cannot be told from work, and a buffered stream shows nothing either: while other candidates can answer,
    /// each gets a share of the time. The last one gets all that is left.
    fn timeouts(&self, place: Place) -> Timeouts {
        let now = Instant::now();
        let left = self.trip.deadline().saturating_duration_since(now);
        let thinks = self.trip.target(place).reasoning || self.ask.thinks();
        let first_token = if thinks {
            self.first_token_reasoning
        } else {
            self.timeouts.first_token
        };
        let total = match self.ask {
            Ask::Live(..) => left,
            Ask::Buffered(_) | Ask::Whole(_) | Ask::Embed(_) => {
                let share = left / self.trip.others_able(place, now).saturating_add(1);
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

impl Ask {
    /// Whether the request asks the model to reason before it answers.
    fn thinks(&self) -> bool {
        match self {
            Self::Whole(body) | Self::Live(body, _) | Self::Buffered(body) => body.asks_for_reasoning(),
            Self::Embed(_) => false,
        }
    }
}

/// Reads until there is content.
async fn opened(mut pieces: PieceStream) -> Result<Got, ModelError> {
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
    Ok(Got::Stream { held, rest: pieces })
}

/// Reads to the end.
async fn collected(mut pieces: PieceStream) -> Result<Got, Died> {
    let (mut held, mut bytes, mut began) = (VecDeque::new(), 0, false);
    while let Some(piece) = pieces.next().await {
        let piece = piece.map_err(|error| Died { error, began })?;
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
            return Err(Died { error, began });
        }
    }
    Ok(Got::Stream {
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

fn jitter(most: Duration) -> Duration {
    most.mul_f64(rand::random::<f64>())
}
