//! Scripted external systems that count what happens to them.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::{Mutex, MutexGuard};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::domain::ids::CallId;
use crate::domain::tool::rate::RateHint;
use crate::ports::{LookUp, Systems, ToolBox, ToolError, ToolErrorKind, ToolReply, ToolRequest};
use crate::tenancy::TenantScope;

/// How the system handles one call.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Whether the call takes effect, and how long after its arrival (even if the caller has gone by then).
    pub effect: Option<Duration>,
    /// Time until the caller gets an answer.
    pub delay: Duration,
    /// The answer to the caller.
    pub says: SystemReply,
}

/// The answer to the caller.
#[derive(Debug, Clone)]
pub enum SystemReply {
    /// Success.
    Done(Value),
    /// A failure, with the vendor's `Retry-After`.
    Failed(ToolErrorKind, Option<Duration>),
    /// An answer that the adapter cannot read.
    Unreadable,
    /// No answer, for ever.
    Nothing,
    /// The adapter panics.
    Panic,
}

impl Answer {
    /// Takes effect at once and answers after `delay`.
    pub fn done(delay: Duration) -> Self {
        Self {
            effect: Some(Duration::ZERO),
            delay,
            says: SystemReply::Done(json!({ "ok": true })),
        }
    }

    /// Fails at once. Only a failure of kind `OutcomeUnknown` may have taken effect, depending on `effect`.
    pub fn failed(kind: ToolErrorKind, retry_after: Option<Duration>, effect: Option<Duration>) -> Self {
        Self {
            effect,
            delay: Duration::ZERO,
            says: SystemReply::Failed(kind, retry_after),
        }
    }
}

/// One scripted system. Clones share everything, so it outlives a crash of the actors.
#[derive(Clone, Default)]
pub struct FakeSystem(Arc<Inner>);

#[derive(Default)]
struct Inner {
    state: Mutex<State>,
    seen: watch::Sender<Seen>,
}

#[derive(Default)]
struct State {
    answers: VecDeque<Answer>,
    default: Option<Answer>,
    look_ups: VecDeque<Result<LookUp, ToolErrorKind>>,
    effects: BTreeMap<CallId, u32>,
    /// Whether a repeated call id is recognised and has no second effect.
    keyed: bool,
    requests: Vec<(tokio::time::Instant, ToolRequest)>,
    rate: RateHint,
}

/// What the system has seen so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Seen {
    /// Number of calls, without look-ups.
    pub calls: usize,
    /// Number of look-ups.
    pub look_ups: usize,
    /// Number of calls and look-ups that are running.
    pub open: usize,
    /// Maximum number that were running at once.
    pub peak: usize,
    /// Number of effects.
    pub effects: usize,
}

impl FakeSystem {
    /// Creates a system where everything succeeds at once.
    pub fn new() -> Self {
        Self::default()
    }

    /// Answers the next call that has no answer yet with `answer`.
    pub fn answer(&self, answer: Answer) {
        self.state().answers.push_back(answer);
    }

    /// Answers every call that has no answer of its own with `answer`.
    pub fn answer_all(&self, answer: Answer) {
        self.state().default = Some(answer);
    }

    /// Answers the next look-up; look-ups without a scripted answer return the truth.
    pub fn look_up_answers(&self, answer: Result<LookUp, ToolErrorKind>) {
        self.state().look_ups.push_back(answer);
    }

    /// Makes the system recognise idempotency keys.
    pub fn know_keys(&self) {
        self.state().keyed = true;
    }

    /// Adds these rate limit headers to every answer.
    pub fn set_rate(&self, rate: RateHint) {
        self.state().rate = rate;
    }

    /// Returns how often each call took effect.
    pub fn effects(&self) -> BTreeMap<CallId, u32> {
        self.state().effects.clone()
    }

    /// Returns the calls with their times of arrival.
    pub fn requests(&self) -> Vec<(tokio::time::Instant, ToolRequest)> {
        self.state().requests.clone()
    }

    /// Returns what the system has seen so far.
    pub fn seen(&self) -> Seen {
        *self.0.seen.borrow()
    }

    /// Waits until `enough` returns true.
    pub async fn wait_for(&self, enough: impl FnMut(&Seen) -> bool) -> Seen {
        let mut seen = self.0.seen.subscribe();
        // The sender lives in `self`.
        seen.wait_for(enough).await.map(|seen| *seen).unwrap_or_default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock()
    }

    fn take_effect(&self, call: CallId) {
        let mut state = self.state();
        let keyed = state.keyed;
        let times = state.effects.entry(call).or_default();
        if *times > 0 && keyed {
            return;
        }
        *times += 1;
        drop(state);
        self.0.seen.send_modify(|seen| seen.effects += 1);
    }

    fn enter(&self) -> Open {
        self.0.seen.send_modify(|seen| {
            seen.open += 1;
            seen.peak = seen.peak.max(seen.open);
        });
        Open(Arc::clone(&self.0))
    }
}

struct Open(Arc<Inner>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.seen.send_modify(|seen| seen.open -= 1);
    }
}

fn error(kind: ToolErrorKind, retry_after: Option<Duration>, rate: RateHint) -> ToolError {
    ToolError {
        kind,
        message: format!("failed by the test: {kind:?}"),
        retry_after,
        rate,
        answered: false,
    }
}

#[async_trait]
impl ToolBox for FakeSystem {
    fn kind(&self) -> &'static str {
        "fake"
    }

    async fn call(&self, request: &ToolRequest) -> Result<ToolReply, ToolError> {
        let _open = self.enter();
        let (answer, rate) = {
            let mut state = self.state();
            state.requests.push((tokio::time::Instant::now(), request.clone()));
            let answer = state.answers.pop_front().or_else(|| state.default.clone());
            (answer.unwrap_or_else(|| Answer::done(Duration::ZERO)), state.rate)
        };
        self.0.seen.send_modify(|seen| seen.calls += 1);
        match answer.effect {
            Some(Duration::ZERO) => self.take_effect(request.call),
            Some(time) => {
                let (system, call) = (self.clone(), request.call);
                // The vendor continues after its caller has hung up.
                tokio::spawn(async move {
                    tokio::time::sleep(time).await;
                    system.take_effect(call);
                });
            }
            None => {}
        }
        if !answer.delay.is_zero() {
            tokio::time::sleep(answer.delay).await;
        }
        match answer.says {
            SystemReply::Done(result) => Ok(ToolReply { result, rate }),
            SystemReply::Failed(kind, retry_after) => Err(error(kind, retry_after, rate)),
            SystemReply::Unreadable => Err(ToolError {
                answered: true,
                ..error(ToolErrorKind::OutcomeUnknown, None, rate)
            }),
            SystemReply::Nothing => std::future::pending().await,
            SystemReply::Panic => panic!("the test wants the adapter to panic"),
        }
    }

    async fn look_up(&self, request: &ToolRequest) -> Result<LookUp, ToolError> {
        let _open = self.enter();
        self.0.seen.send_modify(|seen| seen.look_ups += 1);
        let mut state = self.state();
        match state.look_ups.pop_front() {
            Some(Ok(found)) => Ok(found),
            Some(Err(kind)) => Err(error(kind, None, state.rate)),
            None if state.effects.contains_key(&request.call) => Ok(LookUp::Found(json!({ "found": true }))),
            None => Ok(LookUp::NotFound),
        }
    }
}

/// The systems of all tenants, by name.
#[derive(Clone, Default)]
pub struct FakeSystems(Arc<Mutex<HashMap<String, FakeSystem>>>);

impl FakeSystems {
    /// Returns the system of that name, creating it if there is none.
    pub fn get(&self, name: &str) -> FakeSystem {
        let mut systems = self.0.lock();
        systems.entry(name.to_owned()).or_default().clone()
    }
}

impl Systems for FakeSystems {
    fn system(&self, _: &TenantScope, system: &str) -> Option<Arc<dyn ToolBox>> {
        let systems = self.0.lock();
        Some(Arc::new(systems.get(system)?.clone()))
    }
}
