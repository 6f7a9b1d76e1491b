//! How long and how often a store is retried.

use std::time::Duration;

use copilotd_actors::jitter::jitter;
use tokio::time::Instant;

const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Pauses between attempts, growing and jittered, until a deadline.
pub(crate) struct Backoff {
    deadline: Instant,
    pause: Duration,
}

impl Backoff {
    /// Starts now.
    pub(crate) fn new(longest: Duration) -> Self {
        Self {
            deadline: Instant::now() + longest,
            pause: FIRST_PAUSE,
        }
    }

    /// Returns when to give up.
    pub(crate) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Waits before the next attempt; returns false if there is no time for one.
    pub(crate) async fn pause(&mut self) -> bool {
        // Between half and all of the pause: writers that failed together do not retry together.
        let pause = self.pause / 2 + jitter(self.pause / 2);
        if Instant::now() + pause >= self.deadline {
            return false;
        }
        tokio::time::sleep(pause).await;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        true
    }
}
