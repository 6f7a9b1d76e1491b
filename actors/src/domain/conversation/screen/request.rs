//! Faults in what a caller asks for: sizes, and the schema of edited arguments.

use serde_json::Value;

use super::Rejection;
use crate::domain::content::{Input, MAX_ARGUMENTS, Metadata};
use crate::domain::conversation::command::Decision;
use crate::domain::file::MAX_FILES;
use crate::domain::json::{MAX_NESTING, is_value_too_deep};
use crate::domain::policy::{Limits, Policy};
use crate::domain::schema::Violation;
use crate::domain::tool::client::MAX_ANSWER;

/// Maximum length of a title, in bytes.
pub const MAX_TITLE: usize = 1024;

pub(super) fn fault(title: Option<&str>, metadata: Option<&Metadata>, limits: &Limits) -> Option<Rejection> {
    let (what, max) = ("the title", MAX_TITLE);
    let of_title = title.filter(|title| title.len() > max);
    let of_title = of_title.map(|_| Rejection::TooLarge { what, max });
    of_title.or_else(|| metadata_fault(metadata?, limits))
}

fn metadata_fault(metadata: &Metadata, limits: &Limits) -> Option<Rejection> {
    let (what, max) = ("metadata", limits.metadata_bytes);
    let bytes = || serde_json::to_vec(metadata).map_or(usize::MAX, |json| json.len());
    (!metadata.is_empty() && bytes() > max).then_some(Rejection::TooLarge { what, max })
}

pub(super) fn prompt_fault(input: &Input, metadata: &Metadata, limits: &Limits) -> Option<Rejection> {
    let (what, max) = ("input", limits.input_bytes);
    if input.bytes() > max {
        return Some(Rejection::TooLarge { what, max });
    }
    let empty = || {
        let is_empty = input.is_blank();
        is_empty.then(|| invalid("/input", "must not be empty".into()))
    };
    let crowded = || {
        let is_crowded = input.files().count() > MAX_FILES;
        is_crowded.then(|| invalid("/input", format!("must have at most {MAX_FILES} files")))
    };
    metadata_fault(metadata, limits).or_else(empty).or_else(crowded)
}

pub(super) fn decision_fault(policy: &Policy, decision: &Decision, tool: Option<&str>) -> Option<Rejection> {
    match decision {
        Decision::Approve { arguments } => arguments_fault(policy, arguments.as_ref()?, tool),
        Decision::Reject => None,
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

/// What is wrong with a page's answer to a call.
pub(super) fn answer_fault(result: Option<&Value>, error: Option<&str>) -> Option<Rejection> {
    let bytes = result.map_or(0, |value| value.to_string().len()) + error.map_or(0, str::len);
    if bytes > MAX_ANSWER {
        let (what, max) = ("the answer", MAX_ANSWER);
        return Some(Rejection::TooLarge { what, max });
    }
    match (result, error) {
        (Some(_), Some(_)) => Some(invalid("/error", "must not be given together with result".into())),
        (None, None) => Some(invalid("", "result or error is missing".into())),
        _ => None,
    }
}

fn invalid(pointer: &str, message: String) -> Rejection {
    let pointer = pointer.to_owned();
    Rejection::Invalid(vec![Violation { pointer, message }])
}
