//! Tenants that are suspended, or left out for a fault of their settings.
//!
//! A suspended tenant's open turns are cancelled. Those of a tenant that is left out wait: what is under way may end, nothing is
//! begun, and what had not begun is written down (`turn.paused`), so that it goes on where it stands, after a restart too.
//! Invariant: while a copy is paused it begins nothing; it goes on by [`Conversation::resume`] alone, which writes its claim first.

use ractor::ActorProcessingErr;

use super::{Conversation, ConversationRef, State};
use crate::connector::Gate;
use crate::domain::command::{Command, Halt, Step};
use crate::domain::effects::Effect;
use crate::domain::ids::CallId;
use crate::domain::turn::{Call, Pause, Phase, Stage};
use crate::ports::Standing;

impl Conversation {
    pub(super) fn standing(&self, state: &State) -> Standing {
        self.shared.ports.policies.standing(&state.scope)
    }

    /// Does what the tenant's standing asks for, before a message is looked at.
    pub(super) async fn follow_standing(
        &self,
        me: &ConversationRef,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        if state.handing_over {
            // Nothing is begun and nothing ended any more but by the hand-over.
            return Ok(());
        }
        match self.standing(state) {
            Standing::Suspended => self.suspend(me, state).await,
            Standing::LeftOut => self.pause(me, state).await,
            Standing::Served => self.resume(me, state).await,
        }
    }

    /// Ends what is open on behalf of a suspended tenant: its work is stopped where it is, and nothing is sent any more.
    pub(super) async fn suspend(&self, me: &ConversationRef, state: &mut State) -> Result<(), ActorProcessingErr> {
        state.compression = None;
        (state.paused, state.lost) = (false, false);
        if state.core.book.as_ref().is_none_or(|book| book.turns.is_empty()) {
            return Ok(());
        }
        let halt = Halt::default();
        let policy = self.policy(state, &Command::Recover);
        let command = state.core.screen(&policy, Command::Suspend { halt });
        let Ok(command) = self.with_halt(state, &policy, command).await? else {
            return Ok(());
        };
        tracing::info!(conversation = %state.core.id, tenant = %state.scope.tenant(), "tenant suspended; its open turns are cancelled");
        self.step(me, state, command, None).await
    }

    /// Holds what has not begun for a tenant that is left out, and writes down what that is.
    async fn pause(&self, me: &ConversationRef, state: &mut State) -> Result<(), ActorProcessingErr> {
        // A summary that is being made is made again after the next turn.
        state.compression = None;
        if state.retiring || state.core.active().is_none() {
            return Ok(());
        }
        if !state.paused {
            tracing::info!(
                conversation = %state.core.id, tenant = %state.scope.tenant(),
                "tenant left out; its open turns wait until its settings are fixed"
            );
            // Before anything is looked at: what is begun from here on is begun by `resume`.
            state.paused = true;
            self.run_effects(me, state).await?;
        }
        if let Some(Pause { unsent, asked, .. }) = due(state) {
            let policy = self.policy(state, &Command::Recover);
            let command = state.core.screen(&policy, Command::Pause { unsent, asked });
            self.step(me, state, command, None).await?;
        }
        state.count();
        Ok(())
    }

    /// Records, at a clean stop, which calls have not left their connector's queue; they never will now, so the next process may send
    /// them, whatever repeating them would do.
    pub(super) async fn keep_unsent(&self, me: &ConversationRef, state: &mut State) -> Result<(), ActorProcessingErr> {
        let calls = state.core.active().map_or(&[][..], |turn| turn.calls());
        let never_leaves =
            |call: &&Call| is_first_try(call) && state.gates.get(&call.id).is_some_and(|gate| gate.withdraw());
        // Each of them, so no short cut.
        if calls.iter().filter(never_leaves).count() == 0 {
            return Ok(());
        }
        // What is begun from here on is begun by nobody.
        state.paused = true;
        if let Some(Pause { unsent, asked, .. }) = due(state) {
            let policy = self.policy(state, &Command::Recover);
            let command = state.core.screen(&policy, Command::Pause { unsent, asked });
            self.step(me, state, command, None).await?;
        }
        Ok(())
    }

    /// Takes up what was paused, once the tenant is served again.
    pub(super) async fn resume(&self, me: &ConversationRef, state: &mut State) -> Result<(), ActorProcessingErr> {
        if !state.paused || state.retiring {
            return Ok(());
        }
        let policy = self.policy(state, &Command::Recover);
        if self.standing(state) != Standing::Served {
            // Left out again: nothing is decided without the tenant's policy.
            return Ok(());
        }
        let under_way = state.running.keys().filter_map(|effect| match effect {
            Effect::CallTool { call, .. } => Some(*call),
            _ => None,
        });
        let command = if state.lost {
            Command::Recover
        } else {
            Command::Resume {
                under_way: under_way.collect(),
            }
        };
        (state.paused, state.lost) = (false, false);
        tracing::info!(
            conversation = %state.core.id, tenant = %state.scope.tenant(),
            "tenant served again; its open turns go on"
        );
        let command = state.core.screen(&policy, command);
        self.step_by(me, state, &policy, command, None, None).await?;
        self.run_effects(me, state).await?;
        state.count();
        Ok(())
    }

    /// An agent did not ask the model, because the tenant was not served then.
    pub(super) async fn step_held(
        &self,
        me: &ConversationRef,
        state: &mut State,
        step: Step,
    ) -> Result<(), ActorProcessingErr> {
        let held = |effect: &Effect| matches!(effect, Effect::CallModel { at, .. } if *at == step);
        state.running.retain(|effect, _| !held(effect));
        self.run_effects(me, state).await
    }

    /// A connector gave a call back. One that may have been sent is taken up by a claim alone, even if the tenant is served by now.
    pub(super) async fn call_held(
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
        self.run_effects(me, state).await
    }
}

/// Stops what has not begun, and leaves of `wanted` what may go on while the tenant is left out: work that is under way, and the time
/// that a person has to decide. A turn's own time stands still.
pub(super) fn hold(state: &mut State, wanted: &mut Vec<Effect>) {
    state.paused = true;
    let gates = &state.gates;
    let left = |call: &CallId| !gates.get(call).is_some_and(|gate| gate.withdraw());
    state
        .running
        .retain(|effect, _| !matches!(effect, Effect::CallTool { call, .. } if !left(call)));
    if !state.lost {
        // What this copy has never begun, nobody has.
        let calls = state.core.active().map_or(&[][..], |turn| turn.calls());
        for call in calls.iter().filter(|call| is_first_try(call)) {
            state.gates.entry(call.id).or_insert_with(|| Gate::withdrawn().into());
        }
    }
    wanted.retain(|effect| match effect {
        Effect::ExpireApproval { .. } => true,
        Effect::ExpireTurn { .. } => false,
        Effect::CallModel { .. } | Effect::CallTool { .. } => state.running.contains_key(effect),
    });
}

/// How far the running turn has come, as far as that has to be written down.
pub(super) fn present(state: &State) -> Option<Pause> {
    let turn = state.core.active().filter(|turn| !turn.only_awaits_approval())?;
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

/// The same, unless the log says so already.
pub(super) fn due(state: &State) -> Option<Pause> {
    let known = state.core.active().and_then(|turn| turn.pause.clone());
    present(state).filter(|pause| known.as_ref() != Some(pause))
}

/// Takes what the log says of a paused turn: which of its calls were never sent, and whether something was under way when this
/// copy's predecessor ended.
pub(super) fn fold(state: &mut State) {
    let Some(turn) = state.core.active() else { return };
    for call in turn.calls().iter().filter(|call| turn.never_sent(call)) {
        state.gates.insert(call.id, Gate::withdrawn().into());
    }
    let never_asked = turn.phase == Phase::Thinking && turn.pause.as_ref().is_some_and(|pause| !pause.asked);
    state.lost = !turn.only_awaits_approval() && !never_asked;
}

fn is_first_try(call: &Call) -> bool {
    matches!(call.stage, Stage::Running { retry: 0, .. })
}
