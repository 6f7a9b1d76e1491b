//! Handing a conversation over to another process, which resumes it at once.
//!
//! The running answer is sealed and its model call dropped; calls not yet sent to external systems are withdrawn.
//! Running calls get a moment to finish, because the next process might not be allowed to repeat them. Then the
//! progress of the turn is recorded (`turn.handed_over`), and this actor ends. Invariant: no work starts here after the
//! first `HandOver` message.

use ractor::{ActorProcessingErr, RpcReplyPort};
use tokio::time::Instant;

use super::{Conversation, ConversationRef, Msg, Refusal, State, pause, refuse};
use crate::domain::conversation::command::Command;
use crate::domain::conversation::effects::Effect;
use crate::ports::LogError;

impl Conversation {
    /// Stops work so that another process can continue.
    pub(super) async fn hand_over(
        &self,
        me: &ConversationRef,
        state: &mut State,
        deadline: Instant,
    ) -> Result<(), ActorProcessingErr> {
        if state.handing_over {
            return Ok(());
        }
        state.handing_over = true;
        state.compression = None;
        state.titling = None;
        state.idle = None;
        if state.passivating {
            return Ok(());
        }
        if let Some(live) = &state.live {
            live.message.seal();
        }
        state.agent = None;
        let is_model = |effect: &Effect| matches!(effect, Effect::CallModel { .. });
        state.lost |= state.running.keys().any(is_model);
        state.running.retain(|effect, _| !is_model(effect));
        self.run_effects(me, state);
        if has_calls_under_way(state) {
            let me = me.clone();
            tokio::spawn(async move {
                tokio::time::sleep_until(deadline).await;
                let _ = me.cast(Msg::HandOverDue);
            });
            return Ok(());
        }
        self.finish_hand_over(me, state).await
    }

    /// Handles messages during a hand-over: only the ends of calls matter.
    pub(super) async fn handle_during_hand_over(
        &self,
        me: &ConversationRef,
        msg: Msg,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match msg {
            Msg::Execute { reply, .. } => return refuse(Some(reply), Refusal::HandingOver),
            Msg::Screening { reply, .. } => return refuse_screening(reply),
            Msg::Report(command) if matches!(command.command(), Command::ToolReplied { .. }) => {
                self.step(me, state, *command, None).await?;
            }
            Msg::CallDeferred { call, gate } => self.call_deferred(me, state, call, &gate).await?,
            Msg::HandOverDue => return self.finish_hand_over(me, state).await,
            _ => return Ok(()),
        }
        if has_calls_under_way(state) {
            return Ok(());
        }
        self.finish_hand_over(me, state).await
    }

    async fn finish_hand_over(&self, me: &ConversationRef, state: &mut State) -> Result<(), ActorProcessingErr> {
        if let Some(pause) = pause::present(state) {
            let command = Command::HandOver {
                unsent: pause.unsent,
                asked: pause.asked,
            };
            let policy = self.policy(state, &command);
            let command = state.core.screen(&policy, command);
            self.step(me, state, command, None).await?;
        }
        me.stop(Some("handed over".into()));
        Ok(())
    }

    /// Compares the state with what a scan of the store found. Records unknown here can only come from a writer that
    /// had lost its lease; the successor reads them.
    pub(super) async fn compare(&self, state: &State, stored: u64) -> Result<(), ActorProcessingErr> {
        if stored <= state.core.seq || state.is_damaged || state.passivating {
            return Ok(());
        }
        // The scan may have read a wrong header.
        let end = self.shared.ports.log.end(&state.scope, state.core.id).await?;
        if end <= state.core.seq {
            return Ok(());
        }
        tracing::warn!(
            tenant = %state.scope.tenant(), conversation = %state.core.id, known = state.core.seq, stored = end,
            "another process wrote to this conversation's log; restarting the actor to replay it"
        );
        Err(LogError::Conflict(state.core.seq + 1).into())
    }
}

fn has_calls_under_way(state: &State) -> bool {
    let is_call = |effect: &Effect| matches!(effect, Effect::CallTool { .. });
    state.running.keys().any(is_call)
}

fn refuse_screening<T>(reply: RpcReplyPort<Result<T, Refusal>>) -> Result<(), ActorProcessingErr> {
    let _ = reply.send(Err(Refusal::HandingOver));
    Ok(())
}
