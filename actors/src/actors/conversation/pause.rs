//! Tenants that are suspended, or left out because their settings have a fault.
//!
//! The open turns of a suspended tenant are cancelled. Those of a tenant that is left out wait: running work may
//! finish, no work is started, and what had not started is recorded (`turn.paused`), so that the turn continues where
//! it was, even after a restart. Invariant: a paused actor starts no work; it continues only through
//! [`Conversation::resume`], which records its claim first.

use ractor::ActorProcessingErr;

use super::{Conversation, ConversationRef, State};
use crate::actors::connector::Gate;
use crate::domain::conversation::command::{Command, Step, StoppedWork};
use crate::domain::conversation::effects::Effect;
use crate::domain::conversation::turn::{Call, Pause, Phase, Stage};
use crate::domain::ids::CallId;
use crate::ports::ServingState;

impl Conversation {
    pub(super) fn standing(&self, state: &State) -> ServingState {
        self.shared.ports.policies.standing(&state.scope)
    }

    /// Acts on the tenant's standing before a message is handled.
    pub(super) async fn follow_standing(
        &self,
        me: &ConversationRef,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        if state.handing_over {
            // Only the hand-over starts or ends anything now.
            return Ok(());
        }
        match self.standing(state) {
            ServingState::Suspended => self.suspend(me, state).await,
            ServingState::LeftOut => self.pause(me, state).await,
            ServingState::Served => self.resume(me, state).await,
        }
    }

    /// Cancels what is open for a suspended tenant: its work stops at once, and nothing more is sent.
    pub(super) async fn suspend(&self, me: &ConversationRef, state: &mut State) -> Result<(), ActorProcessingErr> {
        (state.compression, state.titling) = (None, None);
        (state.paused, state.lost) = (false, false);
        if state.core.book.as_ref().is_none_or(|book| book.turns.is_empty()) {
            return Ok(());
        }
        let stop = StoppedWork::default();
        let policy = self.policy(state, &Command::RECOVER);
        let command = state.core.screen(&policy, Command::Suspend { stop });
        let Ok(command) = self.with_halt(state, &policy, command).await? else {
            return Ok(());
        };
        tracing::info!(conversation = %state.core.id, tenant = %state.scope.tenant(), "tenant suspended; cancelling the conversation's open turns");
        self.step(me, state, command, None).await
    }

    /// Pauses what has not started for a tenant that is left out, and records it.
    async fn pause(&self, me: &ConversationRef, state: &mut State) -> Result<(), ActorProcessingErr> {
        // A summary or a title in progress is written again after the next turn.
        (state.compression, state.titling) = (None, None);
        if let Some(room) = state.room.take() {
            // The model was not called; the step starts again when the tenant is served.
            forget_step(state, room.at);
        }
        if state.passivating || state.core.active().is_none() {
            return Ok(());
        }
        if !state.paused {
            tracing::info!(
                conversation = %state.core.id, tenant = %state.scope.tenant(),
                "tenant left out because its settings have faults; the conversation's open turns wait until they are fixed"
            );
            // First of all: from here on, work is started only by `resume`.
            state.paused = true;
            self.run_effects(me, state);
        }
        if let Some(Pause { unsent, asked, .. }) = due(state) {
            let policy = self.policy(state, &Command::RECOVER);
            let command = state.core.screen(&policy, Command::Pause { unsent, asked });
            self.step(me, state, command, None).await?;
        }
        state.count();
        Ok(())
    }

    /// Records, at a clean stop, which calls are still in their connector's queue. They will never leave it now, so the
    /// next process may send them, whatever repeating them would do.
    pub(super) async fn record_unsent(
        &self,
        me: &ConversationRef,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        let calls = state.core.active().map_or(&[][..], |turn| turn.calls());
        let never_leaves =
            |call: &&Call| is_first_try(call) && state.gates.get(&call.id).is_some_and(|gate| gate.withdraw());
        // `count` visits every call; `any` would stop early.
        if calls.iter().filter(never_leaves).count() == 0 {
            return Ok(());
        }
        // No work is started from here on.
        state.paused = true;
        if let Some(Pause { unsent, asked, .. }) = due(state) {
            let policy = self.policy(state, &Command::RECOVER);
            let command = state.core.screen(&policy, Command::Pause { unsent, asked });
            self.step(me, state, command, None).await?;
        }
        Ok(())
    }

    /// Resumes paused turns once the tenant is served again.
    pub(super) async fn resume(&self, me: &ConversationRef, state: &mut State) -> Result<(), ActorProcessingErr> {
        if !state.paused || state.passivating {
            return Ok(());
        }
        let policy = self.policy(state, &Command::RECOVER);
        if self.standing(state) != ServingState::Served {
            // Left out again: nothing is decided without the tenant's policy.
            return Ok(());
        }
        let under_way = state.running.keys().filter_map(|effect| match effect {
            Effect::CallTool { call, .. } => Some(*call),
            _ => None,
        });
        let command = if state.lost {
            state.recovery()
        } else {
            Command::Resume {
                under_way: under_way.collect(),
            }
        };
        (state.paused, state.lost) = (false, false);
        tracing::info!(
            conversation = %state.core.id, tenant = %state.scope.tenant(),
            "tenant served again; resuming the conversation's open turns"
        );
        let command = state.core.screen(&policy, command);
        self.step_with_policy(me, state, &policy, command, None, None).await?;
        self.run_effects(me, state);
        state.count();
        Ok(())
    }

    /// Handles a step that its agent did not start because the tenant was not served.
    pub(super) async fn step_deferred(
        &self,
        me: &ConversationRef,
        state: &mut State,
        step: Step,
    ) -> Result<(), ActorProcessingErr> {
        forget_step(state, step);
        self.run_effects(me, state);
        Ok(())
    }

    /// Handles a call that its connector returned. If it may have been sent, only a claim resumes it, even if the
    /// tenant is served by now.
    pub(super) async fn call_deferred(
        &self,
        me: &ConversationRef,
        state: &mut State,
        call_id: CallId,
        gate: &std::sync::Arc<Gate>,
    ) -> Result<(), ActorProcessingErr> {
        let known = state.gates.get(&call_id);
        if !known.is_some_and(|known| std::sync::Arc::ptr_eq(known, gate)) {
            return Ok(());
        }
        let held = |effect: &Effect| matches!(effect, Effect::CallTool { call, .. } if *call == call_id);
        state.running.retain(|effect, _| !held(effect));
        state.paused = true;
        self.run_effects(me, state);
        Ok(())
    }
}

/// Forgets that a step was started, so that it starts again when it is due.
pub(super) fn forget_step(state: &mut State, step: Step) {
    let held = |effect: &Effect| matches!(effect, Effect::CallModel { at, .. } if *at == step);
    state.running.retain(|effect, _| !held(effect));
}

/// Stops what has not started, and keeps in `wanted` what may continue while the tenant is left out: running work, and
/// the time that a person or a page has. The turn's own time limit stands still.
pub(super) fn hold(state: &mut State, wanted: &mut Vec<Effect>) {
    state.paused = true;
    let gates = &state.gates;
    let left = |call: &CallId| !gates.get(call).is_some_and(|gate| gate.withdraw());
    state
        .running
        .retain(|effect, _| !matches!(effect, Effect::CallTool { call, .. } if !left(call)));
    if !state.lost {
        // What this actor never started was never started at all.
        let calls = state.core.active().map_or(&[][..], |turn| turn.calls());
        for call in calls.iter().filter(|call| is_first_try(call)) {
            state.gates.entry(call.id).or_insert_with(|| Gate::withdrawn().into());
        }
    }
    wanted.retain(|effect| match effect {
        Effect::ExpireApproval { .. } | Effect::ExpireClientTool { .. } => true,
        Effect::ExpireTurn { .. } => false,
        Effect::CallModel { .. } | Effect::CallTool { .. } => state.running.contains_key(effect),
    });
}

/// Returns the progress of the running turn, as far as it must be recorded.
pub(super) fn present(state: &State) -> Option<Pause> {
    let turn = state.core.active().filter(|turn| !turn.is_parked())?;
    let is_asked = state
        .running
        .keys()
        .any(|effect| matches!(effect, Effect::CallModel { .. }));
    let unsent = |call: &&Call| is_first_try(call) && state.gates.get(&call.id).is_some_and(|gate| gate.is_withdrawn());
    let pause = Pause {
        unsent: turn.calls().iter().filter(unsent).map(|call| call.id).collect(),
        asked: turn.phase == Phase::Thinking && (is_asked || state.lost),
        handed_over: turn.is_handed_over(),
    };
    Some(pause)
}

/// Like `present`, but `None` if the log says so already.
pub(super) fn due(state: &State) -> Option<Pause> {
    let known = state.core.active().and_then(|turn| turn.pause.clone());
    present(state).filter(|pause| known.as_ref() != Some(pause))
}

/// Restores what the log says about a paused turn: which of its calls were never sent, and whether work was in progress
/// when this actor's predecessor ended.
pub(super) fn fold(state: &mut State) {
    let Some(turn) = state.core.active() else { return };
    for call in turn.calls().iter().filter(|call| turn.never_sent(call)) {
        state.gates.insert(call.id, Gate::withdrawn().into());
    }
    let never_asked = turn.phase == Phase::Thinking && turn.pause.as_ref().is_some_and(|pause| !pause.asked);
    state.lost = !turn.is_parked() && !never_asked;
}

fn is_first_try(call: &Call) -> bool {
    matches!(call.stage, Stage::Running { retry: 0, .. })
}
