//! Drives one request over its trip: asks, holds back until there is content, and asks elsewhere when that fails.
//!
//! Invariant: nothing of an answer is released before its first content, or in mode buffered before its end. So a failure
//! up to then leaves no trace in the answer.

use std::collections::VecDeque;
use std::sync::Arc;

use copilotd_actors::domain::command::FailureClass;
use copilotd_actors::ports::{ModelError, ModelEvent};
use futures::StreamExt;
use tokio::time::Instant;

use super::attempt::{Books, Running, watched};
use super::body::ChatBody;
use super::embed::{EmbedAnswer, EmbedBody};
use super::route::{Kind, Next, Place, Trip};
use super::upstream::{Piece, PieceStream, Timeouts, UpstreamCall, WholeAnswer};

/// What is held back at most before an answer is released without content: some servers say much before they say anything.
const MAX_HELD_PIECES: usize = 64;
const MAX_HELD_BYTES: usize = 256 * 1024;
/// Longest stream that is kept until it is whole.
const MAX_BUFFERED: usize = 8 * 1024 * 1024;
/// Random part of a pause, in addition to it.
const JITTER: f64 = 1.0;

/// What is asked, and in which form the answer is wanted.
#[derive(Debug, Clone)]
pub(super) enum Ask {
    /// A chat.completion.
    Whole(Arc<ChatBody>),
    /// Pieces as they come; as chunks too, if so.
    Live(Arc<ChatBody>, bool),
    /// Pieces, when all are there.
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

/// One request under way.
#[derive(Debug)]
pub(super) struct Drive {
    pub ask: Ask,
    pub books: Books,
    pub timeouts: Timeouts,
    pub trip: Trip,
    /// Targets that failed this request, in order, and how.
    pub failures: Vec<(Place, FailureClass)>,
}

impl Drive {
    /// Asks until there is an answer; none when the trip is over, whose failures then say why.
    pub(super) async fn run(&mut self) -> Option<(Place, Got)> {
        loop {
            let now = Instant::now();
            let admit = |target: &super::route::Target| {
                let roll = rand::random::<f64>();
                target.state.with(|health, now| health.admit(now, roll))
            };
            let place = match self.trip.next(now, admit) {
                Next::Ask(place) => place,
                Next::Wait(wait) => {
                    tokio::time::sleep(wait + jitter(super::route::rule::PAUSE)).await;
                    continue;
                }
                Next::Over => return None,
            };
            let error = match self.attempt(place).await {
                Ok(got) => return Some((place, got)),
                Err(error) => error,
            };
            let class = error.class;
            tracing::info!(
                route = %self.books.route, target = %self.trip.target(place).name, key = %self.trip.key(place).name,
                attempt = self.trip.attempts(), class = class.code(), "a model call failed: {error}"
            );
            self.failures.push((place, class));
            if let Some(pause) = self.trip.failed(place, error, Instant::now()) {
                tokio::time::sleep(pause / 2 + jitter(pause)).await;
            }
        }
    }

    async fn attempt(&self, place: Place) -> Result<Got, ModelError> {
        let (target, key) = (self.trip.target(place), self.trip.key(place));
        let kind = match self.ask {
            Ask::Live(..) | Ask::Buffered(_) => Kind::Stream,
            Ask::Whole(_) | Ask::Embed(_) => Kind::Document,
        };
        let number = self.trip.attempts();
        let mut running = Running::begin(self.books.clone(), Arc::clone(target), Arc::clone(key), kind, number);
        let timeouts = self.timeouts(kind);
        let call = |body: &Arc<ChatBody>, chunks| UpstreamCall {
            body: Arc::clone(body),
            timeouts,
            chunks,
            conversation: self.books.caller.conversation,
        };
        let failed = |mut running: Running, error: ModelError| {
            running.failed(&error);
            error
        };
        match &self.ask {
            Ask::Whole(body) => match key.upstream.whole(&call(body, true)).await {
                Ok(answer) => {
                    running.document(Some(&answer.model), answer.usage, answer.finish);
                    Ok(Got::Whole(answer))
                }
                Err(error) => Err(failed(running, error)),
            },
            Ask::Embed(body) => match key.upstream.embed(body, timeouts).await {
                Ok(answer) => {
                    running.document(None, answer.usage, copilotd_actors::domain::content::Finish::Stop);
                    Ok(Got::Embedded(answer))
                }
                Err(error) => Err(failed(running, error)),
            },
            Ask::Live(body, chunks) => match key.upstream.stream(&call(body, *chunks)).await {
                Ok(pieces) => opened(watched(pieces, running)).await,
                Err(error) => {
                    running.failed(&error);
                    Err(error)
                }
            },
            Ask::Buffered(body) => match key.upstream.stream(&call(body, true)).await {
                Ok(pieces) => collected(watched(pieces, running)).await,
                Err(error) => {
                    running.failed(&error);
                    Err(error)
                }
            },
        }
    }

    /// The clocks of the next attempt, within what is left of the whole. A document is silent until it is there, so that
    /// silence cannot be told from work: while there are other targets, each gets its share of the time.
    fn timeouts(&self, kind: Kind) -> Timeouts {
        let left = self.trip.deadline().saturating_duration_since(Instant::now());
        let total = match kind {
            Kind::Stream => left,
            Kind::Document => {
                let targets = u32::try_from(self.trip.targets_left().max(1)).unwrap_or(u32::MAX);
                (left / targets).max(self.timeouts.first_token).min(left)
            }
        };
        Timeouts {
            first_token: self.timeouts.first_token.min(left),
            total,
            ..self.timeouts
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

/// Reads until the end.
async fn collected(mut pieces: PieceStream) -> Result<Got, ModelError> {
    let (mut held, mut bytes) = (VecDeque::new(), 0);
    while let Some(piece) = pieces.next().await {
        let piece = piece?;
        bytes += size(&piece);
        held.push_back(piece);
        if bytes > MAX_BUFFERED {
            return Err(ModelError {
                class: FailureClass::Malformed,
                message: "the answer is too long to be buffered".to_owned(),
                retry_after: None,
                refusal: None,
            });
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

fn jitter(most: std::time::Duration) -> std::time::Duration {
    most.mul_f64(JITTER * rand::random::<f64>())
}
