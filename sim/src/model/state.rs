//! State of a provider.

use std::collections::{HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::chat::{Chat, Role};
use super::directive::Directive;
use super::knobs::Knobs;
use super::persona;
use super::play::Pace;
use super::rewrite;
use super::script::Scripts;
use super::step::{Refusal, Step};
use super::usage::{PrefixCache, tokens};

/// Requests shown by `GET /_sim/state` and `GET /_sim/requests`; older bodies are dropped.
const MAX_REQUESTS: usize = 200;
/// Requests shown by `GET /_sim/calls`.
const MAX_CALLS_SHOWN: usize = 20_000;
/// Larger request bodies are not stored.
const MAX_STORED_BODY_BYTES: usize = 64 * 1024;
/// Prompts whose attempts are counted; the oldest are forgotten.
const MAX_PROMPTS: usize = 10_000;
const MAX_CLOSINGS: usize = 100;

/// The provider's state, shared by all its requests.
pub(crate) struct Provider {
    /// Different at each start, so that ids do not repeat after a restart.
    run: String,
    sequence: AtomicU64,
    open: AtomicU64,
    hold: watch::Sender<bool>,
    memory: Mutex<Memory>,
}

#[derive(Default)]
struct Memory {
    knobs: Knobs,
    scripts: Scripts,
    cache: PrefixCache,
    attempts: HashMap<u64, Attempts>,
    attempts_order: VecDeque<u64>,
    requests: VecDeque<RequestRecord>,
    received: u64,
    completed: u64,
    errors: u64,
    closed_by_client: u64,
    closings: VecDeque<String>,
    held: u64,
}

struct Attempts {
    prompt: String,
    step: u64,
    count: u64,
}

/// One request, as `GET /_sim/state` shows it.
#[derive(Clone, Serialize)]
struct RequestRecord {
    n: u64,
    at: String,
    model: String,
    stream: bool,
    last_user: String,
    messages: usize,
    tools: usize,
    /// Number of model calls that the turn had before.
    step: u64,
    prompt_tokens: u64,
    cached_tokens: u64,
    /// Of the complete answer, whether or not all of it was sent.
    completion_tokens: u64,
    decided_by: &'static str,
    outcome: &'static str,
    ended_at: Option<String>,
    #[serde(skip)]
    body: Value,
}

/// The decision about a request.
pub(crate) struct Decision {
    pub(crate) step: Step,
    pub(crate) prompt_tokens: u64,
    pub(crate) cached_tokens: u64,
    pub(crate) pace: Pace,
    pub(crate) open: Open,
}

impl Provider {
    pub(crate) fn new() -> Self {
        let started = jiff::Timestamp::now().as_nanosecond();
        let mut hasher = DefaultHasher::new();
        (started, std::process::id()).hash(&mut hasher);
        Self {
            run: format!("{:08x}", hasher.finish() >> 32),
            sequence: AtomicU64::new(0),
            open: AtomicU64::new(0),
            hold: watch::Sender::new(false),
            memory: Mutex::new(Memory::default()),
        }
    }

    /// Returns a name that was never used before.
    pub(crate) fn unique(&self) -> String {
        let n = self.sequence.fetch_add(1, Ordering::Relaxed);
        format!("{}{n:06x}", self.run)
    }

    pub(crate) fn knobs(&self) -> Knobs {
        self.memory.lock().knobs.clone()
    }

    pub(crate) fn set_knobs(&self, changes: &Value) -> Result<Value, String> {
        let mut memory = self.memory.lock();
        memory.knobs.merge(changes)?;
        self.hold.send_replace(memory.knobs.hold);
        Ok(json!(memory.knobs))
    }

    pub(crate) fn with_scripts<R>(&self, change: impl FnOnce(&mut Scripts) -> R) -> R {
        change(&mut self.memory.lock().scripts)
    }

    /// Resets everything; open streams continue, held ones are released.
    pub(crate) fn reset(&self) {
        let mut memory = self.memory.lock();
        let held = memory.held;
        *memory = Memory {
            held,
            ..Memory::default()
        };
        self.hold.send_replace(false);
    }

    /// Waits while the hold knob is on.
    pub(crate) async fn wait_if_held(&self) {
        let mut hold = self.hold.subscribe();
        if !*hold.borrow() {
            return;
        }
        self.memory.lock().held += 1;
        let _counted = HeldRequest(self);
        // The sender lives as long as `self`.
        let _ = hold.wait_for(|hold| !hold).await;
    }

    /// Records a request that was rejected before anything was decided.
    pub(crate) fn refused(&self) {
        let mut memory = self.memory.lock();
        memory.received += 1;
        memory.errors += 1;
    }

    /// Decides the answer and records the request.
    pub(crate) fn decide(self: &Arc<Self>, chat: &Chat, body: Value, size: usize) -> Decision {
        let last_user = chat.last_user();
        let assistant = |message: &&super::chat::Message| message.role == Role::Assistant;
        let turn_step = chat.since_user().iter().filter(assistant).count() as u64;
        let mut memory = self.memory.lock();
        memory.received += 1;
        let n = memory.received;
        let attempt = memory.count_attempt(last_user, turn_step);
        let prompt_tokens = tokens(&chat.prompt);
        let cached_tokens = memory.cache.read_and_remember(&chat.model, &chat.prompt);
        let (decided_by, step) = memory.choose(chat, n, turn_step, attempt, prompt_tokens);
        if memory.requests.len() == MAX_CALLS_SHOWN {
            memory.requests.pop_front();
        }
        if let Some(oldest) = memory.requests.len().checked_sub(MAX_REQUESTS) {
            memory.requests[oldest].body = Value::Null;
        }
        memory.requests.push_back(RequestRecord {
            n,
            at: jiff::Timestamp::now().to_string(),
            model: chat.model.clone(),
            stream: chat.stream,
            last_user: last_user.chars().take(200).collect(),
            messages: chat.messages.len(),
            tools: chat.tools.len(),
            step: turn_step,
            prompt_tokens,
            cached_tokens,
            completion_tokens: step.whole_tokens(chat.max_tokens),
            decided_by,
            outcome: "open",
            ended_at: None,
            body: if size <= MAX_STORED_BODY_BYTES {
                body
            } else {
                Value::Null
            },
        });
        self.open.fetch_add(1, Ordering::Relaxed);
        Decision {
            pace: Pace {
                first: Duration::from_millis(step.delay_first_ms.unwrap_or(memory.knobs.first_ms)),
                between: Duration::from_millis(step.pace_ms.unwrap_or(memory.knobs.pace_ms)),
            },
            step,
            prompt_tokens,
            cached_tokens,
            open: Open {
                provider: self.clone(),
                n,
                finished: false,
            },
        }
    }

    pub(crate) fn show(&self) -> Value {
        let memory = self.memory.lock();
        let mut prompts: HashMap<&str, u64> = HashMap::new();
        for attempts in memory.attempts.values() {
            *prompts.entry(&attempts.prompt).or_default() += attempts.count;
        }
        let attempts: Vec<_> = memory
            .attempts_order
            .iter()
            .rev()
            .take(MAX_REQUESTS)
            .filter_map(|key| memory.attempts.get(key))
            .map(|attempts| json!({"prompt": attempts.prompt, "step": attempts.step, "count": attempts.count}))
            .collect();
        json!({
            "requests": memory.received,
            "completed": memory.completed,
            "errors": memory.errors,
            "open_streams": self.open.load(Ordering::Relaxed),
            "held": memory.held,
            "closed_by_client": {"count": memory.closed_by_client, "last": memory.closings},
            "prompts": prompts,
            "attempts": attempts,
            "scripts_waiting": memory.scripts.waiting(),
            "knobs": memory.knobs,
            "last_requests": memory.last_requests().collect::<Vec<_>>(),
        })
    }

    /// Returns the last requests with their bodies.
    pub(crate) fn show_requests(&self) -> Value {
        let memory = self.memory.lock();
        let requests: Vec<_> = memory
            .last_requests()
            .map(|seen| {
                let mut shown = json!(seen);
                shown["body"] = seen.body.clone();
                shown
            })
            .collect();
        json!({"requests": requests})
    }

    /// Returns all remembered requests with their tokens and outcome.
    pub(crate) fn show_calls(&self) -> Value {
        json!({"calls": self.memory.lock().requests})
    }
}

struct HeldRequest<'a>(&'a Provider);

impl Drop for HeldRequest<'_> {
    fn drop(&mut self) {
        self.0.memory.lock().held -= 1;
    }
}

impl Memory {
    fn last_requests(&self) -> impl Iterator<Item = &RequestRecord> {
        let older = self.requests.len().saturating_sub(MAX_REQUESTS);
        self.requests.iter().skip(older)
    }

    fn count_attempt(&mut self, prompt: &str, step: u64) -> u64 {
        let mut hasher = DefaultHasher::new();
        (prompt, step).hash(&mut hasher);
        let key = hasher.finish();
        let Self {
            attempts,
            attempts_order,
            ..
        } = self;
        let attempts_here = attempts.entry(key).or_insert_with(|| {
            attempts_order.push_back(key);
            Attempts {
                prompt: prompt.chars().take(200).collect(),
                step,
                count: 0,
            }
        });
        attempts_here.count += 1;
        let count = attempts_here.count;
        if self.attempts_order.len() > MAX_PROMPTS {
            let oldest = self.attempts_order.pop_front();
            oldest.map(|oldest| self.attempts.remove(&oldest));
        }
        count
    }

    fn choose(
        &mut self,
        chat: &Chat,
        n: u64,
        turn_step: u64,
        attempt: u64,
        prompt_tokens: u64,
    ) -> (&'static str, Step) {
        let refuse = |refusal| Step {
            error: Some(refusal),
            ..Step::default()
        };
        if let Some(limit) = self.knobs.context_tokens.filter(|&limit| prompt_tokens > limit) {
            let message = format!(
                "This model's maximum context length is {limit} tokens. However, your messages resulted in {prompt_tokens} tokens. Please reduce the length of the messages."
            );
            let refusal = Refusal::invalid(message, Some("messages"));
            return ("knob", refuse(refusal.with_code("context_length_exceeded")));
        }
        if self.is_unlucky(n) {
            return ("knob", refuse(Refusal::status(self.knobs.error_status)));
        }
        if let Some(fault) = &self.knobs.fault {
            let step = match Directive::find(&format!("[[sim {fault}]]")) {
                Some(Ok(directive)) => directive.step(chat, turn_step, n),
                Some(Err(fault)) => refuse(Refusal::invalid(fault, None)),
                None => Step::default(),
            };
            return ("knob", step);
        }
        if let Some(step) = self.scripts.take(&chat.model, chat.last_user()) {
            return ("script", step);
        }
        if let Some(question) = rewrite::requested(chat) {
            return ("rewrite", Step::say(question));
        }
        match Directive::find(chat.last_user()) {
            Some(Ok(directive)) => ("directive", directive.step(chat, turn_step, attempt)),
            Some(Err(fault)) => ("directive", refuse(Refusal::invalid(fault, Some("messages")))),
            None => ("persona", persona::answer(chat)),
        }
    }

    /// Fails the requested share of requests, the same ones in every run.
    fn is_unlucky(&self, n: u64) -> bool {
        let mut hasher = DefaultHasher::new();
        n.hash(&mut hasher);
        let draw = u32::try_from(hasher.finish() >> 32).unwrap_or(u32::MAX);
        f64::from(draw) < self.knobs.error_rate * f64::from(u32::MAX)
    }
}

/// Counts an answer in progress; dropped without [`Open::finish`], its client has left.
pub(crate) struct Open {
    provider: Arc<Provider>,
    n: u64,
    finished: bool,
}

impl Open {
    /// Records how the answer ended; only the first call counts.
    pub(crate) fn finish(&mut self, outcome: &'static str) {
        if self.finished {
            return;
        }
        self.finished = true;
        let mut memory = self.provider.memory.lock();
        match outcome {
            "completed" => memory.completed += 1,
            "error" => memory.errors += 1,
            _ => {}
        }
        self.mark(&mut memory, outcome, true);
    }

    /// Records that nothing more will come.
    pub(crate) fn stalled(&self) {
        let mut memory = self.provider.memory.lock();
        self.mark(&mut memory, "stalled", false);
    }

    fn mark(&self, memory: &mut Memory, outcome: &'static str, ended: bool) {
        if let Ok(at) = memory.requests.binary_search_by_key(&self.n, |seen| seen.n) {
            let seen = &mut memory.requests[at];
            seen.outcome = outcome;
            seen.ended_at = ended.then(|| jiff::Timestamp::now().to_string());
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.provider.open.fetch_sub(1, Ordering::Relaxed);
        if self.finished {
            return;
        }
        let mut memory = self.provider.memory.lock();
        memory.closed_by_client += 1;
        if memory.closings.len() == MAX_CLOSINGS {
            memory.closings.pop_front();
        }
        memory.closings.push_back(jiff::Timestamp::now().to_string());
        self.mark(&mut memory, "closed_by_client", true);
    }
}
