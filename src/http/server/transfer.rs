//! Response bodies in transfer: how many bytes of each are outstanding, and what happens when the client stops reading.
//!
//! hyper polls a body again only when the client has a window, so a body that nobody reads is never polled and cannot
//! notice. Each piece therefore decrements the outstanding count as its bytes are sent, and each HTTP/2 stream's task
//! watches the count. Invariants: hyper holds at most [`HIGH_WATER`] bytes of a response at a time; on HTTP/2 a body
//! ends only when all of them are sent, so a stream has a task, which can be dropped, for as long as it holds memory. On
//! HTTP/1.1 the connection is that task, and a body's end is sent together with its last bytes.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use bytes::{Buf, Bytes};
use futures::task::AtomicWaker;
use hyper::body::{Body as _, Frame, SizeHint};
use hyper::rt::Executor;
use tokio::time::{Instant, Sleep, sleep_until};

use super::connection::InFlight;
use super::io::MIN_PROGRESS;
use crate::http::account::{Account, FREE_BYTES};

/// Maximum outstanding bytes of one response.
const HIGH_WATER: usize = 64 * 1024;
/// Maximum bytes per piece.
const PIECE: usize = 16 * 1024;
/// Bytes of a complete response that an HTTP/2 client must read within one write timeout, because it waits in memory.
/// For an event stream, which holds only a few frames, it is [`MIN_PROGRESS`].
const MIN_PROGRESS_OF_COMPLETE: u64 = 32 * 1024;
/// Maximum write timeout of a connection without a valid credential.
const ANONYMOUS_TIMEOUT: Duration = Duration::from_secs(10);

/// The progress of a response. Shared by its body, its pieces, and its stream's task.
#[derive(Debug, Default)]
struct Transfer {
    outstanding: AtomicUsize,
    sent: AtomicU64,
    /// How often the outstanding count reached zero.
    drained: AtomicU64,
    whole: bool,
    waker: AtomicWaker,
    /// Dropped with the last piece, and not before.
    _account: Option<Account>,
    in_flight: Option<InFlight>,
}

impl Transfer {
    fn take(&self, bytes: usize) {
        self.outstanding.fetch_add(bytes, Ordering::AcqRel);
    }

    fn remove_outstanding(&self, bytes: usize, sent: bool) {
        if sent {
            self.sent.fetch_add(bytes as u64, Ordering::AcqRel);
        }
        if self.outstanding.fetch_sub(bytes, Ordering::AcqRel) == bytes {
            self.drained.fetch_add(1, Ordering::AcqRel);
        }
        self.waker.wake();
    }

    fn outstanding(&self) -> usize {
        self.outstanding.load(Ordering::Acquire)
    }

    /// Waits until no more than `bytes` are outstanding.
    fn poll_below(&self, bytes: usize, cx: &Context<'_>) -> Poll<()> {
        if self.outstanding() <= bytes {
            return Poll::Ready(());
        }
        self.waker.register(cx.waker());
        // Bytes sent between the check and the registration did not wake this task: check again.
        if self.outstanding() <= bytes {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }
}

/// A piece of a body that decrements the outstanding count as its bytes are sent.
#[derive(Debug)]
pub struct Piece {
    bytes: Bytes,
    transfer: Arc<Transfer>,
}

impl Buf for Piece {
    fn remaining(&self) -> usize {
        self.bytes.len()
    }

    fn chunk(&self) -> &[u8] {
        &self.bytes
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
        self.transfer.remove_outstanding(count, true);
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        if !self.bytes.is_empty() {
            self.transfer.remove_outstanding(self.bytes.len(), false);
        }
    }
}

/// A response's body in pieces.
#[derive(Debug)]
pub struct TrackedBody {
    body: Body,
    rest: Bytes,
    ended: bool,
    started: bool,
    /// Whether the end waits until all bytes are sent.
    end_waits: bool,
    /// The account of an event stream, and whether it holds a reservation for a frame.
    account: Option<Account>,
    reserved: bool,
    transfer: Arc<Transfer>,
}

impl TrackedBody {
    /// Wraps the body of a response; `in_flight` is held until the last byte is sent.
    pub fn wrap(response: Response, in_flight: InFlight) -> axum::http::Response<Self> {
        let (mut parts, body) = response.into_parts();
        let account = parts.extensions.remove::<Account>();
        let transfer = Arc::new(Transfer {
            whole: body.size_hint().exact().is_some(),
            _account: account.clone(),
            in_flight: Some(in_flight),
            ..Transfer::default()
        });
        // On HTTP/2 the stream's task watches it from here on.
        let watched = STREAM.try_with(|stream| stream.set(Arc::clone(&transfer)));
        let account = account.filter(|_| !transfer.whole);
        axum::http::Response::from_parts(
            parts,
            Self {
                body,
                rest: Bytes::new(),
                ended: false,
                started: false,
                end_waits: watched.is_ok(),
                account,
                reserved: false,
                transfer,
            },
        )
    }

    fn piece(&mut self) -> Frame<Piece> {
        let bytes = self.rest.split_to(self.rest.len().min(PIECE));
        self.transfer.take(bytes.len());
        Frame::data(Piece {
            bytes,
            transfer: Arc::clone(&self.transfer),
        })
    }

    /// Releases the reservation of a sent frame, or registers to be woken when it is sent.
    fn release_frame(&mut self, cx: &Context<'_>) {
        if self.reserved && self.transfer.poll_below(0, cx).is_ready() {
            self.reserved = false;
            self.account.iter().for_each(Account::release_frame);
        }
    }

    /// Accepts the next frame of a stream if memory for it and for the unsent ones can be reserved.
    fn admit(&mut self, bytes: Bytes) -> Result<(), axum::Error> {
        let waiting = self.transfer.outstanding() + bytes.len();
        if let Some(account) = self.account.as_ref().filter(|_| waiting > FREE_BYTES) {
            self.reserved = true;
            account.reserve_frame(waiting).map_err(|_full| {
                metrics::counter!("copilotd_http_stalled_total", "what" => "share").increment(1);
                axum::Error::new(std::io::Error::from(std::io::ErrorKind::OutOfMemory))
            })?;
        }
        self.rest = bytes;
        Ok(())
    }
}

impl hyper::body::Body for TrackedBody {
    type Data = Piece;
    type Error = axum::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Piece>, axum::Error>>> {
        let this = self.get_mut();
        this.started = true;
        loop {
            if !this.rest.is_empty() {
                if this.transfer.poll_below(HIGH_WATER - PIECE, cx).is_pending() {
                    return Poll::Pending;
                }
                return Poll::Ready(Some(Ok(this.piece())));
            }
            if this.ended && !this.end_waits {
                return Poll::Ready(None);
            }
            if this.ended {
                return this.transfer.poll_below(0, cx).map(|()| None);
            }
            if this.transfer.poll_below(HIGH_WATER, cx).is_pending() {
                return Poll::Pending;
            }
            let Poll::Ready(next) = Pin::new(&mut this.body).poll_frame(cx) else {
                this.release_frame(cx);
                return Poll::Pending;
            };
            match next {
                None => this.ended = true,
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(bytes) => {
                        if let Err(error) = this.admit(bytes) {
                            return Poll::Ready(Some(Err(error)));
                        }
                    }
                    Err(frame) => {
                        if let Ok(trailers) = frame.into_trailers() {
                            return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
                        }
                    }
                },
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        // Only for an empty body: others end when all their bytes are sent.
        !self.started && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

tokio::task_local! {
    /// The response of the task's HTTP/2 stream, once there is one.
    static STREAM: Arc<OnceLock<Arc<Transfer>>>;
}

/// Spawns the tasks of HTTP/2 streams, and ends those whose client stops reading: the stream is reset and its memory
/// freed.
#[derive(Debug, Clone)]
pub struct StreamExecutor {
    /// Time within which the client must make progress.
    pub timeout: Duration,
}

impl<F> Executor<F> for StreamExecutor
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, stream: F) {
        let progress = Arc::new(OnceLock::new());
        let watch = StallWatch {
            timeout: self.timeout,
            progress: Arc::clone(&progress),
            stall: None,
        };
        tokio::spawn(STREAM.scope(progress, watched(stream, watch)));
    }
}

async fn watched(stream: impl Future<Output = ()>, mut watch: StallWatch) {
    let mut stream = std::pin::pin!(stream);
    std::future::poll_fn(|cx| {
        // Polled in this order so that bytes handed out in this poll are seen in this poll.
        if stream.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        watch.poll_stalled(cx)
    })
    .await;
}

/// Watches whether the client of a stream keeps reading.
struct StallWatch {
    timeout: Duration,
    progress: Arc<OnceLock<Arc<Transfer>>>,
    stall: Option<Stall>,
}

/// A period in which bytes are outstanding.
struct Stall {
    sent: u64,
    drained: u64,
    timer: Pin<Box<Sleep>>,
}

impl StallWatch {
    fn poll_stalled(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(transfer) = self.progress.get() else {
            return Poll::Pending;
        };
        if transfer.outstanding() == 0 {
            self.stall = None;
            return Poll::Pending;
        }
        let (sent, drained) = (
            transfer.sent.load(Ordering::Acquire),
            transfer.drained.load(Ordering::Acquire),
        );
        let anonymous = transfer.in_flight.as_ref().is_some_and(InFlight::is_anonymous);
        let timeout = if anonymous {
            self.timeout.min(ANONYMOUS_TIMEOUT)
        } else {
            self.timeout
        };
        let begin = || Stall {
            sent,
            drained,
            timer: Box::pin(sleep_until(Instant::now() + timeout)),
        };
        let stall = self.stall.get_or_insert_with(begin);
        if stall.drained != drained {
            *stall = begin();
        }
        while stall.timer.as_mut().poll(cx).is_ready() {
            let least = if transfer.whole {
                MIN_PROGRESS_OF_COMPLETE
            } else {
                MIN_PROGRESS
            };
            if sent - stall.sent < least {
                metrics::counter!("copilotd_http_stalled_total", "what" => "stream").increment(1);
                return Poll::Ready(());
            }
            stall.sent = sent;
            stall.timer.as_mut().reset(Instant::now() + timeout);
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::net::{IpAddr, SocketAddr};

    use axum::extract::{ConnectInfo, Request};
    use axum::response::IntoResponse as _;
    use futures::{FutureExt as _, stream};
    use tokio::time::sleep;

    use super::super::connections::Connections;
    use super::*;
    use crate::config;
    use crate::http::account::Budgets;
    use crate::http::server::Connection;

    fn sent(bytes: usize) -> TrackedBody {
        let all = Connections::new(&config::Server::default(), 10);
        let connection = Connection::new(all, IpAddr::from([192, 0, 2, 1]), None);
        TrackedBody::wrap(vec![7_u8; bytes].into_response(), connection.request()).into_body()
    }

    fn next(body: &mut TrackedBody) -> Option<Option<Piece>> {
        let frame = std::future::poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).now_or_never()?;
        Some(frame.map(|frame| frame.unwrap().into_data().unwrap()))
    }

    #[tokio::test]
    async fn outstanding_bytes_are_bounded_and_the_end_comes_last() {
        let mut body = sent(200_000);
        body.end_waits = true;
        let (mut held, mut read) = (Vec::new(), 0);
        loop {
            match next(&mut body) {
                None => {
                    // The body waits until outstanding pieces are read.
                    assert!(!held.is_empty());
                    let outstanding = body.transfer.outstanding();
                    assert!(outstanding <= HIGH_WATER, "{outstanding}");
                    let mut piece: Piece = held.remove(0);
                    read += piece.remaining();
                    piece.advance(piece.remaining());
                }
                Some(Some(piece)) => held.push(piece),
                Some(None) => break,
            }
        }
        assert_eq!((read, held.len(), body.transfer.outstanding()), (200_000, 0, 0));
    }

    #[tokio::test]
    async fn an_empty_body_ends_at_once_and_a_dropped_piece_counts_back() {
        assert!(sent(0).is_end_stream());
        let mut body = sent(10);
        body.end_waits = true;
        assert!(!body.is_end_stream());
        let mut piece = next(&mut body).unwrap().unwrap();
        piece.advance(4);
        assert_eq!(body.transfer.outstanding(), 6);
        assert!(next(&mut body).is_none());
        drop(piece);
        assert!(next(&mut body).unwrap().is_none());
        assert_eq!(body.transfer.sent.load(Ordering::Acquire), 4);
    }

    #[tokio::test]
    async fn only_on_http2_does_the_end_wait_for_the_last_bytes() {
        for http2 in [false, true] {
            let scope = STREAM.scope(Arc::default(), async { sent(10) });
            let mut body = if http2 { scope.await } else { sent(10) };
            let piece = next(&mut body).unwrap().unwrap();
            assert_eq!(next(&mut body).is_none(), http2);
            drop(piece);
            assert!(next(&mut body).unwrap().is_none());
        }
    }

    /// A stream of frames that its client never reads, with the account of an address.
    fn unread_stream(frame: usize) -> (TrackedBody, Arc<Budgets>) {
        let budgets = Budgets::new(&config::Server::default());
        let mut request = Request::new(Body::empty());
        let peer = SocketAddr::from(([192, 0, 2, 1], 1));
        request.extensions_mut().insert(ConnectInfo(peer));
        let account = Account::open(&budgets, &request).unwrap();
        let frames = stream::repeat_with(move || Ok::<_, Infallible>(Bytes::from(vec![7; frame])));
        let mut response = Body::from_stream(frames).into_response();
        response.extensions_mut().insert(account);
        let all = Connections::new(&config::Server::default(), 10);
        let connection = Connection::new(all, IpAddr::from([192, 0, 2, 1]), None);
        (TrackedBody::wrap(response, connection.request()).into_body(), budgets)
    }

    #[tokio::test]
    async fn unread_frames_never_exceed_the_reservation() {
        for frame in [10, 1_000, FREE_BYTES - 1, FREE_BYTES + 1, 40_000, 200_000] {
            let (mut body, budgets) = unread_stream(frame);
            let mut held = Vec::new();
            while let Some(piece) = next(&mut body) {
                held.push(piece.expect("it has no end"));
                let waiting = body.transfer.outstanding() + body.rest.len();
                let reserved = budgets.answers.in_use();
                assert!(
                    waiting <= reserved + FREE_BYTES,
                    "{frame}: {waiting} wait, {reserved} reserved"
                );
                assert!(waiting <= HIGH_WATER + frame, "{frame}: {waiting}");
            }
            assert!(!held.is_empty());
            // Once everything is sent, nothing stays reserved.
            held.iter_mut().for_each(|piece| piece.advance(piece.remaining()));
            drop((held, body));
            assert_eq!(budgets.answers.in_use(), 0, "{frame}");
        }
    }

    /// Runs the task of a stream whose client reads `bytes` every second.
    async fn served(whole: bool, bytes: usize) -> bool {
        let progress = Arc::new(OnceLock::new());
        let transfer = Arc::new(Transfer {
            whole,
            ..Transfer::default()
        });
        progress.set(Arc::clone(&transfer)).unwrap();
        let watch = StallWatch {
            timeout: Duration::from_secs(30),
            progress,
            stall: None,
        };
        transfer.take(10_000_000);
        let began = Instant::now();
        let client = async {
            for _ in 0..1_000 {
                sleep(Duration::from_secs(1)).await;
                transfer.remove_outstanding(bytes, true);
            }
        };
        tokio::select! {
            () = watched(client, watch) => began.elapsed() >= Duration::from_secs(1_000),
            () = sleep(Duration::from_secs(2_000)) => panic!("the stream never ended"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_ends_when_its_client_takes_too_little() {
        for (whole, bytes, goes_on) in [
            (true, 0, false),
            (true, 100, false),
            (true, 900, false),
            (true, 1_000, false),
            (true, 1_200, true),
            (false, 1, false),
            (false, 40, true),
        ] {
            assert_eq!(served(whole, bytes).await, goes_on, "{whole} {bytes}");
        }
    }
}
