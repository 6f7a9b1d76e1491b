//! Room in the model's context for a step whose prompt is too long.
//!
//! The step waits for the compression that is under way, or has one made, and is asked again with its summary. It waits no longer
//! than one summary may take; then the older part of the memory is truncated. It fails only if that does not help: the running
//! turn itself is too long.
//! Invariant: while a step waits here, a compression is under way, whose end is told; so the step never waits for ever.

use std::sync::Arc;

use ractor::ActorProcessingErr;
use tokio_util::task::AbortOnDropHandle;

use super::pause::forget_step;
use super::{Conversation, ConversationRef, Msg, State};
use crate::compressor::Effort;
use crate::domain::command::{Command, ModelFailure, Step};
use crate::domain::policy::Policy;
use crate::domain::turn::{Phase, Turn};
use crate::ports::Standing;

/// A step that waits for room.
pub(super) struct Room {
    /// The step.
    pub(super) at: Step,
    /// What it fails with if none can be made.
    failure: ModelFailure,
    /// Whether the compression under way is made for this step: there is nothing more to try.
    is_last: bool,
    /// Ends the wait for a summary.
    _overdue: AbortOnDropHandle<()>,
}

impl Conversation {
    /// The prompt of a step is too long, as we count it or as its provider does.
    pub(super) async fn step_too_large(
        &self,
        me: &ConversationRef,
        state: &mut State,
        at: Step,
        failure: ModelFailure,
    ) -> Result<(), ActorProcessingErr> {
        let present = state.core.active().filter(|turn| turn.phase == Phase::Thinking);
        if present.map(Turn::present) != Some(at) {
            return Ok(());
        }
        if self.standing(state) != Standing::Served {
            return self.step_held(me, state, at).await;
        }
        if state.squeezed == Some(at) {
            return self.fail_step(me, state, at, failure).await;
        }
        let policy = self.policy(state, &Command::RECOVER);
        let overdue = self.overdue(me, at, &policy);
        let is_last = state.compression.is_none();
        if is_last {
            self.squeeze(me, state, at, Effort::Room);
        }
        tracing::info!(
            conversation = %state.core.id, turn = %at.turn, waits_for_summary = !is_last,
            "prompt too long; making room in the model's context before asking again"
        );
        state.room = Some(Room {
            at,
            failure,
            is_last,
            _overdue: overdue,
        });
        // Without a compression, as for a tenant that is not served any more, there is nothing to wait for.
        match state.compression {
            Some(_) => Ok(()),
            None => self.room_after(me, state, false).await,
        }
    }

    /// A compression has ended. Whoever waited for it is asked again.
    pub(super) async fn room_after(
        &self,
        me: &ConversationRef,
        state: &mut State,
        is_compressed: bool,
    ) -> Result<(), ActorProcessingErr> {
        let Some(mut room) = state.room.take() else {
            return Ok(());
        };
        let at = room.at;
        if is_compressed {
            state.tight = Some(at.turn);
            forget_step(state, at);
            return self.run_effects(me, state).await;
        }
        if room.is_last {
            return self.fail_step(me, state, at, room.failure).await;
        }
        self.squeeze(me, state, at, Effort::Room);
        if state.compression.is_none() {
            return self.fail_step(me, state, at, room.failure).await;
        }
        room.is_last = true;
        state.room = Some(room);
        Ok(())
    }

    /// A step has waited long enough: the older part of the memory leaves without a summary.
    pub(super) fn room_overdue(&self, me: &ConversationRef, state: &mut State, at: Step) {
        let Some(room) = state.room.as_mut().filter(|room| room.at == at) else {
            return;
        };
        room.is_last = true;
        state.compression = None;
        self.squeeze(me, state, at, Effort::Truncate);
    }

    fn squeeze(&self, me: &ConversationRef, state: &mut State, at: Step, effort: Effort) {
        state.squeezed = Some(at);
        let policy = self.policy(state, &Command::RECOVER);
        self.compress_by(me, state, &policy, effort);
    }

    fn overdue(&self, me: &ConversationRef, at: Step, policy: &Arc<Policy>) -> AbortOnDropHandle<()> {
        let (me, wait) = (me.clone(), policy.memory.timeout);
        AbortOnDropHandle::new(tokio::spawn(async move {
            tokio::time::sleep(wait).await;
            let _ = me.cast(Msg::RoomOverdue(at));
        }))
    }

    async fn fail_step(
        &self,
        me: &ConversationRef,
        state: &mut State,
        at: Step,
        failure: ModelFailure,
    ) -> Result<(), ActorProcessingErr> {
        metrics::counter!("copilotd_model_failures_total", "class" => failure.class.code()).increment(1);
        let policy = self.policy(state, &Command::RECOVER);
        let command = state.core.screen(&policy, Command::ModelFailed { at, failure });
        self.step(me, state, command, None).await
    }
}
