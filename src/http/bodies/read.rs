//! Reads request bodies within their limits, and only into memory reserved for them.

use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use axum::extract::Request;
use axum::http::header;
use bytes::{Bytes, BytesMut};
use copilotd_actors::compute;
use copilotd_actors::domain::json::StringScan;
use futures::StreamExt;

use super::BodyLimits;
use crate::http::account::Account;
use crate::http::problems::{Code, Problem};

/// Maximum bytes of an oversized body that are read and discarded before it is refused.
const MAX_LINGER: u64 = 16 * 1024 * 1024;
/// Reservation step for a body of unknown length, and for one that is read only to be discarded.
const STEP: usize = 64 * 1024;
/// Copies of a body that exist during processing: as received, as parsed, and as passed on.
const COPIES: usize = 3;

/// Reads the body within the request's limits. Memory, including that for the parsed body, is reserved before it is
/// used; the request's [`Account`] holds it.
pub async fn read(request: Request) -> Result<Bytes, Problem> {
    let limits = request.extensions().get::<BodyLimits>().copied().unwrap_or_default();
    let room = BodyMemory(request.extensions().get::<Account>().cloned());
    let tenant = super::tenant(&request);
    let body = receive(request, limits).await?;
    // Counting a byte costs an eighth of parsing it.
    let counted = body.clone();
    let values = compute::run(tenant.as_ref(), body.len() / 8, move || count_values(&counted)).await;
    let values =
        values.map_err(|_full| Problem::new(Code::Overloaded).detail("too many large request bodies are waiting"))?;
    if values > limits.values {
        return Err(Problem::new(Code::TooLarge).detail(format!(
            "the body has more than {} JSON values; numbers, strings, arrays and objects all count",
            limits.values
        )));
    }
    room.reserve(body.len() * (COPIES - 1) + values * limits.value_bytes)
        .await?;
    Ok(body)
}

/// Receives a body of any kind within `limits`, into memory that the request's [`Account`] holds.
pub async fn receive(request: Request, limits: BodyLimits) -> Result<Bytes, Problem> {
    let room = BodyMemory(request.extensions().get::<Account>().cloned());
    let announced = request.headers().get(header::CONTENT_LENGTH);
    let announced = announced.and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if let Some(bytes) = announced.filter(|bytes| *bytes > limits.bytes as u64) {
        // Refused before a byte is read, so that a client waiting for `100 Continue` does not send it at all.
        let sent = !request.headers().contains_key(header::EXPECT);
        if sent && bytes <= MAX_LINGER {
            linger(request.into_body().into_data_stream(), limits.time, &room).await;
        }
        return Err(too_large(limits));
    }
    let announced = announced.and_then(|bytes| usize::try_from(bytes).ok());
    if let Some(bytes) = announced {
        room.reserve(bytes).await?;
    }
    let read = collect(request.into_body(), announced, limits, &room);
    tokio::time::timeout(limits.time, read)
        .await
        .unwrap_or_else(|_elapsed| Err(Problem::new(Code::Timeout).detail("the request body was not received in time")))
}

/// The account to reserve memory from; `None` for a request without an account.
struct BodyMemory(Option<Account>);

impl BodyMemory {
    async fn reserve(&self, bytes: usize) -> Result<(), Problem> {
        match &self.0 {
            Some(account) => account.reserve_body(bytes).await,
            None => Ok(()),
        }
    }

    fn shrink_to(&self, bytes: usize) {
        if let Some(account) = &self.0 {
            account.shrink_body(bytes);
        }
    }
}

/// Reads and discards the rest of a body, within a limit. Many clients send the whole body before they read the
/// response: if the connection closes midway they see a broken connection and never the refusal.
async fn linger(mut body: BodyDataStream, time: Duration, room: &BodyMemory) {
    room.shrink_to(0);
    if room.reserve(STEP).await.is_err() {
        return;
    }
    let rest = async {
        let mut read = 0;
        while let Some(Ok(piece)) = body.next().await {
            read += piece.len() as u64;
            if read > MAX_LINGER {
                break;
            }
        }
    };
    // The response is the same whether or not the body ended.
    let _ = tokio::time::timeout(time, rest).await;
}

async fn collect(
    body: Body,
    announced: Option<usize>,
    limits: BodyLimits,
    room: &BodyMemory,
) -> Result<Bytes, Problem> {
    let mut stream = body.into_data_stream();
    let mut reserved = announced.unwrap_or(0);
    let mut all = BytesMut::with_capacity(reserved);
    while let Some(piece) = stream.next().await {
        let piece = piece.map_err(|_broken| {
            Problem::new(Code::Malformed).detail("the connection broke before the whole body arrived")
        })?;
        let read = all.len() + piece.len();
        if read > limits.bytes {
            drop((all, piece));
            linger(stream, limits.time, room).await;
            return Err(too_large(limits));
        }
        if read > reserved {
            // A growing buffer is up to twice as large as its content.
            let more = (2 * read - reserved).next_multiple_of(STEP);
            room.reserve(more).await?;
            reserved += more;
        }
        all.extend_from_slice(&piece);
    }
    Ok(all.freeze())
}

fn too_large(limits: BodyLimits) -> Problem {
    Problem::new(Code::TooLarge).detail(format!("the body is larger than {} bytes", limits.bytes))
}

/// Counts the values of a JSON text in one pass, without validating it. An empty array or object counts twice.
fn count_values(text: &[u8]) -> usize {
    let mut scan = StringScan::default();
    let opens = |byte: &&u8| scan.is_outside(**byte) && matches!(byte, b',' | b'[' | b'{');
    1 + text.iter().filter(opens).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_counted() {
        for (text, values) in [
            ("", 1),
            ("1", 1),
            ("[1,2,3]", 4),
            ("[[],[],[]]", 7),
            (r#"{"a":1,"b":[2]}"#, 4),
            (r#"["a,b","[{,\",",1]"#, 4),
            (r#"["\\",1]"#, 3),
        ] {
            assert_eq!(count_values(text.as_bytes()), values, "{text}");
        }
    }
}
