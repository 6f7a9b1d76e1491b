//! Stopping the work of a turn, and what it had used by then.

use jiff::Timestamp;
use metrics::counter;
use ractor::ActorProcessingErr;

use super::state::Live;
use super::{Conversation, ConversationRef, State};
use crate::actors::agent::usage_of_sealed;
use crate::domain::conversation::command::{Command, SealedMessage, Step, StoppedWork};
use crate::domain::conversation::effects::Effect;
use crate::domain::conversation::turn::Phase;
use crate::domain::policy::Policy;
use crate::domain::usage::{LostUsage, Usage};

impl Conversation {
    /// Stops the work of the running turn: nothing more is shown or sent, and what was shown and sent is known exactly.
    pub(super) fn stop(&self, state: &State, policy: &Policy, now: Timestamp) -> StoppedWork {
        let sealed = state.live.as_ref().map(|live| sealed(live, policy, now));
        let sealed = sealed.or_else(|| lost(state));
        let unsent = state
            .gates
            .iter()
            .filter(|(_, gate)| gate.cancel())
            .map(|(call, _)| *call)
            .collect();
        StoppedWork { sealed, unsent }
    }

    /// Resumes a turn whose agent panicked.
    pub(super) async fn agent_died(
        &self,
        me: &ConversationRef,
        state: &mut State,
        at: Step,
    ) -> Result<(), ActorProcessingErr> {
        // Ignore an agent that was stopped on purpose.
        if state.agent.as_ref().is_none_or(|(step, _)| *step != at) {
            return Ok(());
        }
        counter!("copilotd_actor_deaths_total", "actor" => "agent").increment(1);
        tracing::error!(
            tenant = %state.scope.tenant(), conversation = %state.core.id,
            "agent of a running turn panicked, which is logged separately with its location; resuming the turn"
        );
        state.agent = None;
        state
            .running
            .retain(|effect, _| !matches!(effect, Effect::CallModel { .. }));
        if state.core.active().is_some_and(|turn| turn.phase == Phase::Thinking) {
            let policy = self.policy(state, &Command::RECOVER);
            note_dead_call(state, &policy, self.now(None));
            let recover = state.core.screen(&policy, state.recovery());
            Box::pin(self.step(me, state, recover, None)).await?;
        }
        Ok(())
    }
}

/// Seals the open message and estimates its usage so far.
fn sealed(live: &Live, policy: &Policy, now: Timestamp) -> SealedMessage {
    let text = live.message.seal();
    let usage = policy.priced(usage_of_sealed(&text, live.prompt_tokens), now);
    SealedMessage {
        at: live.message.at,
        text,
        usage,
    }
}

/// Returns the usage of the running turn's lost model calls as a sealed message without text.
fn lost(state: &State) -> Option<SealedMessage> {
    let mut usage = Usage::default();
    state.unreported().iter().for_each(|lost| usage += lost.usage);
    let at = state.core.active()?.present();
    (usage != Usage::default()).then(|| SealedMessage {
        at,
        text: String::new(),
        usage,
    })
}

/// Seals the message of an agent that died and notes the usage of its call, which the turn's own usage must include.
/// The ledger was settled when the stream was dropped.
fn note_dead_call(state: &mut State, policy: &Policy, now: Timestamp) {
    let Some(live) = state.live.as_ref().filter(|live| live.prompt_tokens > 0) else {
        return;
    };
    let SealedMessage { at, usage, .. } = sealed(live, policy, now);
    let model = policy.model.clone();
    state.lost_usage = Some((at, vec![LostUsage { model, usage }]));
}
