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
    let builder = Arc::new(builder);
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
        let (builder, router, stop) = (Arc::clone(&builder), router.clone(), stop.clone());
        tokio::spawn(async move {
            connection(stream, peer, &builder, router, header_timeout, stop).await;
            drop(permit);
        });
    }
    drop(listener);
    let all = u32::try_from(MAX_CONNECTIONS).unwrap_or(u32::MAX);
    // Whoever is not done by then is cut off.
    let _ = tokio::time::timeout(grace, permits.acquire_many(all)).await;
}

async fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    builder: &auto::Builder<TokioExecutor>,
    router: Router,
    header_timeout: Duration,
    mut stop: watch::Receiver<bool>,
) {
    // Small frames leave at once; a kernel that refuses this serves all the same.
    let _ = stream.set_nodelay(true);
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
