//! `Conversation`: owns one conversation's state and is the only writer of its log.
//!
//! Supervised by [`Conversations`](crate::conversations::Conversations). Invariant: decide, append, apply, reply, effects,
//! always in this order (`Conversation::step` is the only path). When it dies, whoever needs it next gets a copy that
//! was folded from the log and took up what was open.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use jiff::Timestamp;
use metrics::{counter, histogram};
use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort, SupervisionEvent};
use tokio::task::JoinHandle;
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument as _;

use crate::agent::{Agent, Think, usage_of_sealed};
use crate::compressor::{self, Outcome};
use crate::connector::{Gate, Job};
use crate::conversations;
use crate::crash;
use crate::domain::command::{Command, Env, Halt, Sealed, Step, WhenBusy};
use crate::domain::content::ToolStatus;
use crate::domain::conversation::Conversation as Core;
use crate::domain::decide::Rejection;
use crate::domain::effects::{Effect, open_effects};
use crate::domain::event::{Event, Record, RetryMode};
use crate::domain::header::Header;
use crate::domain::ids::{CallId, ConversationId, Seq, TenantId, TurnId, UserId};
use crate::domain::policy::Policy;
use crate::domain::snapshot;
use crate::domain::turn::{Phase, Stage, Turn};
use crate::live::{LiveMessage, Tail};
use crate::ports::{Append, LogError, Snapshot, ToolRequest};
use crate::shared::{Alive, Full, Shared, cause, outside_spans, until};
use crate::spans::TurnSpans;
use crate::tenancy::TenantScope;

/// Records that are read at once while the log is folded.
const PAGE: usize = 512;
/// After a call must have settled, this much later the conversation stops waiting for its connector's word.
const CALL_GRACE: Duration = Duration::from_secs(5);
/// What was never created is let go after so long: time enough for the request that woke it to arrive.
const NEVER_CREATED: Duration = Duration::from_secs(1);

/// Address of a conversation.
pub type ConversationRef = ActorRef<Msg>;

/// What a conversation is asked and told.
#[derive(Debug)]
pub enum Msg {
    /// Somebody outside wants a change.
    Ask {
        /// Who asks.
        asker: Asker,
        /// What for.
        command: Box<Command>,
        /// Answered once it is stored or refused.
        reply: RpcReplyPort<Reply>,
    },
    /// An agent or a connector reports work.
    Report(Box<Command>),
    /// How many turns stand before this one; none if it is not open.
    Position {
        /// The turn.
        turn: TurnId,
        /// Answered at once.
        reply: RpcReplyPort<Option<usize>>,
    },
    /// A timer of an effect went off.
    Due(Effect),
    /// Nothing has happened for a while since this generation.
    Idle(u64),
    /// The compression under way came to this.
    CompressionEnded(Outcome),
}

impl Msg {
    /// Wraps a report.
    pub fn report(command: Command) -> Self {
        Self::Report(Box::new(command))
    }
}

/// Who asks for a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asker {
    /// The user.
    pub user: UserId,
    /// Whether an administrator of the tenant asks, who may act on other users' conversations.
    pub admin: bool,
}

/// Answer to [`Msg::Ask`].
pub type Reply = Result<Accepted, Refusal>;

/// The change is stored.
#[derive(Debug, Clone, PartialEq)]
pub struct Accepted {
    /// The conversation as it is now.
    pub header: Header,
    /// The turn it is about.
    pub turn: Option<TurnId>,
    /// What was stored for it; empty for a copy of an earlier request.
    pub records: Vec<Record>,
    /// Turns that stand before it.
    pub position: Option<usize>,
}

/// The change is not stored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The core refuses it.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// Too many turns are open.
    #[error("too many turns are open")]
    Full(Full),
    /// This copy is being let go: ask the directory again.
    #[error("the conversation is being let go")]
    Gone,
    /// The store cannot take it now. Nothing is known to be stored; asking again with the same key is safe.
    #[error("the store is unavailable")]
    Unavailable,
}

/// What differs per instance.
#[derive(Debug, Clone)]
pub struct Args {
    /// Its tenant.
    pub scope: TenantScope,
    /// Its id.
    pub id: ConversationId,
}

/// The actor; see the module.
pub struct Conversation {
    /// Shared parts.
    pub shared: Arc<Shared>,
}

/// All that changes.
pub struct State {
    scope: TenantScope,
    core: Core,
    tail: Option<Arc<Tail>>,
    live: Option<Live>,
    agent: Option<(TurnId, ActorRef<Box<Think>>)>,
    running: HashMap<Effect, Option<AbortOnDropHandle<()>>>,
    gates: HashMap<CallId, Arc<Gate>>,
    compression: Option<AbortOnDropHandle<()>>,
    compress_again: bool,
    compression_failures: u32,
    snapshot_seq: Seq,
    idle: Option<AbortOnDropHandle<()>>,
    generation: u64,
    retiring: bool,
    counted: Counted,
    spans: Option<TurnSpans>,
    _alive: Alive,
}

struct Live {
    message: Arc<LiveMessage>,
    shown: bool,
    prompt_tokens: u64,
}

/// Open turns of this copy, as far as admission counts them; given back when the copy ends, however it ends.
struct Counted {
    shared: Arc<Shared>,
    tenant: TenantId,
    turns: usize,
    queued: usize,
    busy: bool,
}

impl State {
    fn count(&mut self) {
        let open = self.core.book.as_ref().map_or(0, |book| book.turns.len());
        let queued = open - usize::from(self.core.active().is_some());
        let busy = self.core.active().is_some_and(|turn| !turn.only_awaits_approval());
        self.counted.set(open, queued, busy);
    }
}

impl Counted {
    /// Takes a place for one more turn before it is stored, so that many at once do not pass the bound together.
    fn admit(&mut self) -> Result<(), Full> {
        self.shared.admission.admit(&self.tenant, &self.shared.bounds)?;
        self.turns += 1;
        Ok(())
    }

    fn set(&mut self, turns: usize, queued: usize, busy: bool) {
        self.shared.admission.count(&self.tenant, self.turns, turns);
        self.shared.admission.count_queued(self.queued, queued);
        self.shared.admission.count_busy(self.busy, busy);
        (self.turns, self.queued, self.busy) = (turns, queued, busy);
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.set(0, 0, false);
    }
}

impl Conversation {
    /// The one path of every change.
    async fn step(
        &self,
        me: &ConversationRef,
        state: &mut State,
        command: Command,
        reply: Option<RpcReplyPort<Reply>>,
    ) -> Result<(), ActorProcessingErr> {
        let policy = self.policy(state, &command);
        let env = Env {
            now: self.shared.ports.clock.now(),
            policy: &policy,
        };
        // What was stopped for this command does not run any more: its refusal by the store is not without consequences.
        let halted = command.halt().is_some_and(|halt| *halt != Halt::default());
        let decision = match state.core.decide(env, command) {
            Ok(decision) => decision,
            Err(rejection) => return refuse(reply, rejection.into()),
        };
        if !decision.records.is_empty() {
            if let Err(error) = self.append(state, &decision.records).await {
                // Refused for good means that nothing was written: the memory is right and the caller is told. Everything
                // else means that it may be wrong: this copy ends.
                let known = matches!(error, LogError::Refused(_)) && reply.is_some() && !halted;
                tracing::warn!(conversation = %state.core.id, %error, "an append failed");
                // Behind another writer's append nothing of this one was written: the successor may be asked.
                let lost = matches!(error, LogError::Conflict(_) | LogError::Erased);
                let refusal = if lost { Refusal::Gone } else { Refusal::Unavailable };
                refuse(reply, refusal)?;
                return if known { Ok(()) } else { Err(error.into()) };
            }
            for record in &decision.records {
                state.core.apply(record);
                count(record);
                if let Some(spans) = &state.spans {
                    spans.note(record);
                }
            }
            self.publish(state, &decision.records);
        }
        if let (Some(reply), Some(book)) = (reply, &state.core.book) {
            let position = decision.turn.and_then(|turn| position(state, turn));
            let header = book.header.clone();
            // The caller may have gone; what it asked for is stored all the same.
            let (turn, records) = (decision.turn, decision.records.clone());
            let _ = reply.send(Ok(Accepted {
                header,
                turn,
                records,
                position,
            }));
        }
        state.count();
        if !decision.records.is_empty() {
            self.run_effects(me, state, &policy).await?;
            if state.core.live().is_none() {
                // What was erased is shown to no summariser.
                state.compression = None;
            }
            if decision.records.iter().any(|record| record.event.is_terminal()) {
                self.compress(me, state, &policy);
            }
        }
        Ok(())
    }

    async fn append(&self, state: &State, records: &[Record]) -> Result<(), LogError> {
        let mut header = match &state.core.book {
            Some(book) => book.header.clone(),
            None => records
                .first()
                .and_then(|first| Header::open(state.core.id, first))
                .ok_or_else(|| LogError::Corrupt("a log has to begin with its conversation's creation".into()))?,
        };
        let skip = usize::from(state.core.book.is_none());
        records.iter().skip(skip).for_each(|record| header.apply(record));
        let append = Append {
            conversation: state.core.id,
            user: header.user.clone(),
            append_id: self.shared.ports.ids.uuid(),
            records: records.to_vec(),
            header,
        };
        crash_points("append.before", records);
        let begun = tokio::time::Instant::now();
        // What a timer or a recovery appends belongs to its turn's trace; everything else to that of its sender.
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
        histogram!("copilotd_append_wait_seconds").record(begun.elapsed().as_secs_f64());
        crash_points("append.after", records);
        result
    }

    /// Shows committed records, and with them the answer that is open now.
    fn publish(&self, state: &mut State, records: &[Record]) {
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
        let (tenant, id) = (state.scope.tenant().clone(), state.core.id);
        let tail = match state.tail.take() {
            Some(tail) => Some(tail),
            None if state.core.active().is_some() => Some(self.shared.hub.tail(&tenant, id)),
            None => self.shared.hub.existing(&tenant, id),
        };
        if let Some(tail) = tail {
            let shown = state.live.as_ref().filter(|live| live.shown).map(|live| &live.message);
            if let Some(message) = shown {
                message.show();
            }
            tail.publish(records, shown);
            // Held while a turn runs; else it lives as long as somebody watches.
            state.tail = state.core.active().is_some().then_some(tail);
        }
    }

    /// Starts what is due and not under way, and stops what is under way and not due any more.
    async fn run_effects(
        &self,
        me: &ConversationRef,
        state: &mut State,
        policy: &Arc<Policy>,
    ) -> Result<(), ActorProcessingErr> {
        let wanted = open_effects(&state.core, policy);
        state.running.retain(|effect, _| wanted.contains(effect));
        let open: Vec<CallId> = wanted
            .iter()
            .filter_map(|effect| {
                if let Effect::CallTool { call, .. } = effect {
                    Some(*call)
                } else {
                    None
                }
            })
            .collect();
        state.gates.retain(|call, _| open.contains(call));
        let active = state.core.active().map(|turn| turn.id);
        state.spans.take_if(|spans| Some(spans.turn()) != active);
        if let Some((_, agent)) = state.agent.take_if(|(turn, _)| Some(*turn) != active) {
            // Drops its handler where it stands, and with it the provider's connection.
            agent.kill();
        }
        for effect in wanted {
            if state.running.contains_key(&effect) {
                continue;
            }
            let handle = self.start(me, state, policy, effect).await?;
            state.running.insert(effect, handle);
        }
        Ok(())
    }

    async fn start(
        &self,
        me: &ConversationRef,
        state: &mut State,
        policy: &Arc<Policy>,
        effect: Effect,
    ) -> Result<Option<AbortOnDropHandle<()>>, ActorProcessingErr> {
        match effect {
            Effect::CallModel { at, not_before } => {
                crash::point("effect.before:call_model");
                self.call_model(me, state, policy, at, not_before).await?;
                crash::point("effect.after:call_model");
                Ok(None)
            }
            Effect::CallTool {
                turn,
                call,
                mode,
                settles_at,
                retry,
            } => {
                crash::point("effect.before:call_tool");
                self.call_tool(me, state, policy, turn, call, mode, settles_at, retry > 0);
                crash::point("effect.after:call_tool");
                Ok(Some(self.timer(me, effect, settles_at, CALL_GRACE)))
            }
            Effect::ExpireApproval { at, .. } | Effect::ExpireTurn { at, .. } => {
                Ok(Some(self.timer(me, effect, at, Duration::ZERO)))
            }
        }
    }

    fn timer(&self, me: &ConversationRef, effect: Effect, at: Timestamp, grace: Duration) -> AbortOnDropHandle<()> {
        let me = me.clone();
        let time = until(self.shared.ports.clock.now(), at) + grace;
        AbortOnDropHandle::new(tokio::spawn(async move {
            tokio::time::sleep(time).await;
            let _ = me.cast(Msg::Due(effect));
        }))
    }

    async fn call_model(
        &self,
        me: &ConversationRef,
        state: &mut State,
        policy: &Arc<Policy>,
        at: Step,
        not_before: Option<Timestamp>,
    ) -> Result<(), ActorProcessingErr> {
        let (Some(turn), Some(book)) = (state.core.active(), &state.core.book) else {
            return Ok(());
        };
        let agent = match &state.agent {
            Some((_, agent)) => agent.clone(),
            None => {
                let agent = Agent {
                    shared: Arc::clone(&self.shared),
                    conversation: me.clone(),
                    id: state.core.id,
                    scope: state.scope.clone(),
                    user: book.header.user.clone(),
                };
                Actor::spawn_linked(None, agent, (), me.get_cell()).await?.0
            }
        };
        let tail = state
            .tail
            .get_or_insert_with(|| self.shared.hub.tail(state.scope.tenant(), state.core.id));
        let message = LiveMessage::new(at, tail);
        let think = Think {
            at,
            not_before,
            memory: state.core.memory.clone(),
            policy: Arc::clone(policy),
            response_schema: turn.response_schema.clone(),
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
        state.agent = Some((at.turn, agent.clone()));
        // If it is dead already, its supervision event says so and the turn is taken up again.
        let _ = outside_spans(|| agent.cast(Box::new(think)));
        Ok(())
    }

    /// The spans of `turn`: those that are open, or new ones in the trace of its request.
    fn spans<'a>(
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
    fn call_tool(
        &self,
        me: &ConversationRef,
        state: &mut State,
        policy: &Policy,
        turn: TurnId,
        call_id: CallId,
        mode: RetryMode,
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
            let error = Some("the tool is not configured any more".to_owned());
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
            let _ = me.cast(Msg::report(command));
            return;
        };
        let gate = Arc::new(if retried { Gate::passed() } else { Gate::default() });
        state.gates.insert(call_id, Arc::clone(&gate));
        let request = ToolRequest {
            scope: state.scope.clone(),
            tool: call.name.clone(),
            call: call_id,
            arguments: call.arguments.clone(),
            timeout: tool.timeout,
        };
        let job = Job {
            request,
            system: tool.tool.system.clone(),
            turn,
            repeat: tool.tool.repeat,
            mode,
            settles_at,
            gate,
            reply_to: me.clone(),
            span: self.spans(&mut state.spans, &state.scope, open, state.core.id).agent(
                open,
                &state.scope,
                state.core.id,
                policy,
            ),
        };
        if let Some(connectors) = self.shared.connectors.get() {
            let _ = outside_spans(|| connectors.cast(Box::new(job)));
        }
    }

    /// A timer went off. The core checks whether it still means anything.
    async fn due(&self, me: &ConversationRef, state: &mut State, effect: Effect) -> Result<(), ActorProcessingErr> {
        if !state.running.contains_key(&effect) {
            return Ok(());
        }
        if !matches!(effect, Effect::CallTool { .. }) {
            // If the clock was set back, or the policy changed, it is not due after all: then it is set anew below.
            state.running.remove(&effect);
        }
        let policy = self.policy(state, &Command::Recover);
        let command = self.command_of(state, &policy, effect);
        if let Some(Ok(command)) = command.map(|command| self.with_halt(state, &policy, command)) {
            self.step(me, state, command, None).await?;
        }
        self.run_effects(me, state, &policy).await
    }

    fn command_of(&self, state: &State, policy: &Policy, effect: Effect) -> Option<Command> {
        match effect {
            Effect::ExpireApproval { turn, call, .. } => Some(Command::ApprovalExpired { turn, call }),
            Effect::ExpireTurn { turn, attempt, .. } => Some(Command::TurnExpired {
                turn,
                attempt,
                halt: Halt::default(),
            }),
            Effect::CallTool { turn, call, .. } => {
                let open = state.core.active()?.calls().iter().find(|open| open.id == call)?;
                if !matches!(open.stage, Stage::Running { .. }) {
                    return None;
                }
                // Its connector died with it. A call that never left has failed; of another nobody knows.
                let unsent = state.gates.get(&call).is_some_and(|gate| gate.cancel());
                let tool = policy.tools.get(&open.name);
                let reads = tool.is_some_and(|tool| !tool.tool.repeat.changes_something());
                let status = if unsent || reads {
                    ToolStatus::Failed
                } else {
                    ToolStatus::Unknown
                };
                let error = Some("the system's connector was lost while the call was with it".to_owned());
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

    /// Stops the running turn's work where it is: nothing more is shown or sent, and what was is known exactly.
    fn halt(&self, state: &State) -> Halt {
        let sealed = state.live.as_ref().map(|live| {
            let text = live.message.seal();
            let usage = usage_of_sealed(&text, live.prompt_tokens);
            Sealed {
                at: live.message.at,
                text,
                usage,
            }
        });
        let unsent = state
            .gates
            .iter()
            .filter(|(_, gate)| gate.cancel())
            .map(|(call, _)| *call)
            .collect();
        Halt { sealed, unsent }
    }

    /// Puts the halt into a command that stops the running turn, once it is clear that the command will be accepted.
    fn with_halt(&self, state: &State, policy: &Policy, mut command: Command) -> Result<Command, Rejection> {
        let active = state.core.active().map(|turn| turn.id);
        let stops = match &command {
            Command::Cancel { turn, .. } | Command::TurnExpired { turn, .. } => Some(*turn) == active,
            Command::Submit { when_busy, .. } => *when_busy == WhenBusy::Interrupt && active.is_some(),
            Command::Erase { .. } => active.is_some(),
            _ => false,
        };
        if !stops {
            return Ok(command);
        }
        let env = Env {
            now: self.shared.ports.clock.now(),
            policy,
        };
        if state.core.decide(env, command.clone())?.records.is_empty() {
            return Ok(command);
        }
        if let Some(halt) = command.halt_mut() {
            *halt = self.halt(state);
        }
        Ok(command)
    }

    async fn ask(
        &self,
        me: &ConversationRef,
        state: &mut State,
        asker: &Asker,
        command: Command,
        reply: RpcReplyPort<Reply>,
    ) -> Result<(), ActorProcessingErr> {
        if state.retiring {
            return refuse(Some(reply), Refusal::Gone);
        }
        let foreign = state
            .core
            .book
            .as_ref()
            .is_some_and(|book| book.header.user != asker.user && !asker.admin);
        if foreign {
            return refuse(Some(reply), Rejection::NotFound.into());
        }
        if let Command::Submit { .. } = command
            && let Err(full) = state.counted.admit()
        {
            return refuse(Some(reply), Refusal::Full(full));
        }
        let policy = self.policy(state, &command);
        let done = match self.with_halt(state, &policy, command) {
            Ok(command) => self.step(me, state, command, Some(reply)).await,
            Err(rejection) => refuse(Some(reply), rejection.into()),
        };
        // A refused turn gives its place back.
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
        found.unwrap_or_else(|| Arc::new(Policy::removed(copilot)))
    }

    /// Makes the older part of the memory smaller, off the user's path: after a turn.
    fn compress(&self, me: &ConversationRef, state: &mut State, policy: &Arc<Policy>) {
        if state.compression.is_some() {
            // It looks at the memory as it was; one more look follows it.
            state.compress_again = true;
            return;
        }
        state.compress_again = false;
        let Some(book) = state.core.live() else { return };
        let work = compressor::Work {
            shared: Arc::clone(&self.shared),
            scope: state.scope.clone(),
            conversation: state.core.id,
            user: book.header.user.clone(),
            memory: state.core.memory.clone(),
            policy: Arc::clone(policy),
            failures: state.compression_failures,
        };
        let me = me.clone();
        let task = async move {
            // Whatever breaks in there: a word comes back, or the conversation would wait for it for ever.
            let outcome = AssertUnwindSafe(compressor::compress(work)).catch_unwind().await;
            let outcome = outcome.unwrap_or(Outcome::Failed);
            let _ = me.cast(Msg::CompressionEnded(outcome));
        };
        let span = tracing::info_span!("compress", gen_ai.conversation.id = %state.core.id);
        state.compression = Some(AbortOnDropHandle::new(tokio::spawn(task.instrument(span))));
    }

    /// Folds the log; then what is open is taken up. The same functions as in life.
    async fn load(&self, me: &ConversationRef, state: &mut State) -> Result<(), ActorProcessingErr> {
        let log = &self.shared.ports.log;
        let id = state.core.id;
        let mut from: Seq = 1;
        if let Some(Snapshot { seq, state: bytes, .. }) = log
            .snapshot(&state.scope, id)
            .await?
            .filter(|snapshot| snapshot.version == snapshot::VERSION)
            && let Some((core, window_from)) = snapshot::decode(id, seq, &bytes)
        {
            state.core = core;
            state.snapshot_seq = seq;
            from = window_from;
        }
        loop {
            let page = log.read(&state.scope, id, from - 1, PAGE).await?;
            let Some(last) = page.last() else { break };
            from = last.seq + 1;
            let full = page.len() == PAGE;
            for record in &page {
                if record.seq <= state.snapshot_seq {
                    snapshot::refill(&mut state.core, record);
                } else {
                    state.core.apply(record);
                }
            }
            if !full {
                break;
            }
        }
        if let Some(tail) = self.shared.hub.existing(state.scope.tenant(), id) {
            tail.folded(state.core.seq);
        }
        state.count();
        if state.counted.turns > 0 {
            counter!("copilotd_recoveries_total").increment(1);
            if let Some(turn) = state.core.active() {
                self.spans(&mut state.spans, &state.scope, turn, id);
            }
            self.step(me, state, Command::Recover, None).await?;
            // Approvals need no claim, only their timers.
            let policy = self.policy(state, &Command::Recover);
            self.run_effects(me, state, &policy).await?;
        }
        self.rest(me, state);
        Ok(())
    }

    /// Sets the timer after which an idle conversation is let go.
    fn rest(&self, me: &ConversationRef, state: &mut State) {
        state.generation += 1;
        state.idle = None;
        self.save(state, self.shared.bounds.snapshot_every);
        if !self.may_rest(state) {
            return;
        }
        let (me, generation) = (me.clone(), state.generation);
        let time = if state.core.book.is_some() {
            self.shared.bounds.idle
        } else {
            self.shared.bounds.idle.min(NEVER_CREATED)
        };
        state.idle = Some(AbortOnDropHandle::new(tokio::spawn(async move {
            tokio::time::sleep(time).await;
            let _ = me.cast(Msg::Idle(generation));
        })));
    }

    fn may_rest(&self, state: &State) -> bool {
        let far = self
            .shared
            .ports
            .clock
            .now()
            .saturating_add(self.shared.bounds.far_approval)
            .unwrap_or(Timestamp::MAX);
        let patient = |effect: &Effect| matches!(effect, Effect::ExpireApproval { at, .. } if *at > far);
        state.compression.is_none() && state.running.keys().all(patient)
    }

    fn retire(&self, me: &ConversationRef, state: &mut State, generation: u64) {
        if generation != state.generation || !self.may_rest(state) {
            return;
        }
        self.save(state, self.shared.bounds.snapshot_every / 2);
        state.retiring = true;
        let due = state.running.keys().filter_map(|effect| match effect {
            Effect::ExpireApproval { at, .. } => Some(*at),
            _ => None,
        });
        let wake_at = due.min();
        if let Some(directory) = self.shared.directory.get() {
            let key = (state.scope.clone(), state.core.id);
            directory.cast(conversations::Msg::Retire {
                key,
                actor: me.get_id(),
                wake_at,
            });
        }
    }

    /// Stores a snapshot beside the work, if enough has happened since the last one.
    fn save(&self, state: &mut State, every: u64) {
        let quiet = state.core.active().is_none_or(|turn| turn.only_awaits_approval());
        if !quiet || state.core.live().is_none() || state.core.seq < state.snapshot_seq + every.max(1) {
            return;
        }
        let (shared, scope, id) = (Arc::clone(&self.shared), state.scope.clone(), state.core.id);
        let (version, seq, bytes) = (snapshot::VERSION, state.core.seq, snapshot::encode(&state.core));
        state.snapshot_seq = seq;
        drop::<JoinHandle<()>>(tokio::spawn(async move {
            let snapshot = Snapshot {
                seq,
                version,
                state: bytes,
            };
            // Only a cache: the log is folded from further back next time.
            if let Err(error) = shared.ports.log.save_snapshot(&scope, id, &snapshot).await {
                tracing::debug!(%error, conversation = %id, "a snapshot was not stored");
            }
        }));
    }
}

fn position(state: &State, turn: TurnId) -> Option<usize> {
    state.core.book.as_ref()?.turns.iter().position(|open| open.id == turn)
}

fn refuse(reply: Option<RpcReplyPort<Reply>>, refusal: Refusal) -> Result<(), ActorProcessingErr> {
    if let Some(reply) = reply {
        let _ = reply.send(Err(refusal));
    }
    Ok(())
}

fn crash_points(place: &str, records: &[Record]) {
    if cfg!(feature = "crash-points") {
        for record in records {
            crash::point(&format!("{place}:{}", record.event.name()));
        }
    }
}

fn count(record: &Record) {
    let state = match record.event {
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
        let counted = Counted {
            shared: Arc::clone(&self.shared),
            tenant: args.scope.tenant().clone(),
            turns: 0,
            queued: 0,
            busy: false,
        };
        Ok(State {
            core: Core::new(args.id),
            scope: args.scope,
            tail: None,
            live: None,
            agent: None,
            running: HashMap::new(),
            gates: HashMap::new(),
            compression: None,
            compress_again: false,
            compression_failures: 0,
            snapshot_seq: 0,
            idle: None,
            generation: 0,
            retiring: false,
            counted,
            spans: None,
            _alive: Alive::new("conversation"),
        })
    }

    async fn post_start(&self, me: ConversationRef, state: &mut State) -> Result<(), ActorProcessingErr> {
        self.load(&me, state).await
    }

    async fn handle(&self, me: ConversationRef, msg: Msg, state: &mut State) -> Result<(), ActorProcessingErr> {
        match msg {
            Msg::Ask { asker, command, reply } => self.ask(&me, state, &asker, *command, reply).await?,
            Msg::Report(command) => self.step(&me, state, *command, None).await?,
            Msg::Position { turn, reply } => {
                let _ = reply.send(position(state, turn));
                return Ok(());
            }
            Msg::Due(effect) => self.due(&me, state, effect).await?,
            Msg::CompressionEnded(outcome) => {
                state.compression = None;
                match outcome {
                    Outcome::NotNeeded => {}
                    Outcome::Failed => state.compression_failures += 1,
                    Outcome::Compressed(command) => {
                        state.compression_failures = 0;
                        self.step(&me, state, *command, None).await?;
                    }
                }
                if state.compress_again {
                    let policy = self.policy(state, &Command::Recover);
                    self.compress(&me, state, &policy);
                }
            }
            Msg::Idle(generation) => {
                self.retire(&me, state, generation);
                return Ok(());
            }
        }
        self.rest(&me, state);
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        me: ConversationRef,
        event: SupervisionEvent,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        let (who, why) = match event {
            SupervisionEvent::ActorFailed(who, error) => (who, cause(&error)),
            SupervisionEvent::ActorTerminated(who, _, reason) => (who, reason.unwrap_or_default()),
            SupervisionEvent::ActorStarted(_) | SupervisionEvent::ProcessGroupChanged(_) => return Ok(()),
        };
        // An agent that was let go on purpose is not ours any more.
        if state
            .agent
            .as_ref()
            .is_none_or(|(_, agent)| agent.get_id() != who.get_id())
        {
            return Ok(());
        }
        counter!("copilotd_actor_deaths_total", "actor" => "agent").increment(1);
        tracing::error!(conversation = %state.core.id, %why, "an agent died; its turn is taken up again");
        state.agent = None;
        state
            .running
            .retain(|effect, _| !matches!(effect, Effect::CallModel { .. }));
        if state.core.active().is_some_and(|turn| turn.phase == Phase::Thinking) {
            self.step(&me, state, Command::Recover, None).await?;
        }
        self.rest(&me, state);
        Ok(())
    }
}
