//! One choice of an answer: its texts pass through output guards, all else is held until it is complete.

use copilotd_actors::domain::event::GuardAction;
use copilotd_actors::domain::guardrail::{
    BlockedByRule, ContentKind, OutputGuard, RuleSet, Rules, Stage, Texts, find, pipeline,
};
use serde_json::Value;

use super::calls::{CallAssembler, CallTexts, merge, number};
use super::texts::TextsByPath;
use super::{Object, Triggered};

/// Texts of a message or delta, which are passed on as they arrive.
const TEXTS: [&str; 4] = ["content", "refusal", "reasoning_content", "reasoning"];
/// Most bytes of tool calls and other members that are held back.
pub(super) const MOST_HELD: usize = 8 * 1024 * 1024;

/// Why a choice ends early.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum StopReason {
    /// A rule, by its name.
    Rule(Stage, String),
    /// It is longer than can be held back.
    TooLong,
}

impl StopReason {
    /// Returns what is reported.
    pub(super) fn triggered(self) -> Triggered {
        let (stage, rule) = match self {
            Self::Rule(stage, rule) => (stage, rule),
            Self::TooLong => (Stage::Output, pipeline::UNCHECKED_RULE.to_owned()),
        };
        Triggered {
            stage,
            action: GuardAction::Block,
            rule,
        }
    }
}

impl From<BlockedByRule> for StopReason {
    fn from(blocked: BlockedByRule) -> Self {
        Self::Rule(Stage::Output, blocked.rule)
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
    /// Whether the content must be JSON, which can write one text in many ways: it is held back like everything that is
    /// not checked as plain text.
    is_json: bool,
    /// Redactions that were not reported yet.
    triggered: Vec<Triggered>,
    pub(super) is_ended: bool,
    /// Whether a rule ended it and its provider has not yet.
    pub(super) is_cut: bool,
}

#[derive(Debug)]
struct Window {
    name: &'static str,
    guard: OutputGuard,
}

impl Window {
    fn is_held(&self, is_json: bool) -> bool {
        is_json && self.name == "content"
    }
}

impl Choice {
    /// Creates a choice without content: a whole message or deltas, with JSON content or not.
    pub(super) fn new(is_whole: bool, is_json: bool) -> Self {
        Self {
            is_whole,
            is_json,
            ..Self::default()
        }
    }

    /// Takes a delta or a whole message: its texts become what may be sent of them now, all else is held back. If a
    /// rule stops the choice, the text before the match may still be sent. Without rules for answers, only calls are
    /// held back.
    pub(super) fn take(&mut self, rules: &Rules, delta: &mut Object) -> Result<(), StopReason> {
        let all = std::mem::take(delta);
        let mut others = Object::new();
        let mut stopped = None;
        for (name, value) in all {
            match (name.as_str(), value) {
                (_, value @ Value::Null) => _ = delta.insert(name, value),
                ("role", value @ Value::String(_)) => _ = delta.insert(name, value),
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
                (_, value) if rules.output.is_empty() => _ = delta.insert(name, value),
                // Audio cannot be checked, so it is dropped.
                ("audio", _) => {}
                (known, Value::String(text)) if TEXTS.contains(&known) => {
                    // What follows a stop is not sent.
                    if stopped.is_some() {
                        continue;
                    }
                    let (released, stop) = self.pass(known, &rules.output, &text);
                    stopped = stop;
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

    /// Passes a piece of a known text and returns what of it may be sent now.
    fn pass(&mut self, name: &str, rules: &RuleSet, text: &str) -> (String, Option<StopReason>) {
        let at = self.window(name, rules);
        let window = &mut self.windows[at];
        let passed = window.guard.push(text);
        self.triggered.extend(redactions(&mut window.guard));
        let (released, stopped) = match passed {
            Ok(released) => (released, None),
            Err(blocked) => (blocked.released.clone(), Some(blocked.into())),
        };
        if window.is_held(self.is_json) {
            self.held += released.len();
            return (String::new(), stopped);
        }
        (released, stopped)
    }

    /// Ends the choice: returns the held-back deltas that may be sent, and what stops it even now. What is not text is
    /// sent whole or not at all, since a call with a replaced word would be another call: there any rule stops the
    /// choice.
    pub(super) fn finish(&mut self, rules: &Rules) -> (Vec<Object>, Option<StopReason>) {
        let mut last = Object::new();
        for window in &mut self.windows {
            let is_held = window.is_held(self.is_json);
            let passed = window.guard.finish();
            self.triggered.extend(redactions(&mut window.guard));
            let (released, stopped) = match passed {
                Ok(rest) => (window.guard.take_json().unwrap_or(rest), None),
                // A part of it would not be JSON, and escapes in it may hide text that was not checked yet.
                Err(blocked) if is_held => (String::new(), Some(blocked.into())),
                Err(blocked) => (blocked.released.clone(), Some(blocked.into())),
            };
            if !released.is_empty() {
                last.insert(window.name.to_owned(), released.into());
            }
            if stopped.is_some() {
                return (vec![last], stopped);
            }
        }
        let mut calls = std::mem::take(&mut self.calls.all);
        let mut deltas = std::mem::take(&mut self.others);
        // The old form is a function without a call around it.
        let function = self.function.take().map(Value::Object);
        let function = function.map(|function| Object::from_iter([("function".to_owned(), function)]));
        let mut all_calls = calls.iter().chain(&function);
        let hit = all_calls.find_map(|call| found(rules, ContentKind::ToolCall, &CallTexts(call)));
        let in_others = || {
            let texts = TextsByPath::of(&deltas).into_texts();
            found(rules, ContentKind::Answer, &texts)
        };
        if let Some(stopped) = hit.or_else(in_others) {
            return (vec![last], Some(stopped));
        }
        if !self.is_whole {
            number(&mut calls);
        }
        if !calls.is_empty() {
            last.insert("tool_calls".to_owned(), calls.into_iter().map(Value::Object).collect());
        }
        if let Some(function) = function.and_then(|mut call| call.remove("function")) {
            last.insert("function_call".to_owned(), function);
        }
        if !last.is_empty() {
            deltas.push(last);
        }
        (deltas, None)
    }

    fn window(&mut self, name: &str, rules: &RuleSet) -> usize {
        let known = TEXTS.iter().find(|known| **known == name).copied().unwrap_or_default();
        let at = self.windows.iter().position(|window| window.name == known);
        at.unwrap_or_else(|| {
            self.windows.push(Window {
                name: known,
                guard: OutputGuard::new(rules, self.is_json && known == "content"),
            });
            self.windows.len() - 1
        })
    }

    /// Returns the redactions since the last time.
    pub(super) fn triggered(&mut self) -> Vec<Triggered> {
        std::mem::take(&mut self.triggered)
    }

    /// Approximate number of bytes that are checked when the choice ends.
    pub(super) fn held(&self) -> usize {
        self.held
    }
}

fn redactions(guard: &mut OutputGuard) -> impl Iterator<Item = Triggered> {
    let triggered = |rule: &String| Triggered {
        stage: Stage::Output,
        action: GuardAction::Redact,
        rule: rule.clone(),
    };
    guard.new_redactions().iter().map(triggered)
}

/// Returns what stops a choice because of a content that is sent whole or not at all.
fn found(rules: &Rules, kind: ContentKind, texts: &dyn Texts) -> Option<StopReason> {
    let rule = match find(rules, kind, texts) {
        Ok(findings) => findings.into_iter().next()?.rule,
        Err(_) => pipeline::UNCHECKED_RULE.to_owned(),
    };
    Some(StopReason::Rule(kind.stage(), rule))
}
