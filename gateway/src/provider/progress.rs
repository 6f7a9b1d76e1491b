//! What is known of a call while it runs, shared by the adapter that makes it and by whoever books it: a call that is dropped in the
//! middle tells nothing any more, and it is billed all the same.

use std::sync::{Mutex, MutexGuard, PoisonError};

use copilotd_actors::domain::context::tokens::Sample;
use copilotd_actors::domain::failure::FailureClass;
use copilotd_actors::domain::usage::Usage;
use copilotd_actors::ports::ModelError;

/// The progress of one call.
#[derive(Debug, Default)]
pub struct CallProgress(Mutex<Seen>);

/// What was seen of a call so far.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// Whether the provider worked for it.
    pub work: Work,
    /// What the provider reported so far.
    pub reported: Option<Usage>,
    /// What it answered so far, of all choices.
    pub answer: Sample,
}

/// Whether a provider worked for a call.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Work {
    /// The request may have reached it.
    #[default]
    Unknown,
    /// None: the request did not reach it, or it refused.
    Nothing,
    /// It accepted the request.
    Accepted,
}

impl CallProgress {
    /// The request is about to be sent.
    pub fn sending(&self) {
        self.lock().work = Work::Unknown;
    }

    /// The provider did no work: it was not reached, or it refused.
    pub fn refused(&self) {
        self.lock().work = Work::Nothing;
    }

    /// The provider accepted the request.
    pub fn accepted(&self) {
        self.lock().work = Work::Accepted;
    }

    /// An accepted call failed before any content. If the provider said why by itself, that is a refusal like any other.
    pub fn failed_unanswered(&self, error: &ModelError) {
        if !breaks_off(error.class) {
            self.refused();
        }
    }

    /// Notes what the provider reports that it used so far.
    pub fn reported(&self, usage: Usage) {
        self.lock().reported = Some(usage);
    }

    /// Adds a piece of the answer.
    pub fn answered(&self, piece: &str) {
        self.lock().answer.add(piece);
    }

    /// Returns what was seen so far.
    pub fn seen(&self) -> Seen {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        // What is in it is whole between any two calls.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seen {
    /// Returns whether the provider did nothing for a call that failed like this before any content.
    pub fn did_nothing(&self, class: FailureClass) -> bool {
        match self.work {
            Work::Nothing => true,
            Work::Accepted => false,
            Work::Unknown => !breaks_off(class),
        }
    }
}

/// Whether a failure of this class leaves open what the provider did: it fell silent, or what came made no sense.
fn breaks_off(class: FailureClass) -> bool {
    matches!(
        class,
        FailureClass::Silence | FailureClass::Cut | FailureClass::Network | FailureClass::Malformed
    )
}
