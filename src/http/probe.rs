//! Periodic trial writes to the store, so that `/readyz` reports a full disk before users do.

use std::sync::Arc;
use std::time::Duration;

use copilotd_actors::ports::{EventLog, LogError};
use metrics::gauge;
use parking_lot::Mutex;
use tokio::time::Instant;

/// Interval of trial writes.
const PROBE_INTERVAL: Duration = Duration::from_secs(10);
/// Timeout of one trial write.
const PROBE_TIMEOUT: Duration = Duration::from_secs(10);
/// A result older than this is stale: the next trial write is overdue.
const STALE_AFTER: Duration = Duration::from_secs(35);

/// The result of the last trial write.
#[derive(Debug, Default)]
pub struct StoreProbe {
    last: Mutex<Option<(Instant, Outcome)>>,
    /// Held during a trial write.
    trying: tokio::sync::Mutex<()>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Ok,
    DiskFull,
    Refused,
    Unavailable,
}

/// Outcome and age of the last trial write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProbeStatus(Option<(Duration, Outcome)>);

impl StoreProbe {
    /// Runs trial writes until the process ends.
    pub async fn run(self: Arc<Self>, log: Arc<dyn EventLog>) {
        loop {
            self.try_once(log.as_ref()).await;
            tokio::time::sleep(PROBE_INTERVAL).await;
        }
    }

    /// Tries again immediately if the last write failed, so that the end of an outage is reported without delay.
    pub async fn retry_if_failed(&self, log: &dyn EventLog) -> ProbeStatus {
        if !self.seen().is_good() {
            self.try_once(log).await;
        }
        self.seen()
    }

    /// Tries one write, unless one is in progress, and stores the outcome. A change is logged once.
    async fn try_once(&self, log: &dyn EventLog) {
        let Ok(_trying) = self.trying.try_lock() else { return };
        let tried = tokio::time::timeout(PROBE_TIMEOUT, log.probe()).await;
        let outcome = match &tried {
            Ok(Ok(())) => Outcome::Ok,
            Ok(Err(error)) if error.is_disk_full() => Outcome::DiskFull,
            Ok(Err(LogError::Refused(_))) => Outcome::Refused,
            Ok(Err(_)) | Err(_) => Outcome::Unavailable,
        };
        let mut last = self.last.lock();
        let before = last.replace((Instant::now(), outcome)).map(|(_, outcome)| outcome);
        drop(last);
        gauge!("copilotd_store_writable").set(if outcome == Outcome::Ok { 1.0 } else { 0.0 });
        match tried {
            _ if before == Some(outcome) => {}
            Ok(Ok(())) if before.is_none() => {}
            Ok(Ok(())) => tracing::info!("store is writable again; /readyz recovers"),
            Ok(Err(error)) => {
                tracing::error!(%error, "store is not writable; /readyz answers 503 until a trial write succeeds")
            }
            Err(_) => tracing::error!(
                timeout_s = PROBE_TIMEOUT.as_secs(),
                "trial write to the store timed out; /readyz answers 503 until one succeeds"
            ),
        }
    }

    /// Returns the last outcome.
    pub fn seen(&self) -> ProbeStatus {
        let last = *self.last.lock();
        ProbeStatus(last.map(|(at, outcome)| (at.elapsed(), outcome)))
    }
}

impl ProbeStatus {
    /// Whether the store is considered writable; true before the first trial write.
    pub fn is_good(self) -> bool {
        self.0
            .is_none_or(|(age, outcome)| outcome == Outcome::Ok && age < STALE_AFTER)
    }

    /// Time since the last trial write.
    pub fn age(self) -> Option<Duration> {
        self.0.map(|(age, _)| age)
    }

    /// The outcome as it is shown in `/readyz`.
    pub fn word(self) -> &'static str {
        match self.0 {
            None => "pending",
            Some((age, _)) if age >= STALE_AFTER => "unavailable",
            Some((_, Outcome::Ok)) => "ok",
            Some((_, Outcome::DiskFull)) => "disk_full",
            Some((_, Outcome::Refused)) => "refused",
            Some((_, Outcome::Unavailable)) => "unavailable",
        }
    }
}

#[cfg(test)]
mod tests {
    use copilotd_actors::fakes::log::MemoryLog;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn reports_the_last_write_and_its_age() {
        let (probe, log) = (Arc::new(StoreProbe::default()), MemoryLog::new());
        assert_eq!((probe.seen().word(), probe.seen().age()), ("pending", None));
        assert!(probe.seen().is_good());
        probe.try_once(&log).await;
        assert_eq!((probe.seen().word(), probe.seen().is_good()), ("ok", true));
        log.set_down(true);
        probe.try_once(&log).await;
        assert_eq!((probe.seen().word(), probe.seen().is_good()), ("unavailable", false));
        log.set_down(false);
        let task = tokio::spawn(Arc::clone(&probe).run(Arc::new(log)));
        tokio::time::sleep(Duration::from_secs(25)).await;
        assert_eq!((probe.seen().word(), probe.seen().age().unwrap().as_secs()), ("ok", 5));
        // An overdue trial write counts as a failure.
        task.abort();
        tokio::time::sleep(Duration::from_secs(31)).await;
        assert_eq!((probe.seen().word(), probe.seen().is_good()), ("unavailable", false));
    }
}
