//! Progress of an attempt, readable before its end.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use copilotd_actors::domain::usage::Usage;
use parking_lot::Mutex;

/// Shared by the attempt and the ledger, which looks at it now and then. Updated while an answer streams, so updates
/// are cheap.
#[derive(Debug, Default)]
pub(super) struct Progress {
    written: AtomicU64,
    first_content: OnceLock<Duration>,
    reported: Mutex<Option<Usage>>,
}

impl Progress {
    /// Adds bytes of the answer.
    pub(super) fn add_written(&self, bytes: u64) {
        self.written.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Records when the first content arrived.
    pub(super) fn set_answered(&self, after: Duration) {
        let _ = self.first_content.set(after);
    }

    /// Records the usage that the provider reported so far.
    pub(super) fn set_reported(&self, usage: Usage) {
        *self.reported.lock() = Some(usage);
    }

    /// Returns the bytes of the answer so far.
    pub(super) fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// Returns the time to the first content, if it has arrived.
    pub(super) fn first_content(&self) -> Option<Duration> {
        self.first_content.get().copied()
    }

    /// Returns the usage that the provider reported so far.
    pub(super) fn reported(&self) -> Option<Usage> {
        *self.reported.lock()
    }
}
