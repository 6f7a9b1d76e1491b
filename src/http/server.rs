//! Accepts connections and serves the router on them: HTTP/1.1 and HTTP/2, with bounds for slow clients.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::ConnectInfo;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tower::Service as _;

/// Connections of one process. A stream needs one each over HTTP/1.1.
const MAX_CONNECTIONS: usize = 60_000;
/// Pause after a failed accept: out of file descriptors, as a rule, which only waiting mends.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Buffer of one HTTP/1.1 connection; its growth is what a slow reader may cost.
const HTTP1_BUFFER: usize = 16 * 1024;
/// Silence after which an HTTP/2 client is asked whether it is still there; one that does not answer is gone.
const HTTP2_PING: Duration = Duration::from_secs(30);
/// Streams on one HTTP/2 connection.
const HTTP2_STREAMS: u32 = 256;
/// How an HTTP/2 connection begins (RFC 9113, section 3.4); no method of HTTP/1.1 does.
const HTTP2_START: &[u8] = b"PRI * ";

/// Serves until `stop` says so, then waits for open connections up to `grace`.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    header_timeout: Duration,
    mut stop: watch::Receiver<bool>,
    grace: Duration,
) {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(header_timeout)
        .max_buf_size(HTTP1_BUFFER);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(HTTP2_PING)
        .max_concurrent_streams(HTTP2_STREAMS);
    let builders = Arc::new(Builders {
        http1: builder.clone().http1_only(),
        any: builder,
    });
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.wait_for(|stop| *stop) => break,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // Beyond the bound a connection is closed unanswered: an answer would need what is used up.
        let Ok(permit) = Arc::clone(&permits).try_acquire_owned() else {
            continue;
        };
        let (builders, router, stop) = (Arc::clone(&builders), router.clone(), stop.clone());
        tokio::spawn(async move {
            connection(stream, peer, &builders, router, header_timeout, stop).await;
            drop(permit);
        });
    }
    drop(listener);
    let all = u32::try_from(MAX_CONNECTIONS).unwrap_or(u32::MAX);
    // Whoever is not done by then is cut off.
    let _ = tokio::time::timeout(grace, permits.acquire_many(all)).await;
}

/// How connections are served, by what their first bytes can mean.
struct Builders {
    http1: auto::Builder<TokioExecutor>,
    any: auto::Builder<TokioExecutor>,
}

impl Builders {
    /// Waits for the first bytes and tells HTTP/1.1 by them. hyper's own detection takes them out of the socket, which makes it
    /// double the buffer of every HTTP/1.1 connection for as long as that lives: 8 KiB for each open stream.
    async fn fitting(&self, stream: &TcpStream) -> &auto::Builder<TokioExecutor> {
        let mut first = [0; HTTP2_START.len()];
        match stream.peek(&mut first).await {
            Ok(read) if !HTTP2_START.starts_with(&first[..read]) => &self.http1,
            // HTTP/2, too few bytes to tell, or a connection that is gone.
            _ => &self.any,
        }
    }
}

async fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    builders: &Builders,
    router: Router,
    header_timeout: Duration,
    mut stop: watch::Receiver<bool>,
) {
    // Small frames leave at once; a kernel that refuses this serves all the same.
    let _ = stream.set_nodelay(true);
    let Ok(builder) = tokio::time::timeout(header_timeout, builders.fitting(&stream)).await else {
        return;
    };
    let asked = Arc::new(AtomicBool::new(false));
    let first = Arc::clone(&asked);
    let service = tower::service_fn(move |mut request: axum::http::Request<hyper::body::Incoming>| {
        first.store(true, Ordering::Relaxed);
        request.extensions_mut().insert(ConnectInfo(peer));
        router.clone().call(request)
    });
    let connection = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
    tokio::pin!(connection);
    // hyper's own timer starts with HTTP/1; before, and on HTTP/2, a client that asks for nothing would stay for ever.
    let mute = async {
        tokio::time::sleep(header_timeout).await;
        if asked.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
    };
    // How a client's connection ends is the client's affair.
    tokio::select! {
        _ = connection.as_mut() => return,
        () = mute => return,
        _ = stop.wait_for(|stop| *stop) => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = connection.await;
}
