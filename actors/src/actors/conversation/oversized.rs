//! Steps whose prompt does not fit into the model's context.
//!
//! Such a step waits for the compression that is running, or for one started for it, and is repeated with its summary.
//! It waits no longer than one summary may take; then the older part of the memory is truncated. It fails only if that
//! does not help, because the running turn itself is too long.
//!
//! Invariant: while a step waits here a compression is running that reports its end, so the step never waits forever.

use std::sync::Arc;

use ractor::ActorProcessingErr;
use tokio_util::task::AbortOnDropHandle;

use super::pause::forget_step;
use super::{Conversation, ConversationRef, Msg, State};
use crate::actors::compressor::Effort;
use crate::domain::conversation::command::{Command, ModelFailure, Step};
use crate::domain::conversation::turn::{Phase, Turn};
use crate::domain::policy::Policy;
use crate::ports::ServingState;

/// A step that waits until its prompt fits.
pub(super) struct OversizedPrompt {
    /// The step.
    pub(super) at: Step,
    /// Failure to record if it cannot be made to fit.
    failure: ModelFailure,
    /// Whether the running compression was started for this step: there is nothing more to try.
    is_last: bool,
    /// Timer that ends the wait for a summary.
    _overdue: AbortOnDropHandle<()>,
}

impl Conversation {
    /// Handles a step whose prompt is too long by our count or by its provider's.
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
        if self.standing(state) != ServingState::Served {
            return self.step_deferred(me, state, at).await;
        }
        if state.compressed_for == Some(at) {
            return self.fail_step(me, state, at, failure).await;
        }
        let policy = self.policy(state, &Command::RECOVER);
        let overdue = self.overdue(me, at, &policy);
        let is_last = state.compression.is_none();
        if is_last {
            self.compress_for(me, state, at, Effort::OversizedPrompt);
        }
        tracing::info!(
            tenant = %state.scope.tenant(), conversation = %state.core.id, turn = %at.turn, waits_for_summary = !is_last,
            "prompt exceeds the model's context window; compressing the conversation's history before retrying the call"
        );
        state.room = Some(OversizedPrompt {
            at,
            failure,
            is_last,
            _overdue: overdue,
        });
        // Without a compression, for example because the tenant is no longer served, there is nothing to wait for.
        match state.compression {
            Some(_) => Ok(()),
            None => self.after_compression(me, state, false).await,
        }
    }

    /// Handles the end of a compression: repeats the step that waited for it, or tries the next measure.
    pub(super) async fn after_compression(
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
            state.summary_needed_by = Some(at.turn);
            forget_step(state, at);
            self.run_effects(me, state);
            return Ok(());
        }
        if room.is_last {
            return self.fail_step(me, state, at, room.failure).await;
        }
        self.compress_for(me, state, at, Effort::OversizedPrompt);
        if state.compression.is_none() {
            return self.fail_step(me, state, at, room.failure).await;
        }
        room.is_last = true;
        state.room = Some(room);
        Ok(())
    }

    /// The step has waited long enough: truncates the older part of the memory without a summary.
    pub(super) fn summary_overdue(&self, me: &ConversationRef, state: &mut State, at: Step) {
        let Some(room) = state.room.as_mut().filter(|room| room.at == at) else {
            return;
        };
        room.is_last = true;
        state.compression = None;
        self.compress_for(me, state, at, Effort::Truncate);
    }

    fn compress_for(&self, me: &ConversationRef, state: &mut State, at: Step, effort: Effort) {
        state.compressed_for = Some(at);
        let policy = self.policy(state, &Command::RECOVER);
        self.compress_with(me, state, &policy, effort);
    }

    fn overdue(&self, me: &ConversationRef, at: Step, policy: &Arc<Policy>) -> AbortOnDropHandle<()> {
        let (me, wait) = (me.clone(), policy.memory.timeout);
        AbortOnDropHandle::new(tokio::spawn(async move {
            tokio::time::sleep(wait).await;
            let _ = me.cast(Msg::SummaryOverdue(at));
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
