//! A TCP proxy that can be cut, slowed down, held, or lose answers.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// What happens to the bytes of all connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// They pass.
    Open,
    /// Answers pass later.
    Delayed(Duration),
    /// Nothing moves, and nobody is told.
    Paused,
    /// Requests pass; in place of the first answer the connection ends.
    AnswersLost,
    /// The same, for connections whose requests contain this text only.
    AnswersLostTo(&'static str),
    /// Connections end, and new ones are closed at once.
    Cut,
}

pub struct Proxy {
    pub address: SocketAddr,
    mode: watch::Sender<Mode>,
    lost: Arc<AtomicU64>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    pub async fn to(upstream: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mode = watch::Sender::new(Mode::Open);
        let modes = mode.clone();
        let lost = Arc::new(AtomicU64::new(0));
        let losses = Arc::clone(&lost);
        let accepting = tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                if *modes.borrow() != Mode::Cut {
                    tokio::spawn(connect(client, upstream, modes.subscribe(), Arc::clone(&losses)));
                }
            }
        });
        Self {
            address,
            mode,
            lost,
            accepting,
        }
    }

    /// How many answers were lost by [`Mode::AnswersLostTo`].
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::SeqCst)
    }

    pub fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.mode.send_replace(Mode::Cut);
    }
}

async fn connect(client: TcpStream, upstream: SocketAddr, mode: watch::Receiver<Mode>, lost: Arc<AtomicU64>) {
    let Ok(server) = TcpStream::connect(upstream).await else {
        return;
    };
    client.set_nodelay(true).unwrap();
    server.set_nodelay(true).unwrap();
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let chosen = AtomicBool::new(false);
    // Whichever way ends first ends both.
    tokio::select! {
        _ = pass_requests(from_client, to_server, mode.clone(), &chosen) => {}
        _ = pass_answers(from_server, to_client, mode, &chosen, &lost) => {}
    }
}

/// Reads what comes next, and the mode it meets; none at the end.
async fn next<'a>(
    from: &mut OwnedReadHalf,
    buffer: &'a mut [u8],
    mode: &mut watch::Receiver<Mode>,
) -> Option<(&'a [u8], Mode)> {
    let length = tokio::select! {
        length = from.read(buffer) => length.ok().filter(|length| *length > 0)?,
        _ = mode.wait_for(|mode| *mode == Mode::Cut) => return None,
    };
    let now = *mode.wait_for(|mode| *mode != Mode::Paused).await.ok()?;
    (now != Mode::Cut).then_some((&buffer[..length], now))
}

async fn pass_requests(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut mode: watch::Receiver<Mode>,
    chosen: &AtomicBool,
) -> io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    while let Some((bytes, now)) = next(&mut from, &mut buffer, &mut mode).await {
        if let Mode::AnswersLostTo(text) = now
            && bytes.windows(text.len()).any(|window| window == text.as_bytes())
        {
            chosen.store(true, Ordering::SeqCst);
        }
        to.write_all(bytes).await?;
    }
    Ok(())
}

async fn pass_answers(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut mode: watch::Receiver<Mode>,
    chosen: &AtomicBool,
    lost: &AtomicU64,
) -> io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    while let Some((bytes, now)) = next(&mut from, &mut buffer, &mut mode).await {
        if chosen.load(Ordering::SeqCst) {
            lost.fetch_add(1, Ordering::SeqCst);
            return Ok(());
        }
        match now {
            Mode::AnswersLost => return Ok(()),
            Mode::Delayed(delay) => tokio::time::sleep(delay).await,
            _ => {}
        }
        to.write_all(bytes).await?;
    }
    Ok(())
}
