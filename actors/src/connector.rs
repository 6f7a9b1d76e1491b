//! `Connector`: one per tenant and external system. Owns the system's rate budget, circuit breaker and concurrency.
//!
//! Supervised by [`Connectors`], which starts it anew when it dies. What it had in hand is then lost here but not in the
//! log: the conversation's own deadline for each call ends it truthfully.
//! Invariant: a call is sent only through its gate, and repeated only as its tool's [`Repeat`] allows.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use metrics::{counter, gauge};
use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};
use serde_json::Value;
use tracing::Instrument as _;

use crate::conversation::{self, ConversationRef};
use crate::domain::breaker::Breaker;
use crate::domain::command::Command;
use crate::domain::content::ToolStatus;
use crate::domain::event::RetryMode;
use crate::domain::ids::TurnId;
use crate::domain::policy::Repeat;
use crate::domain::rate::{Bucket, RateHint};
use crate::ports::{LookUp, SystemKey, ToolBox, ToolError, ToolErrorKind, ToolReply, ToolRequest};
use crate::shared::{self, Shared, jitter, until};

/// Tries of one call in one process, the first included.
const TRIES: u32 = 3;

/// Decides between sending a call and cancelling it: exactly one of the two happens.
#[derive(Debug, Default)]
pub struct Gate {
    state: AtomicU8,
    stopped: AtomicBool,
}

const WAITING: u8 = 0;
const SENT: u8 = 1;
const CANCELLED: u8 = 2;

impl Gate {
    /// A gate that was passed in an earlier life: the call may be on its way.
    pub fn passed() -> Self {
        Self {
            state: AtomicU8::new(SENT),
            stopped: AtomicBool::new(false),
        }
    }

    /// Stops the call; true if it had not left and never will.
    pub fn cancel(&self) -> bool {
        self.stopped.store(true, Ordering::Release);
        let swap = self
            .state
            .compare_exchange(WAITING, CANCELLED, Ordering::AcqRel, Ordering::Acquire);
        matches!(swap, Ok(_) | Err(CANCELLED))
    }

    /// Passes; false if the call was cancelled, or must not be sent once more.
    fn pass(&self) -> bool {
        let swap = self
            .state
            .compare_exchange(WAITING, SENT, Ordering::AcqRel, Ordering::Acquire);
        match swap {
            Ok(_) => true,
            Err(SENT) => !self.stopped.load(Ordering::Acquire),
            Err(_) => false,
        }
    }
}

/// A call to be made.
#[derive(Debug, Clone)]
pub struct Job {
    /// What is called.
    pub request: ToolRequest,
    /// External system.
    pub system: String,
    /// The turn that wants it.
    pub turn: TurnId,
    /// What repeating it would do.
    pub repeat: Repeat,
    /// Whether it may have been sent in an earlier life.
    pub mode: RetryMode,
    /// From then on the call has taken effect or never will; nothing is sent that could settle later.
    pub settles_at: Timestamp,
    /// Sends or cancels.
    pub gate: Arc<Gate>,
    /// Who is told.
    pub reply_to: ConversationRef,
    /// The trace it belongs to.
    pub span: tracing::Span,
}

/// Messages of [`Connector`].
#[derive(Debug)]
pub enum Msg {
    /// Make this call.
    Call(Box<Job>),
    /// A try of a call came back.
    Tried(Box<Waiting>, Tried),
    /// Look at the queue again.
    Wake(u64),
}

/// Outcome of one try.
#[derive(Debug)]
pub enum Tried {
    /// The system answered.
    Replied(ToolReply),
    /// A look-up came back.
    LookedUp(LookUp),
    /// It failed.
    Failed(ToolError),
}

/// A call in the queue.
#[derive(Debug)]
pub struct Waiting {
    job: Job,
    tries: u32,
    look_up: bool,
    not_before: Timestamp,
}

/// The actor; see the module.
pub struct Connector {
    shared: Arc<Shared>,
}

/// What differs per instance.
pub struct Args {
    key: SystemKey,
    toolbox: Arc<dyn ToolBox>,
}

/// All that changes.
pub struct State {
    key: SystemKey,
    toolbox: Arc<dyn ToolBox>,
    queue: VecDeque<Box<Waiting>>,
    in_flight: usize,
    bucket: Bucket,
    breaker: Breaker,
    wake: u64,
    _alive: shared::Alive,
}

impl Connector {
    fn call(&self, state: &mut State, job: Job) {
        if state.queue.len() >= self.shared.bounds.connector_queue {
            report(
                &job,
                ToolStatus::Failed,
                None,
                Some("too many calls are waiting for this system".into()),
            );
            return;
        }
        let now = self.shared.ports.clock.now();
        let look_up = job.mode == RetryMode::LookUp;
        state.queue.push_back(Box::new(Waiting {
            job,
            tries: 0,
            look_up,
            not_before: now,
        }));
    }

    /// Sends what may be sent; answers when to look again.
    fn pump(&self, me: &ActorRef<Msg>, state: &mut State) {
        let now = self.shared.ports.clock.now();
        let mut next: Option<Timestamp> = None;
        let mut soon = |at: Timestamp| next = Some(next.map_or(at, |known: Timestamp| known.min(at)));
        let mut kept = VecDeque::new();
        while let Some(mut waiting) = state.queue.pop_front() {
            if self.expired(&waiting, now) {
                self.give_up(&waiting);
                continue;
            }
            if waiting.not_before > now {
                soon(waiting.not_before);
                kept.push_back(waiting);
                continue;
            }
            if state.in_flight >= self.shared.bounds.connector_concurrency {
                kept.push_back(waiting);
                continue;
            }
            let admitted = state
                .breaker
                .admit(now)
                .and_then(|()| state.bucket.take(now).inspect_err(|_| state.breaker.abandoned(now)));
            if let Err(at) = admitted {
                soon(at);
                kept.push_back(waiting);
                continue;
            }
            if !waiting.job.gate.pass() {
                state.breaker.abandoned(now);
                continue;
            }
            waiting.tries += 1;
            state.in_flight += 1;
            self.send(me, state, waiting, now);
        }
        state.queue = kept;
        let tenant = state.key.0.to_string();
        gauge!("copilotd_connector_queue", "system" => state.key.1.clone(), "tenant" => tenant.clone())
            .set(state.queue.len() as f64);
        gauge!("copilotd_breaker_state", "system" => state.key.1.clone(), "tenant" => tenant)
            .set(state.breaker.level());
        let deadline = state.queue.iter().map(|waiting| waiting.job.settles_at).min();
        if let Some(at) = next.into_iter().chain(deadline).min() {
            state.wake += 1;
            let (me, wake, time) = (me.clone(), state.wake, until(now, at).max(Duration::from_millis(1)));
            tokio::spawn(async move {
                tokio::time::sleep(time).await;
                let _ = me.cast(Msg::Wake(wake));
            });
        }
    }

    fn send(&self, me: &ActorRef<Msg>, state: &State, waiting: Box<Waiting>, now: Timestamp) {
        let (me, toolbox) = (me.clone(), Arc::clone(&state.toolbox));
        let left = until(now, waiting.job.settles_at);
        let span = waiting.job.span.clone();
        let work = async move {
            let mut request = waiting.job.request.clone();
            request.timeout = request.timeout.min(left);
            let limit = request.timeout;
            let call = async {
                if waiting.look_up {
                    toolbox.look_up(&request).await.map(Tried::LookedUp)
                } else {
                    toolbox.call(&request).await.map(Tried::Replied)
                }
            };
            let tried = match tokio::time::timeout(limit, call).await {
                Ok(Ok(tried)) => tried,
                Ok(Err(error)) => Tried::Failed(error),
                Err(_) => Tried::Failed(ToolError {
                    kind: ToolErrorKind::InDoubt,
                    message: format!(
                        "{} did not answer within {} s",
                        request.tool,
                        limit.as_secs_f64().ceil()
                    ),
                    retry_after: None,
                    rate: RateHint::default(),
                }),
            };
            let _ = me.cast(Msg::Tried(waiting, tried));
        };
        tokio::spawn(work.instrument(span));
    }

    fn tried(&self, state: &mut State, mut waiting: Box<Waiting>, tried: Tried) {
        state.in_flight -= 1;
        let now = self.shared.ports.clock.now();
        let system = state.key.1.clone();
        match tried {
            Tried::Replied(reply) => {
                state.breaker.succeeded();
                state.bucket.learn(reply.rate, now);
                counter!("copilotd_tool_tries_total", "system" => system, "outcome" => "ok").increment(1);
                report(&waiting.job, ToolStatus::Succeeded, Some(reply.result), None);
            }
            Tried::LookedUp(LookUp::Found(result)) => {
                state.breaker.succeeded();
                counter!("copilotd_tool_tries_total", "system" => system, "outcome" => "found").increment(1);
                report(&waiting.job, ToolStatus::Succeeded, Some(result), None);
            }
            Tried::LookedUp(LookUp::NotFound) => {
                state.breaker.succeeded();
                self.not_found(state, waiting, now);
            }
            Tried::Failed(error) => {
                let outcome = match error.kind {
                    ToolErrorKind::Refused => "refused",
                    ToolErrorKind::RateLimited => "rate_limited",
                    ToolErrorKind::Unreachable => "unreachable",
                    ToolErrorKind::InDoubt => "in_doubt",
                };
                counter!("copilotd_tool_tries_total", "system" => system, "outcome" => outcome).increment(1);
                state.bucket.learn(error.rate, now);
                let backoff = Duration::from_millis(200) * 2_u32.pow(waiting.tries.min(6));
                let pause = error.retry_after.unwrap_or(backoff) + jitter(backoff / 2);
                waiting.not_before = now.saturating_add(pause).unwrap_or(Timestamp::MAX);
                match error.kind {
                    ToolErrorKind::Refused => {
                        state.breaker.succeeded();
                        // A look-up that is refused says nothing about the call itself.
                        let status = if waiting.look_up {
                            in_doubt(&waiting)
                        } else {
                            ToolStatus::Failed
                        };
                        report(&waiting.job, status, None, Some(error.message));
                        return;
                    }
                    ToolErrorKind::RateLimited => {
                        state.breaker.succeeded();
                        state.bucket.close(error.retry_after.unwrap_or(backoff), now);
                        waiting.tries -= 1;
                    }
                    ToolErrorKind::Unreachable => state.breaker.failed(now),
                    ToolErrorKind::InDoubt => {
                        state.breaker.failed(now);
                        match waiting.job.repeat {
                            Repeat::Never if !waiting.look_up => {
                                report(&waiting.job, ToolStatus::Unknown, None, Some(error.message));
                                return;
                            }
                            Repeat::LookUp => waiting.look_up = true,
                            _ => {}
                        }
                    }
                }
                let exhausted = waiting.tries >= TRIES && !waiting.look_up;
                if exhausted || self.expired(&waiting, waiting.not_before) {
                    let never_sent = error.kind == ToolErrorKind::Unreachable && waiting.job.mode == RetryMode::Repeat;
                    let never_sent = never_sent || error.kind == ToolErrorKind::RateLimited;
                    let status = if never_sent {
                        ToolStatus::Failed
                    } else {
                        in_doubt(&waiting)
                    };
                    report(&waiting.job, status, None, Some(error.message));
                } else {
                    state.queue.push_back(waiting);
                }
            }
        }
    }

    /// A look-up that finds nothing proves nothing until the call it looks for has settled. Then it is sent again.
    fn not_found(&self, state: &mut State, mut waiting: Box<Waiting>, now: Timestamp) {
        let spare = waiting.job.request.timeout + crate::domain::decide::SETTLE_MARGIN;
        let settled = waiting.job.settles_at.saturating_sub(spare).unwrap_or(now);
        if waiting.job.mode == RetryMode::LookUp && now >= settled {
            waiting.look_up = false;
            waiting.not_before = now;
        } else if waiting.job.mode == RetryMode::LookUp {
            waiting.not_before = settled.min(now + Duration::from_secs(2));
        } else {
            // Sent in this life and in doubt: look until it must have settled, never send again.
            waiting.not_before = now + Duration::from_secs(1);
        }
        state.queue.push_back(waiting);
    }

    /// Whether a try that begins `at` could settle too late.
    fn expired(&self, waiting: &Waiting, at: Timestamp) -> bool {
        let margin = if waiting.look_up {
            Duration::ZERO
        } else {
            crate::domain::decide::SETTLE_MARGIN
        };
        at.saturating_add(margin).unwrap_or(Timestamp::MAX) >= waiting.job.settles_at
    }

    fn give_up(&self, waiting: &Waiting) {
        let sent = waiting.tries > 0 || waiting.job.mode == RetryMode::LookUp;
        let (status, why) = if sent {
            (in_doubt(waiting), "the system did not answer in time")
        } else {
            (
                ToolStatus::Failed,
                "the system was busy or unavailable for too long; the call was not sent",
            )
        };
        report(&waiting.job, status, None, Some(why.into()));
    }
}

/// What a call in doubt ends as: a read that failed has changed nothing.
fn in_doubt(waiting: &Waiting) -> ToolStatus {
    if waiting.job.repeat.changes_something() {
        ToolStatus::Unknown
    } else {
        ToolStatus::Failed
    }
}

/// Tells the conversation. A dead one is rebuilt from its log and recovers the call by itself.
fn report(job: &Job, status: ToolStatus, result: Option<Value>, error: Option<String>) {
    let (turn, call) = (job.turn, job.request.call);
    job.span.in_scope(|| {
        let command = Command::ToolReplied {
            turn,
            call,
            status,
            result,
            error,
        };
        let _ = job.reply_to.cast(conversation::Msg::report(command));
    });
}

impl Actor for Connector {
    type Msg = Msg;
    type State = State;
    type Arguments = Args;

    async fn pre_start(&self, _: ActorRef<Msg>, args: Args) -> Result<State, ActorProcessingErr> {
        let now = self.shared.ports.clock.now();
        Ok(State {
            key: args.key,
            toolbox: args.toolbox,
            queue: VecDeque::new(),
            in_flight: 0,
            bucket: Bucket::new(self.shared.bounds.connector_per_minute, now),
            breaker: Breaker::default(),
            wake: 0,
            _alive: shared::Alive::new("connector"),
        })
    }

    async fn handle(&self, me: ActorRef<Msg>, msg: Msg, state: &mut State) -> Result<(), ActorProcessingErr> {
        match msg {
            Msg::Call(job) => self.call(state, *job),
            Msg::Tried(waiting, tried) => self.tried(state, waiting, tried),
            // Only the newest timer counts.
            Msg::Wake(wake) if wake != state.wake => return Ok(()),
            Msg::Wake(_) => {}
        }
        self.pump(&me, state);
        Ok(())
    }
}

/// Supervises the connectors; forwards calls to them and starts them when they are needed.
pub struct Connectors {
    /// Shared parts.
    pub shared: Arc<Shared>,
}

/// Connectors that live.
#[derive(Default)]
pub struct Alive(HashMap<SystemKey, ActorRef<Msg>>);

impl Actor for Connectors {
    type Msg = Box<Job>;
    type State = Alive;
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<Box<Job>>, (): ()) -> Result<Alive, ActorProcessingErr> {
        Ok(Alive::default())
    }

    async fn handle(&self, me: ActorRef<Box<Job>>, job: Box<Job>, alive: &mut Alive) -> Result<(), ActorProcessingErr> {
        let key = (job.request.scope.tenant().clone(), job.system.clone());
        let connector = match alive.0.get(&key) {
            Some(connector) => connector.clone(),
            None => {
                let Some(toolbox) = self.shared.ports.systems.system(&job.request.scope, &job.system) else {
                    let why = format!("{} is not configured for this tenant", job.system);
                    report(&job, ToolStatus::Failed, None, Some(why));
                    return Ok(());
                };
                let connector = Connector {
                    shared: Arc::clone(&self.shared),
                };
                let args = Args {
                    key: key.clone(),
                    toolbox,
                };
                let (connector, _) = Actor::spawn_linked(None, connector, args, me.get_cell()).await?;
                alive.0.insert(key, connector.clone());
                connector
            }
        };
        if let Err(ractor::MessagingErr::SendErr(Msg::Call(job))) = connector.cast(Msg::Call(job)) {
            report(
                &job,
                ToolStatus::Failed,
                None,
                Some("the connector was restarting; the call was not sent".into()),
            );
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        _: ActorRef<Box<Job>>,
        event: SupervisionEvent,
        alive: &mut Alive,
    ) -> Result<(), ActorProcessingErr> {
        // A connector starts anew with its next call: an empty queue and a fresh budget are all it has to lose.
        match event {
            SupervisionEvent::ActorFailed(who, error) => {
                counter!("copilotd_actor_deaths_total", "actor" => "connector").increment(1);
                tracing::error!(%error, "a connector died");
                alive.0.retain(|_, connector| connector.get_id() != who.get_id());
            }
            SupervisionEvent::ActorTerminated(who, _, _) => {
                alive.0.retain(|_, connector| connector.get_id() != who.get_id());
            }
            SupervisionEvent::ActorStarted(_) | SupervisionEvent::ProcessGroupChanged(_) => {}
        }
        Ok(())
    }
}
