//! A TCP proxy that can be cut, slowed down, held, or lose answers.

use std::io;
use std::net::SocketAddr;
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
    /// Connections end, and new ones are closed at once.
    Cut,
}

pub struct Proxy {
    pub address: SocketAddr,
    mode: watch::Sender<Mode>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    pub async fn to(upstream: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mode = watch::Sender::new(Mode::Open);
        let modes = mode.clone();
        let accepting = tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                if *modes.borrow() != Mode::Cut {
                    tokio::spawn(connect(client, upstream, modes.subscribe()));
                }
            }
        });
        Self {
            address,
            mode,
            accepting,
        }
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

async fn connect(client: TcpStream, upstream: SocketAddr, mode: watch::Receiver<Mode>) {
    let Ok(server) = TcpStream::connect(upstream).await else {
        return;
    };
    client.set_nodelay(true).unwrap();
    server.set_nodelay(true).unwrap();
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    // Whichever way ends first ends both.
    tokio::select! {
        _ = pass(from_client, to_server, mode.clone(), false) => {}
        _ = pass(from_server, to_client, mode, true) => {}
    }
}

async fn pass(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut mode: watch::Receiver<Mode>,
    answers: bool,
) -> io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let length = tokio::select! {
            length = from.read(&mut buffer) => length?,
            _ = mode.wait_for(|mode| *mode == Mode::Cut) => return Ok(()),
        };
        if length == 0 {
            return Ok(());
        }
        let now = match mode.wait_for(|mode| *mode != Mode::Paused).await {
            Ok(now) => *now,
            Err(_) => return Ok(()),
        };
        match now {
            Mode::Cut => return Ok(()),
            Mode::AnswersLost if answers => return Ok(()),
            Mode::Delayed(delay) if answers => tokio::time::sleep(delay).await,
            _ => {}
        }
        to.write_all(&buffer[..length]).await?;
    }
}
