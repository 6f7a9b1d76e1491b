//! Accepts connections and serves the router over HTTP/1.1 and HTTP/2, with limits for clients that are slow, never
//! read, or are many.

mod connection;
mod connections;
mod io;
mod transfer;
mod unread;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::ConnectInfo;
pub use connection::Connection;
pub use connections::{Connections, max_connections};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tower::Service as _;

use self::connection::CloseReason;
use self::io::WriteTimeout;
use self::transfer::{StreamExecutor, TrackedBody};
use self::unread::LingerFlag;
use crate::config;

/// Pause after a failed accept, which usually means no file descriptors: only waiting helps.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How long a connection without a valid credential stays open after its last response.
const ANONYMOUS_IDLE: Duration = Duration::from_secs(10);
/// How long a connection in graceful shutdown gets to read the last of its response.
const LINGER: Duration = Duration::from_secs(5);
/// Maximum buffer of one HTTP/1.1 connection, which bounds the cost of a slow reader.
const HTTP1_BUFFER: usize = 16 * 1024;
/// Interval of HTTP/2 keep-alive pings; a client that does not answer is disconnected.
const HTTP2_PING: Duration = Duration::from_secs(30);
/// Maximum concurrent streams per HTTP/2 connection.
const HTTP2_STREAMS: u32 = 64;
/// Bytes of one response that HTTP/2 buffers before the client has a window for them.
const HTTP2_SEND_BUFFER: usize = 64 * 1024;
/// Bytes of bodies that an HTTP/2 client may send before they are read: per request, and per connection.
const HTTP2_WINDOWS: (u32, u32) = (128 * 1024, 256 * 1024);
/// Maximum header bytes of one HTTP/2 request.
const HTTP2_HEADERS: u32 = 16 * 1024;
/// Maximum streams per HTTP/2 connection that the client reset before they were accepted, and that we reset for its
/// errors; beyond that the connection is closed.
const HTTP2_RESETS: (usize, usize) = (20, 128);
/// Unsent bytes that the kernel buffers. More would only hide how fast the client reads.
const UNSENT_BYTES: u32 = 64 * 1024;
/// The start of an HTTP/2 connection (RFC 9113, section 3.4), unlike any HTTP/1.1 method.
const HTTP2_PREFACE: &[u8] = b"PRI * ";

/// Timeouts for clients.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// To receive a request's headers.
    pub header: Duration,
    /// For a client to read some of a response.
    pub write: Duration,
    /// To close an idle connection without a valid credential.
    pub anonymous_idle: Duration,
}

impl Timeouts {
    pub fn new(server: &config::Server) -> Self {
        Self {
            header: server.header_timeout,
            write: server.write_timeout,
            anonymous_idle: ANONYMOUS_IDLE,
        }
    }
}

/// Serves until `stop` is true, then waits up to `grace` for open connections.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    timeouts: Timeouts,
    connections: Arc<Connections>,
    mut stop: watch::Receiver<bool>,
    grace: Duration,
) {
    let builders = Arc::new(Builders::new(timeouts));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.wait_for(|stop| *stop) => break,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                connections.accept_failed(&error);
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // Beyond the limits a connection is closed without a response, which would need the exhausted resources.
        let Ok((slot, anonymous)) = connections.admit(peer.ip()) else {
            continue;
        };
        let handle = Connection::new(Arc::clone(&connections), peer.ip(), anonymous);
        let (builders, router, stop) = (Arc::clone(&builders), router.clone(), stop.clone());
        tokio::spawn(async move {
            serve_connection(stream, peer, handle, &builders, router, stop).await;
            drop(slot);
        });
    }
    drop(listener);
    // Connections still open after that are dropped.
    let _ = tokio::time::timeout(grace, connections.closed()).await;
}

/// The connection builders for HTTP/1.1 and for either version.
struct Builders {
    timeouts: Timeouts,
    http1: auto::Builder<StreamExecutor>,
    any: auto::Builder<StreamExecutor>,
}

impl Builders {
    fn new(timeouts: Timeouts) -> Self {
        let executor = StreamExecutor {
            timeout: timeouts.write,
        };
        let mut builder = auto::Builder::new(executor);
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(timeouts.header)
            .max_buf_size(HTTP1_BUFFER);
        builder
            .http2()
            .timer(TokioTimer::new())
            .keep_alive_interval(HTTP2_PING)
            .max_concurrent_streams(HTTP2_STREAMS)
            .max_send_buf_size(HTTP2_SEND_BUFFER)
            .initial_stream_window_size(HTTP2_WINDOWS.0)
            .initial_connection_window_size(HTTP2_WINDOWS.1)
            .max_header_list_size(HTTP2_HEADERS)
            .max_pending_accept_reset_streams(HTTP2_RESETS.0)
            .max_local_error_reset_streams(HTTP2_RESETS.1);
        Self {
            timeouts,
            http1: builder.clone().http1_only(),
            any: builder,
        }
    }

    /// Peeks at the first bytes to detect HTTP/1.1. hyper's own detection reads them from the socket, which doubles the
    /// buffer of every HTTP/1.1 connection for its lifetime: 8 KiB for each open stream.
    async fn builder_for(&self, stream: &TcpStream) -> &auto::Builder<StreamExecutor> {
        let mut first = [0; HTTP2_PREFACE.len()];
        match stream.peek(&mut first).await {
            Ok(read) if !HTTP2_PREFACE.starts_with(&first[..read]) => &self.http1,
            // HTTP/2, too few bytes to tell, or a closed connection.
            _ => &self.any,
        }
    }
}

async fn serve_connection(
    stream: TcpStream,
    peer: SocketAddr,
    handle: Connection,
    builders: &Builders,
    router: Router,
    mut stop: watch::Receiver<bool>,
) {
    let timeouts = builders.timeouts;
    // Send small frames at once. If the kernel refuses this or the option below, the connection still works.
    let _ = stream.set_nodelay(true);
    let _ = socket2::SockRef::from(&stream).set_tcp_notsent_lowat(UNSENT_BYTES);
    let Ok(builder) = tokio::time::timeout(timeouts.header, builders.builder_for(&stream)).await else {
        return;
    };
    let requests = handle.clone();
    let linger_flag = LingerFlag::default();
    let io = TokioIo::new(WriteTimeout::new(stream, timeouts.write, linger_flag.clone()));
    let service = tower::service_fn(move |request: axum::http::Request<hyper::body::Incoming>| {
        let in_flight = requests.request();
        let (mut parts, body) = request.into_parts();
        let (body, rest) = unread::watch(parts.version, &parts.headers, body);
        parts.extensions.insert(ConnectInfo(peer));
        parts.extensions.insert(requests.clone());
        let answered = router.clone().call(axum::http::Request::from_parts(parts, body));
        let linger_flag = linger_flag.clone();
        async move {
            let Ok(mut response) = answered.await;
            if let Some(rest) = rest {
                rest.settle(response.headers_mut(), &linger_flag).await;
            }
            Ok::<_, std::convert::Infallible>(TrackedBody::wrap(response, in_flight))
        }
    });
    let mut connection = std::pin::pin!(builder.serve_connection(io, TowerToHyperService::new(service)));
    let stopped = async {
        let _ = stop.wait_for(|stop| *stop).await;
    };
    // Errors of a client's connection are not ours to report.
    let idle = tokio::select! {
        _ = connection.as_mut() => return,
        // hyper's own timer starts with HTTP/1.1; before that, and on HTTP/2, a client without requests would stay
        // forever.
        idle = handle.idle(timeouts) => Some(idle),
        () = stopped => None,
    };
    match idle {
        Some(CloseReason::NoRequest) => {}
        Some(CloseReason::Anonymous) => {
            connection.as_mut().graceful_shutdown();
            // Finish requests that arrived just now.
            while tokio::time::timeout(LINGER, connection.as_mut()).await.is_err() && handle.is_busy() {}
        }
        None => {
            connection.as_mut().graceful_shutdown();
            let _ = connection.await;
        }
    }
}
