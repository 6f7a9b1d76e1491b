//! A TCP proxy that can cut, slow down or hold connections, or lose answers.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// What happens to the bytes of all connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Everything passes.
    Open,
    /// Answers are delayed.
    Delayed(Duration),
    /// Nothing passes, and connections stay open.
    Paused,
    /// Requests pass; the connection is closed instead of the first answer.
    AnswersLost,
    /// The same, only for connections whose requests contain this text.
    AnswersLostTo(&'static str),
    /// This many requests that contain this text pass; the next one is held until the mode changes, even if its client
    /// is gone by then. Everything else passes.
    HeldAfter(u64, &'static str),
    /// Connections are closed, and new ones are closed immediately.
    Cut,
    /// The same, by RST.
    Reset,
    /// Connections are closed, and nothing listens.
    Refused,
}

impl Mode {
    /// Whether it closes all connections.
    fn ends_connections(self) -> bool {
        matches!(self, Self::Cut | Self::Reset | Self::Refused)
    }
}

#[derive(Default)]
struct Counts {
    /// Number of lost answers.
    lost: AtomicU64,
    /// Number of requests with the text of [`Mode::HeldAfter`].
    matched: AtomicU64,
    /// Number of held requests.
    held: AtomicU64,
}

pub struct Proxy {
    pub address: SocketAddr,
    mode: watch::Sender<Mode>,
    counts: Arc<Counts>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    pub async fn to(upstream: SocketAddr) -> Self {
        // Never listens: it only reserves the port.
        let port = socket(SocketAddr::from(([127, 0, 0, 1], 0)));
        let address = port.local_addr().unwrap();
        let mode = watch::Sender::new(Mode::Open);
        let mut modes = mode.subscribe();
        let counts = Arc::<Counts>::default();
        let counted = Arc::clone(&counts);
        let mut listener = Some(socket(address).listen(1024).unwrap());
        let accepting = tokio::spawn(async move {
            let _port = port;
            loop {
                let Some(open) = listener.take_if(|_| *modes.borrow() != Mode::Refused) else {
                    drop(listener.take());
                    if modes.wait_for(|mode| *mode != Mode::Refused).await.is_err() {
                        return;
                    }
                    listener = Some(socket(address).listen(1024).unwrap());
                    continue;
                };
                let accepted = tokio::select! {
                    accepted = open.accept() => Some(accepted.unwrap().0),
                    _ = modes.wait_for(|mode| *mode == Mode::Refused) => None,
                };
                let now = *modes.borrow();
                if let Some(client) = accepted {
                    if now == Mode::Reset {
                        client.set_zero_linger().unwrap();
                    }
                    if !now.ends_connections() {
                        tokio::spawn(connect(client, upstream, modes.clone(), Arc::clone(&counted)));
                    }
                }
                listener = Some(open);
            }
        });
        Self {
            address,
            mode,
            counts,
            accepting,
        }
    }

    /// Returns how many answers were lost by [`Mode::AnswersLostTo`].
    pub fn lost(&self) -> u64 {
        self.counts.lost.load(Ordering::SeqCst)
    }

    /// Returns how many requests were held by [`Mode::HeldAfter`].
    pub fn held(&self) -> u64 {
        self.counts.held.load(Ordering::SeqCst)
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

fn socket(address: SocketAddr) -> TcpSocket {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind(address).unwrap();
    socket
}

async fn connect(client: TcpStream, upstream: SocketAddr, mode: watch::Receiver<Mode>, counts: Arc<Counts>) {
    let Ok(server) = TcpStream::connect(upstream).await else {
        return;
    };
    client.set_nodelay(true).unwrap();
    server.set_nodelay(true).unwrap();
    let (mut client, mut server) = (client, server);
    let modes = mode.clone();
    {
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        let chosen = AtomicBool::new(false);
        // Whichever direction ends first ends both.
        tokio::select! {
            _ = pass_requests(from_client, to_server, mode.clone(), &chosen, &counts) => {}
            _ = pass_answers(from_server, to_client, mode, &chosen, &counts.lost) => {}
        }
    }
    if *modes.borrow() == Mode::Reset {
        let _ = client.set_zero_linger();
        let _ = server.set_zero_linger();
    }
}

/// Reads the next bytes, with the mode at that moment; none at the end.
async fn next<'a>(
    from: &mut ReadHalf<'_>,
    buffer: &'a mut [u8],
    mode: &mut watch::Receiver<Mode>,
) -> Option<(&'a [u8], Mode)> {
    let length = tokio::select! {
        length = from.read(buffer) => length.ok().filter(|length| *length > 0)?,
        _ = mode.wait_for(|mode| mode.ends_connections()) => return None,
    };
    let now = *mode.wait_for(|mode| *mode != Mode::Paused).await.ok()?;
    (!now.ends_connections()).then_some((&buffer[..length], now))
}

async fn pass_requests(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    mut mode: watch::Receiver<Mode>,
    chosen: &AtomicBool,
    counts: &Counts,
) -> io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    let mut was_held = false;
    while let Some((bytes, now)) = next(&mut from, &mut buffer, &mut mode).await {
        let has = |text: &str| bytes.windows(text.len()).any(|window| window == text.as_bytes());
        match now {
            Mode::AnswersLostTo(text) if has(text) => chosen.store(true, Ordering::SeqCst),
            Mode::HeldAfter(passing, text) if has(text) && counts.matched.fetch_add(1, Ordering::SeqCst) == passing => {
                was_held = true;
                counts.held.fetch_add(1, Ordering::SeqCst);
                let _ = mode.wait_for(|mode| *mode != now).await;
            }
            _ => {}
        }
        to.write_all(bytes).await?;
    }
    if was_held {
        // Its client is gone. The server must not learn that before it has read the request, so close after its answer.
        std::future::pending::<()>().await;
    }
    Ok(())
}

async fn pass_answers(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
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

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use tokio::net::TcpListener;

    use super::*;

    /// Answers every connection with what it says.
    async fn echo() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                tokio::spawn(async move {
                    let (mut from, mut to) = stream.split();
                    tokio::io::copy(&mut from, &mut to).await
                });
            }
        });
        address
    }

    async fn answer(address: SocketAddr) -> std::io::Result<usize> {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(b"x").await?;
        stream.read(&mut [0; 1]).await
    }

    #[tokio::test]
    async fn a_proxy_refuses_resets_and_is_there_again() {
        let proxy = Proxy::to(echo().await).await;
        assert_eq!(answer(proxy.address).await.unwrap(), 1);
        let mut open = TcpStream::connect(proxy.address).await.unwrap();
        open.write_all(b"x").await.unwrap();
        assert_eq!(open.read(&mut [0; 1]).await.unwrap(), 1);
        for _ in 0..3 {
            proxy.set(Mode::Reset);
            let error = match open.read(&mut [0; 1]).await {
                Err(error) => error.kind(),
                Ok(length) => panic!("{length} bytes came"),
            };
            assert_eq!(error, ErrorKind::ConnectionReset);
            assert!(answer(proxy.address).await.is_err());
            proxy.set(Mode::Refused);
            // The listening task notices it later.
            while answer(proxy.address).await.map_err(|error| error.kind()) != Err(ErrorKind::ConnectionRefused) {
                tokio::task::yield_now().await;
            }
            proxy.set(Mode::Open);
            while answer(proxy.address).await.ok() != Some(1) {
                tokio::task::yield_now().await;
            }
            open = TcpStream::connect(proxy.address).await.unwrap();
            open.write_all(b"x").await.unwrap();
            assert_eq!(open.read(&mut [0; 1]).await.unwrap(), 1);
        }
    }
}
