//! A streamed answer behind the rules of its tenant.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use copilotd_actors::compute;
use copilotd_actors::domain::content::Finish;
use copilotd_actors::domain::guard::RuleSet;
use copilotd_actors::ports::ModelEvent;
use futures::{StreamExt, stream};
use serde_json::{Value, json};

use super::choice::{Choice, Object, Stopped, strip, strip_top};
use super::{FILTERED, join, told, unreadable};
use crate::gateway::body::ChatBody;
use crate::gateway::call::{AnswerStream, GatewayError};
use crate::gateway::terms::Terms;
use crate::gateway::upstream::Piece;

/// A stream and what is known of its choices.
struct Guarded {
    terms: Arc<Terms>,
    /// None when it was ended: letting go of it closes the upstream's connection.
    pieces: Option<AnswerStream>,
    choices: BTreeMap<u64, Choice>,
    /// How many answers were asked for.
    wanted: u64,
    /// Whether they have to be JSON.
    is_json: bool,
    ready: VecDeque<Result<Piece, GatewayError>>,
}

/// Has the rules hold for a stream that answers `body`. It ends when all choices have ended and only one that was stopped would go
/// on; so does the upstream's.
pub(super) fn guarded(terms: Arc<Terms>, body: &ChatBody, pieces: AnswerStream) -> AnswerStream {
    let guarded = Guarded {
        terms,
        pieces: Some(pieces),
        choices: BTreeMap::new(),
        wanted: body.choices(),
        is_json: body.is_json(),
        ready: VecDeque::new(),
    };
    stream::unfold(Some(guarded), |guarded| async move {
        let mut guarded = guarded?;
        loop {
            if let Some(item) = guarded.ready.pop_front() {
                return Some((item, Some(guarded)));
            }
            match guarded.pieces.as_mut()?.next().await? {
                Ok(piece) => match looked_at(guarded, piece).await {
                    Some(back) => guarded = back,
                    None => return Some((Err(unreadable()), None)),
                },
                Err(error) => guarded.ready.push_back(Err(told(&guarded.terms, error))),
            }
        }
    })
    .boxed()
}

/// Looks at a piece; at a large one off the threads that serve. None if there was no room for that.
async fn looked_at(mut guarded: Guarded, piece: Piece) -> Option<Guarded> {
    let size = piece.chunk.as_ref().map_or(0, Bytes::len);
    let look = move || {
        guarded.take(piece);
        guarded
    };
    compute::run(None, size, look).await.ok()
}

impl Guarded {
    fn take(&mut self, piece: Piece) {
        let Piece { chunk, mut events, .. } = piece;
        // They repeat what was said.
        events.retain(|event| matches!(event, ModelEvent::Usage(_) | ModelEvent::Finished(_)));
        let chunk = match chunk.map(|chunk| serde_json::from_slice(&chunk)) {
            None => None,
            Some(Ok(chunk)) => self.chunk(chunk),
            Some(Err(_)) => {
                self.pieces = None;
                self.ready.push_back(Err(unreadable()));
                return;
            }
        };
        if self.pieces.is_none() {
            // It is not the whole answer, so it does not count as one.
            events = vec![ModelEvent::Finished(Finish::Length)];
        }
        if chunk.is_some() || !events.is_empty() {
            self.ready.push_back(Ok(made(chunk, events)));
        }
    }

    /// Guards a chunk; none when nothing of it is left.
    fn chunk(&mut self, mut chunk: Object) -> Option<Object> {
        strip_top(&mut chunk);
        let choices = match chunk.get_mut("choices") {
            Some(Value::Array(choices)) if !choices.is_empty() => std::mem::take(choices),
            _ => return Some(chunk),
        };
        let mut left = Vec::new();
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
            let step = guard(known, &self.terms.rules.output, &mut choice);
            for held in step.held {
                let mut before = chunk.clone();
                // Some servers report usage beside the end: it is told once.
                if let Some(usage) = before.get_mut("usage") {
                    *usage = Value::Null;
                }
                let choice = json!([{ "index": index, "delta": held, "finish_reason": null }]);
                before.insert("choices".to_owned(), choice);
                self.ready.push_back(Ok(made(Some(before), Vec::new())));
            }
            if let Some(stopped) = step.stopped {
                stopped.note();
            }
            if !is_empty(&choice) {
                left.push(Value::Object(choice));
            }
        }
        let ended = self.choices.values().filter(|choice| choice.is_ended).count() as u64;
        let is_cut = self.choices.values().any(|choice| choice.is_cut);
        if is_cut && ended >= self.wanted {
            self.pieces = None;
        }
        if left.is_empty() {
            return None;
        }
        chunk.insert("choices".to_owned(), Value::Array(left));
        Some(chunk)
    }
}

fn made(chunk: Option<Object>, events: Vec<ModelEvent>) -> Piece {
    Piece {
        content: chunk.is_some(),
        chunk: chunk.map(|chunk| Bytes::from(Value::Object(chunk).to_string())),
        events,
        ..Piece::default()
    }
}

/// What became of one choice of a chunk.
struct Step {
    /// Deltas that go before the chunk.
    held: Vec<Object>,
    stopped: Option<Stopped>,
}

/// Guards one choice of a chunk.
fn guard(known: &mut Choice, rules: &RuleSet, choice: &mut Object) -> Step {
    strip(choice, "delta");
    let mut delta = match choice.remove("delta") {
        Some(Value::Object(delta)) => delta,
        _ => Object::new(),
    };
    let has_finished = has_finished(choice);
    let mut stopped = known.take(rules, &mut delta).err();
    let mut held = Vec::new();
    if stopped.is_none() && has_finished {
        let (rest, stop) = known.finish(rules);
        stopped = stop;
        // What it says itself goes before what was held back behind that.
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
    Step { held, stopped }
}

/// Tells whether the provider ends a choice here.
fn has_finished(choice: &Object) -> bool {
    let reason = choice.get("finish_reason").and_then(Value::as_str);
    reason.is_some_and(|reason| !reason.is_empty())
}

/// Tells whether a choice says nothing: all of it is held back.
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
