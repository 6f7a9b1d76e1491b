//! Plays a step in time: as a stream of server-sent events, or as one object. The frames are each provider's own.

use std::convert::Infallible;
use std::io;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderValue, header};
use axum::response::Response;
use bytes::Bytes;
use futures::Stream;
use serde_json::Value;
use tokio::time::Instant;

use super::pieces::Pieces;
use super::state::Open;
use super::step::Step;
use super::usage::tokens;
use crate::http::Reply;
use crate::net::Switch;

/// Time for written data to leave before the connection is dropped.
const BEFORE_CUT: Duration = Duration::from_millis(10);

/// The next action of a stream.
#[derive(Debug)]
pub(crate) enum Act {
    Send(String),
    /// The last bytes of a complete answer.
    Last(String),
    Cut,
    End,
    /// Falls silent, except for a keep-alive this often.
    Stall(Option<Duration>),
}

/// The frames of a stream, without their timing.
pub(crate) trait Frames: Send + 'static {
    /// A keep-alive without content.
    const KEEPALIVE: &'static str;

    fn next(&mut self) -> Act;
}

/// When pieces are due.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    pub(crate) first: Duration,
    pub(crate) between: Duration,
}

/// How a step ends early, if it does: after the requested characters of text and arguments, or when there are
/// `no_more`.
pub(crate) fn early_end(step: &Step, pieces: &Pieces, no_more: bool) -> Option<Act> {
    if pieces.room() > 0 && !no_more {
        return None;
    }
    if step.cut_after_chars.is_some() {
        Some(Act::Cut)
    } else if step.end_without_finish_after_chars.is_some() {
        Some(Act::End)
    } else if step.stall_after_chars.is_some() {
        let keepalive = step.stall_keepalive_ms.map(Duration::from_millis);
        Some(Act::Stall(keepalive))
    } else {
        None
    }
}

/// Answers with a stream; `open` counts it until it ends or the client leaves.
pub(crate) fn stream(frames: impl Frames, pace: Pace, open: Open) -> Response {
    let mut response = Response::new(Body::from_stream(body(frames, pace, open)));
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/event-stream; charset=utf-8"),
    );
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

fn body<F: Frames>(frames: F, pace: Pace, open: Open) -> impl Stream<Item = Result<Bytes, io::Error>> + Send {
    let due = Instant::now() + pace.first;
    futures::stream::unfold((frames, due, open), move |(mut frames, due, mut open)| async move {
        // Due times are counted from the start, so that delays do not add up.
        match frames.next() {
            Act::Send(bytes) => {
                wait_until(due).await;
                Some((Ok(Bytes::from(bytes)), (frames, due + pace.between, open)))
            }
            Act::Last(bytes) => {
                wait_until(due).await;
                // Now, not after the write: a client may leave as soon as it has read the end.
                open.finish("completed");
                Some((Ok(Bytes::from(bytes)), (frames, due, open)))
            }
            Act::End => {
                open.finish("ended_early");
                None
            }
            Act::Cut => {
                tokio::time::sleep(BEFORE_CUT).await;
                open.finish("cut");
                let error = io::Error::new(io::ErrorKind::ConnectionAborted, "cut as told");
                Some((Err(error), (frames, due, open)))
            }
            Act::Stall(None) => {
                open.stalled();
                std::future::pending::<Infallible>().await;
                None
            }
            Act::Stall(Some(every)) => {
                open.stalled();
                tokio::time::sleep(every).await;
                Some((Ok(Bytes::from_static(F::KEEPALIVE.as_bytes())), (frames, due, open)))
            }
        }
    })
}

/// Waits, unless it is due already: even a sleep of zero ends only with the runtime's next millisecond.
async fn wait_until(due: Instant) {
    if due > Instant::now() {
        tokio::time::sleep_until(due).await;
    }
}

/// Answers with one object, after the time it takes to produce it, unless the step is to fail. `pieces` have been
/// consumed.
pub(crate) async fn whole(
    switch: &Switch,
    step: &Step,
    pieces: &Pieces,
    pace: Pace,
    mut open: Open,
    answer: Value,
) -> Response {
    let paces = u32::try_from(pieces.said_pieces.saturating_sub(1)).unwrap_or(u32::MAX);
    wait_until(Instant::now() + pace.first + pace.between * paces).await;
    if step.cut_after_chars.is_some() || step.end_without_finish_after_chars.is_some() || step.malformed {
        open.finish("cut");
        switch.cut();
        return std::future::pending().await;
    }
    if step.stall_after_chars.is_some() {
        open.stalled();
        return std::future::pending().await;
    }
    open.finish("completed");
    Reply::json(200, answer).into_response()
}

/// Returns the finish reason in OpenAI's terms, or the one that the step sets.
pub(crate) fn finish_reason(step: &Step, pieces: &Pieces) -> String {
    let natural = if pieces.was_shortened() {
        "length"
    } else if step.tool_calls.is_empty() {
        "stop"
    } else {
        "tool_calls"
    };
    step.finish.as_deref().unwrap_or(natural).to_owned()
}

/// Counts the tokens of a step's answer.
pub(crate) fn completion_tokens(step: &Step, pieces: &Pieces) -> u64 {
    let calls = step.tool_calls.iter();
    let calls: u64 = calls.map(|call| tokens(&call.name) + tokens(&call.arguments())).sum();
    pieces.tokens() + calls
}
