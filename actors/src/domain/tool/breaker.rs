//! A circuit breaker: after repeated failures it rejects all calls for a while, then lets a single probe through.

use std::time::Duration;

/// Number of consecutive failures that open the breaker.
pub const THRESHOLD: u32 = 5;
/// How long the breaker stays open at first; doubles with each failed probe.
pub const FIRST_PAUSE: Duration = Duration::from_secs(2);
/// The longest time that the breaker stays open.
pub const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// The breaker of one external system. Times are monotonic, measured from an arbitrary moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Breaker {
    /// Every call passes; holds the number of consecutive failures.
    Closed(u32),
    /// No call passes before `until`.
    Open {
        /// When a probe may pass.
        until: Duration,
        /// How long the breaker stays open this time.
        pause: Duration,
    },
    /// One probe is running.
    HalfOpen {
        /// How long the breaker was open.
        pause: Duration,
    },
}

impl Default for Breaker {
    fn default() -> Self {
        Self::Closed(0)
    }
}

impl Breaker {
    /// Admits a call; the error is the time before which no call will be admitted.
    pub fn admit(&mut self, now: Duration) -> Result<(), Duration> {
        match *self {
            Self::Closed(_) => Ok(()),
            Self::Open { until, pause } if now >= until => {
                *self = Self::HalfOpen { pause };
                Ok(())
            }
            Self::Open { until, .. } => Err(until),
            // The probe's own timeout bounds this; callers ask again soon.
            Self::HalfOpen { .. } => Err(now.saturating_add(Duration::from_millis(100))),
        }
    }

    /// Records that a call reached the system and was answered, even if the answer was a rejection.
    pub fn succeeded(&mut self) {
        *self = Self::Closed(0);
    }

    /// Records that a call did not reach the system or broke off.
    pub fn failed(&mut self, now: Duration) {
        self.failed_within(now, LONGEST_PAUSE, 1.0);
    }

    /// Like [`Self::failed`], for a system whose breaker stays open for at most `longest`. The actual pause is between
    /// 75 % and 100 % of its nominal length, depending on `roll` in 0..1, so that many processes do not probe at the
    /// same time.
    pub fn failed_within(&mut self, now: Duration, longest: Duration, roll: f64) {
        let open = |pause: Duration| Self::open(pause, now, roll);
        *self = match *self {
            Self::Closed(failures) if failures + 1 < THRESHOLD => Self::Closed(failures + 1),
            Self::Closed(_) => open(FIRST_PAUSE.min(longest)),
            Self::HalfOpen { pause } => open((pause * 2).min(longest)),
            // A call that was sent before the breaker opened says nothing new.
            open @ Self::Open { .. } => open,
        };
    }

    /// Records that an admitted call was never made: an unused probe is given back.
    pub fn abandoned(&mut self, now: Duration) {
        if let Self::HalfOpen { pause } = *self {
            *self = Self::Open { until: now, pause };
        }
    }

    /// Returns 0 for closed, 1 for half open, 2 for open; used in metrics.
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
