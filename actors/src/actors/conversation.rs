//! `Conversation`: owns one conversation's state and is the only writer of its log.
//!
//! Supervised by [`Conversations`](super::conversations::Conversations). Invariant: decide, append, apply, reply,
//! effects, always in this order (`Conversation::step` is the only path). When it dies, the next caller gets a new
//! actor that replayed the log and resumed the open turns.

mod admission;
mod compression;
pub mod copies;
mod damaged;
mod effects;
mod hand_over;
pub(crate) mod lifecycle;
mod message;
pub(crate) mod oversized;
mod pause;
mod state;
pub(crate) mod stop;
mod title;

use std::pin::pin;
use std::sync::Arc;

use jiff::Timestamp;
use metrics::{counter, histogram};
use ractor::{Actor, ActorProcessingErr, RpcReplyPort, SupervisionEvent};
use tracing::Instrument as _;

use super::compressor::CompressionOutcome;
use super::shared::{Shared, TurnLimit, cause};
use super::spans::TurnSpans;
use crate::domain::conversation::Conversation as Core;
use crate::domain::conversation::command::{Command, Env, StoppedWork, WhenBusy};
use crate::domain::conversation::decide::Rejection;
use crate::domain::conversation::header::Header;
use crate::domain::conversation::screen::ScreenedCommand;
use crate::domain::conversation::stream::EncodedRecord;
use crate::domain::conversation::turn::Phase;
use crate::domain::event::{Event, GuardAction, Record};
use crate::domain::ids::{TenantId, TurnId};
use crate::domain::policy::Policy;
use crate::fairness::share::metered;
use crate::guardrails::{self, Entrance};
use crate::ports::{Append, LogError, ServingState};
use crate::{compute, crash};
use admission::KeyLookup;
pub use message::{
    Accepted, Args, ConversationRef, IncomingCommand, Msg, Principal, Refusal, Reply, Screening, StartedFlag,
};
pub use state::State;

/// Actor of one conversation; see the module documentation.
pub struct Conversation {
    /// Ports and limits of the process.
    pub shared: Arc<Shared>,
}

impl Conversation {
    async fn step(
        &self,
        me: &ConversationRef,
        state: &mut State,
        command: ScreenedCommand,
        reply: Option<RpcReplyPort<Reply>>,
    ) -> Result<(), ActorProcessingErr> {
        self.step_at(me, state, command, reply, None).await
    }

    /// The only path for a change. If `due` is given, the time of the decision is not before it.
    async fn step_at(
        &self,
        me: &ConversationRef,
        state: &mut State,
        command: ScreenedCommand,
        reply: Option<RpcReplyPort<Reply>>,
        due: Option<Timestamp>,
    ) -> Result<(), ActorProcessingErr> {
        let policy = self.policy(state, command.command());
        self.step_with_policy(me, state, &policy, command, reply, due).await
    }

    /// Like `step_at`, with a policy that was looked up before.
    async fn step_with_policy(
        &self,
        me: &ConversationRef,
        state: &mut State,
        policy: &Arc<Policy>,
        command: ScreenedCommand,
        reply: Option<RpcReplyPort<Reply>>,
        due: Option<Timestamp>,
    ) -> Result<(), ActorProcessingErr> {
        let may_await_approval = may_await_approval(state, policy, command.command());
        // The work stopped for this command is gone, so a failed append has consequences: the actor cannot simply carry
        // on.
        let halted = command
            .command()
            .stop()
            .is_some_and(|stop| *stop != StoppedWork::default());
        // A note for the successor: if it is not stored, this actor's memory is still correct.
        let is_note = matches!(command.command(), Command::Pause { .. } | Command::HandOver { .. });
        let (cost, now) = (command.command().weight(), self.now(due));
        let rules = Arc::clone(policy);
        let decide = move |core: &mut Core| -> Result<_, Rejection> {
            let policy = rules.as_ref();
            let env = Env {
                now,
                policy,
                may_await_approval,
            };
            let decision = core.decide(env, command)?;
            let header = header_after(core, &decision.records);
            Ok((decision, header))
        };
        let (decision, header) = match self.with_core(state, cost, decide).await? {
            Ok(decided) => decided,
            Err(rejection) => return refuse(reply, rejection.into()),
        };
        let records: Arc<[Record]> = decision.records.into();
        if !records.is_empty() {
            if let Some(replaced) = replaced_by(&records) {
                // What the summariser was given has the replaced turn.
                state.abandon_compression();
                if let Err(refusal) = self.withdraw_facts(state, replaced).await {
                    return refuse(reply, refusal);
                }
            }
            if let Err(error) = self.append(state, &records, header).await {
                // The id of a conversation that was erased and cleaned up comes back only with its idempotency key.
                // Nothing is known of it here; the answer is the one that the erased header would have given.
                if matches!(error, LogError::Erased) && state.core.book.is_none() {
                    return refuse(reply, Rejection::KeyReused.into());
                }
                // `Refused` means that nothing was written: the memory is correct, and the caller is told. After any
                // other error the memory may be wrong, so this actor ends.
                let known = matches!(error, LogError::Refused(_)) && (reply.is_some() || is_note) && !halted;
                tracing::warn!(tenant = %state.scope.tenant(), conversation = %state.core.id, %error, restarting = !known, "append to the conversation's log failed");
                // Another writer appended first, so nothing of this append was written: the successor may be asked.
                let refusal = match error {
                    LogError::Conflict(_) | LogError::Erased => Refusal::Gone,
                    LogError::Refused(_) => Refusal::Refused {
                        disk_full: error.is_disk_full(),
                    },
                    LogError::Unavailable(_) | LogError::Corrupt(_) => Refusal::Unavailable,
                };
                refuse(reply, refusal)?;
                return if known { Ok(()) } else { Err(error.into()) };
            }
            let (cost, shown) = (records.iter().map(Record::weight).sum(), Arc::clone(&records));
            let apply = move |core: &mut Core| -> Vec<EncodedRecord> {
                shown.iter().for_each(|record| core.apply(record));
                shown.iter().map(EncodedRecord::new).collect()
            };
            let encoded = self.with_core(state, cost, apply).await?;
            for record in records.iter() {
                count(state.scope.tenant(), record);
                if let Some(spans) = &state.spans {
                    spans.note(record);
                }
            }
            self.publish(state, &records, encoded);
        }
        if let Some(reply) = reply {
            accept(reply, state, decision.turn, records.to_vec());
        }
        state.count();
        if !records.is_empty() {
            self.run_effects(me, state);
            state.count();
            if state.core.live().is_none() {
                // Erased content must not reach a summariser.
                state.compression = None;
                state.titling = None;
            }
            if records.iter().any(|record| record.event.is_terminal()) {
                self.compress(me, state, policy);
                self.prepare_recall(state, policy, &records);
                self.title(me, state, policy, &records);
            }
        }
        Ok(())
    }

    /// Works on the state's core, on the compute pool if that takes long. The core is moved out meanwhile; nobody sees
    /// that, because the waiting handler has exclusive access to the state. An error ends this actor.
    async fn with_core<T: Send + 'static>(
        &self,
        state: &mut State,
        cost: usize,
        work: impl FnOnce(&mut Core) -> T + Send + 'static,
    ) -> Result<T, ActorProcessingErr> {
        if cost <= compute::INLINE_COST {
            return Ok(work(&mut state.core));
        }
        let away = Core::new(state.core.id);
        let mut core = std::mem::replace(&mut state.core, away);
        let work = move || {
            let done = work(&mut core);
            (core, done)
        };
        let (core, done) = compute::run(Some(state.scope.tenant()), cost, work).await?;
        state.core = core;
        Ok(done)
    }

    async fn append(&self, state: &State, records: &Arc<[Record]>, header: Option<Header>) -> Result<(), LogError> {
        let header = header.ok_or_else(|| LogError::Corrupt("log does not begin with conversation.created".into()))?;
        let append = Append {
            conversation: state.core.id,
            user: header.user.clone(),
            append_id: self.shared.ports.ids.uuid(),
            records: Arc::clone(records),
            header,
        };
        crash_points("append.before", records);
        let started = tokio::time::Instant::now();
        // Appends by a timer or a recovery belong to their turn's trace, all others to their sender's.
        let sender = tracing::Span::current();
        let turn = state.spans.as_ref().map(TurnSpans::whole);
        let span = tracing::info_span!(
            parent: turn.filter(|_| sender.is_disabled()).unwrap_or(&sender),
            "append",
            copilotd.append.first_seq = append.first_seq(),
            copilotd.append.records = records.len(),
        );
        let result = self
            .shared
            .ports
            .log
            .append(&state.scope, &append)
            .instrument(span)
            .await;
        histogram!("copilotd_append_wait_seconds").record(started.elapsed().as_secs_f64());
        crash_points("append.after", records);
        result
    }

    /// Publishes committed records together with the answer that is open now.
    fn publish(&self, state: &mut State, records: &[Record], encoded: Vec<EncodedRecord>) {
        state.list_turns(&self.shared.hub, records);
        let present = state
            .core
            .active()
            .filter(|turn| turn.phase == Phase::Thinking)
            .map(|turn| turn.present());
        if state.live.as_ref().is_some_and(|live| Some(live.message.at) != present) {
            state.live = None;
        }
        let validated = state.core.active().is_some_and(|turn| turn.response_schema.is_some());
        for record in records {
            if let (Event::ContextAssembled { prompt_tokens, .. }, Some(live)) = (&record.event, &mut state.live) {
                live.prompt_tokens = *prompt_tokens;
                live.shown = !validated;
            }
        }
        let (scope, id) = (&state.scope, state.core.id);
        let tail = match state.tail.take() {
            Some(tail) => Some(tail),
            None if state.core.active().is_some() => Some(self.shared.hub.tail(scope, id)),
            None => self.shared.hub.existing(scope, id),
        };
        if let Some(tail) = tail {
            let shown = state.live.as_ref().filter(|live| live.shown).map(|live| &live.message);
            if let Some(message) = shown {
                message.show();
            }
            tail.publish(encoded, shown);
            // Kept while a turn runs; afterwards it lives as long as somebody watches.
            state.tail = state.core.active().is_some().then_some(tail);
        }
    }

    /// Returns the current time, but no earlier than `due`.
    fn now(&self, due: Option<Timestamp>) -> Timestamp {
        let now = self.shared.ports.clock.now();
        due.map_or(now, |due| due.max(now))
    }

    async fn with_halt(
        &self,
        state: &mut State,
        policy: &Arc<Policy>,
        command: ScreenedCommand,
    ) -> Result<Result<ScreenedCommand, Rejection>, ActorProcessingErr> {
        self.with_halt_at(state, policy, command, None).await
    }

    /// Puts the stop into a command that stops the running turn, once it is certain that the command will be accepted.
    async fn with_halt_at(
        &self,
        state: &mut State,
        policy: &Arc<Policy>,
        mut command: ScreenedCommand,
        due: Option<Timestamp>,
    ) -> Result<Result<ScreenedCommand, Rejection>, ActorProcessingErr> {
        let active = state.core.active().map(|turn| turn.id);
        let stops = match command.command() {
            Command::Cancel { turn, .. } | Command::TurnExpired { turn, .. } => Some(*turn) == active,
            Command::Submit { when_busy, .. } => *when_busy == WhenBusy::Interrupt && active.is_some(),
            Command::Erase { .. } | Command::Suspend { .. } => active.is_some(),
            _ => false,
        };
        if !stops {
            return Ok(Ok(command));
        }
        let (cost, now) = (command.command().weight(), self.now(due));
        let (rules, trial) = (Arc::clone(policy), command.clone());
        let try_out = move |core: &mut Core| {
            let policy = rules.as_ref();
            let env = Env {
                now,
                policy,
                may_await_approval: true,
            };
            core.decide(env, trial).map(|decision| decision.records.is_empty())
        };
        match self.with_core(state, cost, try_out).await? {
            Ok(false) => {}
            Ok(true) => return Ok(Ok(command)),
            Err(rejection) => return Ok(Err(rejection)),
        }
        if let Some(stop) = command.stop_mut() {
            *stop = self.stop(state, policy, now);
        }
        Ok(Ok(command))
    }

    /// Refuses callers whom this actor cannot serve.
    async fn receive(&self, state: &mut State, principal: &Principal) -> Result<(), Refusal> {
        if state.passivating {
            return Err(Refusal::Gone);
        }
        if state.is_damaged {
            return Err(self.refusal_of_damaged(state, principal).await);
        }
        state.asked = true;
        if self.standing(state) == ServingState::LeftOut {
            return Err(Refusal::LeftOut);
        }
        let book = state.core.book.as_ref();
        if book.is_some_and(|book| book.header.user != principal.user && !principal.admin) {
            return Err(Rejection::NotFound.into());
        }
        Ok(())
    }

    async fn execute(
        &self,
        me: &ConversationRef,
        state: &mut State,
        principal: &Principal,
        command: IncomingCommand,
        reply: RpcReplyPort<Reply>,
    ) -> Result<(), ActorProcessingErr> {
        let by = match &command {
            IncomingCommand::Light(Command::Erase { by, .. } | Command::EraseIdle { by, .. }) => Some(by.clone()),
            _ => None,
        };
        // A log with nothing left looks like one that never existed; only its header tells.
        if let Some(by) = by
            && !state.passivating
            && (state.is_damaged || state.core.book.is_none())
        {
            return self.erase_damaged(state, principal, by, reply).await;
        }
        if let Err(refusal) = self.receive(state, principal).await {
            return refuse(Some(reply), refusal);
        }
        let command = match command {
            IncomingCommand::Light(command) => state.core.screen(&self.policy(state, &command), command),
            IncomingCommand::ScreenedCommand(command) => command,
        };
        let command = match self.known(state, command).await {
            Ok(KeyLookup::New(command)) => *command,
            Ok(KeyLookup::Copy(turn)) => {
                accept(reply, state, Some(turn), Vec::new());
                return Ok(());
            }
            Err(refusal) => return refuse(Some(reply), refusal),
        };
        if let Err(refusal) = self.check_quotas(state, principal, command.command()).await {
            return refuse(Some(reply), refusal);
        }
        // A decision or a page's answer makes a turn that held no permit run again; if it is refused now, it can be
        // repeated.
        let needs_permit = match command.command() {
            Command::Submit { .. } => true,
            Command::Decide { .. } | Command::AnswerClientTool { .. } => {
                state.core.active().is_some_and(|turn| turn.is_parked())
            }
            _ => false,
        };
        if needs_permit && let Err(full) = state.counted.admit() {
            let bounds = &self.shared.bounds;
            let most = match full {
                TurnLimit::Tenant => bounds.tenant_turns,
                TurnLimit::User => bounds.user_turns,
                TurnLimit::Node => bounds.node_turns,
            };
            return refuse(Some(reply), Refusal::TurnLimit(full, most));
        }
        if let (Command::Submit { .. }, Some(book)) = (command.command(), &state.core.book) {
            let (tenant, most) = (state.scope.tenant(), self.shared.bounds.user_turns);
            state.pending_permit = self.shared.user_turns.take(tenant, &book.header.user, most);
            if state.pending_permit.is_none() {
                state.count();
                return refuse(Some(reply), Refusal::TurnLimit(TurnLimit::User, most));
            }
        }
        let policy = self.policy(state, command.command());
        let done = match self.with_halt(state, &policy, command).await? {
            Ok(command) => self.step(me, state, command, Some(reply)).await,
            Err(rejection) => refuse(Some(reply), rejection.into()),
        };
        // A refused turn returns its permits.
        state.pending_permit = None;
        state.count();
        done
    }

    fn policy(&self, state: &State, command: &Command) -> Arc<Policy> {
        let copilot = match (&state.core.book, command) {
            (Some(book), _) => Some(&book.header.copilot),
            (None, Command::Create { copilot, .. }) => Some(copilot),
            _ => None,
        };
        let found = copilot.and_then(|copilot| self.shared.ports.policies.policy(&state.scope, Some(copilot)));
        found.unwrap_or_else(|| {
            if self.standing(state) != ServingState::LeftOut {
                return Arc::new(Policy::removed(copilot));
            }
            let known = state.policy.clone();
            known.unwrap_or_else(|| Arc::new(Policy::unavailable(copilot)))
        })
    }

    async fn take(&self, me: &ConversationRef, msg: Msg, state: &mut State) -> Result<(), ActorProcessingErr> {
        match msg {
            // Handled before this.
            Msg::StandingChanged => {}
            Msg::AgentDied(at) => self.agent_died(me, state, at).await?,
            Msg::StepDeferred(step) => self.step_deferred(me, state, step).await?,
            Msg::StepTooLarge { at, failure } => self.step_too_large(me, state, at, *failure).await?,
            Msg::SummaryOverdue(at) => self.summary_overdue(me, state, at),
            Msg::CallDeferred { call, gate } => self.call_deferred(me, state, call, &gate).await?,
            Msg::Execute {
                principal,
                command,
                started,
                reply,
            } => {
                started.mark();
                self.execute(me, state, &principal, *command, reply).await?;
            }
            Msg::Screening {
                principal,
                command,
                reply,
            } => {
                let screening = self.receive(state, &principal).await.map(|()| Screening {
                    policy: self.policy(state, &command),
                    tool: state.core.tool_of(&command),
                });
                let _ = reply.send(screening);
            }
            Msg::Report(command) => self.step(me, state, *command, None).await?,
            Msg::Position { turn, reply } => {
                let _ = reply.send(position(state, turn));
                return Ok(());
            }
            Msg::Due(effect) => self.due(me, state, effect).await?,
            // A compression that was abandoned may have ended before it was stopped.
            Msg::CompressionEnded { number, .. } if number != state.compressions => {}
            Msg::CompressionEnded { outcome, .. } => {
                state.compression = None;
                let is_compressed = matches!(outcome, CompressionOutcome::Compressed(_));
                match outcome {
                    CompressionOutcome::NotNeeded => {}
                    CompressionOutcome::Failed => state.compression_failures += 1,
                    CompressionOutcome::Compressed(command) => {
                        state.compression_failures = 0;
                        let policy = self.policy(state, &command);
                        let command = state.core.screen(&policy, *command);
                        self.step(me, state, command, None).await?;
                    }
                }
                self.after_compression(me, state, is_compressed).await?;
                if state.compress_again {
                    let policy = self.policy(state, &Command::RECOVER);
                    self.compress(me, state, &policy);
                }
            }
            Msg::TitleEnded(None) => state.titling = None,
            Msg::TitleEnded(Some(command)) => {
                state.titling = None;
                let policy = self.policy(state, &command);
                let command = state.core.screen(&policy, *command);
                self.step(me, state, command, None).await?;
            }
            Msg::Idle(generation) => {
                self.passivate(me, state, generation);
                return Ok(());
            }
            Msg::Stored(seq) => return self.compare(state, seq).await,
            Msg::HandOver(deadline) => return self.hand_over(me, state, deadline).await,
            // Handled only by `handle_during_hand_over`.
            Msg::HandOverDue => return Ok(()),
        }
        self.rest(me, state);
        Ok(())
    }
}

/// Returns the header as it will be after these records; `None` if the log is empty and they do not begin it.
fn header_after(core: &Core, records: &[Record]) -> Option<Header> {
    let (mut header, rest) = match &core.book {
        Some(book) => (book.header.clone(), records),
        None => (Header::open(core.id, records.first()?)?, &records[1..]),
    };
    rest.iter().for_each(|record| header.apply(record));
    Some(header)
}

/// Takes an approval permit for what the model asks a person or a page for, before the command is decided. If it turns
/// out not to be needed, the next count returns it.
fn may_await_approval(state: &mut State, policy: &Policy, command: &Command) -> bool {
    let Command::ModelReplied { reply, .. } = command else {
        return true;
    };
    let of_page = state
        .core
        .active()
        .map(|turn| Arc::clone(&turn.client_tools))
        .unwrap_or_default();
    let asks = |name: &String| match policy.tools.get(name) {
        Some(tool) => tool.approval,
        None => of_page.iter().any(|tool| tool.name == *name),
    };
    let live = state
        .core
        .live()
        .filter(|_| reply.calls.iter().any(|(name, _)| asks(name)));
    let Some(book) = live else {
        return true;
    };
    state.counted.acquire_approval(state.core.id, &book.header.user)
}

fn position(state: &State, turn: TurnId) -> Option<usize> {
    state.core.book.as_ref()?.turns.iter().position(|open| open.id == turn)
}

fn accept(reply: RpcReplyPort<Reply>, state: &State, turn: Option<TurnId>, records: Vec<Record>) {
    let Some(book) = &state.core.book else { return };
    // The caller may have gone; the change is stored all the same.
    let _ = reply.send(Ok(Accepted {
        header: book.header.clone(),
        turn,
        records,
        position: turn.and_then(|turn| position(state, turn)),
    }));
}

fn refuse(reply: Option<RpcReplyPort<Reply>>, refusal: Refusal) -> Result<(), ActorProcessingErr> {
    if let Some(reply) = reply {
        let _ = reply.send(Err(refusal));
    }
    Ok(())
}

/// Returns the turn that the records replace.
fn replaced_by(records: &[Record]) -> Option<TurnId> {
    let replaced = records
        .iter()
        .find(|record| matches!(record.event, Event::TurnReplaced { .. }));
    replaced.and_then(|record| record.turn)
}

fn crash_points(place: &str, records: &[Record]) {
    if cfg!(feature = "crash-points") {
        for record in records {
            crash::point(&format!("{place}:{}", record.event.name()));
        }
    }
}

fn count(tenant: &TenantId, record: &Record) {
    let state = match &record.event {
        // A repair is the model's, not a guardrail's.
        Event::GuardrailTriggered {
            stage, rule, action, ..
        } if *action != GuardAction::Repair => {
            return guardrails::report(Entrance::Turn, tenant, *stage, *action, rule);
        }
        Event::TurnQueued { .. } => "queued",
        Event::TurnStarted { attempt: 1, .. } => "started",
        Event::TurnCompleted { .. } => "completed",
        Event::TurnFailed { .. } => "failed",
        Event::TurnCancelled { .. } => "cancelled",
        _ => return,
    };
    counter!("copilotd_turns_total", "state" => state).increment(1);
}

impl Actor for Conversation {
    type Msg = Msg;
    type State = State;
    type Arguments = Args;

    async fn pre_start(&self, _: ConversationRef, args: Args) -> Result<State, ActorProcessingErr> {
        Ok(State::new(args, &self.shared))
    }

    async fn post_start(&self, me: ConversationRef, state: &mut State) -> Result<(), ActorProcessingErr> {
        let share = self.shared.shares.of(state.scope.tenant());
        let loaded = metered(share, pin!(self.load(&me, state))).await;
        match loaded.as_ref().map_err(|error| error.downcast_ref::<LogError>()) {
            // Restarting would fail again at the next run of the reconciler: the actor says so and is passivated.
            Err(Some(LogError::Corrupt(reason))) => {
                counter!("copilotd_unreadable_rows_total", "what" => "log").increment(1);
                tracing::error!(
                    tenant = %state.scope.tenant(), conversation = %state.core.id, reason,
                    "conversation log is damaged; refusing requests for it, other conversations are unaffected"
                );
                state.mark_damaged();
                self.rest(&me, state);
                Ok(())
            }
            _ => loaded,
        }
    }

    async fn handle(&self, me: ConversationRef, msg: Msg, state: &mut State) -> Result<(), ActorProcessingErr> {
        // Boxed, so that an idle conversation reserves no memory for handling a message.
        Box::pin(async move {
            self.follow_standing(&me, state).await?;
            let share = self.shared.shares.of(state.scope.tenant());
            if state.handing_over {
                return metered(share, Box::pin(self.handle_during_hand_over(&me, msg, state))).await;
            }
            metered(share, pin!(self.take(&me, msg, state))).await
        })
        .await
    }

    /// Reached only by a clean stop; nobody waits for the result, and recovery covers a failure.
    async fn post_stop(&self, me: ConversationRef, state: &mut State) -> Result<(), ActorProcessingErr> {
        if let Err(error) = self.record_unsent(&me, state).await {
            tracing::warn!(tenant = %state.scope.tenant(), conversation = %state.core.id, error = cause(&error), "could not record which tool calls were never sent; the next process treats them as possibly sent");
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        _: ConversationRef,
        event: SupervisionEvent,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        // Nothing is linked to a conversation.
        tracing::debug!(conversation = %state.core.id, ?event, "unexpected supervision event");
        Ok(())
    }
}
