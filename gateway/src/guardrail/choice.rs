//! One choice of an answer: its texts pass through hold-back windows, all else is held until it is complete.

use std::collections::{HashMap, HashSet};

use copilotd_actors::domain::guardrail::{BlockedByRule, HoldBack, Rule, RuleSet};
use serde_json::{Map, Value};

use super::note;

/// Texts of a message or delta, which are passed on as they arrive.
const TEXTS: [&str; 4] = ["content", "refusal", "reasoning_content", "reasoning"];
/// Most bytes of tool calls and other members that are held back.
const MOST_HELD: usize = 8 * 1024 * 1024;

/// Longest id or name in a chunk that is passed on; real ones are far shorter.
const MOST_OF_NAME: usize = 1024;

/// A JSON object.
pub(super) type Object = Map<String, Value>;

/// Why a choice ends early.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum StopReason {
    /// A rule, by its name.
    Rule(String),
    /// It is longer than can be held back.
    TooLong,
}

impl StopReason {
    /// Logs and counts it.
    pub(super) fn note(&self) {
        match self {
            Self::Rule(rule) => note("output", "block", rule),
            Self::TooLong => note("output", "block", "answer too long to be checked"),
        }
    }
}

impl From<&Rule> for StopReason {
    fn from(rule: &Rule) -> Self {
        Self::Rule(rule.name.clone())
    }
}

/// State of a choice.
#[derive(Debug, Default)]
pub(super) struct Choice {
    windows: Vec<Window>,
    calls: CallAssembler,
    /// The call in the protocol's old form.
    function: Option<Object>,
    /// Unknown members, as they arrived.
    others: Vec<Object>,
    held: usize,
    /// Whether it arrives as one message.
    is_whole: bool,
    /// The content if it must be JSON, which can write one text in many ways: it is held back like everything that is
    /// not checked as plain text.
    json: Option<String>,
    pub(super) is_ended: bool,
    /// Whether a rule ended it and its provider has not yet.
    pub(super) is_cut: bool,
}

#[derive(Debug)]
struct Window {
    name: &'static str,
    text: HoldBack,
    /// Number of redacting rules already logged.
    noted: usize,
}

impl Window {
    fn pass(
        &mut self,
        step: impl FnOnce(&mut HoldBack) -> Result<String, BlockedByRule>,
    ) -> (String, Option<StopReason>) {
        let passed = step(&mut self.text);
        let redactions = self.text.redactions();
        redactions[self.noted..]
            .iter()
            .for_each(|rule| note("output", "redact", rule));
        self.noted = redactions.len();
        match passed {
            Ok(released) => (released, None),
            Err(BlockedByRule { rule, released }) => (released, Some(StopReason::Rule(rule))),
        }
    }
}

impl Choice {
    /// Creates a choice without content: a whole message or deltas, with JSON content or not.
    pub(super) fn new(is_whole: bool, is_json: bool) -> Self {
        Self {
            is_whole,
            json: is_json.then(String::new),
            ..Self::default()
        }
    }

    /// Takes a delta or a whole message: its texts become what may be sent of them now, all else is held back. If a
    /// rule stops the choice, the text before the match may still be sent.
    pub(super) fn take(&mut self, rules: &RuleSet, delta: &mut Object) -> Result<(), StopReason> {
        let all = std::mem::take(delta);
        let mut others = Object::new();
        let mut stopped = None;
        for (name, value) in all {
            match (name.as_str(), value) {
                (_, value @ Value::Null) => _ = delta.insert(name, value),
                ("role", value @ Value::String(_)) => _ = delta.insert(name, value),
                // Audio cannot be checked, so it is dropped.
                ("audio", _) => {}
                ("tool_calls", Value::Array(calls)) => {
                    for call in calls {
                        if let Value::Object(call) = call {
                            self.held += self.calls.add(call, self.is_whole);
                        }
                    }
                }
                ("function_call", Value::Object(function)) => {
                    self.held += merge(self.function.get_or_insert_default(), function);
                }
                (known, Value::String(text)) if TEXTS.contains(&known) => {
                    // What follows a stop is not sent.
                    if stopped.is_some() {
                        continue;
                    }
                    let window = self.window(known, rules);
                    let (released, stop) = window.pass(|window| window.push(&text));
                    stopped = stop;
                    let released = match &mut self.json {
                        Some(json) if known == "content" => {
                            self.held += released.len();
                            json.push_str(&released);
                            String::new()
                        }
                        _ => released,
                    };
                    delta.insert(name, released.into());
                }
                (_, value) => {
                    self.held += value.to_string().len();
                    others.insert(name, value);
                }
            }
        }
        if !others.is_empty() {
            self.others.push(others);
        }
        match stopped {
            Some(stopped) => Err(stopped),
            None if self.held > MOST_HELD => Err(StopReason::TooLong),
            None => Ok(()),
        }
    }

    /// Ends the choice: returns the held-back deltas that may be sent, and what stops it even now. What is not text is
    /// sent whole or not at all, since a call with a replaced word would be another call: there any rule stops the
    /// choice.
    pub(super) fn finish(&mut self, rules: &RuleSet) -> (Vec<Object>, Option<StopReason>) {
        let mut last = Object::new();
        for window in &mut self.windows {
            let (mut released, mut stopped) = window.pass(HoldBack::finish);
            if let Some(json) = self.json.as_mut().filter(|_| window.name == "content") {
                released.insert_str(0, &std::mem::take(json));
                // A part of it would not be JSON, and escapes in it may hide text that was not checked yet.
                stopped = stopped.or_else(|| rules.matching_text(&released).map(StopReason::from));
                if stopped.is_some() {
                    return (vec![last], stopped);
                }
            }
            if !released.is_empty() {
                last.insert(window.name.to_owned(), released.into());
            }
            if stopped.is_some() {
                return (vec![last], stopped);
            }
        }
        let (mut calls, function) = (std::mem::take(&mut self.calls.all), self.function.take());
        let mut deltas = std::mem::take(&mut self.others);
        let hit = calls.iter().find_map(|call| in_call(rules, call));
        let hit = hit.or_else(|| function.as_ref().and_then(|function| in_function(rules, function)));
        if let Some(rule) = hit.or_else(|| in_others(rules, deltas.iter())) {
            return (vec![last], Some(rule.into()));
        }
        if !self.is_whole {
            number(&mut calls);
        }
        if !calls.is_empty() {
            last.insert("tool_calls".to_owned(), calls.into_iter().map(Value::Object).collect());
        }
        if let Some(function) = function {
            last.insert("function_call".to_owned(), Value::Object(function));
        }
        if !last.is_empty() {
            deltas.push(last);
        }
        (deltas, None)
    }

    fn window(&mut self, name: &str, rules: &RuleSet) -> &mut Window {
        let known = TEXTS.iter().find(|known| **known == name).copied().unwrap_or_default();
        let at = self.windows.iter().position(|window| window.name == known);
        let at = at.unwrap_or_else(|| {
            self.windows.push(Window {
                name: known,
                text: HoldBack::new(rules),
                noted: 0,
            });
            self.windows.len() - 1
        });
        &mut self.windows[at]
    }

    /// Approximate number of bytes that are checked when the choice ends.
    pub(super) fn held(&self) -> usize {
        self.held
    }
}

/// Tool calls that arrive in pieces, found by index and id. Invariant: handling a piece takes time linear in its own
/// bytes, however many calls and pieces came before.
#[derive(Debug, Default)]
struct CallAssembler {
    all: Vec<Object>,
    /// The last call with an index, as JSON writes it.
    by_index: HashMap<String, usize>,
    /// The last call with an id.
    by_id: HashMap<String, usize>,
}

impl CallAssembler {
    /// Adds a call, or a piece of one; returns approximately how many bytes it added. A piece belongs to the last call
    /// with its index, unless its id says otherwise; without an index to the call with its id; without either to the
    /// last one. In a document each is a call of its own.
    fn add(&mut self, piece: Object, is_whole: bool) -> usize {
        let index = piece.get("index").filter(|index| !index.is_null());
        let (index, id) = (index.map(Value::to_string), text_of(&piece, "id"));
        let known = match (&index, id) {
            _ if is_whole => None,
            (Some(index), id) => self.by_index.get(index).copied().filter(|at| {
                let known = text_of(&self.all[*at], "id");
                id.is_none() || known.is_none_or(|known| Some(known) == id)
            }),
            (None, Some(id)) => self.by_id.get(id).copied(),
            (None, None) => self.all.len().checked_sub(1),
        };
        let at = known.unwrap_or_else(|| {
            self.all.push(Object::new());
            self.all.len() - 1
        });
        if let Some(index) = index.filter(|_| known.is_none() && !is_whole) {
            self.by_index.insert(index, at);
        }
        let call = &mut self.all[at];
        let had_id = text_of(call, "id").is_some();
        let added = merge(call, piece);
        if let Some(id) = text_of(call, "id").filter(|_| !had_id && !is_whole) {
            let last = self.by_id.entry(id.to_owned()).or_insert(at);
            *last = at.max(*last);
        }
        added
    }
}

/// Renumbers calls whose provider gives no distinct indices: clients merge calls with one index.
fn number(calls: &mut [Object]) {
    let mut seen = HashSet::new();
    let mut is_new = |call: &Object| {
        let index = call.get("index").filter(|index| index.is_number());
        index.is_some_and(|index| seen.insert(index.to_string()))
    };
    if !calls.iter().all(&mut is_new) {
        for (at, call) in calls.iter_mut().enumerate() {
            call.insert("index".to_owned(), at.into());
        }
    }
}

fn text_of<'a>(object: &'a Object, name: &str) -> Option<&'a str> {
    object.get(name).and_then(Value::as_str).filter(|text| !text.is_empty())
}

/// Merges a piece of a call; returns approximately how many bytes it added.
fn merge(known: &mut Object, piece: Object) -> usize {
    let mut added = 0;
    for (name, value) in piece {
        // Some servers repeat the other members in every piece; only these grow.
        let grows = matches!(name.as_str(), "arguments" | "input");
        match (known.get_mut(&name), value) {
            (Some(Value::Object(known)), Value::Object(more)) => added += merge(known, more),
            (Some(Value::String(text)), Value::String(more)) if grows || text.is_empty() => {
                added += more.len();
                text.push_str(&more);
            }
            (None | Some(Value::Null), value) => {
                added += name.len() + value.to_string().len();
                known.insert(name, value);
            }
            (Some(_), _) => {}
        }
    }
    added
}

/// Returns a rule that matches a call. Its id and type are the protocol's own.
fn in_call<'a>(rules: &'a RuleSet, call: &Object) -> Option<&'a Rule> {
    let mut found = None;
    for (name, value) in call {
        let hit = match (name.as_str(), value) {
            ("id" | "type" | "index", Value::String(_) | Value::Number(_)) => None,
            ("function" | "custom", Value::Object(function)) => in_function(rules, function),
            (_, value) => rules.matching_value(value),
        };
        found = found.or(hit);
    }
    found
}

fn in_function<'a>(rules: &'a RuleSet, function: &Object) -> Option<&'a Rule> {
    function.values().find_map(|value| rules.matching_value(value))
}

/// Returns a rule that matches unknown members, whose texts may have arrived in pieces: those at the same path are
/// joined. Member names below the top level are checked too.
fn in_others<'a, 'b>(rules: &'a RuleSet, others: impl Iterator<Item = &'b Object>) -> Option<&'a Rule> {
    let mut places = TextsByPath::default();
    for object in others {
        for (name, value) in object {
            let at = places.below(None, name);
            places.gather(value, at);
        }
    }
    let texts = places.all.iter().flat_map(|place| [&place.text, &place.names]);
    texts
        .filter(|text| !text.is_empty())
        .find_map(|text| rules.matching_text(text))
}

/// The texts of JSON values, joined by path. Paths are numbered, so that a text below many long names costs no more
/// than one at the top.
#[derive(Default)]
struct TextsByPath<'b> {
    all: Vec<JoinedTexts>,
    /// By parent path and member name.
    below: HashMap<(Option<usize>, &'b str), usize>,
}

#[derive(Default)]
struct JoinedTexts {
    text: String,
    /// Names of the members there, one per line.
    names: String,
}

impl<'b> TextsByPath<'b> {
    fn below(&mut self, above: Option<usize>, name: &'b str) -> usize {
        let next = self.all.len();
        let at = *self.below.entry((above, name)).or_insert(next);
        if at == next {
            self.all.push(JoinedTexts::default());
        }
        at
    }

    fn gather(&mut self, value: &'b Value, at: usize) {
        match value {
            Value::String(text) => self.all[at].text.push_str(text),
            Value::Number(number) => self.all[at].text.push_str(&number.to_string()),
            Value::Array(items) => items.iter().for_each(|item| self.gather(item, at)),
            Value::Object(members) => {
                for (name, value) in members {
                    let names = &mut self.all[at].names;
                    names.push('\n');
                    names.push_str(name);
                    let below = self.below(Some(at), name);
                    self.gather(value, below);
                }
            }
            Value::Null | Value::Bool(_) => {}
        }
    }
}

/// Keeps of a choice what is checked and how it ended. Log probabilities would repeat the text.
pub(super) fn strip(choice: &mut Object, said: &str) {
    choice.retain(|name, value| match name.as_str() {
        "index" => value.is_number(),
        "finish_reason" => value.is_string() || value.is_null(),
        "logprobs" => true,
        name => name == said,
    });
    if let Some(logprobs) = choice.get_mut("logprobs") {
        *logprobs = Value::Null;
    }
}

/// Keeps of a document or chunk what is checked or is the protocol's own.
pub(super) fn strip_top(document: &mut Object) {
    document.retain(|name, value| match name.as_str() {
        "choices" => value.is_array(),
        "usage" => value.is_object() || value.is_null(),
        // Copied to every chunk that is made from this one.
        "id" | "object" | "model" | "system_fingerprint" | "service_tier" => {
            value.is_null() || value.as_str().is_some_and(|text| text.len() <= MOST_OF_NAME)
        }
        "created" => value.is_number(),
        _ => false,
    });
}
