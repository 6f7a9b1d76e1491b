//! Keep-alive comments in idle event streams.
//!
//! Invariant: no more than [`KEEP_ALIVE`] passes between two frames of a stream whose client reads, whatever the inner
//! stream waits for and however often it wakes up. The timer counts from the last frame sent; nothing else resets it.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use tokio::time::{Instant, Sleep, sleep_until};

/// Idle time after which a comment is sent. Proxies close connections that are idle for a minute, and clients are
/// promised a byte every 15 s.
pub const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// A stream of whole frames that sends a comment whenever it is idle.
#[derive(Debug)]
pub struct KeepAlive<S> {
    frames: Pin<Box<S>>,
    comment: Bytes,
    last: Instant,
    timer: Pin<Box<Sleep>>,
}

impl<S> KeepAlive<S> {
    /// Sends `comment` whenever `frames` is idle.
    pub fn new(frames: S, comment: Bytes) -> Self {
        let last = Instant::now();
        Self {
            frames: Box::pin(frames),
            comment,
            last,
            timer: Box::pin(sleep_until(last + KEEP_ALIVE)),
        }
    }
}

impl<E, S: Stream<Item = Result<Bytes, E>>> Stream for KeepAlive<S> {
    type Item = Result<Bytes, E>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if let Poll::Ready(frame) = this.frames.as_mut().poll_next(cx) {
            this.last = Instant::now();
            return Poll::Ready(frame);
        }
        loop {
            ready!(this.timer.as_mut().poll(cx));
            let now = Instant::now();
            // The timer is reset only when it fires, so that a frame costs no timer update.
            let due = this.last + KEEP_ALIVE;
            if due <= now {
                this.last = now;
                this.timer.as_mut().reset(now + KEEP_ALIVE);
                return Poll::Ready(Some(Ok(this.comment.clone())));
            }
            this.timer.as_mut().reset(due);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures::{StreamExt as _, stream};
    use tokio::time::sleep;

    use super::*;

    const COMMENT: Bytes = Bytes::from_static(b":\n\n");

    /// A stream that wakes up every `wakes`, and has a frame every `frames`.
    fn waking(wakes: Duration, frames: Duration) -> impl Stream<Item = Result<Bytes, Infallible>> {
        stream::unfold(Instant::now(), move |last| async move {
            while last.elapsed() < frames {
                sleep(wakes).await;
            }
            Some((Ok(Bytes::from_static(b"x")), Instant::now()))
        })
    }

    #[tokio::test(start_paused = true)]
    async fn idle_time_is_bounded_however_often_the_stream_wakes_up() {
        for (wakes, frames) in [
            (Duration::from_millis(10), Duration::from_secs(3_600)),
            (Duration::from_secs(9), Duration::from_secs(3_600)),
            (Duration::from_secs(3_600), Duration::from_secs(3_600)),
            (Duration::from_secs(1), Duration::from_secs(12)),
            (Duration::from_secs(1), Duration::from_secs(2)),
        ] {
            let mut stream = KeepAlive::new(waking(wakes, frames), COMMENT);
            let (begun, mut last) = (Instant::now(), Instant::now());
            let mut comments = 0;
            while begun.elapsed() < Duration::from_secs(120) {
                let frame = stream.next().await.unwrap().unwrap();
                assert!(
                    last.elapsed() <= KEEP_ALIVE + Duration::from_millis(1),
                    "{wakes:?} {frames:?}: {:?}",
                    last.elapsed()
                );
                last = Instant::now();
                comments += u32::from(frame == COMMENT);
            }
            assert_eq!(comments == 0, frames < KEEP_ALIVE, "{wakes:?} {frames:?}: {comments}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn ends_with_its_inner_stream() {
        let frames = stream::iter([Ok::<_, Infallible>(Bytes::from_static(b"x"))]);
        let all: Vec<_> = KeepAlive::new(frames, COMMENT).collect().await;
        assert_eq!(all.len(), 1);
    }
}
