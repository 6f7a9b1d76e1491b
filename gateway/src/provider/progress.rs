//! Progress of a running call, shared by the adapter that makes it and the gateway, which records its usage: a call
//! that is dropped mid-stream reports nothing any more but is billed all the same.

use copilotd_actors::domain::context::tokens::Sample;
use copilotd_actors::domain::failure::FailureClass;
use copilotd_actors::domain::usage::Usage;
use copilotd_actors::ports::ModelError;
use parking_lot::{Mutex, MutexGuard};

/// The progress of one call.
#[derive(Debug, Default)]
pub struct CallProgress(Mutex<ProgressSnapshot>);

/// What was observed of a call so far.
#[derive(Debug, Clone, Default)]
pub struct ProgressSnapshot {
    /// Whether the provider worked on the call.
    pub work: ProviderWork,
    /// Usage that the provider reported so far.
    pub reported: Option<Usage>,
    /// The answer so far, of all choices.
    pub answer: Sample,
}

/// Whether a provider worked on a call.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ProviderWork {
    /// The request may have reached the provider.
    #[default]
    Unknown,
    /// The request did not reach the provider, or was refused.
    Nothing,
    /// The provider accepted the request.
    Accepted,
}

impl CallProgress {
    /// The request is about to be sent.
    pub fn sending(&self) {
        self.lock().work = ProviderWork::Unknown;
    }

    /// The provider did no work: it was not reached, or it refused.
    pub fn refused(&self) {
        self.lock().work = ProviderWork::Nothing;
    }

    /// The provider accepted the request.
    pub fn accepted(&self) {
        self.lock().work = ProviderWork::Accepted;
    }

    /// An accepted call failed before any content. If the provider gave a reason, that is a refusal like any other.
    pub fn failed_unanswered(&self, error: &ModelError) {
        if !breaks_off(error.class) {
            self.refused();
        }
    }

    /// Records the usage that the provider reported so far.
    pub fn reported(&self, usage: Usage) {
        self.lock().reported = Some(usage);
    }

    /// Adds text of the answer.
    pub fn answered(&self, piece: &str) {
        self.lock().answer.add(piece);
    }

    /// Returns what was observed so far.
    pub fn seen(&self) -> ProgressSnapshot {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, ProgressSnapshot> {
        self.0.lock()
    }
}

impl ProgressSnapshot {
    /// Whether the provider did no work for a call that failed with `class` before any content.
    pub fn did_nothing(&self, class: FailureClass) -> bool {
        match self.work {
            ProviderWork::Nothing => true,
            ProviderWork::Accepted => false,
            ProviderWork::Unknown => !breaks_off(class),
        }
    }
}

/// Whether a failure of this class leaves open what the provider did: it went silent, or its answer was malformed.
fn breaks_off(class: FailureClass) -> bool {
    matches!(
        class,
        FailureClass::TimedOut | FailureClass::Cut | FailureClass::Network | FailureClass::Malformed
    )
}
