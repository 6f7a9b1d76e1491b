//! HTTP/1.1 request bodies that are still unread when the response is ready, mostly refusals (401, 403, 404, 405, 413,
//! 415).
//!
//! Unread bytes of a body stand before the client's next request. hyper discards only what has already arrived;
//! otherwise it closes the connection without saying so, and the next request is lost. So the rest is read here, within
//! limits. If that does not reach the end of the body, the response says `Connection: close`, and the connection is
//! closed in a way that lets the response arrive: closing a socket with unread bytes resets the connection, and the
//! client may lose the response.
//!
//! Invariant: an HTTP/1.1 response is sent only after its request's body was read to the end, or says `Connection:
//! close`.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, Version, header};
use bytes::Bytes;
use futures::StreamExt as _;
use hyper::body::{Body as _, Frame, Incoming, SizeHint};
use parking_lot::Mutex;
use tokio::time::timeout;

/// Maximum bytes of a body that are read only to keep the connection open.
const MAX_BYTES: u64 = 256 * 1024;
/// Maximum time for that.
const MAX_TIME: Duration = Duration::from_secs(1);

/// Set when a connection is closed while its client may still be sending.
#[derive(Debug, Clone, Default)]
pub struct LingerFlag(Arc<AtomicBool>);

impl LingerFlag {
    pub fn get(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// The read state of a request's body.
#[derive(Debug)]
enum ReadState {
    /// The handler still has it.
    WithHandler,
    /// Read to the end, or broken off.
    Done,
    /// Dropped before its end.
    Dropped { body: Incoming, polled: bool },
}

/// A request's body, which returns to its [`UnreadRest`] when the handler drops it.
#[derive(Debug)]
pub struct WatchedBody {
    body: Option<Incoming>,
    polled: bool,
    reading: Arc<Mutex<ReadState>>,
}

/// Handles the unread rest of a body once the response is ready.
#[derive(Debug)]
pub struct UnreadRest {
    reading: Arc<Mutex<ReadState>>,
    expects: bool,
}

/// Watches a request's body, if an unread rest of it would matter.
pub fn watch(version: Version, headers: &HeaderMap, body: Incoming) -> (Body, Option<UnreadRest>) {
    // HTTP/2 streams end independently, and an empty body needs no reading.
    if version > Version::HTTP_11 || body.is_end_stream() {
        return (Body::new(body), None);
    }
    let reading = Arc::new(Mutex::new(ReadState::WithHandler));
    let watched = WatchedBody {
        body: Some(body),
        polled: false,
        reading: Arc::clone(&reading),
    };
    let expects = headers.contains_key(header::EXPECT);
    (Body::new(watched), Some(UnreadRest { reading, expects }))
}

impl UnreadRest {
    /// Reads the rest of the body, within limits, or sets `Connection: close`.
    pub async fn settle(self, headers: &mut HeaderMap, linger_flag: &LingerFlag) {
        if !self.is_read().await {
            linger_flag.0.store(true, Ordering::Relaxed);
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
    }

    async fn is_read(&self) -> bool {
        let reading = {
            let mut reading = self.reading.lock();
            std::mem::replace(&mut *reading, ReadState::Done)
        };
        let (body, polled) = match reading {
            ReadState::Done => return true,
            ReadState::WithHandler => return false,
            ReadState::Dropped { body, polled } => (body, polled),
        };
        // The client waits for `100 Continue` or a refusal: reading now would make it send the body.
        if self.expects && !polled {
            return false;
        }
        if body.size_hint().lower() > MAX_BYTES {
            return false;
        }
        let mut body = Body::new(body).into_data_stream();
        let rest = async {
            let mut read = 0;
            while let Some(piece) = body.next().await {
                let Ok(piece) = piece else { return false };
                read += piece.len() as u64;
                if read > MAX_BYTES {
                    return false;
                }
            }
            true
        };
        timeout(MAX_TIME, rest).await.unwrap_or(false)
    }
}

impl hyper::body::Body for WatchedBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        self.polled = true;
        let Some(body) = &mut self.body else {
            return Poll::Ready(None);
        };
        let frame = Pin::new(body).poll_frame(cx);
        if matches!(frame, Poll::Ready(None | Some(Err(_)))) {
            self.body = None;
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Incoming::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body
            .as_ref()
            .map_or_else(|| SizeHint::with_exact(0), Incoming::size_hint)
    }
}

impl Drop for WatchedBody {
    fn drop(&mut self) {
        let mut reading = self.reading.lock();
        *reading = match self.body.take() {
            Some(body) if !body.is_end_stream() => ReadState::Dropped {
                body,
                polled: self.polled,
            },
            _ => ReadState::Done,
        };
    }
}
