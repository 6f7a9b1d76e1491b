//! A socket whose peer must keep reading: writes without progress fail after the write timeout.
//!
//! This limits what HTTP/1.1 clients and whole HTTP/2 connections can hold; [`super::transfer`] handles single HTTP/2
//! streams with a closed window.
//!
//! When the socket is closed while its peer may still be sending (see [`super::unread`]), incoming bytes are discarded
//! for a moment: unread bytes would reset the connection, and the peer might never see the response.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep, sleep_until};

use super::unread::LingerFlag;

/// Bytes that a peer must read within one write timeout; fewer count as no progress.
pub const MIN_PROGRESS: u64 = 1024;
/// How long, and how many bytes, incoming data is discarded for while closing.
const LINGER: (Duration, usize) = (Duration::from_secs(2), 8 * 1024 * 1024);

/// A socket that can be aborted, so that the kernel does not keep unsent bytes.
pub trait Abort {
    /// Makes the next close discard everything unsent.
    fn abort(&self);
}

impl Abort for TcpStream {
    fn abort(&self) {
        // If this fails, the socket is closed normally.
        let _ = self.set_zero_linger();
    }
}

/// A socket with a write timeout; see the module.
#[derive(Debug)]
pub struct WriteTimeout<T> {
    inner: T,
    timeout: Duration,
    written: u64,
    stall: Option<Stall>,
    linger_flag: LingerFlag,
    closing: Option<Closing>,
}

/// A closing connection: our half is closed.
#[derive(Debug)]
struct Closing {
    discarded: usize,
    timer: Pin<Box<Sleep>>,
}

/// A period in which writes are blocked.
#[derive(Debug)]
struct Stall {
    written: u64,
    timer: Pin<Box<Sleep>>,
}

impl<T> WriteTimeout<T> {
    pub fn new(inner: T, timeout: Duration, linger_flag: LingerFlag) -> Self {
        Self {
            inner,
            timeout,
            written: 0,
            stall: None,
            linger_flag,
            closing: None,
        }
    }
}

impl<T: AsyncRead + Unpin> WriteTimeout<T> {
    /// Discards what the peer sends until it closes its half or [`LINGER`] is used up.
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Self { inner, closing, .. } = self;
        let closing = closing.get_or_insert_with(|| Closing {
            discarded: 0,
            timer: Box::pin(sleep(LINGER.0)),
        });
        let mut bytes = [0; 4096];
        while closing.discarded < LINGER.1 {
            let mut buffer = ReadBuf::new(&mut bytes);
            match Pin::new(&mut *inner).poll_read(cx, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => closing.discarded += buffer.filled().len(),
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => return closing.timer.as_mut().poll(cx),
            }
        }
        Poll::Ready(())
    }
}

impl<T: Abort> WriteTimeout<T> {
    fn watch(&mut self, written: Poll<io::Result<usize>>, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        match written {
            Poll::Ready(Ok(bytes)) => {
                self.written += bytes as u64;
                written
            }
            Poll::Ready(Err(_)) => written,
            Poll::Pending => {
                let (all, timeout) = (self.written, self.timeout);
                let stall = self.stall.get_or_insert_with(|| Stall {
                    written: all,
                    timer: Box::pin(sleep_until(Instant::now() + timeout)),
                });
                while stall.timer.as_mut().poll(cx).is_ready() {
                    if all - stall.written < MIN_PROGRESS {
                        metrics::counter!("copilotd_http_stalled_total", "what" => "connection").increment(1);
                        self.inner.abort();
                        return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
                    }
                    stall.written = all;
                    stall.timer.as_mut().reset(Instant::now() + timeout);
                }
                Poll::Pending
            }
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for WriteTimeout<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl<T: AsyncRead + AsyncWrite + Abort + Unpin> AsyncWrite for WriteTimeout<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(cx, buf);
        self.watch(written, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write_vectored(cx, bufs);
        self.watch(written, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.inner).poll_flush(cx))?;
        // HTTP flushes when it has nothing more to write: the peer has read everything.
        self.stall = None;
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.closing.is_none() {
            ready!(Pin::new(&mut self.inner).poll_shutdown(cx))?;
            if !self.linger_flag.get() {
                return Poll::Ready(Ok(()));
            }
        }
        self.poll_linger(cx).map(Ok)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
    use tokio::time::sleep;

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(30);

    struct Pipe(DuplexStream, Rc<Cell<bool>>);

    impl Abort for Pipe {
        fn abort(&self) {
            self.1.set(true);
        }
    }

    impl AsyncRead for Pipe {
        fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_read(cx, buf)
        }
    }

    impl AsyncWrite for Pipe {
        fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            Pin::new(&mut self.0).poll_write(cx, buf)
        }
        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_flush(cx)
        }
        fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_shutdown(cx)
        }
    }

    fn pipe() -> (WriteTimeout<Pipe>, DuplexStream, Rc<Cell<bool>>) {
        let (ours, theirs) = duplex(4096);
        let aborted = Rc::new(Cell::new(false));
        (
            WriteTimeout::new(Pipe(ours, Rc::clone(&aborted)), TIMEOUT, LingerFlag::default()),
            theirs,
            aborted,
        )
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_never_reads_is_cut_off() {
        let (mut ours, _theirs, aborted) = pipe();
        let begun = Instant::now();
        let error = ours.write_all(&[0; 100_000]).await.unwrap_err();
        assert_eq!((error.kind(), begun.elapsed()), (io::ErrorKind::TimedOut, TIMEOUT));
        assert!(aborted.get());
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_reads_a_byte_a_second_too() {
        let (mut ours, mut theirs, _) = pipe();
        let begun = Instant::now();
        let reads = async {
            loop {
                sleep(Duration::from_secs(1)).await;
                let _ = theirs.read_u8().await;
            }
        };
        let failed = tokio::select! {
            written = ours.write_all(&[0; 100_000]) => written.is_err(),
            () = reads => false,
        };
        assert!(failed);
        assert!(begun.elapsed() <= TIMEOUT * 2, "{:?}", begun.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_one_that_goes_on_reading_is_served_and_so_is_one_with_long_pauses_between_answers() {
        let (mut ours, mut theirs, _) = pipe();
        let reads = async {
            let mut buffer = [0; 100];
            for _ in 0..1_000 {
                sleep(Duration::from_secs(1)).await;
                theirs.read_exact(&mut buffer).await.unwrap();
            }
        };
        let writes = async {
            ours.write_all(&[0; 50_000]).await.unwrap();
            ours.flush().await.unwrap();
            // Each blocks for a moment, and moves less than the least progress.
            for _ in 0..10 {
                sleep(TIMEOUT * 2).await;
                ours.write_all(&[0; 5_000]).await.unwrap();
                ours.flush().await.unwrap();
            }
        };
        tokio::join!(reads, writes);
    }
}
