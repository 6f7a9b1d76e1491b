//! A listener whose connections can be cut.
//!
//! A simulator must be able to fail as networks do: a request is carried out, but its answer never arrives. Hyper gives
//! handlers no way to close their connection without an answer, so the stream below has a switch, which the handler
//! finds in its `ConnectInfo`.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};

use axum::Router;
use axum::extract::connect_info::Connected;
use axum::serve::IncomingStream;
use futures::task::AtomicWaker;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use crate::Running;

/// Serves `app` on `listen` until the returned handle is dropped.
pub(crate) async fn serve(listen: SocketAddr, app: Router) -> io::Result<Running> {
    let listener = TcpListener::bind(listen).await?;
    let base_url = format!("http://{}", listener.local_addr()?);
    let shutdown = CancellationToken::new();
    let links = Links::default();
    let acceptor = Acceptor {
        listener,
        links: links.clone(),
    };
    let stop = shutdown.clone();
    tokio::spawn(async move {
        let service = app.into_make_service_with_connect_info::<Switch>();
        tokio::select! {
            outcome = axum::serve(acceptor, service) => {
                if let Err(error) = outcome {
                    tracing::error!(%error, "simulator stopped serving");
                }
            }
            () = stop.cancelled() => {}
        }
    });
    Ok(Running {
        base_url,
        shutdown,
        links,
        person: Router::new(),
    })
}

/// Cuts one connection.
#[derive(Clone, Debug, Default)]
pub(crate) struct Switch(Arc<SwitchState>);

#[derive(Debug, Default)]
struct SwitchState {
    cut: AtomicBool,
    waker: AtomicWaker,
}

impl Switch {
    /// Closes the connection; anything not written yet is lost.
    pub(crate) fn cut(&self) {
        self.0.cut.store(true, Ordering::Release);
        self.0.waker.wake();
    }

    fn is_cut(&self) -> bool {
        self.0.cut.load(Ordering::Acquire)
    }
}

impl Connected<IncomingStream<'_, Acceptor>> for Switch {
    fn connect_info(stream: IncomingStream<'_, Acceptor>) -> Self {
        stream.io().switch.clone()
    }
}

/// The open connections.
#[derive(Clone, Debug, Default)]
pub(crate) struct Links(Arc<LinksState>);

#[derive(Debug, Default)]
struct LinksState {
    next: AtomicU64,
    open: Mutex<HashMap<u64, Switch>>,
}

impl Links {
    pub(crate) fn cut_all(&self) {
        self.0.open.lock().values().for_each(Switch::cut);
    }

    fn add(&self, stream: TcpStream) -> Link {
        let id = self.0.next.fetch_add(1, Ordering::Relaxed);
        let switch = Switch::default();
        self.0.open.lock().insert(id, switch.clone());
        Link {
            id,
            stream,
            switch,
            links: self.clone(),
        }
    }
}

struct Acceptor {
    listener: TcpListener,
    links: Links,
}

impl axum::serve::Listener for Acceptor {
    type Io = Link;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Link, SocketAddr) {
        let (stream, peer) = axum::serve::Listener::accept(&mut self.listener).await;
        // Otherwise a streamed piece waits up to 40 ms for the acknowledgement of the one before.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "could not set TCP_NODELAY; streamed pieces may be delayed");
        }
        (self.links.add(stream), peer)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// One connection with its switch.
struct Link {
    id: u64,
    stream: TcpStream,
    switch: Switch,
    links: Links,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.links.0.open.lock().remove(&self.id);
    }
}

fn cut_error() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, "cut by the simulator")
}

impl AsyncRead for Link {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.switch.0.waker.register(cx.waker());
        if self.switch.is_cut() {
            return Poll::Ready(Err(cut_error()));
        }
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Link {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.switch.is_cut() {
            return Poll::Ready(Err(cut_error()));
        }
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.switch.is_cut() {
            return Poll::Ready(Err(cut_error()));
        }
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
