//! What an agent tells its conversation, and when it may not run.

use jiff::Timestamp;

use super::Agent;
use crate::actors::conversation;
use crate::domain::conversation::command::{Command, ModelFailure, Step};
use crate::domain::conversation::screen::ScreenedCommand;
use crate::domain::guardrail::ContentKind;
use crate::domain::policy::Policy;
use crate::ports::ServingState;

/// Replaces an error text that could not be checked.
pub(super) const UNCHECKED_TEXT: &str = "the error text could not be checked, so it is withheld";

impl Agent {
    /// Defers the step if its tenant is not served. Also true for a suspended tenant, whose turn its conversation
    /// cancels.
    pub(super) fn defer_unless_served(&self, at: Step) -> bool {
        let held = self.standing() != ServingState::Served;
        if held {
            let _ = self.conversation.cast(conversation::Msg::StepDeferred(at));
        }
        held
    }

    /// Returns a step whose prompt is too long to the conversation, which compresses and repeats it, or fails it.
    pub(super) fn report_too_large(&self, at: Step, mut failure: ModelFailure) {
        // The conversation cannot wait for detectors.
        if self.shared.guardrails.looks_at(ContentKind::ProviderError) {
            UNCHECKED_TEXT.clone_into(&mut failure.message);
        }
        let failure = Box::new(failure);
        let _ = self.conversation.cast(conversation::Msg::StepTooLarge { at, failure });
    }

    pub(super) fn standing(&self) -> ServingState {
        self.shared.ports.policies.standing(&self.scope)
    }

    pub(super) fn since(&self, accepted_at: Timestamp) -> u64 {
        let ms = self.shared.ports.clock.now().duration_since(accepted_at).as_millis();
        u64::try_from(ms).unwrap_or(0)
    }

    /// Reports a command without content.
    pub(super) fn report(&self, command: Command, policy: &Policy) {
        self.tell(command.screen(policy, None));
    }

    pub(super) fn tell(&self, report: ScreenedCommand) {
        // Ignored: a dead conversation is rebuilt from its log and starts the step again.
        let _ = self.conversation.cast(conversation::Msg::report(report));
    }
}
