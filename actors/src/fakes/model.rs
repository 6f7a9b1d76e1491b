//! A scripted model.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt as _;
use parking_lot::{Mutex, MutexGuard};
use serde_json::Value;
use tokio::sync::watch;

use crate::domain::content::Finish;
use crate::domain::context::prompt::PromptMessage;
use crate::domain::failure::FailureClass;
use crate::domain::usage::{LostUsage, Usage};
use crate::ports::{LogError, LostCall, Model, ModelError, ModelEvent, ModelRequest, ModelStream};

/// Completion tokens that this model reports for a lost answer.
pub const LOST_COMPLETION: u64 = 7;

/// One action of the model.
#[derive(Debug, Clone)]
pub enum Act {
    /// Sends text.
    Text(String),
    /// Waits, in tokio's time.
    Wait(Duration),
    /// Asks for a tool call.
    Call(String, Value),
    /// Reports a fallback: the target before, the target now, the reason.
    Fallback(&'static str, &'static str, &'static str),
    /// Reports usage.
    Usage(Usage),
    /// Fails; as the first action, the stream does not even open.
    Fail(FailureClass, Option<Duration>),
    /// Finishes the answer.
    Finish(Finish),
    /// Hangs for ever.
    Stall,
    /// Panics.
    Panic,
}

/// The actions of the model in one step, in order. A script without [`Act::Finish`] is a stream that is cut off.
pub type Script = Vec<Act>;

/// Returns a script for an answer in pieces, with a pause before each, and a good end.
pub fn says(pieces: &[&str], pause: Duration) -> Script {
    let piece = |text: &&str| [Act::Wait(pause), Act::Text((*text).to_owned())];
    let mut script: Script = pieces.iter().flat_map(piece).collect();
    script.push(Act::Finish(Finish::Stop));
    script
}

/// Returns a script for a step that asks for tool calls.
pub fn calls(calls: &[(&str, Value)]) -> Script {
    let call = |(name, arguments): &(&str, Value)| Act::Call((*name).to_owned(), arguments.clone());
    let mut script: Script = calls.iter().map(call).collect();
    script.push(Act::Finish(Finish::ToolCalls));
    script
}

/// The scripted model. Clones share everything, so it outlives a crash of the actors.
#[derive(Clone, Default)]
pub struct FakeModel(Arc<Inner>);

#[derive(Default)]
struct Inner {
    state: Mutex<State>,
    seen: watch::Sender<Seen>,
    lost: Mutex<Vec<LostCall>>,
}

#[derive(Default)]
struct State {
    /// Scripts of the steps for a prompt or route.
    steps: HashMap<String, Vec<Script>>,
    /// Scripts that are used once, before those.
    once: HashMap<String, VecDeque<Script>>,
    requests: Vec<ModelRequest>,
}

/// What the model has seen so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Seen {
    /// Number of calls, including failed ones.
    pub calls: usize,
    /// Number of streams that are open now.
    pub open: usize,
    /// Maximum number of streams that were open at once.
    pub peak: usize,
    /// Number of streams that were dropped before their end: closed connections.
    pub dropped: usize,
}

impl FakeModel {
    /// Creates a model that answers everything with "ok".
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the scripts for the steps of the turn whose prompt contains `prompt`, or of the route of that name. The
    /// last one repeats.
    pub fn on(&self, prompt: &str, steps: &[Script]) {
        self.state().steps.insert(prompt.to_owned(), steps.to_vec());
    }

    /// Sets a script for only the next call with this prompt or route.
    pub fn once(&self, prompt: &str, script: Script) {
        self.state()
            .once
            .entry(prompt.to_owned())
            .or_default()
            .push_back(script);
    }

    /// Removes all scripts.
    pub fn forget(&self) {
        let mut state = self.state();
        (state.steps, state.once) = (HashMap::new(), HashMap::new());
    }

    /// Returns every request so far.
    pub fn requests(&self) -> Vec<ModelRequest> {
        self.state().requests.clone()
    }

    /// Returns the lost calls that it was asked about.
    pub fn lost(&self) -> Vec<LostCall> {
        self.0.lost.lock().clone()
    }

    /// Returns what the model has seen so far.
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

    fn script(&self, request: &ModelRequest) -> Script {
        let last = request
            .messages
            .iter()
            .rposition(|m| matches!(m, PromptMessage::User { .. }));
        let text = match last.map(|at| &request.messages[at]) {
            Some(PromptMessage::User { text }) => text.as_str(),
            _ => "",
        };
        let behind = &request.messages[last.map_or(0, |at| at + 1)..];
        let step = behind
            .iter()
            .filter(|m| matches!(m, PromptMessage::Assistant { .. }))
            .count();
        let mut state = self.state();
        state.requests.push(request.clone());
        let matches = |key: &String| *key == request.route || text.contains(key.as_str());
        // The longest key is the most specific one.
        let once = state.once.iter().filter(|(key, left)| matches(key) && !left.is_empty());
        let once = once.map(|(key, _)| key.clone()).max_by_key(String::len);
        if let Some(script) = once.and_then(|key| state.once.get_mut(&key)?.pop_front()) {
            return script;
        }
        let steps = state.steps.iter().filter(|(key, _)| matches(key));
        let steps = steps.max_by_key(|(key, _)| key.len()).map(|(_, steps)| steps);
        let script = steps.and_then(|steps| steps.get(step).or(steps.last()));
        script.cloned().unwrap_or_else(|| says(&["ok"], Duration::ZERO))
    }
}

/// An open stream; records whether it was read to its end.
struct Open {
    inner: Arc<Inner>,
    script: VecDeque<Act>,
    calls: usize,
    ended: bool,
}

impl Drop for Open {
    fn drop(&mut self) {
        let dropped = usize::from(!self.ended);
        self.inner.seen.send_modify(|seen| {
            seen.open -= 1;
            seen.dropped += dropped;
        });
    }
}

fn error(class: FailureClass, retry_after: Option<Duration>) -> ModelError {
    ModelError {
        class,
        message: format!("failed by the test: {}", class.code()),
        retry_after,
        refusal: None,
    }
}

impl Open {
    async fn next(&mut self) -> Option<Result<ModelEvent, ModelError>> {
        while let Some(act) = self.script.pop_front() {
            let event = match act {
                Act::Wait(time) => {
                    tokio::time::sleep(time).await;
                    continue;
                }
                Act::Stall => std::future::pending().await,
                Act::Panic => panic!("the test wants the model to panic"),
                Act::Text(text) => ModelEvent::Text(text),
                Act::Call(name, arguments) => {
                    let index = self.calls;
                    self.calls += 1;
                    let (name, arguments) = (Some(name), arguments.to_string());
                    ModelEvent::ToolCall { index, name, arguments }
                }
                Act::Fallback(from, to, reason) => ModelEvent::Fallback {
                    from: from.to_owned(),
                    to: to.to_owned(),
                    reason: reason.to_owned(),
                },
                Act::Usage(usage) => ModelEvent::Usage(usage),
                Act::Finish(finish) => ModelEvent::Finished(finish),
                Act::Fail(class, retry_after) => {
                    self.ended = true;
                    return Some(Err(error(class, retry_after)));
                }
            };
            return Some(Ok(event));
        }
        self.ended = true;
        None
    }
}

#[async_trait]
impl Model for FakeModel {
    async fn lost(&self, call: LostCall) -> Result<Vec<LostUsage>, LogError> {
        let lost = call.prompt.map(|prompt| LostUsage {
            model: "lost".to_owned(),
            usage: Usage {
                prompt_tokens: prompt.tokens,
                completion_tokens: LOST_COMPLETION,
                ..Usage::default()
            },
        });
        self.0.lost.lock().push(call);
        Ok(lost.into_iter().collect())
    }

    async fn stream(&self, request: ModelRequest) -> Result<ModelStream, ModelError> {
        let script: VecDeque<Act> = self.script(&request).into();
        self.0.seen.send_modify(|seen| {
            seen.calls += 1;
            seen.open += 1;
            seen.peak = seen.peak.max(seen.open);
        });
        let mut open = Open {
            inner: Arc::clone(&self.0),
            script,
            calls: 0,
            ended: false,
        };
        if let Some(Act::Fail(class, retry_after)) = open.script.front() {
            open.ended = true;
            return Err(error(*class, *retry_after));
        }
        let events = futures::stream::unfold(open, |mut open| async move { Some((open.next().await?, open)) });
        Ok(events.boxed())
    }
}
