//! Chat completion chunks as server-sent events in OpenAI's framing: `data: {…}`, and `data: [DONE]` after a complete
//! answer.
//!
//! Invariant: `[DONE]` is sent only after an answer that its provider completed, or that a guardrail rule ended, as its
//! last chunk says (`content_filter`). An answer that fails ends with an error object and without `[DONE]`, so that no
//! client mistakes a partial answer for a complete one.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;

use axum::body::Body;
use axum::http::{HeaderName, header};
use axum::response::{IntoResponse, Response};
use bytes::{BufMut, Bytes, BytesMut};
use copilotd_actors::domain::ids::TenantId;
use copilotd_actors::fairness::share::{Shares, paced};
use copilotd_gateway::answer::{Answer, AnswerStream, Reply};
use copilotd_gateway::error::GatewayError;
use futures::{StreamExt, stream};

use super::error::OpenAiError;
use crate::http::budget::Reservation;
use crate::http::keep_alive::KeepAlive;
use crate::surfaces::api::events::LONGEST_PAUSE;

/// Keep-alive comment, ignored by proxies and clients. No empty line follows: it would end an event, which some clients
/// treat as one without data.
const COMMENT: Bytes = Bytes::from_static(b": waiting\n");
/// Sent after a complete answer.
const DONE: Bytes = Bytes::from_static(b"data: [DONE]\n\n");

/// The gateway's pending answer. Dropping it cancels the call.
pub(super) type PendingReply = Pin<Box<dyn Future<Output = Result<Reply, GatewayError>> + Send>>;

/// The phase of a stream.
enum State {
    PendingReply(PendingReply),
    Open(AnswerStream),
    Whole,
    Ended,
}

/// Builds the streaming response. `slot` is held until its end. When `cut` returns, the stream ends with its error,
/// and the upstream call is dropped.
pub(super) fn response(
    opening: PendingReply,
    (shares, tenant): (Arc<Shares>, TenantId),
    slot: Reservation,
    cut: impl Future<Output = GatewayError> + Send + 'static,
) -> Response {
    let start = (State::PendingReply(opening), slot, Box::pin(cut));
    let frames = stream::unfold(start, |(mut state, slot, mut cut)| async {
        let bytes = tokio::select! {
            biased;
            error = &mut cut, if !matches!(state, State::Ended) => last(&mut state, error),
            bytes = next(&mut state) => bytes?,
        };
        Some((Ok::<_, Infallible>(bytes), (state, slot, cut)))
    });
    let frames = KeepAlive::new(paced(shares, tenant, LONGEST_PAUSE, frames), COMMENT);
    let headers = [
        (header::CONTENT_TYPE, "text/event-stream"),
        (header::CACHE_CONTROL, "no-store, no-transform"),
        (HeaderName::from_static("x-accel-buffering"), "no"),
    ];
    (headers, Body::from_stream(frames)).into_response()
}

/// Returns the next bytes; `None` at the end.
async fn next(state: &mut State) -> Option<Bytes> {
    loop {
        match state {
            State::Ended => return None,
            State::Whole => {
                *state = State::Ended;
                return Some(DONE);
            }
            State::PendingReply(opening) => match opening.await {
                Err(error) => return Some(last(state, error)),
                Ok(reply) => match reply.answer {
                    Answer::Stream(pieces) => *state = State::Open(pieces),
                    // A complete answer to a streaming request is sent as one event.
                    Answer::Whole(bytes) => {
                        *state = State::Whole;
                        return Some(frame(&bytes));
                    }
                },
            },
            State::Open(pieces) => match pieces.next().await {
                None => *state = State::Whole,
                Some(Err(error)) => return Some(last(state, error)),
                Some(Ok(piece)) => {
                    if let Some(chunk) = piece.chunk {
                        return Some(frame(&chunk));
                    }
                }
            },
        }
    }
}

/// Ends the stream with an error and drops the upstream call at once.
fn last(state: &mut State, error: GatewayError) -> Bytes {
    *state = State::Ended;
    frame(OpenAiError::from(error).document().to_string().as_bytes())
}

/// Frames one chunk. A line break inside the JSON, which some servers send, would end the line and becomes a space,
/// which is equivalent in JSON. Characters that only some clients treat as line ends occur in strings and are escaped.
fn frame(chunk: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(chunk.len() + 8);
    out.put_slice(b"data: ");
    let mut rest = chunk;
    let is_special = |byte: &u8| matches!(byte, b'\n' | b'\r' | 0xe2 | 0xc2);
    while let Some(at) = rest.iter().position(is_special) {
        let (before, from) = rest.split_at(at);
        out.put_slice(before);
        let (written, length): (&[u8], usize) = match from {
            [b'\n' | b'\r', ..] => (b" ", 1),
            [0xe2, 0x80, 0xa8, ..] => (b"\\u2028", 3),
            [0xe2, 0x80, 0xa9, ..] => (b"\\u2029", 3),
            [0xc2, 0x85, ..] => (b"\\u0085", 2),
            _ => (&from[..1], 1),
        };
        out.put_slice(written);
        rest = &from[length..];
    }
    out.put_slice(rest);
    out.put_slice(b"\n\n");
    out.freeze()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use copilotd_gateway::error::GatewayErrorKind;
    use copilotd_gateway::provider::Piece;
    use copilotd_gateway::request::call::CacheOutcome;
    use tokio::time::Instant;

    use super::*;
    use crate::http::budget::{Budget, Holder, Limits};

    fn slots() -> Arc<Budget> {
        Budget::of_units(Limits {
            process: 1,
            tenant: 1,
            key: 1,
            user: 1,
            addresses: 1,
            address: 1,
        })
    }

    fn acme() -> (Arc<Shares>, TenantId) {
        (Arc::default(), "acme".parse().unwrap())
    }

    fn reply(answer: Answer) -> PendingReply {
        let reply = Reply {
            model: "main/m".into(),
            attempts: 1,
            cache: CacheOutcome::Bypass,
            cost: None,
            limits: Vec::new(),
            answer,
        };
        Box::pin(std::future::ready(Ok(reply)))
    }

    fn piece(chunk: &'static str) -> Result<Piece, GatewayError> {
        Ok(Piece {
            chunk: Some(Bytes::from_static(chunk.as_bytes())),
            ..Piece::default()
        })
    }

    async fn all(opening: PendingReply) -> String {
        let mut state = State::PendingReply(opening);
        let mut text = String::new();
        while let Some(bytes) = next(&mut state).await {
            text.push_str(std::str::from_utf8(&bytes).unwrap());
        }
        text
    }

    #[tokio::test]
    async fn a_whole_answer_ends_with_done() {
        let pieces = stream::iter([piece("{\"a\":1}"), Ok(Piece::default()), piece("{\n\"b\":2}")]);
        let text = all(reply(Answer::Stream(pieces.boxed()))).await;
        assert_eq!(text, "data: {\"a\":1}\n\ndata: { \"b\":2}\n\ndata: [DONE]\n\n");
    }

    #[tokio::test]
    async fn a_failed_answer_ends_with_an_error_and_without_done() {
        let error = GatewayError::new(GatewayErrorKind::Cut, "it broke off");
        let pieces = stream::iter([piece("{}"), Err(error.clone())]);
        let text = all(reply(Answer::Stream(pieces.boxed()))).await;
        assert!(text.starts_with("data: {}\n\ndata: {\"error\":{"), "{text}");
        assert!(text.contains("it broke off") && !text.contains("[DONE]"), "{text}");
        let text = all(Box::pin(std::future::ready(Err(error)))).await;
        assert!(
            text.starts_with("data: {\"error\":{") && !text.contains("[DONE]"),
            "{text}"
        );
    }

    #[test]
    fn a_frame_is_one_line_for_every_client() {
        let framed = frame("{\n\"a\":\"x\u{2028}y\u{2029}z\u{85}é € 🧀 \u{2026}\"\r}".as_bytes());
        let expected = "data: { \"a\":\"x\\u2028y\\u2029z\\u0085é € 🧀 …\" }\n\n";
        assert_eq!(framed, expected);
    }

    #[tokio::test]
    async fn a_revoked_credential_ends_it_in_mid_answer() {
        let (revoke, revoked) = tokio::sync::oneshot::channel::<()>();
        let slots = slots();
        let slot = slots.try_reserve(&Holder::user_of("acme", "ada"), 1).unwrap();
        let pieces = stream::iter([piece("{}")]).chain(stream::pending());
        let cut = async move {
            let _ = revoked.await;
            GatewayError::new(GatewayErrorKind::Cut, "the credential has expired or was revoked")
        };
        let response = response(reply(Answer::Stream(pieces.boxed())), acme(), slot, cut);
        let mut body = response.into_body().into_data_stream();
        assert_eq!(body.next().await.unwrap().unwrap(), "data: {}\n\n");
        revoke.send(()).unwrap();
        let error = body.next().await.unwrap().unwrap();
        assert!(error.starts_with(b"data: {\"error\":{"), "{error:?}");
        assert!(body.next().await.is_none());
        drop(body);
        assert_eq!(slots.in_use(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn comments_are_sent_while_no_bytes_arrive() {
        let slow: PendingReply = Box::pin(async {
            tokio::time::sleep(Duration::from_secs(25)).await;
            // Reasoning that is not forwarded, every second for half a minute.
            let empty = stream::iter(0..30).then(|_| async {
                tokio::time::sleep(Duration::from_secs(1)).await;
                Ok(Piece::default())
            });
            reply(Answer::Stream(empty.chain(stream::iter([piece("{}")])).boxed())).await
        });
        let slot = slots().try_reserve(&Holder::user_of("acme", "ada"), 1).unwrap();
        let mut body = response(slow, acme(), slot, std::future::pending())
            .into_body()
            .into_data_stream();
        let (mut text, mut last) = (String::new(), Instant::now());
        while let Some(bytes) = body.next().await {
            assert!(
                last.elapsed() <= Duration::from_secs(15),
                "{:?} after {text}",
                last.elapsed()
            );
            last = Instant::now();
            text.push_str(std::str::from_utf8(&bytes.unwrap()).unwrap());
        }
        let end = "data: {}\n\ndata: [DONE]\n\n";
        assert_eq!(text, format!("{}{end}", ": waiting\n".repeat(5)));
    }
}
