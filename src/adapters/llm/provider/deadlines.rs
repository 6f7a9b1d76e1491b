//! The deadlines of one call. The fourth one, for connecting, is the HTTP client's own.

use std::time::Duration;

use copilotd_gateway::provider::Timeouts;
use tokio::time::Instant;

/// How long the usage report may follow the end of the answer. The answer is complete by then; nobody should wait long.
const TAIL: Duration = Duration::from_secs(2);

/// Which deadline has passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimedOut {
    /// No content came at all.
    FirstToken(Duration),
    /// Content stopped.
    Idle(Duration),
    /// The whole call took too long.
    Total(Duration),
    /// The answer is complete; the usage report or end that may follow it did not come.
    Tail,
}

/// The running deadlines.
#[derive(Debug)]
pub struct Deadlines {
    limits: Timeouts,
    total: Instant,
    /// The deadline that depends on content, and its meaning.
    next: (Instant, TimedOut),
    paused_at: Option<Instant>,
}

impl Deadlines {
    /// Starts the deadlines of a call.
    pub fn start(limits: Timeouts, now: Instant) -> Self {
        Self {
            limits,
            total: later(now, limits.total),
            next: (later(now, limits.first_token), TimedOut::FirstToken(limits.first_token)),
            paused_at: None,
        }
    }

    /// Starts the deadlines of a call whose answer comes as one document: nothing comes until it is complete, so only
    /// connecting and the total are limited.
    pub fn whole(limits: Timeouts, now: Instant) -> Self {
        let total = later(now, limits.total);
        Self {
            limits,
            total,
            next: (total, TimedOut::Total(limits.total)),
            paused_at: None,
        }
    }

    /// Returns the timeouts that they were started with.
    pub fn limits(&self) -> Timeouts {
        self.limits
    }

    /// Records that content came. After an end, it revokes the end.
    pub fn content(&mut self, now: Instant) {
        self.next = (later(now, self.limits.idle), TimedOut::Idle(self.limits.idle));
    }

    /// Records that the provider said that it has finished.
    pub fn finished(&mut self, now: Instant) {
        self.next = (later(now, TAIL), TimedOut::Tail);
    }

    /// Records that the reader has what it polled for: until it polls again, it is the reader that is silent.
    pub fn pause(&mut self, now: Instant) {
        self.paused_at = Some(now);
    }

    /// Records that the reader polls again.
    pub fn resume(&mut self, now: Instant) {
        if let Some(paused) = self.paused_at.take() {
            self.next.0 += now.saturating_duration_since(paused);
        }
    }

    /// Returns the next deadline.
    pub fn due(&self) -> Instant {
        self.total.min(self.next.0)
    }

    /// Returns the deadline that has passed, if any.
    pub fn expired(&self, now: Instant) -> Option<TimedOut> {
        if now >= self.next.0 {
            Some(self.next.1)
        } else if now >= self.total {
            Some(TimedOut::Total(self.limits.total))
        } else {
            None
        }
    }
}

/// Adds without overflow: an overflowing timeout becomes a day.
fn later(now: Instant, wait: Duration) -> Instant {
    now + wait.min(Duration::from_secs(24 * 60 * 60))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn deadlines(now: Instant) -> Deadlines {
        let limits = Timeouts {
            connect: SECOND,
            first_token: 10 * SECOND,
            idle: 3 * SECOND,
            total: 20 * SECOND,
        };
        Deadlines::start(limits, now)
    }

    #[test]
    fn each_clock_runs_out_by_itself() {
        let t0 = Instant::now();
        let mut deadlines = deadlines(t0);
        assert_eq!(deadlines.due(), t0 + 10 * SECOND);
        assert_eq!(deadlines.expired(t0 + 9 * SECOND), None);
        assert_eq!(
            deadlines.expired(t0 + 10 * SECOND),
            Some(TimedOut::FirstToken(10 * SECOND))
        );

        deadlines.content(t0 + 9 * SECOND);
        assert_eq!(deadlines.due(), t0 + 12 * SECOND);
        assert_eq!(deadlines.expired(t0 + 12 * SECOND), Some(TimedOut::Idle(3 * SECOND)));

        deadlines.content(t0 + 19 * SECOND);
        assert_eq!(deadlines.due(), t0 + 20 * SECOND);
        assert_eq!(deadlines.expired(t0 + 20 * SECOND), Some(TimedOut::Total(20 * SECOND)));
    }

    #[test]
    fn after_the_end_only_the_tail_is_waited_for() {
        let t0 = Instant::now();
        let mut deadlines = deadlines(t0);
        deadlines.finished(t0 + SECOND);
        assert_eq!(deadlines.expired(t0 + SECOND + TAIL), Some(TimedOut::Tail));
        deadlines.content(t0 + 2 * SECOND);
        assert_eq!(deadlines.expired(t0 + SECOND + TAIL), None);
        assert_eq!(deadlines.expired(t0 + 5 * SECOND), Some(TimedOut::Idle(3 * SECOND)));
    }

    #[test]
    fn a_slow_reader_is_not_a_silent_provider() {
        let t0 = Instant::now();
        let mut deadlines = deadlines(t0);
        deadlines.content(t0);
        deadlines.pause(t0 + SECOND);
        deadlines.resume(t0 + 9 * SECOND);
        assert_eq!(deadlines.expired(t0 + 10 * SECOND), None);
        assert_eq!(deadlines.expired(t0 + 11 * SECOND), Some(TimedOut::Idle(3 * SECOND)));
    }
}
