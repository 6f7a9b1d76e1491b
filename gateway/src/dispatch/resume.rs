//! Resumes an answer whose stream breaks after its first content.
//!
//! A turn's log can retract text: the stream ends with its error, the core resets the message and calls again, and what
//! is remembered here sends that attempt to another target. On the endpoint text cannot be retracted. Mode `live` calls
//! another target and continues with its answer if that begins with every byte already sent; otherwise the stream ends
//! with an explicit error. Mode `buffered` has released nothing yet and simply tries the next target.
//!
//! Invariant: no text is sent twice, and no unfinished answer ends without an error.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use copilotd_actors::domain::failure::FailureClass;
use copilotd_actors::domain::ids::TurnId;
use copilotd_actors::ports::{ModelError, ModelEvent, ModelStream};
use futures::{StreamExt, stream};
use moka::sync::Cache;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::bill::Bill;
use super::execution::{Execution, ExecutionRequest, ReadyAnswer};
use super::{billed, failure};
use crate::answer::AnswerStream;
use crate::provider::{Piece, PieceStream};
use crate::routing::{Candidate, rule};
use crate::target::TargetName;

/// Number of turns remembered; beyond it some are forgotten, which costs a second try at a target that failed.
const MAX_TURNS: u64 = 10_000;
/// How long a turn is remembered; its attempts follow each other within seconds.
const MEMORY: Duration = Duration::from_secs(15 * 60);

/// A target that failed a turn, and how.
pub(super) type TargetFailure = (TargetName, FailureClass);

/// What is remembered of running turns, in memory only: after a crash a turn may try the same target again.
#[derive(Debug, Clone)]
pub(super) struct FallbackMemory(Cache<TurnId, TurnFailures>);

/// What is remembered of one turn.
#[derive(Debug, Clone, Default)]
pub(super) struct TurnFailures {
    /// Targets that failed the turn, in order.
    pub failed: Vec<TargetFailure>,
    /// The target that the turn's log already names as the one that answers.
    announced: Option<TargetName>,
}

impl Default for FallbackMemory {
    fn default() -> Self {
        Self(Cache::builder().max_capacity(MAX_TURNS).time_to_live(MEMORY).build())
    }
}

impl FallbackMemory {
    /// Returns what is remembered of `turn`.
    pub(super) fn of(&self, turn: Option<TurnId>) -> TurnFailures {
        turn.and_then(|turn| self.0.get(&turn)).unwrap_or_default()
    }

    /// Records that `to` answers now, after those that `failed`; returns the fallback event for the turn's log, once.
    pub(super) fn answers(
        &self,
        turn: Option<TurnId>,
        failed: Vec<TargetFailure>,
        to: &TargetName,
    ) -> Option<ModelEvent> {
        let mut memory = self.of(turn);
        for failure in failed {
            memory.add(failure);
        }
        let (from, class) = memory.failed.iter().rfind(|(from, _)| from != to)?.clone();
        let is_announced = memory.announced.as_ref() == Some(to);
        memory.announced = Some(to.clone());
        if let Some(turn) = turn {
            self.0.insert(turn, memory);
        }
        (!is_announced).then(|| ModelEvent::Fallback {
            from: from.to_string(),
            to: to.to_string(),
            reason: class.code().to_owned(),
        })
    }

    /// Records that `target` failed `turn`.
    fn add(&self, turn: TurnId, target: TargetName, class: FailureClass) {
        let mut memory = self.of(Some(turn));
        memory.add((target, class));
        self.0.insert(turn, memory);
    }

    /// Converts pieces to the core's events and records a failure at the end.
    pub(super) fn watch(
        &self,
        pieces: PieceStream,
        turn: Option<TurnId>,
        target: TargetName,
        bill: Arc<Bill>,
    ) -> ModelStream {
        let turns = self.clone();
        let noted = pieces.inspect(move |item| {
            if let (Some(turn), Err(error)) = (turn, item) {
                turns.add(turn, target.clone(), error.class);
            }
        });
        billed::events(noted.boxed(), bill)
    }
}

impl TurnFailures {
    fn add(&mut self, failure: TargetFailure) {
        self.failed.retain(|(known, _)| *known != failure.0);
        self.failed.push(failure);
    }
}

/// Longest answer text that is remembered for comparison with a second target's.
const MAX_REMEMBERED: usize = 256 * 1024;

/// A live answer of the endpoint.
struct Live {
    execution: Execution,
    candidate: Candidate,
    pieces: PieceStream,
    attempts: u32,
    /// Text already sent; `None` if it cannot be compared: several choices, tool calls, or too long.
    released: Option<String>,
    /// The answer's first chunk, whose identity a resumed answer takes over.
    first: Option<Bytes>,
    is_resumed: bool,
    is_over: bool,
}

/// Continues with another target's answer when `pieces` break, if that answer begins with the same text.
pub(super) fn resumable(execution: Execution, candidate: Candidate, pieces: PieceStream) -> AnswerStream {
    let single = matches!(&execution.request, ExecutionRequest::Live(body, _) if body.choices() == 1);
    let live = Live {
        attempts: execution.plan.attempts(),
        execution,
        candidate,
        pieces,
        released: single.then(String::new),
        first: None,
        is_resumed: false,
        is_over: false,
    };
    stream::unfold(Box::new(live), |mut live| async move {
        if live.is_over {
            return None;
        }
        let item = live.next().await?;
        live.is_over = item.is_err();
        let item = item.map_err(|error| failure::within(error, live.attempts));
        Some((item, live))
    })
    .boxed()
}

impl Live {
    async fn next(&mut self) -> Option<Result<Piece, ModelError>> {
        let error = match self.pieces.next().await? {
            Ok(piece) => return Some(Ok(self.release(piece))),
            Err(error) => error,
        };
        // A content policy is the same everywhere, and a request that was refused is wrong. While only reasoning or
        // nothing at all was sent, any answer may follow.
        let is_provider_s =
            rule::counts_against_health(error.class) || matches!(error.class, FailureClass::Rate | FailureClass::Key);
        let may_continue = self.released.is_some() && is_provider_s;
        if !may_continue {
            return Some(Err(error));
        }
        match self.resume(error.clone()).await {
            Some(piece) => Some(Ok(self.release(piece))),
            None => Some(Err(error)),
        }
    }

    fn release(&mut self, mut piece: Piece) -> Piece {
        match (&piece.chunk, &self.first) {
            (Some(chunk), None) => self.first = Some(chunk.clone()),
            (Some(chunk), Some(first)) if self.is_resumed => piece.chunk = Some(with_identity(chunk, first)),
            _ => {}
        }
        for event in &piece.events {
            match (event, &mut self.released) {
                (ModelEvent::Text(text), Some(released)) if released.len() + text.len() <= MAX_REMEMBERED => {
                    released.push_str(text);
                }
                (ModelEvent::Text(_) | ModelEvent::ToolCall { .. }, released) => *released = None,
                _ => {}
            }
        }
        piece
    }

    /// Tries other targets until one has repeated what was already sent; returns the first piece beyond it.
    async fn resume(&mut self, error: ModelError) -> Option<Piece> {
        self.prefer_others(error).await;
        loop {
            let (candidate, got) = self.execution.run().await?;
            let ReadyAnswer::Stream { held, rest } = got else {
                return None;
            };
            self.candidate = candidate;
            self.pieces = stream::iter(held.into_iter().map(Ok)).chain(rest).boxed();
            match self.catch_up().await {
                Ok(Some(piece)) => {
                    self.is_resumed = true;
                    return Some(piece);
                }
                // The answers differ.
                Ok(None) => return None,
                Err(error) => {
                    self.prefer_others(error).await;
                }
            }
        }
    }

    /// Prefers other candidates to the target that failed mid-stream.
    async fn prefer_others(&mut self, error: ModelError) {
        let pause = self.execution.failed(self.candidate, error, true);
        let others = self.execution.plan.prefer_others(self.candidate, Instant::now());
        if let Some(pause) = pause.filter(|_| !others) {
            tokio::time::sleep(pause).await;
        }
    }

    /// Skips over what was already sent.
    async fn catch_up(&mut self) -> Result<Option<Piece>, ModelError> {
        let released = self.released.clone().unwrap_or_default();
        let mut rest = released.as_str();
        while let Some(piece) = self.pieces.next().await {
            let piece = piece?;
            let mut beyond = String::new();
            let mut others = Vec::new();
            for event in piece.events {
                let ModelEvent::Text(text) = &event else {
                    others.push(event);
                    continue;
                };
                if let Some(left) = rest.strip_prefix(text.as_str()) {
                    rest = left;
                } else if let Some(new) = text.strip_prefix(rest) {
                    rest = "";
                    beyond.push_str(new);
                } else {
                    return Ok(None);
                }
            }
            let goes_on = |event: &ModelEvent| matches!(event, ModelEvent::ToolCall { .. } | ModelEvent::Finished(_));
            let is_end = others.iter().any(goes_on);
            if rest.is_empty() && (is_end || !beyond.is_empty() || ends(piece.chunk.as_deref())) {
                let chunk = match piece.chunk {
                    Some(chunk) if !beyond.is_empty() => Some(with_content(&chunk, &beyond)),
                    chunk => chunk,
                };
                if !beyond.is_empty() {
                    others.insert(0, ModelEvent::Text(beyond));
                }
                return Ok(Some(Piece {
                    chunk,
                    events: others,
                    content: piece.content,
                    written: piece.written,
                }));
            }
            if is_end {
                return Ok(None);
            }
        }
        Ok(None)
    }
}

/// Whether a chunk carries a finish reason.
fn ends(chunk: Option<&[u8]>) -> bool {
    let chunk = chunk.and_then(|chunk| serde_json::from_slice::<Value>(chunk).ok());
    chunk.is_some_and(|chunk| {
        chunk
            .pointer("/choices/0/finish_reason")
            .is_some_and(|reason| !reason.is_null())
    })
}

/// Replaces the content of a chunk.
fn with_content(chunk: &[u8], content: &str) -> Bytes {
    let mut chunk: Value = serde_json::from_slice(chunk).unwrap_or(Value::Null);
    if let Some(Value::Object(delta)) = chunk.pointer_mut("/choices/0/delta") {
        delta.insert("content".to_owned(), json!(content));
    }
    chunk.to_string().into()
}

/// Copies the identity of an answer's first chunk into a later one.
fn with_identity(chunk: &[u8], first: &[u8]) -> Bytes {
    let mut chunk: Value = serde_json::from_slice(chunk).unwrap_or(Value::Null);
    let first: Value = serde_json::from_slice(first).unwrap_or(Value::Null);
    for name in ["id", "created", "model"] {
        if let (Some(value), true) = (first.get(name), chunk.is_object()) {
            chunk[name] = value.clone();
        }
    }
    chunk.to_string().into()
}
