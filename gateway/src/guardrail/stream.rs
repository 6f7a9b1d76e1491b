//! Applies a tenant's guardrail rules to a streamed answer.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use copilotd_actors::compute;
use copilotd_actors::domain::content::Finish;
use copilotd_actors::domain::guardrail::{COST_PER_BYTE, Rules};
use copilotd_actors::domain::ids::TenantId;
use copilotd_actors::domain::weight;
use copilotd_actors::guardrails::output::guarding;
use copilotd_actors::ports::ModelEvent;
use futures::{StreamExt, stream};
use serde_json::{Value, json};

use super::choice::{Choice, StopReason};
use super::strip::{strip, strip_top};
use super::{FILTERED, Guard, Object, Triggered, join, text, unreadable};
use crate::access::TenantPolicy;
use crate::answer::AnswerStream;
use crate::error::GatewayError;
use crate::provider::Piece;
use crate::request::body::ChatBody;

/// Bytes of an ordinary chunk.
const CHUNK: usize = 256;

/// A stream being checked.
struct GuardedStream {
    guard: Guard,
    /// `None` once ended: dropping the stream closes the upstream's connection.
    pieces: Option<AnswerStream>,
    stream_guard: StreamGuard,
    ready: VecDeque<Result<Ready, GatewayError>>,
}

/// State of a stream's choices. Moves to the compute pool with a piece that takes long.
struct StreamGuard {
    policy: Arc<TenantPolicy>,
    choices: BTreeMap<u64, Choice>,
    /// Number of answers requested (`n`).
    wanted: u64,
    /// Whether they must be JSON.
    is_json: bool,
}

/// Output that is ready to be sent.
enum Ready {
    Piece(Piece),
    /// Text of a choice that was held back. It becomes a piece only when it is sent, so that many of them take no extra
    /// memory.
    HeldBack {
        template: Arc<Object>,
        index: u64,
        delta: Object,
    },
}

/// Result of checking a chunk.
#[derive(Default)]
struct CheckedChunk {
    before: Vec<Ready>,
    /// `None` if nothing of the chunk is left.
    chunk: Option<Object>,
    /// Whether nothing more is needed from the upstream.
    is_over: bool,
    triggered: Vec<Triggered>,
}

/// Applies the rules to a stream that answers `body`. The stream ends, and so does the upstream's, once all choices have
/// ended and at least one of them only because a rule stopped it.
pub(super) fn guarded(guard: Guard, body: &ChatBody, pieces: AnswerStream) -> AnswerStream {
    let guarded = GuardedStream {
        pieces: Some(pieces),
        stream_guard: StreamGuard {
            policy: Arc::clone(&guard.policy),
            choices: BTreeMap::new(),
            wanted: body.choices(),
            is_json: body.is_json(),
        },
        ready: VecDeque::new(),
        guard,
    };
    stream::unfold(guarded, |mut guarded| async move {
        loop {
            if let Some(ready) = guarded.ready.pop_front() {
                let item = match ready {
                    Ok(ready) => ready.piece(guarded.guard.scope.tenant()).await,
                    Err(error) => Err(error),
                };
                return Some((item, guarded));
            }
            match guarded.pieces.as_mut()?.next().await? {
                Ok(piece) => guarded = guarded.take(piece).await,
                Err(error) => {
                    let error = guarded.guard.withhold_matching(error);
                    guarded.ready.push_back(Err(error));
                }
            }
        }
    })
    .boxed()
}

impl GuardedStream {
    /// Handles a piece. A long piece, or one that ends a choice with much held-back text, is checked on the compute
    /// pool.
    async fn take(self, piece: Piece) -> Self {
        let Self {
            guard,
            mut pieces,
            stream_guard,
            mut ready,
        } = self;
        let Piece { chunk, mut events, .. } = piece;
        // Other events repeat the text.
        events.retain(|event| matches!(event, ModelEvent::Usage(_) | ModelEvent::Finished(_)));
        let policy = Arc::clone(&stream_guard.policy);
        let checked = match chunk {
            None => Ok((stream_guard, CheckedChunk::default())),
            Some(chunk) => stream_guard.chunk(guard.scope.tenant(), chunk).await,
        };
        let (stream_guard, checked) = match checked {
            Ok(checked) => checked,
            Err(error) => {
                ready.push_back(Err(error));
                let stream_guard = StreamGuard {
                    policy,
                    choices: BTreeMap::new(),
                    wanted: 0,
                    is_json: false,
                };
                return Self {
                    guard,
                    pieces: None,
                    stream_guard,
                    ready,
                };
            }
        };
        guard.report(checked.triggered);
        ready.extend(checked.before.into_iter().map(Ok));
        if checked.is_over {
            pieces = None;
            // The answer is not complete and must not count as such.
            events = vec![ModelEvent::Finished(Finish::Length)];
        }
        if checked.chunk.is_some() || !events.is_empty() {
            ready.push_back(Ok(Ready::Piece(to_piece(checked.chunk, events))));
        }
        Self {
            guard,
            pieces,
            stream_guard,
            ready,
        }
    }
}

impl Ready {
    async fn piece(self, tenant: &TenantId) -> Result<Piece, GatewayError> {
        let (template, index, delta) = match self {
            Self::Piece(piece) => return Ok(piece),
            Self::HeldBack { template, index, delta } => (template, index, delta),
        };
        let cost = weight::of_members(&delta);
        let make = move || {
            let mut chunk = Object::clone(&template);
            let choice = json!([{ "index": index, "delta": delta, "finish_reason": null }]);
            chunk.insert("choices".to_owned(), choice);
            to_piece(Some(chunk), Vec::new())
        };
        compute::run(Some(tenant), cost, make).await.map_err(|_| unreadable())
    }
}

impl StreamGuard {
    /// Parses and checks a chunk.
    async fn chunk(self, tenant: &TenantId, chunk: Bytes) -> Result<(Self, CheckedChunk), GatewayError> {
        let cost = chunk.len();
        let read = move || serde_json::from_slice::<Object>(&chunk);
        let read = compute::run(Some(tenant), cost, read).await;
        let chunk = read.map_err(|_| unreadable())?.map_err(|_| unreadable())?;
        let cost = (cost + self.ending(&chunk)) * COST_PER_BYTE;
        let check = move |stream_guard: &mut Self| {
            let mut checked = CheckedChunk::default();
            checked.chunk = stream_guard.guard(chunk, &mut checked);
            checked
        };
        guarding(tenant, cost, self, check).await.map_err(|_| unreadable())
    }

    /// Bytes held back for the choices that end with this chunk.
    fn ending(&self, chunk: &Object) -> usize {
        let choices = chunk.get("choices").and_then(Value::as_array);
        let choices = choices.into_iter().flatten().filter_map(Value::as_object);
        let known = |choice: &Object| {
            let index = choice.get("index").and_then(Value::as_u64).unwrap_or(0);
            self.choices.get(&index).map_or(0, Choice::held)
        };
        choices.filter(|choice| has_finished(choice)).map(known).sum()
    }

    /// Checks a chunk; `None` if nothing of it is left.
    fn guard(&mut self, mut chunk: Object, checked: &mut CheckedChunk) -> Option<Object> {
        strip_top(&self.policy.rules, &mut chunk);
        let choices = match chunk.get_mut("choices") {
            Some(Value::Array(choices)) if !choices.is_empty() => std::mem::take(choices),
            _ => return Some(chunk),
        };
        let mut left = Vec::new();
        let mut template = None;
        for choice in choices {
            let Value::Object(mut choice) = choice else { continue };
            let index = choice.get("index").and_then(Value::as_u64).unwrap_or(0);
            if index >= self.wanted {
                continue;
            }
            let known = self.choices.entry(index);
            let known = known.or_insert_with(|| Choice::new(false, self.is_json));
            if known.is_ended {
                known.is_cut &= !has_finished(&choice);
                continue;
            }
            let checked_choice = guard(known, &self.policy.rules, &mut choice);
            for delta in checked_choice.held {
                let template = Arc::clone(template.get_or_insert_with(|| before(&chunk)));
                checked.before.push(Ready::HeldBack { template, index, delta });
            }
            if let Some(stopped) = checked_choice.stopped {
                checked.triggered.push(stopped.triggered());
            }
            checked.triggered.extend(known.triggered());
            if !checked_choice.is_held || !is_empty(&choice) {
                left.push(Value::Object(choice));
            }
        }
        let ended = self.choices.values().filter(|choice| choice.is_ended).count() as u64;
        let is_cut = self.choices.values().any(|choice| choice.is_cut);
        checked.is_over = is_cut && ended >= self.wanted;
        if left.is_empty() {
            return None;
        }
        chunk.insert("choices".to_owned(), Value::Array(left));
        Some(chunk)
    }
}

/// The chunk that carries held-back text before `chunk`.
fn before(chunk: &Object) -> Arc<Object> {
    let mut before = chunk.clone();
    // Some servers report usage beside the end: it is reported once.
    if let Some(usage) = before.get_mut("usage") {
        *usage = Value::Null;
    }
    Arc::new(before)
}

fn to_piece(chunk: Option<Object>, events: Vec<ModelEvent>) -> Piece {
    Piece {
        content: chunk.is_some(),
        chunk: chunk.map(|chunk| text(&chunk, CHUNK)),
        events,
        ..Piece::default()
    }
}

/// Result of checking one choice of a chunk.
struct CheckedChoice {
    /// Deltas to be sent before the chunk.
    held: Vec<Object>,
    stopped: Option<StopReason>,
    /// Whether something of it may be held back.
    is_held: bool,
}

/// Checks one choice of a chunk.
fn guard(known: &mut Choice, rules: &Rules, choice: &mut Object) -> CheckedChoice {
    strip(rules, choice, "delta");
    let mut delta = match choice.remove("delta") {
        Some(Value::Object(delta)) => delta,
        _ => Object::new(),
    };
    let has_calls = ["tool_calls", "function_call"]
        .iter()
        .any(|name| delta.contains_key(*name));
    let is_held = has_calls || !rules.output.is_empty();
    let has_finished = has_finished(choice);
    let mut stopped = known.take(rules, &mut delta).err();
    let mut held = Vec::new();
    if stopped.is_none() && has_finished {
        let (rest, stop) = known.finish(rules);
        stopped = stop;
        // Its own content goes before what was held back after that.
        held.push(std::mem::take(&mut delta));
        for rest in rest {
            match held.first_mut() {
                Some(first) if rest.keys().any(|name| first.get(name).is_some_and(Value::is_string)) => {
                    join(first, rest)
                }
                _ => held.push(rest),
            }
        }
        for held in &mut held {
            held.retain(|_, value| !value.is_null() && value.as_str() != Some(""));
        }
        held.retain(|held| !held.is_empty());
    }
    if stopped.is_some() {
        choice.insert("finish_reason".to_owned(), FILTERED.into());
    }
    choice.insert("delta".to_owned(), Value::Object(delta));
    known.is_ended = has_finished || stopped.is_some();
    known.is_cut = !has_finished && stopped.is_some();
    CheckedChoice { held, stopped, is_held }
}

/// Whether the provider ends a choice here.
fn has_finished(choice: &Object) -> bool {
    let reason = choice.get("finish_reason").and_then(Value::as_str);
    reason.is_some_and(|reason| !reason.is_empty())
}

/// Whether a choice has no content because all of it is held back.
fn is_empty(choice: &Object) -> bool {
    let ends = choice.get("finish_reason").is_some_and(|reason| !reason.is_null());
    let says = choice.get("delta").and_then(Value::as_object).is_some_and(|delta| {
        let something = |(name, value): (&String, &Value)| {
            name == "role" || value.as_str().map_or(!value.is_null(), |text| !text.is_empty())
        };
        delta.iter().any(something)
    });
    !ends && !says
}

#[cfg(test)]
pub(super) mod tests_support {
    use futures::FutureExt as _;

    use super::*;

    /// Streams these deltas of one choice, and its end; returns the deltas that are passed on.
    pub(in crate::guardrail) fn stream_of(guard: Guard, deltas: Vec<Value>, is_json: bool) -> Vec<Value> {
        let form = if is_json { "json_object" } else { "text" };
        let body = json!({ "model": "m", "messages": [], "response_format": { "type": form } });
        let body = ChatBody::from_value(&body).unwrap();
        let end = json!({ "index": 0, "delta": {}, "finish_reason": "stop" });
        let choices = deltas.into_iter().map(|delta| json!({ "index": 0, "delta": delta }));
        let pieces = choices.chain([end]).map(|choice| {
            Ok(Piece {
                chunk: Some(json!({ "choices": [choice] }).to_string().into()),
                ..Piece::default()
            })
        });
        let pieces: AnswerStream = stream::iter(pieces.collect::<Vec<_>>()).boxed();
        let passed = guarded(guard, &body, pieces).collect::<Vec<_>>().now_or_never();
        let chunks = passed.unwrap().into_iter().filter_map(|piece| piece.unwrap().chunk);
        let read = |chunk: Bytes| serde_json::from_slice::<Value>(&chunk).unwrap();
        chunks
            .map(read)
            .map(|mut chunk| chunk["choices"][0]["delta"].take())
            .collect()
    }
}
