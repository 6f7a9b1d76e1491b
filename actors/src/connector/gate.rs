//! What stands between a call and its vendor: one word on whether it may still leave.

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
    /// A gate that was passed in an earlier life: the call may be on its way.
    pub fn passed() -> Self {
        Self {
            state: AtomicU8::new(SENT),
            stopped: AtomicBool::new(false),
        }
    }

    /// Stops the call; true if it had not left and never will.
    pub fn cancel(&self) -> bool {
        self.stopped.store(true, Ordering::Release);
        let swap = self
            .state
            .compare_exchange(WAITING, CANCELLED, Ordering::AcqRel, Ordering::Acquire);
        matches!(swap, Ok(_) | Err(CANCELLED))
    }

    /// A gate that was never passed and never will be: its call waits until its tenant is served again.
    pub fn withdrawn() -> Self {
        Self {
            state: AtomicU8::new(CANCELLED),
            stopped: AtomicBool::new(true),
        }
    }

    /// Stops the call if it has not left; true if it never will. One that has left goes on.
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

    /// Whether it was stopped before it was passed.
    pub fn is_withdrawn(&self) -> bool {
        self.state.load(Ordering::Acquire) == CANCELLED
    }

    /// Says that what was sent has certainly changed nothing: the call may be cancelled again.
    pub(super) fn came_back(&self) {
        // Cancelled meanwhile it stays sent, and `pass` keeps it from being sent once more.
        let _ = self
            .state
            .compare_exchange(SENT, WAITING, Ordering::AcqRel, Ordering::Acquire);
    }

    /// Whether nothing more may be sent.
    pub(super) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    /// Whether it was sent and not cancelled before, in this life or an earlier one.
    pub(super) fn is_sent(&self) -> bool {
        self.state.load(Ordering::Acquire) == SENT
    }

    /// Passes; false if the call was cancelled, or must not be sent once more.
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
