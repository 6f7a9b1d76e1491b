//! A circuit breaker: after repeated failures it lets nothing through for a while, then a single probe.

use std::time::Duration;

/// Failures in a row that open it.
pub const THRESHOLD: u32 = 5;
/// First time it stays open; doubles with each failed probe.
pub const FIRST_PAUSE: Duration = Duration::from_secs(2);
/// Longest time it stays open.
pub const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// The breaker of one external system. Times are durations since some moment, by a clock that never goes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Breaker {
    /// Everything passes; so many calls failed in a row.
    Closed(u32),
    /// Nothing passes before `until`.
    Open {
        /// When a probe may pass.
        until: Duration,
        /// How long it stays open this time.
        pause: Duration,
    },
    /// One call is under way to find out.
    HalfOpen {
        /// How long it was open.
        pause: Duration,
    },
}

impl Default for Breaker {
    fn default() -> Self {
        Self::Closed(0)
    }
}

impl Breaker {
    /// Asks whether a call may pass; when not, until when nothing will.
    pub fn admit(&mut self, now: Duration) -> Result<(), Duration> {
        match *self {
            Self::Closed(_) => Ok(()),
            Self::Open { until, pause } if now >= until => {
                *self = Self::HalfOpen { pause };
                Ok(())
            }
            Self::Open { until, .. } => Err(until),
            // The probe's own timeout bounds this; whoever waits asks again soon.
            Self::HalfOpen { .. } => Err(now.saturating_add(Duration::from_millis(100))),
        }
    }

    /// A call reached the system and was answered, be it with a refusal.
    pub fn succeeded(&mut self) {
        *self = Self::Closed(0);
    }

    /// A call did not reach the system, or it broke.
    pub fn failed(&mut self, now: Duration) {
        self.failed_within(now, LONGEST_PAUSE, 1.0);
    }

    /// The same for a system that stays open at most `longest`. The pause is between three quarters of its length and all of it,
    /// as `roll` in 0..1 says, so that many processes do not probe together.
    pub fn failed_within(&mut self, now: Duration, longest: Duration, roll: f64) {
        let open = |pause: Duration| Self::open(pause, now, roll);
        *self = match *self {
            Self::Closed(failures) if failures + 1 < THRESHOLD => Self::Closed(failures + 1),
            Self::Closed(_) => open(FIRST_PAUSE.min(longest)),
            Self::HalfOpen { pause } => open((pause * 2).min(longest)),
            // A call that was sent before it opened says nothing new.
            open @ Self::Open { .. } => open,
        };
    }

    /// A call that was let through never happened: a probe goes back.
    pub fn abandoned(&mut self, now: Duration) {
        if let Self::HalfOpen { pause } = *self {
            *self = Self::Open { until: now, pause };
        }
    }

    /// 0 closed, 1 half open, 2 open; for metrics.
    pub fn level(&self) -> f64 {
        match self {
            Self::Closed(_) => 0.0,
            Self::HalfOpen { .. } => 1.0,
            Self::Open { .. } => 2.0,
        }
    }

    fn open(pause: Duration, now: Duration, roll: f64) -> Self {
        Self::Open {
            until: now.saturating_add(pause.mul_f64(0.75 + 0.25 * roll.clamp(0.0, 1.0))),
            pause,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(s: u64) -> Duration {
        Duration::from_secs(s)
    }

    #[test]
    fn it_opens_probes_once_and_doubles_its_pause() {
        let mut breaker = Breaker::default();
        for _ in 0..THRESHOLD {
            assert!(breaker.admit(at(0)).is_ok());
            breaker.failed(at(0));
        }
        assert_eq!(breaker.admit(at(1)), Err(at(2)));
        assert!(breaker.admit(at(2)).is_ok(), "the probe");
        assert!(breaker.admit(at(2)).is_err(), "only one probe");
        breaker.failed(at(2));
        assert_eq!(breaker.admit(at(3)), Err(at(6)));
        assert!(breaker.admit(at(6)).is_ok());
        breaker.succeeded();
        assert_eq!(breaker, Breaker::Closed(0));
    }

    #[test]
    fn a_bounded_pause_stops_growing_and_has_jitter() {
        for (roll, shortest, longest) in [(0.0, 6_000, 6_000), (1.0, 8_000, 8_000), (0.5, 7_000, 7_000)] {
            let mut breaker = Breaker::HalfOpen { pause: FIRST_PAUSE };
            for _ in 0..10 {
                breaker.failed_within(at(0), Duration::from_secs(8), roll);
                let Breaker::Open { until, pause } = breaker else {
                    panic!("{breaker:?}")
                };
                assert!(until <= pause && pause <= at(8), "{until:?}");
                breaker = Breaker::HalfOpen { pause };
            }
            breaker.failed_within(at(0), Duration::from_secs(8), roll);
            let Breaker::Open { until, .. } = breaker else {
                panic!("{breaker:?}")
            };
            assert!((shortest..=longest).contains(&until.as_millis()), "{roll}: {until:?}");
        }
    }

    #[test]
    fn a_success_between_failures_keeps_it_closed() {
        let mut breaker = Breaker::default();
        for _ in 0..3 {
            for _ in 1..THRESHOLD {
                breaker.failed(at(0));
            }
            breaker.succeeded();
        }
        assert!(breaker.admit(at(0)).is_ok());
    }

    #[test]
    fn a_probe_that_never_happened_goes_back() {
        let mut breaker = Breaker::HalfOpen { pause: FIRST_PAUSE };
        breaker.abandoned(at(9));
        assert!(breaker.admit(at(9)).is_ok());
    }
}
