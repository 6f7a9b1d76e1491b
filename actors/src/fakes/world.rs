//! Predictable time, ids and traces.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;
use uuid::Uuid;

use crate::ports::{Clock, Ids, Traces};

/// A clock that follows tokio's time, so that with `start_paused` it stands still and jumps.
#[derive(Debug)]
pub struct PausedClock {
    begun: Instant,
    origin: Timestamp,
    skew_ms: AtomicI64,
}

impl Default for PausedClock {
    fn default() -> Self {
        Self {
            begun: Instant::now(),
            // 2026-01-01; any day would do.
            origin: Timestamp::UNIX_EPOCH
                .saturating_add(SignedDuration::from_hours(20_454 * 24))
                .unwrap_or(Timestamp::MAX),
            skew_ms: AtomicI64::new(0),
        }
    }
}

impl PausedClock {
    /// Moves the wall clock forward or back relative to tokio's time, as an administrator or NTP does.
    pub fn step(&self, ms: i64) {
        self.skew_ms.fetch_add(ms, Ordering::Relaxed);
    }
}

impl Clock for PausedClock {
    fn now(&self) -> Timestamp {
        let skew = SignedDuration::from_millis(self.skew_ms.load(Ordering::Relaxed));
        let passed = self.origin.saturating_add(self.begun.elapsed());
        passed
            .and_then(|now| now.saturating_add(skew))
            .unwrap_or(Timestamp::MAX)
    }

    fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }
}

/// Ids that count upwards from 1.
#[derive(Debug, Default)]
pub struct CountingIds(AtomicU64);

impl Ids for CountingIds {
    fn uuid(&self) -> Uuid {
        Uuid::from_u128(u128::from(self.0.fetch_add(1, Ordering::Relaxed)) + 1)
    }

    fn nonce(&self) -> String {
        "0123456789abcdef".to_owned()
    }
}

/// No traces.
#[derive(Debug, Default)]
pub struct NoTraces;

impl Traces for NoTraces {
    fn resume(&self, _: Option<&str>) -> tracing::Span {
        tracing::Span::none()
    }
}
