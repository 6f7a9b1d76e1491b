//! Starting the effects that are due and stopping those that no longer are.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use ractor::ActorProcessingErr;
use tokio_util::task::AbortOnDropHandle;

use super::state::Live;
use super::{Conversation, ConversationRef, Msg, State, pause};
use crate::actors::agent::{Agent, RetrievalSlot, RunStep};
use crate::actors::connector::{Gate, Job, Request};
use crate::actors::shared::{outside_spans, until};
use crate::actors::spans::TurnSpans;
use crate::crash;
use crate::domain::content::ToolStatus;
use crate::domain::conversation::command::{Command, Step, StoppedWork};
use crate::domain::conversation::effects::{Effect, open_effects};
use crate::domain::conversation::turn::{Stage, Turn};
use crate::domain::ids::{CallId, ConversationId, TurnId};
use crate::domain::policy::Policy;
use crate::live::LiveMessage;
use crate::ports::{ServingState, ToolRequest};
use crate::tenancy::TenantScope;

/// How much longer than its connector the conversation waits for a call's outcome.
pub(super) const CALL_GRACE: Duration = Duration::from_secs(5);

impl Conversation {
    /// Starts effects that are due and not running, and stops those that are running and no longer due.
    pub(super) fn run_effects(&self, me: &ConversationRef, state: &mut State) {
        // In this order: a tenant that is served has its policies.
        let standing = self.standing(state);
        let policy = &self.policy(state, &Command::RECOVER);
        let mut wanted = open_effects(&state.core, policy);
        if wanted.is_empty() {
            (state.paused, state.lost) = (false, false);
        } else if state.handing_over {
            pause::hold(state, &mut wanted);
        } else if state.paused || standing == ServingState::LeftOut {
            pause::hold(state, &mut wanted);
            if standing != ServingState::LeftOut || pause::due(state).is_some() {
                let _ = me.cast(Msg::StandingChanged);
            }
        } else if standing == ServingState::Suspended {
            // A turn was accepted or resumed while its tenant was being suspended: it is cancelled next and sends
            // nothing.
            wanted.retain(|effect| !matches!(effect, Effect::CallModel { .. } | Effect::CallTool { .. }));
            let _ = me.cast(Msg::StandingChanged);
        } else {
            state.policy = Some(Arc::clone(policy));
        }
        let stopped = state.running.keys().filter(|effect| !wanted.contains(effect));
        let late = stopped.filter_map(|effect| unsettled_until(&state.core, effect)).max();
        state.late = state.late.max(late);
        state.running.retain(|effect, _| wanted.contains(effect));
        let calls = state.core.active().map_or(&[][..], Turn::calls);
        let open: Vec<CallId> = calls
            .iter()
            .filter(|call| call.is_running())
            .map(|call| call.id)
            .collect();
        state.gates.retain(|call, _| open.contains(call));
        let active = state.core.active().map(|turn| turn.id);
        let present = state.core.active().map(Turn::present);
        state.room.take_if(|room| Some(room.at) != present);
        state.spans.take_if(|spans| Some(spans.turn()) != active);
        // Dropped at once, and with it the connection to the provider.
        state.agent.take_if(|(at, _)| Some(at.turn) != active);
        if state.agent.is_none() {
            state.retrieved = RetrievalSlot::default();
        }
        for effect in wanted {
            if state.running.contains_key(&effect) {
                continue;
            }
            let handle = self.start(me, state, policy, effect);
            state.running.insert(effect, handle);
        }
    }

    pub(super) fn start(
        &self,
        me: &ConversationRef,
        state: &mut State,
        policy: &Arc<Policy>,
        effect: Effect,
    ) -> Option<AbortOnDropHandle<()>> {
        match effect {
            Effect::CallModel { at, not_before } => {
                crash::point("effect.before:call_model");
                self.call_model(me, state, policy, at, not_before);
                crash::point("effect.after:call_model");
                None
            }
            Effect::CallTool {
                turn,
                call,
                settles_at,
                retry,
                ..
            } => {
                crash::point("effect.before:call_tool");
                self.call_tool(me, state, policy, turn, call, settles_at, retry > 0);
                crash::point("effect.after:call_tool");
                Some(self.timer(me, effect, settles_at, CALL_GRACE))
            }
            Effect::ExpireApproval { at, .. } | Effect::ExpireClientTool { at, .. } | Effect::ExpireTurn { at, .. } => {
                Some(self.timer(me, effect, at, Duration::ZERO))
            }
        }
    }

    pub(super) fn timer(
        &self,
        me: &ConversationRef,
        effect: Effect,
        at: Timestamp,
        grace: Duration,
    ) -> AbortOnDropHandle<()> {
        let me = me.clone();
        let time = until(self.shared.ports.clock.now(), at) + grace;
        AbortOnDropHandle::new(tokio::spawn(async move {
            tokio::time::sleep(time).await;
            let _ = me.cast(Msg::Due(effect));
        }))
    }

    pub(super) fn call_model(
        &self,
        me: &ConversationRef,
        state: &mut State,
        policy: &Arc<Policy>,
        at: Step,
        not_before: Option<Timestamp>,
    ) {
        let (Some(turn), Some(book)) = (state.core.active(), &state.core.book) else {
            return;
        };
        let agent = Agent {
            shared: Arc::clone(&self.shared),
            conversation: me.clone(),
            id: state.core.id,
            scope: state.scope.clone(),
            user: book.header.user.clone(),
            retrieved: state.retrieved.clone(),
        };
        let tail = state
            .tail
            .get_or_insert_with(|| self.shared.hub.tail(&state.scope, state.core.id));
        let message = LiveMessage::new(at, tail);
        let run_step = RunStep {
            at,
            not_before,
            memory: state.core.memory.clone(),
            needs_summary: state.summary_needed_by == Some(at.turn),
            policy: Arc::clone(policy),
            response_schema: turn.response_schema.clone(),
            client_tools: Arc::clone(&turn.client_tools),
            api_key: turn.api_key.clone(),
            roles: Arc::clone(&turn.roles),
            accepted_at: turn.queued_at,
            live: Arc::clone(&message),
            span: self.spans(&mut state.spans, &state.scope, turn, state.core.id).agent(
                turn,
                &state.scope,
                state.core.id,
                policy,
            ),
        };
        state.live = Some(Live {
            message,
            shown: false,
            prompt_tokens: 0,
        });
        state.agent = Some((at, agent.start(Box::new(run_step))));
    }

    /// Returns the open spans of `turn`, or new ones in the trace of its request.
    pub(super) fn spans<'a>(
        &self,
        open: &'a mut Option<TurnSpans>,
        scope: &TenantScope,
        turn: &Turn,
        id: ConversationId,
    ) -> &'a mut TurnSpans {
        let traces = self.shared.ports.traces.as_ref();
        open.take_if(|spans| spans.turn() != turn.id);
        open.get_or_insert_with(|| TurnSpans::resume(turn, traces, scope, id))
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of one effect")]
    pub(super) fn call_tool(
        &self,
        me: &ConversationRef,
        state: &mut State,
        policy: &Arc<Policy>,
        turn: TurnId,
        call_id: CallId,
        settles_at: Timestamp,
        retried: bool,
    ) {
        let Some(open) = state.core.active().filter(|open| open.id == turn) else {
            return;
        };
        let Some(call) = open.calls().iter().find(|call| call.id == call_id) else {
            return;
        };
        let Some(tool) = policy.tools.get(&call.name) else {
            let error = Some("the tool is no longer configured".to_owned());
            let status = if retried {
                ToolStatus::Unknown
            } else {
                ToolStatus::Failed
            };
            let command = Command::ToolReplied {
                turn,
                call: call_id,
                status,
                result: None,
                error,
            };
            let _ = me.cast(Msg::report(command.screen(policy, None)));
            return;
        };
        let gate = Arc::new(if retried { Gate::passed() } else { Gate::default() });
        if let Some(before) = state.gates.insert(call_id, Arc::clone(&gate)) {
            before.cancel();
        }
        let request = ToolRequest {
            scope: state.scope.clone(),
            tool: call.name.clone(),
            call: call_id,
            arguments: call.arguments.as_ref().clone(),
            timeout: tool.timeout,
        };
        let job = Job {
            request,
            system: tool.tool.system.clone(),
            turn,
            repeat: tool.tool.repeat,
            called_at: call.called_at.unwrap_or(settles_at),
            settles_at,
            gate,
            policy: Arc::clone(policy),
            guardrails: self.shared.guardrails.clone(),
            reply_to: me.clone(),
            span: self.spans(&mut state.spans, &state.scope, open, state.core.id).agent(
                open,
                &state.scope,
                state.core.id,
                policy,
            ),
        };
        if let Some(connectors) = self.shared.connectors.get() {
            let _ = outside_spans(|| connectors.cast(Request::Call(Box::new(job))));
        }
    }

    /// Handles an expired timer. The core checks whether it is still relevant.
    pub(super) async fn due(
        &self,
        me: &ConversationRef,
        state: &mut State,
        effect: Effect,
    ) -> Result<(), ActorProcessingErr> {
        if !state.running.contains_key(&effect) {
            return Ok(());
        }
        if !matches!(effect, Effect::CallTool { .. }) {
            // Not due after all if the clock was set back or the policy changed: then it is set again below.
            state.running.remove(&effect);
        }
        let policy = self.policy(state, &Command::RECOVER);
        let command = self.command_of(state, &policy, effect);
        // The turn's time is up by the monotonic clock, whatever happened to the wall clock meanwhile.
        let due = match effect {
            Effect::ExpireTurn { at, .. } => Some(at),
            _ => None,
        };
        if let Some(command) = command {
            let command = state.core.screen(&policy, command);
            if let Ok(command) = self.with_halt_at(state, &policy, command, due).await? {
                self.step_at(me, state, command, None, due).await?;
            }
        }
        self.run_effects(me, state);
        Ok(())
    }

    pub(super) fn command_of(&self, state: &State, policy: &Policy, effect: Effect) -> Option<Command> {
        match effect {
            Effect::ExpireApproval { turn, call, .. } => Some(Command::ApprovalExpired { turn, call }),
            Effect::ExpireClientTool { turn, call, .. } => Some(Command::ClientToolExpired { turn, call }),
            Effect::ExpireTurn { turn, attempt, .. } => Some(Command::TurnExpired {
                turn,
                attempt,
                stop: StoppedWork::default(),
            }),
            Effect::CallTool { turn, call, .. } => {
                let open = state.core.active()?.calls().iter().find(|open| open.id == call)?;
                if !matches!(open.stage, Stage::Running { .. }) {
                    return None;
                }
                // Its connector died with it. A call that was never sent has failed; the outcome of any other is
                // unknown.
                let unsent = state.gates.get(&call).is_some_and(|gate| gate.cancel());
                let tool = policy.tools.get(&open.name);
                let reads = tool.is_some_and(|tool| !tool.tool.repeat.changes_something());
                let status = if unsent || reads {
                    ToolStatus::Failed
                } else {
                    ToolStatus::Unknown
                };
                let error = Some("the connector for this system stopped unexpectedly during the call".to_owned());
                Some(Command::ToolReplied {
                    turn,
                    call,
                    status,
                    result: None,
                    error,
                })
            }
            Effect::CallModel { .. } => None,
        }
    }
}

/// Returns until when a call that ended as unknown may still report a late outcome.
fn unsettled_until(core: &crate::domain::conversation::Conversation, effect: &Effect) -> Option<Timestamp> {
    let Effect::CallTool {
        turn, call, settles_at, ..
    } = effect
    else {
        return None;
    };
    let unsettled = core.book.as_ref()?.unsettled.contains(&(*turn, *call));
    unsettled.then_some(*settles_at)
}
