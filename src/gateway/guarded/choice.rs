//! One choice of an answer: its texts behind their windows, all else kept back until it is whole.

use std::collections::BTreeMap;

use copilotd_actors::domain::guard::{Blocked, HoldBack, Rule, RuleSet};
use serde_json::{Map, Value};

use super::note;

/// The texts of a message or a delta, which are passed on as they come.
const TEXTS: [&str; 4] = ["content", "refusal", "reasoning_content", "reasoning"];
/// Most bytes of calls and other members that are kept back.
const MOST_HELD: usize = 8 * 1024 * 1024;

/// An object of JSON.
pub(super) type Object = Map<String, Value>;

/// Why a choice ends before its own end.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Stopped {
    /// A rule, by its name.
    Rule(String),
    /// It is longer than what can be kept back.
    TooLong,
}

impl Stopped {
    /// Tells of it.
    pub(super) fn note(&self) {
        match self {
            Self::Rule(rule) => note("output", "block", rule),
            Self::TooLong => note("output", "block", "an answer that is too long to be checked"),
        }
    }
}

impl From<&Rule> for Stopped {
    fn from(rule: &Rule) -> Self {
        Self::Rule(rule.name.clone())
    }
}

/// What is known of a choice so far.
#[derive(Debug, Default)]
pub(super) struct Choice {
    windows: Vec<Window>,
    calls: Vec<Object>,
    /// The call of the protocol's old form.
    function: Option<Object>,
    /// Members that are not known here, as they came.
    others: Vec<Object>,
    held: usize,
    /// Whether it comes as one message.
    is_whole: bool,
    /// Its content where that is JSON, which can write one text in many ways: it is kept back as all is that is not read as it
    /// stands.
    json: Option<String>,
    pub(super) is_ended: bool,
    /// Whether a rule ended it and its provider has not yet.
    pub(super) is_cut: bool,
}

#[derive(Debug)]
struct Window {
    name: &'static str,
    text: HoldBack,
    /// Redacting rules that were told of.
    noted: usize,
}

impl Window {
    fn pass(&mut self, step: impl FnOnce(&mut HoldBack) -> Result<String, Blocked>) -> (String, Option<Stopped>) {
        let passed = step(&mut self.text);
        let redactions = self.text.redactions();
        redactions[self.noted..]
            .iter()
            .for_each(|rule| note("output", "redact", rule));
        self.noted = redactions.len();
        match passed {
            Ok(released) => (released, None),
            Err(Blocked { rule, released }) => (released, Some(Stopped::Rule(rule))),
        }
    }
}

impl Choice {
    /// One of which nothing is known, as a message or in deltas, whose content has to be JSON or not.
    pub(super) fn new(is_whole: bool, is_json: bool) -> Self {
        Self {
            is_whole,
            json: is_json.then(String::new),
            ..Self::default()
        }
    }

    /// Takes a delta, or a whole message: its texts become what may be sent of them now, all else is kept. When a rule stops
    /// the choice, what stood before may still be sent.
    pub(super) fn take(&mut self, rules: &RuleSet, delta: &mut Object) -> Result<(), Stopped> {
        let all = std::mem::take(delta);
        let mut others = Object::new();
        let mut stopped = None;
        for (name, value) in all {
            match (name.as_str(), value) {
                (_, value @ Value::Null) => _ = delta.insert(name, value),
                ("role", value @ Value::String(_)) => _ = delta.insert(name, value),
                // Nobody here hears what is said in it.
                ("audio", _) => {}
                ("tool_calls", Value::Array(calls)) => {
                    for call in calls {
                        if let Value::Object(call) = call {
                            self.call(call);
                        }
                    }
                }
                ("function_call", Value::Object(function)) => {
                    self.held += merge(self.function.get_or_insert_default(), function);
                }
                (known, Value::String(text)) if TEXTS.contains(&known) => {
                    // What came behind a stop is not sent.
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
            None if self.held > MOST_HELD => Err(Stopped::TooLong),
            None => Ok(()),
        }
    }

    /// Ends it: deltas of what was held back and may be sent, and what stops it even now. What is not text is sent whole or not
    /// at all, since with another word in it a call would be another call: there any rule stops the choice.
    pub(super) fn finish(&mut self, rules: &RuleSet) -> (Vec<Object>, Option<Stopped>) {
        let mut last = Object::new();
        for window in &mut self.windows {
            let (mut released, mut stopped) = window.pass(HoldBack::finish);
            if let Some(json) = self.json.as_mut().filter(|_| window.name == "content") {
                released.insert_str(0, &std::mem::take(json));
                // A part of it would be no JSON, and may hold in escapes what was not looked for yet.
                stopped = stopped.or_else(|| rules.matching_text(&released).map(Stopped::from));
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
        let (mut calls, function) = (std::mem::take(&mut self.calls), self.function.take());
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

    /// Adds a call, or a piece of one. A piece belongs to the last call with its index, unless its id says otherwise; without an
    /// index to the call of its id; without either to the last one. In a document each is a call.
    fn call(&mut self, piece: Object) {
        let named = |call: &Object| text_of(call, "id").map(str::to_owned);
        let (index, id) = (piece.get("index").filter(|index| !index.is_null()), named(&piece));
        let at = match (index, &id) {
            _ if self.is_whole => None,
            (Some(index), _) => self
                .calls
                .iter()
                .rposition(|call| call.get("index") == Some(index))
                .filter(|at| id.is_none() || named(&self.calls[*at]).is_none_or(|known| Some(known) == id)),
            (None, Some(_)) => self.calls.iter().rposition(|call| named(call) == id),
            (None, None) => self.calls.len().checked_sub(1),
        };
        let at = at.unwrap_or_else(|| {
            self.calls.push(Object::new());
            self.calls.len() - 1
        });
        self.held += merge(&mut self.calls[at], piece);
    }
}

/// Numbers calls by their places where their providers do not: clients put together what has one number.
fn number(calls: &mut [Object]) {
    let is_known = |at: usize| {
        let index = calls[at].get("index").filter(|index| index.is_number());
        index.is_some_and(|index| calls[..at].iter().all(|call| call.get("index") != Some(index)))
    };
    if !(0..calls.len()).all(is_known) {
        for (at, call) in calls.iter_mut().enumerate() {
            call.insert("index".to_owned(), at.into());
        }
    }
}

fn text_of<'a>(object: &'a Object, name: &str) -> Option<&'a str> {
    object.get(name).and_then(Value::as_str).filter(|text| !text.is_empty())
}

/// Adds a piece of a call; returns how many bytes it added, about.
fn merge(known: &mut Object, piece: Object) -> usize {
    let mut added = 0;
    for (name, value) in piece {
        // Some servers repeat what a call is in every piece; only these grow.
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

/// Looks for a rule in a call. Its id and kind are the protocol's words.
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

/// Looks for a rule in members that nobody here knows, whose texts may have come in pieces: those in the same place are read as
/// one. Names below the top are looked at too.
fn in_others<'a, 'b>(rules: &'a RuleSet, others: impl Iterator<Item = &'b Object>) -> Option<&'a Rule> {
    fn gather(value: &Value, place: &mut String, texts: &mut BTreeMap<String, String>) {
        let mut add = |text: &str| texts.entry(place.clone()).or_default().push_str(text);
        match value {
            Value::String(text) => add(text),
            Value::Number(number) => add(&number.to_string()),
            Value::Array(items) => items.iter().for_each(|item| gather(item, place, texts)),
            Value::Object(members) => {
                for (name, value) in members {
                    texts
                        .entry(format!("{place}/"))
                        .or_default()
                        .push_str(&format!("\n{name}"));
                    let length = place.len();
                    place.push('/');
                    place.push_str(name);
                    gather(value, place, texts);
                    place.truncate(length);
                }
            }
            Value::Null | Value::Bool(_) => {}
        }
    }
    let mut texts = BTreeMap::new();
    for object in others {
        for (name, value) in object {
            gather(value, &mut name.clone(), &mut texts);
        }
    }
    texts.values().find_map(|text| rules.matching_text(text))
}

/// Leaves of a choice what is looked at, and what says how it ended. Probabilities repeat the words.
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

/// Leaves of a document or chunk what is looked at or is the protocol's own.
pub(super) fn strip_top(document: &mut Object) {
    document.retain(|name, value| match name.as_str() {
        "choices" => value.is_array(),
        "usage" => value.is_object() || value.is_null(),
        "id" | "object" | "model" | "system_fingerprint" | "service_tier" => value.is_string() || value.is_null(),
        "created" => value.is_number(),
        _ => false,
    });
}
