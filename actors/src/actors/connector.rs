//! `Connector`: one per tenant and external system. Owns the system's rate budget, circuit breaker and concurrency.
//!
//! Supervised by [`Connectors`], which restarts it with the next call after it dies and stops it when it is idle. When
//! it dies, the calls it was working on are lost here but not in the log: the conversation's own deadline ends each
//! call with an honest status.
//!
//! Invariant: a call is sent only through its gate, and is sent again only if [`outcome::next`] says so, both in this
//! process and after a crash.

mod gate;
mod job;
mod supervisor;

use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use metrics::{counter, gauge};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument as _;

pub use gate::Gate;
pub use job::{Job, QueuedCall};
pub use supervisor::{Alive, Connectors, Request};

use super::shared::{self, Shared, until};
use crate::crash;
use crate::domain::content::ToolStatus;
use crate::domain::conversation::decide::SETTLE_MARGIN;
use crate::domain::conversation::screen::ScreenedCommand;
use crate::domain::tool::breaker::Breaker;
use crate::domain::tool::outcome::{self, LookUpState, NextAction};
use crate::domain::tool::rate::{Bucket, RateHint};
use crate::jitter::jitter;
use crate::ports::{LookUp, ServingState, SystemKey, ToolBox, ToolError, ToolErrorKind, ToolReply};
use job::{report, screened, send_report, unsent};

/// Attempts of one call in one process, including the first.
const MAX_ATTEMPTS: u32 = 3;
/// Longest part of a system's error message that is kept, in bytes.
const MAX_MESSAGE: usize = 8 * 1024;
/// Rate-limit answers (429) that one call tolerates in one process.
const MAX_RATE_LIMITED: u32 = 8;
/// First pause between attempts; doubles up to six times.
const FIRST_BACKOFF: Duration = Duration::from_millis(200);
/// Idle time after which a connector is stopped. By then its budget is full again and its breaker closed.
const IDLE: Duration = Duration::from_secs(900);

/// Messages of [`Connector`].
#[derive(Debug)]
pub enum Msg {
    /// Makes a call.
    Call(Box<Job>),
    /// An attempt of a call has ended.
    AttemptResult(Box<QueuedCall>, AttemptResult),
    /// Checks the queue again.
    Wake,
    /// The connector has been idle since the queue check with this number.
    Idle(u64),
}

/// Outcome of one attempt.
#[derive(Debug)]
pub enum AttemptResult {
    /// The system answered.
    Replied {
        /// Report for the conversation.
        report: Box<ScreenedCommand>,
        /// Rate limits that the system reported.
        rate: RateHint,
    },
    /// A look-up found the effect of the call.
    Found(Box<ScreenedCommand>),
    /// A look-up found no effect, or only the part described here.
    Missing(Option<String>),
    /// The attempt failed.
    Failed(ToolError),
}

/// Answer of a system.
enum SystemAnswer {
    Replied(ToolReply),
    LookedUp(LookUp),
}

/// Actor that calls one system for one tenant; see the module documentation.
pub struct Connector {
    shared: Arc<Shared>,
    supervisor: ActorRef<Request>,
}

/// Arguments of one instance.
pub struct Args {
    key: SystemKey,
    toolbox: Arc<dyn ToolBox>,
}

/// Mutable state.
pub struct State {
    key: SystemKey,
    toolbox: Arc<dyn ToolBox>,
    queue: VecDeque<Box<QueuedCall>>,
    in_flight: usize,
    bucket: Bucket,
    breaker: Breaker,
    timer: Option<AbortOnDropHandle<()>>,
    /// Calls received so far.
    received: u64,
    /// Number of queue checks; tells an outdated idle timer from the current one.
    queue_checks: u64,
    _alive: shared::Alive,
}

impl Connector {
    fn call(&self, state: &mut State, job: Job) {
        state.received += 1;
        // The system's configuration may have changed since this connector started.
        let Some(toolbox) = self.shared.ports.systems.system(&job.request.scope, &state.key.1) else {
            supervisor::not_configured(&self.shared, &job);
            return;
        };
        state.toolbox = toolbox;
        if state.queue.len() >= self.shared.bounds.connector_queue {
            let why = "too many calls are waiting for this system".to_owned();
            report(&job, unsent(&job), why);
            return;
        }
        let (clock, now) = (&self.shared.ports.clock, self.shared.ports.clock.elapsed());
        // Monotonic from here on: a change of the wall clock neither shortens nor lengthens the time left for the call.
        let left = until(clock.now(), job.settles_at).min(job.request.timeout + SETTLE_MARGIN);
        let mut waiting = Box::new(QueuedCall {
            attempts: 0,
            limited: 0,
            look_up: false,
            earlier: job.gate.is_sent(),
            started: (now, clock.now()),
            doubt_since: None,
            looked: LookUpState::NotYet,
            trace: None,
            deadline: now + left,
            not_before: now,
            job,
        });
        if self.decide(&mut waiting, now) {
            state.queue.push_back(waiting);
        }
    }

    /// Decides with [`outcome::next`] whether to send or to look up, or reports the end of the call. Returns false if it
    /// has ended.
    fn decide(&self, waiting: &mut QueuedCall, now: Duration) -> bool {
        let sent = waiting.sent(now, self.shared.ports.clock.now());
        match outcome::next(waiting.job.repeat, sent, waiting.looked) {
            NextAction::Send => waiting.look_up = false,
            NextAction::LookUp(pause) => {
                waiting.look_up = true;
                waiting.not_before = waiting.not_before.max(now + pause);
            }
            NextAction::End(status) => {
                let trace = waiting.trace.as_deref().unwrap_or("no trace of it was found");
                let system = &waiting.job.system;
                let why = format!(
                    "the call was sent, but whether it took effect is not known ({trace}); check in {system} before doing it again"
                );
                report(&waiting.job, status, why);
                return false;
            }
        }
        true
    }

    /// Sends the queued calls that may be sent, and schedules the next check.
    fn send_queued(&self, me: &ActorRef<Msg>, state: &mut State) {
        let now = self.shared.ports.clock.elapsed();
        let mut next: Option<Duration> = None;
        let mut soon = |at: Duration| next = Some(next.map_or(at, |known: Duration| known.min(at)));
        let mut kept = VecDeque::new();
        while let Some(mut waiting) = state.queue.pop_front() {
            if waiting.job.gate.is_stopped() {
                // Its conversation has already recorded how it ended.
                continue;
            }
            if self.standing(&waiting) == ServingState::LeftOut {
                job::defer(&waiting.job);
                continue;
            }
            if now >= waiting.last_start() {
                self.give_up(&waiting, now);
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
            // Checked last, so that nothing is sent once a suspension is in effect.
            match self.standing(&waiting) {
                ServingState::Served => {}
                ServingState::LeftOut => {
                    state.breaker.abandoned(now);
                    job::defer(&waiting.job);
                    continue;
                }
                ServingState::Suspended => {
                    state.breaker.abandoned(now);
                    let why = "the tenant is suspended; the call was not sent".to_owned();
                    report(&waiting.job, self.status_if_given_up(&waiting, now), why);
                    continue;
                }
            }
            if !waiting.job.gate.pass() {
                state.breaker.abandoned(now);
                continue;
            }
            waiting.attempts += 1;
            waiting.started = (now, self.shared.ports.clock.now());
            state.in_flight += 1;
            self.send(me, state, waiting, now);
        }
        state.queue = kept;
        let tenant = state.key.0.to_string();
        gauge!("copilotd_connector_queue", "system" => state.key.1.clone(), "tenant" => tenant.clone())
            .set(state.queue.len() as f64);
        gauge!("copilotd_breaker_state", "system" => state.key.1.clone(), "tenant" => tenant)
            .set(state.breaker.level());
        state.queue_checks += 1;
        let deadline = state.queue.iter().map(|waiting| waiting.last_start()).min();
        let (me, idle) = (me.clone(), state.queue.is_empty() && state.in_flight == 0);
        let (time, then) = match next.into_iter().chain(deadline).min() {
            Some(at) => (at.saturating_sub(now).max(Duration::from_millis(1)), Msg::Wake),
            None if idle => (IDLE, Msg::Idle(state.queue_checks)),
            None => {
                state.timer = None;
                return;
            }
        };
        // Replaces the previous timer: there is only one at a time.
        state.timer = Some(AbortOnDropHandle::new(tokio::spawn(async move {
            tokio::time::sleep(time).await;
            let _ = me.cast(then);
        })));
    }

    fn standing(&self, waiting: &QueuedCall) -> ServingState {
        self.shared.ports.policies.standing(&waiting.job.request.scope)
    }

    fn send(&self, me: &ActorRef<Msg>, state: &State, waiting: Box<QueuedCall>, now: Duration) {
        let (me, toolbox) = (me.clone(), Arc::clone(&state.toolbox));
        let left = waiting.deadline.saturating_sub(now);
        let span = waiting.job.span.clone();
        let work = async move {
            let mut request = waiting.job.request.clone();
            request.timeout = request.timeout.min(left);
            let limit = request.timeout;
            crash_point("effect.before", &waiting);
            let call = async {
                if waiting.look_up {
                    toolbox.look_up(&request).await.map(SystemAnswer::LookedUp)
                } else {
                    toolbox.call(&request).await.map(SystemAnswer::Replied)
                }
            };
            // A panic must free the concurrency slot like any other end.
            let call = AssertUnwindSafe(call).catch_unwind();
            let attempt_result = match tokio::time::timeout(limit, call).await {
                Ok(Ok(Ok(SystemAnswer::Replied(reply)))) => AttemptResult::Replied {
                    report: Box::new(screened(&waiting.job, reply.result).await),
                    rate: reply.rate,
                },
                Ok(Ok(Ok(SystemAnswer::LookedUp(LookUp::Found(result))))) => {
                    AttemptResult::Found(Box::new(screened(&waiting.job, result).await))
                }
                Ok(Ok(Ok(SystemAnswer::LookedUp(LookUp::NotFound)))) => AttemptResult::Missing(None),
                Ok(Ok(Ok(SystemAnswer::LookedUp(LookUp::PartlyFound(mut trace))))) => {
                    trace.truncate(trace.floor_char_boundary(MAX_MESSAGE));
                    AttemptResult::Missing(Some(trace))
                }
                Ok(Ok(Err(mut error))) => {
                    // The message is processed in the handler.
                    error.message.truncate(error.message.floor_char_boundary(MAX_MESSAGE));
                    AttemptResult::Failed(error)
                }
                Ok(Err(_)) => AttemptResult::Failed(in_doubt(format!("{} failed unexpectedly", request.tool))),
                Err(_) => {
                    let seconds = limit.as_secs_f64().ceil();
                    AttemptResult::Failed(in_doubt(format!("{} did not answer within {seconds} s", request.tool)))
                }
            };
            crash_point("effect.after", &waiting);
            let _ = me.cast(Msg::AttemptResult(waiting, attempt_result));
        };
        tokio::spawn(work.instrument(span));
    }

    fn attempt_result(&self, state: &mut State, mut waiting: Box<QueuedCall>, attempt_result: AttemptResult) {
        state.in_flight -= 1;
        let now = self.shared.ports.clock.elapsed();
        let kind = state.toolbox.kind();
        match attempt_result {
            AttemptResult::Replied { report, rate } => {
                state.breaker.succeeded();
                state.bucket.learn(rate, now);
                counter!("copilotd_tool_tries_total", "system" => kind, "outcome" => "ok").increment(1);
                send_report(&waiting.job, *report);
            }
            AttemptResult::Found(report) => {
                state.breaker.succeeded();
                counter!("copilotd_tool_tries_total", "system" => kind, "outcome" => "found").increment(1);
                send_report(&waiting.job, *report);
            }
            AttemptResult::Missing(trace) => {
                state.breaker.succeeded();
                counter!("copilotd_tool_tries_total", "system" => kind, "outcome" => "missing").increment(1);
                let times = match waiting.looked {
                    LookUpState::Missing(times) => times.saturating_add(1),
                    _ => 1,
                };
                waiting.looked = LookUpState::Missing(times);
                waiting.trace = trace.or(waiting.trace);
                waiting.not_before = now;
                if self.decide(&mut waiting, now) {
                    if !waiting.look_up {
                        waiting.attempts = 0;
                    }
                    state.queue.push_back(waiting);
                }
            }
            AttemptResult::Failed(error) => {
                let outcome = match error.kind {
                    ToolErrorKind::Refused => "refused",
                    ToolErrorKind::RateLimited => "rate_limited",
                    ToolErrorKind::Unreachable => "unreachable",
                    ToolErrorKind::OutcomeUnknown => "in_doubt",
                };
                counter!("copilotd_tool_tries_total", "system" => kind, "outcome" => outcome).increment(1);
                state.bucket.learn(error.rate, now);
                let is_limited = error.kind == ToolErrorKind::RateLimited;
                if is_limited {
                    waiting.limited += 1;
                    waiting.attempts -= 1;
                }
                let failures = if is_limited { waiting.limited } else { waiting.attempts };
                let backoff = FIRST_BACKOFF * 2_u32.pow(failures.min(6));
                // Back off even if the vendor says that a retry may follow at once.
                let pause = error.retry_after.unwrap_or(backoff).max(backoff);
                waiting.not_before = now.saturating_add(pause + jitter(backoff / 2));
                match error.kind {
                    ToolErrorKind::Refused => {
                        state.breaker.succeeded();
                        if waiting.look_up {
                            (waiting.looked, waiting.trace) = (LookUpState::Impossible, Some(error.message));
                            self.decide(&mut waiting, now);
                            return;
                        }
                        // This refusal says nothing about an earlier attempt.
                        report(&waiting.job, self.status_if_given_up(&waiting, now), error.message);
                        return;
                    }
                    ToolErrorKind::RateLimited => {
                        state.breaker.succeeded();
                        state.bucket.close(pause, now);
                    }
                    // An answer that we cannot read does not mean that the system is unhealthy.
                    ToolErrorKind::Unreachable | ToolErrorKind::OutcomeUnknown if error.answered => {
                        state.breaker.succeeded()
                    }
                    ToolErrorKind::Unreachable | ToolErrorKind::OutcomeUnknown => state.breaker.failed(now),
                }
                let was_look_up = waiting.look_up;
                if error.kind == ToolErrorKind::OutcomeUnknown && !was_look_up {
                    waiting.doubt_since.get_or_insert(waiting.started);
                    waiting.looked = LookUpState::NotYet;
                    waiting.trace = Some(error.message.clone());
                }
                if !waiting.is_in_doubt() {
                    waiting.job.gate.reopen();
                }
                if !self.decide(&mut waiting, now) {
                    return;
                }
                if waiting.look_up && !was_look_up {
                    // Look-ups follow; count them from here.
                    waiting.attempts = 0;
                }
                let exhausted =
                    (waiting.attempts >= MAX_ATTEMPTS && !waiting.look_up) || waiting.limited >= MAX_RATE_LIMITED;
                if exhausted || waiting.not_before >= waiting.last_start() {
                    report(&waiting.job, self.status_if_given_up(&waiting, now), error.message);
                } else {
                    state.queue.push_back(waiting);
                }
            }
        }
    }

    /// Returns the status of a call that is given up without an answer.
    fn status_if_given_up(&self, waiting: &QueuedCall, now: Duration) -> ToolStatus {
        outcome::status_if_given_up(waiting.job.repeat, waiting.sent(now, self.shared.ports.clock.now()))
    }

    fn give_up(&self, waiting: &QueuedCall, now: Duration) {
        let status = self.status_if_given_up(waiting, now);
        let why = match status {
            ToolStatus::Unknown => "the system did not answer in time; whether the call took effect is not known",
            _ => "the system was busy or unavailable for too long; the call had no effect",
        };
        report(&waiting.job, status, why.into());
    }
}

/// Crash point of tests, per tool: before a request is sent and after its answer arrived.
fn crash_point(place: &str, waiting: &QueuedCall) {
    if cfg!(feature = "crash-points") {
        let what = if waiting.look_up { "look_up" } else { "request" };
        crash::point(&format!("{place}:{what}:{}", waiting.job.request.tool));
    }
}

fn in_doubt(message: String) -> ToolError {
    ToolError {
        kind: ToolErrorKind::OutcomeUnknown,
        message,
        retry_after: None,
        rate: RateHint::default(),
        answered: false,
    }
}

impl Actor for Connector {
    type Msg = Msg;
    type State = State;
    type Arguments = Args;

    async fn pre_start(&self, _: ActorRef<Msg>, args: Args) -> Result<State, ActorProcessingErr> {
        let now = self.shared.ports.clock.elapsed();
        Ok(State {
            key: args.key,
            toolbox: args.toolbox,
            queue: VecDeque::new(),
            in_flight: 0,
            bucket: Bucket::new(self.shared.bounds.connector_per_minute, now),
            breaker: Breaker::default(),
            timer: None,
            received: 0,
            queue_checks: 0,
            _alive: shared::Alive::new("connector"),
        })
    }

    async fn handle(&self, me: ActorRef<Msg>, msg: Msg, state: &mut State) -> Result<(), ActorProcessingErr> {
        match msg {
            Msg::Call(job) => self.call(state, *job),
            Msg::AttemptResult(waiting, attempt_result) => self.attempt_result(state, waiting, attempt_result),
            Msg::Wake => {}
            Msg::Idle(look) => {
                if look == state.queue_checks {
                    let (key, received) = (state.key.clone(), state.received);
                    let _ = self.supervisor.cast(Request::StopIdle { key, received });
                }
                return Ok(());
            }
        }
        self.send_queued(&me, state);
        Ok(())
    }
}
