//! Whether the store takes writes: tried in the background, so that `/readyz` tells of a full disk before users do.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use copilotd_actors::ports::{EventLog, LogError};
use metrics::gauge;
use tokio::time::Instant;

/// Time between two trial writes.
const EVERY: Duration = Duration::from_secs(10);
/// Longest time for one.
const WITHIN: Duration = Duration::from_secs(10);
/// A result that is older says nothing any more: the next one is overdue.
const STALE: Duration = Duration::from_secs(35);

/// The last trial write.
#[derive(Debug, Default)]
pub struct StoreProbe {
    last: Mutex<Option<(Instant, Outcome)>>,
    /// Held while one is tried.
    trying: tokio::sync::Mutex<()>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Ok,
    DiskFull,
    Refused,
    Unavailable,
}

/// What is known of the last trial write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen(Option<(Duration, Outcome)>);

impl StoreProbe {
    /// Tries writes until the process ends.
    pub async fn run(self: Arc<Self>, log: Arc<dyn EventLog>) {
        loop {
            self.try_once(log.as_ref()).await;
            tokio::time::sleep(EVERY).await;
        }
    }

    /// Tries again at once when the last write failed, so that the end of an outage is told at once.
    pub async fn look_again(&self, log: &dyn EventLog) -> Seen {
        if !self.seen().is_good() {
            self.try_once(log).await;
        }
        self.seen()
    }

    /// Tries one write, unless one is being tried, and notes what came of it. A change is logged once.
    async fn try_once(&self, log: &dyn EventLog) {
        let Ok(_trying) = self.trying.try_lock() else { return };
        let tried = tokio::time::timeout(WITHIN, log.probe()).await;
        let outcome = match &tried {
            Ok(Ok(())) => Outcome::Ok,
            Ok(Err(error)) if error.is_disk_full() => Outcome::DiskFull,
            Ok(Err(LogError::Refused(_))) => Outcome::Refused,
            Ok(Err(_)) | Err(_) => Outcome::Unavailable,
        };
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let before = last.replace((Instant::now(), outcome)).map(|(_, outcome)| outcome);
        drop(last);
        gauge!("copilotd_store_writable").set(if outcome == Outcome::Ok { 1.0 } else { 0.0 });
        match tried {
            _ if before == Some(outcome) => {}
            Ok(Ok(())) if before.is_none() => {}
            Ok(Ok(())) => tracing::info!("the store takes writes again"),
            Ok(Err(error)) => tracing::error!(%error, "the store takes no writes; /readyz answers 503"),
            Err(_) => tracing::error!("the store did not take a trial write in time; /readyz answers 503"),
        }
    }

    /// Returns what is known.
    pub fn seen(&self) -> Seen {
        let last = *self.last.lock().unwrap_or_else(PoisonError::into_inner);
        Seen(last.map(|(at, outcome)| (at.elapsed(), outcome)))
    }
}

impl Seen {
    /// Whether writes are taken, as far as is known. At the start nothing speaks against it.
    pub fn is_good(self) -> bool {
        self.0
            .is_none_or(|(age, outcome)| outcome == Outcome::Ok && age < STALE)
    }

    /// Time since the last trial write ended.
    pub fn age(self) -> Option<Duration> {
        self.0.map(|(age, _)| age)
    }

    /// A word for it.
    pub fn word(self) -> &'static str {
        match self.0 {
            None => "pending",
            Some((age, _)) if age >= STALE => "unavailable",
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
    async fn the_last_write_and_its_age_are_told() {
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
        // A trial that never ends is no good sign either.
        task.abort();
        tokio::time::sleep(Duration::from_secs(31)).await;
        assert_eq!((probe.seen().word(), probe.seen().is_good()), ("unavailable", false));
    }
}
