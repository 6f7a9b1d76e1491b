//! Spreads requests evenly over a minute, so that a long sync leaves the account's limits to others.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::{Instant, sleep_until};

/// One request per interval. What was not used is not made up for.
#[derive(Debug)]
pub(super) struct Pace {
    interval: Duration,
    next: Mutex<Option<Instant>>,
}

impl Pace {
    pub(super) fn new(interval: Duration) -> Self {
        Self {
            interval,
            next: Mutex::default(),
        }
    }

    /// Waits for the next turn. A cancelled wait uses its turn up.
    pub(super) async fn turn(&self) {
        let at = {
            let mut next = self.next.lock();
            let at = next.map_or_else(Instant::now, |next| next.max(Instant::now()));
            *next = Some(at + self.interval);
            at
        };
        sleep_until(at).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn turns_are_an_interval_apart() {
        let pace = Pace::new(Duration::from_secs(6));
        let start = Instant::now();
        let mut at = Vec::new();
        for pause in [0, 0, 0, 20, 0] {
            tokio::time::sleep(Duration::from_secs(pause)).await;
            pace.turn().await;
            at.push(start.elapsed().as_secs());
        }
        assert_eq!(at, [0, 6, 12, 32, 38]);
    }
}
