//! The health of a target: circuit breaker, latencies, error rate.
//!
//! Times are passed in, as durations since the start of observation, so that everything here is pure arithmetic.

use std::time::Duration;

use copilotd_actors::domain::tool::breaker::Breaker;

/// Time over which a recovered target regains its full share of calls.
pub const RETURN: Duration = Duration::from_secs(20);
/// Longest pause between probes of an unhealthy target: a recovery is noticed at most this late.
const LONGEST_PAUSE: Duration = Duration::from_secs(8);
/// Share of the calls that a recovered target gets at first.
const FIRST_SHARE: f64 = 0.1;
/// Weight of a new observation in the averages.
const NEW_WEIGHT: f64 = 0.2;
/// Number of latencies kept for the hedge delay.
const MAX_LATENCIES: usize = 64;
/// With fewer latencies the slow tail is unknown.
const MIN_LATENCIES: usize = 20;

/// The health of one target.
#[derive(Debug, Default)]
pub struct Health {
    breaker: Breaker,
    returned: Option<Duration>,
    streams: Ewma,
    documents: Ewma,
    errors: Ewma,
    latencies: Vec<f64>,
    oldest: usize,
    running: u32,
}

/// Kind of answer whose latency is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Time to the first content of a stream.
    Stream,
    /// Time to a complete document.
    Document,
}

/// Exponentially weighted moving average.
#[derive(Debug, Clone, Copy, Default)]
struct Ewma(Option<f64>);

impl Ewma {
    fn add(&mut self, value: f64) {
        self.0 = Some(self.0.map_or(value, |old| old + NEW_WEIGHT * (value - old)));
    }
}

impl Health {
    /// Whether a call may pass; `roll` is random in 0..1. A target that was unhealthy gets one probe, then a growing
    /// share.
    pub fn admit(&mut self, now: Duration, roll: f64) -> bool {
        let returning = self.returned.map(|since| now.saturating_sub(since));
        if let Some(returning) = returning.filter(|time| *time < RETURN) {
            let share = FIRST_SHARE + (1.0 - FIRST_SHARE) * returning.as_secs_f64() / RETURN.as_secs_f64();
            if roll > share {
                return false;
            }
        }
        self.breaker.admit(now).is_ok()
    }

    /// A call was sent.
    pub fn began(&mut self) {
        self.running += 1;
    }

    /// A call ended, in whatever way.
    pub fn ended(&mut self) {
        self.running = self.running.saturating_sub(1);
    }

    /// Content arrived, which also makes a probe succeed.
    pub fn answered(&mut self, kind: Kind, took: Duration, now: Duration) {
        let ms = took.as_secs_f64() * 1_000.0;
        match kind {
            Kind::Stream => {
                self.streams.add(ms);
                self.push_latency(ms);
            }
            Kind::Document => self.documents.add(ms),
        }
        if matches!(self.breaker, Breaker::HalfOpen { .. }) {
            self.breaker.succeeded();
            self.returned = Some(now);
        }
    }

    /// A call completed, or was refused in a way that says nothing about the target.
    pub fn succeeded(&mut self, now: Duration) {
        self.errors.add(0.0);
        match self.breaker {
            // A call sent before the breaker opened says nothing new.
            Breaker::Open { .. } => {}
            Breaker::HalfOpen { .. } => {
                self.breaker.succeeded();
                self.returned = Some(now);
            }
            Breaker::Closed(_) => self.breaker.succeeded(),
        }
    }

    /// A call failed in a way that counts against the target; `roll` is random in 0..1.
    pub fn failed(&mut self, now: Duration, roll: f64) {
        self.errors.add(1.0);
        let was_open = self.is_open();
        self.breaker.failed_within(now, LONGEST_PAUSE, roll);
        if self.is_open() && !was_open {
            self.returned = None;
        }
    }

    /// A call was dropped before it showed anything: a probe is given back.
    pub fn abandoned(&mut self, now: Duration) {
        self.breaker.abandoned(now);
    }

    /// Whether at most a probe may pass.
    pub fn is_open(&self) -> bool {
        !matches!(self.breaker, Breaker::Closed(_))
    }

    /// 0 closed, 1 half open, 2 open; for metrics.
    pub fn level(&self) -> f64 {
        self.breaker.level()
    }

    /// Expected latency cost of another call; less is better. An unknown target scores well, so that it is tried.
    pub fn score(&self, kind: Kind) -> f64 {
        let latency = match kind {
            Kind::Stream => self.streams.0,
            Kind::Document => self.documents.0,
        };
        let errors = self.errors.0.unwrap_or(0.0);
        latency.unwrap_or(1.0).max(1.0) * (1.0 + f64::from(self.running)) * (1.0 + 20.0 * errors)
    }

    /// Returns the 95th percentile of the time to first content, once enough streams were seen.
    pub fn slow(&self) -> Option<Duration> {
        if self.latencies.len() < MIN_LATENCIES {
            return None;
        }
        let mut sorted = self.latencies.clone();
        sorted.sort_by(f64::total_cmp);
        let ms = sorted[sorted.len() * 95 / 100];
        Some(Duration::from_secs_f64(ms / 1_000.0))
    }

    /// Returns the average time of a whole document, once one was seen.
    pub fn usual_document(&self) -> Option<Duration> {
        Some(Duration::from_secs_f64(self.documents.0? / 1_000.0))
    }

    fn push_latency(&mut self, ms: f64) {
        if self.latencies.len() < MAX_LATENCIES {
            self.latencies.push(ms);
        } else {
            self.latencies[self.oldest] = ms;
            self.oldest = (self.oldest + 1) % MAX_LATENCIES;
        }
    }
}

#[cfg(test)]
mod tests {
    use copilotd_actors::domain::tool::breaker::{FIRST_PAUSE, THRESHOLD};

    use super::*;

    const S: Duration = Duration::from_secs(1);

    fn unhealthy(now: Duration) -> Health {
        let mut health = Health::default();
        for _ in 0..THRESHOLD {
            assert!(health.admit(now, 0.99));
            health.failed(now, 1.0);
        }
        health
    }

    #[test]
    fn an_unhealthy_target_gets_one_probe_and_recovers_gradually() {
        let mut health = unhealthy(S);
        assert!(!health.admit(S, 0.0));
        let probed = S + FIRST_PAUSE;
        assert!(health.admit(probed, 0.99), "the probe");
        assert!(!health.admit(probed, 0.0), "only one");
        health.answered(Kind::Stream, S, probed);
        for (after, roll, admitted) in [
            (Duration::ZERO, 0.05, true),
            (Duration::ZERO, 0.5, false),
            (10 * S, 0.5, true),
            (10 * S, 0.9, false),
            (RETURN, 0.99, true),
        ] {
            assert_eq!(health.admit(probed + after, roll), admitted, "{after:?} {roll}");
        }
    }

    #[test]
    fn a_failed_or_abandoned_probe_does_not_let_others_in() {
        let mut health = unhealthy(S);
        let probed = S + FIRST_PAUSE;
        assert!(health.admit(probed, 0.0));
        health.abandoned(probed);
        assert!(health.admit(probed, 0.0), "the probe went back");
        health.failed(probed, 1.0);
        assert!(!health.admit(probed + FIRST_PAUSE, 0.0), "twice as long now");
        assert!(health.admit(probed + 2 * FIRST_PAUSE, 0.0));
    }

    #[test]
    fn an_answer_from_before_it_opened_does_not_close_a_breaker() {
        let mut health = unhealthy(S);
        health.succeeded(S);
        health.answered(Kind::Stream, S, S);
        assert!(health.is_open());
    }

    #[test]
    fn slow_failing_and_busy_targets_score_worse() {
        let with = |ms: u64, fails: bool, running: u32| {
            let mut health = Health::default();
            health.answered(Kind::Stream, Duration::from_millis(ms), S);
            if fails {
                health.failed(S, 1.0);
            }
            (0..running).for_each(|_| health.began());
            health.score(Kind::Stream)
        };
        assert!(with(10, false, 0) < with(20, false, 0));
        assert!(with(10, false, 0) < with(10, true, 0));
        assert!(with(10, false, 0) < with(10, false, 3));
        assert!(Health::default().score(Kind::Stream) <= with(10, false, 0));
    }

    #[test]
    fn what_is_slow_is_known_after_enough_streams() {
        let mut health = Health::default();
        for ms in 1..=19 {
            health.answered(Kind::Stream, Duration::from_millis(ms), S);
        }
        assert_eq!(health.slow(), None);
        for ms in 20..=200 {
            health.answered(Kind::Stream, Duration::from_millis(ms), S);
        }
        let slow = health.slow().unwrap();
        assert!(
            slow > Duration::from_millis(190) && slow <= Duration::from_millis(200),
            "{slow:?}"
        );
        assert_eq!(health.latencies.len(), MAX_LATENCIES);
    }
}
