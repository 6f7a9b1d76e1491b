//! The gate between a call and its system: one atomic decision whether the call may still be sent.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

/// Decides between sending a call and cancelling it: exactly one of the two happens.
#[derive(Debug, Default)]
pub struct Gate {
    state: AtomicU8,
    stopped: AtomicBool,
}

const WAITING: u8 = 0;
const SENT: u8 = 1;
const CANCELLED: u8 = 2;

impl Gate {
    /// Returns the gate of a call that an earlier process or actor may have sent.
    pub fn passed() -> Self {
        Self {
            state: AtomicU8::new(SENT),
            stopped: AtomicBool::new(false),
        }
    }

    /// Cancels the call. Returns true if it was not sent and never will be.
    pub fn cancel(&self) -> bool {
        self.stopped.store(true, Ordering::Release);
        let swap = self
            .state
            .compare_exchange(WAITING, CANCELLED, Ordering::AcqRel, Ordering::Acquire);
        matches!(swap, Ok(_) | Err(CANCELLED))
    }

    /// Returns the gate of a call that was never sent and waits until its tenant is served again.
    pub fn withdrawn() -> Self {
        Self {
            state: AtomicU8::new(CANCELLED),
            stopped: AtomicBool::new(true),
        }
    }

    /// Cancels the call if it was not sent, and returns true if it never will be. A call that was sent continues.
    pub fn withdraw(&self) -> bool {
        let swap = self
            .state
            .compare_exchange(WAITING, CANCELLED, Ordering::AcqRel, Ordering::Acquire);
        let unsent = matches!(swap, Ok(_) | Err(CANCELLED));
        if unsent {
            self.stopped.store(true, Ordering::Release);
        }
        unsent
    }

    /// Whether the call was cancelled before it was sent.
    pub fn is_withdrawn(&self) -> bool {
        self.state.load(Ordering::Acquire) == CANCELLED
    }

    /// Records that the sent request certainly changed nothing, so the call can be cancelled again.
    pub(super) fn reopen(&self) {
        // If it was cancelled meanwhile it stays `SENT`, and `pass` refuses to send it again.
        let _ = self
            .state
            .compare_exchange(SENT, WAITING, Ordering::AcqRel, Ordering::Acquire);
    }

    /// Whether nothing more may be sent.
    pub(super) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    /// Whether the call was sent before it was cancelled, in this process or an earlier one.
    pub(super) fn is_sent(&self) -> bool {
        self.state.load(Ordering::Acquire) == SENT
    }

    /// Passes the gate. Returns false if the call was cancelled or must not be sent again.
    pub(super) fn pass(&self) -> bool {
        let swap = self
            .state
            .compare_exchange(WAITING, SENT, Ordering::AcqRel, Ordering::Acquire);
        match swap {
            Ok(_) | Err(SENT) => !self.stopped.load(Ordering::Acquire),
            Err(_) => false,
        }
    }
}
