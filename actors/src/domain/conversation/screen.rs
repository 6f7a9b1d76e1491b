//! Screening: checks the content of a command against its copilot's deny rules, its tools' schemas and the size limits.
//!
//! Screening takes time proportional to the content, so it is a separate step before [`decide`](super::decide), which
//! only uses the verdict. [`Command::weight`] is its cost; above [`INLINE_COST`](crate::compute::INLINE_COST) it
//! belongs on the compute pool.
//!
//! Invariant: only a [`ScreenedCommand`] can be decided, and its content does not change afterwards.

use serde_json::{Value, json};

use super::command::{Command, Decision, ModelReply, StoppedWork};
use super::decide::Rejection;
use crate::domain::content::{Input, MAX_ARGUMENTS, Metadata};
use crate::domain::guardrail::{CleanedValue, REDACTED, Rules};
use crate::domain::ids::TurnId;
use crate::domain::json::{MAX_NESTING, is_value_too_deep};
use crate::domain::policy::{Limits, Policy};
use crate::domain::schema::{AcceptedSchema, Violation, describe};
use crate::domain::{guardrail as guard, weight};

/// Maximum length of a title, in bytes.
pub const MAX_TITLE: usize = 1024;
/// Maximum stored length of a tool's error, in characters.
const MAX_ERROR: usize = 4096;

/// A command whose content was checked.
#[derive(Debug, Clone)]
pub struct ScreenedCommand {
    command: Command,
    verdict: Verdict,
}

/// The result of screening a command.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Verdict {
    /// Why a caller's request is rejected.
    pub(crate) fault: Option<Rejection>,
    /// The name of the rule that blocks a user's text or withholds a tool's result.
    pub(crate) forbidden_by: Option<String>,
    /// The verdicts on the calls that a model asks for, in the same order.
    pub(crate) calls: Vec<CallVerdict>,
    /// The names of the rules that redacted a tool's result.
    pub(crate) redactions: Vec<String>,
    /// The tool against whose schema edited arguments were checked.
    pub(crate) tool: Option<String>,
}

/// The result of screening one call of a model.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct CallVerdict {
    /// The name of the rule that forbids the call. Its arguments are dropped then.
    pub(crate) forbidden_by: Option<String>,
    pub(crate) arguments: Arguments,
}

/// Whether a call's arguments satisfy its tool's schema.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) enum Arguments {
    /// The tool does not exist.
    #[default]
    NoTool,
    Valid,
    /// The arguments are invalid; the text tells the model why.
    Invalid(String),
}

impl ScreenedCommand {
    /// Returns the command.
    pub fn command(&self) -> &Command {
        &self.command
    }

    /// Returns the running turn's progress, to be filled in.
    pub fn stop_mut(&mut self) -> Option<&mut StoppedWork> {
        self.command.stop_mut()
    }

    /// Replaces a submission's turn id with the one derived from its idempotency key.
    pub fn set_turn(&mut self, id: TurnId) {
        if let Command::Submit { turn, .. } = &mut self.command {
            *turn = id;
        }
    }

    pub(crate) fn into_parts(self) -> (Command, Verdict) {
        (self.command, self.verdict)
    }
}

impl Command {
    /// Returns the cost of screening, in the unit of [`compute`](crate::compute). An estimate that is itself cheap.
    pub fn weight(&self) -> usize {
        let text = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        let bytes = match self {
            Self::Create { title, metadata, .. } => text(title) + weight::of_members(metadata),
            Self::Update { title, metadata } => text(title) + metadata.as_ref().map_or(0, weight::of_members),
            Self::Submit {
                input,
                metadata,
                response_schema,
                ..
            } => {
                let schema = response_schema.as_ref().map(AcceptedSchema::source);
                input.bytes() + weight::of_members(metadata) + schema.map_or(0, weight::of)
            }
            Self::Decide { decision, reason, .. } => {
                let edited = match decision {
                    Decision::Approve { arguments } => arguments.as_ref(),
                    Decision::Reject => None,
                };
                text(reason) + edited.map_or(0, weight::of)
            }
            Self::ModelReplied { reply, .. } => {
                let calls = reply.calls.iter();
                calls.map(|(name, arguments)| name.len() + weight::of(arguments)).sum()
            }
            Self::ToolReplied { result, error, .. } => text(error) + result.as_ref().map_or(0, weight::of),
            _ => 0,
        };
        bytes * guard::COST_PER_BYTE
    }

    /// Checks the content of the command and replaces in it what readers must not see. `tool` is the tool of the call
    /// that the command decides on, if any.
    pub fn screen(mut self, policy: &Policy, tool: Option<&str>) -> ScreenedCommand {
        let verdict = match &mut self {
            Self::Create { title, metadata, .. } => Verdict {
                fault: title_fault(title.as_deref()).or_else(|| metadata_fault(metadata, &policy.limits)),
                ..Verdict::default()
            },
            Self::Update { title, metadata } => {
                let of_metadata = || metadata_fault(metadata.as_ref()?, &policy.limits);
                Verdict {
                    fault: title_fault(title.as_deref()).or_else(of_metadata),
                    ..Verdict::default()
                }
            }
            Self::Submit {
                input,
                metadata,
                response_schema,
                ..
            } => prompt(policy, input, metadata, response_schema.as_ref()),
            Self::Decide { decision, reason, .. } => decision_on_call(policy, decision, reason.as_deref(), tool),
            Self::ModelReplied { reply, .. } => Verdict {
                calls: calls(policy, reply),
                ..Verdict::default()
            },
            Self::ToolReplied { result, error, .. } => tool_answer(policy, result, error),
            _ => Verdict::default(),
        };
        ScreenedCommand { command: self, verdict }
    }
}

fn title_fault(title: Option<&str>) -> Option<Rejection> {
    let (what, max) = ("the title", MAX_TITLE);
    title
        .is_some_and(|title| title.len() > max)
        .then_some(Rejection::TooLarge { what, max })
}

fn metadata_fault(metadata: &Metadata, limits: &Limits) -> Option<Rejection> {
    let (what, max) = ("metadata", limits.metadata_bytes);
    let bytes = || serde_json::to_vec(metadata).map_or(usize::MAX, |json| json.len());
    (!metadata.is_empty() && bytes() > max).then_some(Rejection::TooLarge { what, max })
}

fn prompt(policy: &Policy, input: &Input, metadata: &Metadata, schema: Option<&AcceptedSchema>) -> Verdict {
    let max = policy.limits.input_bytes;
    let fault = if input.bytes() > max {
        Some(Rejection::TooLarge { what: "input", max })
    } else {
        metadata_fault(metadata, &policy.limits)
    };
    if fault.is_some() {
        // Rejected content need not be scanned.
        return Verdict {
            fault,
            ..Verdict::default()
        };
    }
    let text = input.text();
    if text.trim().is_empty() {
        return Verdict {
            fault: Some(invalid("/input", "must not be empty".into())),
            ..Verdict::default()
        };
    }
    let rules = &policy.rules.input;
    let in_schema = || rules.blocking_value(schema?.source());
    let in_metadata = || {
        let mut members = metadata.iter();
        members.find_map(|(name, value)| rules.blocking(name).or_else(|| rules.blocking_value(value)))
    };
    let rule = if rules.is_empty() {
        None
    } else {
        rules.blocking_text(&text).or_else(in_schema).or_else(in_metadata)
    };
    Verdict {
        forbidden_by: rule.map(|rule| rule.name.clone()),
        ..Verdict::default()
    }
}

/// Checks a person's text about a call: readers see it, and models read it.
fn decision_on_call(policy: &Policy, decision: &Decision, reason: Option<&str>, tool: Option<&str>) -> Verdict {
    let rules = &policy.rules;
    let edited = match decision {
        Decision::Approve { arguments } => arguments.as_ref(),
        Decision::Reject => None,
    };
    let fault = edited.and_then(|edited| arguments_fault(policy, edited, tool));
    // Arguments that are too large are rejected without scanning them.
    let in_arguments = match (edited, &fault) {
        (Some(_), Some(Rejection::TooLarge { .. })) | (None, _) => None,
        (Some(edited), _) => rules.forbidding(edited),
    };
    let rule = in_arguments.or_else(|| rules.forbidding_text(reason?));
    Verdict {
        fault,
        forbidden_by: rule.map(|rule| rule.name.clone()),
        tool: tool.map(str::to_owned),
        ..Verdict::default()
    }
}

fn arguments_fault(policy: &Policy, arguments: &Value, tool: Option<&str>) -> Option<Rejection> {
    if arguments.to_string().len() > MAX_ARGUMENTS {
        let (what, max) = ("arguments", MAX_ARGUMENTS);
        return Some(Rejection::TooLarge { what, max });
    }
    if is_value_too_deep(arguments) {
        let message = format!("nested deeper than {MAX_NESTING} levels");
        return Some(invalid("/arguments", message));
    }
    let violations = policy.tools.get(tool?)?.tool.parameters.check(arguments).err()?;
    let below = |v: Violation| Violation {
        pointer: format!("/arguments{}", v.pointer),
        message: v.message,
    };
    Some(Rejection::Invalid(violations.into_iter().map(below).collect()))
}

fn invalid(pointer: &str, message: String) -> Rejection {
    let pointer = pointer.to_owned();
    Rejection::Invalid(vec![Violation { pointer, message }])
}

/// Checks calls before anything of them is recorded. A forbidden call never runs, so its content is dropped: readers
/// see none of it.
fn calls(policy: &Policy, reply: &mut ModelReply) -> Vec<CallVerdict> {
    let screen = |(name, arguments): &mut (String, Value)| call(policy, name, arguments);
    reply.calls.iter_mut().map(screen).collect()
}

fn call(policy: &Policy, name: &mut String, arguments: &mut Value) -> CallVerdict {
    let Rules { input, output } = &policy.rules;
    if is_value_too_deep(arguments) {
        // Kept as text: it satisfies no tool's schema, and the model is told so.
        *arguments = Value::String(arguments.to_string());
    }
    let in_name = output.matching_text(name).or_else(|| input.matching_text(name));
    if let Some(rule) = in_name.or_else(|| policy.rules.forbidding(arguments)) {
        *arguments = REDACTED.into();
        if in_name.is_some() {
            REDACTED.clone_into(name);
        }
        return CallVerdict {
            forbidden_by: Some(rule.name.clone()),
            arguments: Arguments::NoTool,
        };
    }
    let checked = policy.tools.get(name.as_str());
    let checked = checked.map(|tool| match tool.tool.parameters.check(arguments) {
        Ok(()) => Arguments::Valid,
        Err(violations) => Arguments::Invalid(describe(&violations)),
    });
    CallVerdict {
        forbidden_by: None,
        arguments: checked.unwrap_or_default(),
    }
}

/// Reduces a tool's answer to what readers, and therefore the model, may see. An answer that a rule blocks is withheld
/// as a whole; the call has taken effect all the same.
fn tool_answer(policy: &Policy, result: &mut Option<Value>, error: &mut Option<String>) -> Verdict {
    let (rules, max) = (&policy.rules.output, policy.limits.result_bytes);
    // Bounded first: what is cut off need not be scanned.
    *result = result.take().map(|value| bounded(value, max));
    *error = error.take().map(|text| bounded_error(&text, max));
    if rules.is_empty() {
        return Verdict::default();
    }
    let cleaned = [result.take(), error.take().map(Value::from)].map(|value| value.map(|value| rules.clean(value)));
    let (mut redactions, mut blocked) = (Vec::new(), None);
    let [cleaned_result, cleaned_error] = cleaned.map(|cleaned| {
        let CleanedValue {
            value,
            redactions: names,
            blocked: rule,
        } = cleaned?;
        redactions.extend(names);
        blocked = blocked.take().or(rule);
        value
    });
    redactions.sort_unstable();
    redactions.dedup();
    match (&blocked, cleaned_error) {
        (Some(rule), _) => {
            let withheld = format!("the rule {rule:?} does not allow what the tool answered to be shown");
            *error = Some(bounded_error(&withheld, max));
        }
        (None, said) => {
            // Redaction may have made the text longer.
            *result = cleaned_result.map(|value| bounded(value, max));
            *error = said.and_then(|said| Some(bounded_error(said.as_str()?, max)));
        }
    }
    Verdict {
        forbidden_by: blocked,
        redactions,
        ..Verdict::default()
    }
}

/// Cuts a tool's error to the length that is stored.
pub(crate) fn bounded_error(text: &str, max: usize) -> String {
    text.chars().take(max.min(MAX_ERROR)).collect()
}

fn bounded(value: Value, max: usize) -> Value {
    let text = value.to_string();
    if text.len() <= max && !is_value_too_deep(&value) {
        return value;
    }
    let truncated = |beginning: &str| json!({ "truncated": true, "bytes": text.len(), "beginning": beginning });
    let mut left = max.saturating_sub(truncated("").to_string().len());
    let fits = |c: &char| {
        // JSON inside a JSON string: quotation marks and backslashes are escaped once more.
        let size = if matches!(c, '"' | '\\') { 2 } else { c.len_utf8() };
        let fits = size <= left;
        left = left.saturating_sub(size);
        fits
    };
    let end = text.chars().take_while(fits).map(char::len_utf8).sum();
    truncated(&text[..end])
}
