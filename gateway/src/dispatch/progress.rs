//! How far an attempt has come, for whoever asks before its end.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use copilotd_actors::domain::usage::Usage;

/// Shared between the attempt and the ledger, which looks at it now and then. Written on the way of an answer: cheap.
#[derive(Debug, Default)]
pub(super) struct Progress {
    written: AtomicU64,
    first_content: OnceLock<Duration>,
    reported: Mutex<Option<Usage>>,
}

impl Progress {
    /// Notes bytes of the answer.
    pub(super) fn add_written(&self, bytes: u64) {
        self.written.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Notes that the first content has come.
    pub(super) fn set_answered(&self, after: Duration) {
        let _ = self.first_content.set(after);
    }

    /// Notes what the provider says it has used so far.
    pub(super) fn set_reported(&self, usage: Usage) {
        *self.reported.lock().unwrap_or_else(PoisonError::into_inner) = Some(usage);
    }

    /// Bytes of the answer so far.
    pub(super) fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// Time to the first content, if it has come.
    pub(super) fn first_content(&self) -> Option<Duration> {
        self.first_content.get().copied()
    }

    /// What the provider has said so far.
    pub(super) fn reported(&self) -> Option<Usage> {
        *self.reported.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
