//! The calls that a model asks for, checked before anything of them is recorded. A forbidden call never runs, so its
//! content is dropped: readers see none of it.

use serde_json::Value;

use super::{Arguments, CallVerdict};
use crate::domain::conversation::command::ArgumentsCheck;
use crate::domain::guardrail::{self as guard, ContentKind, Finding, REDACTED};
use crate::domain::json::is_value_too_deep;
use crate::domain::policy::Policy;
use crate::domain::schema::describe;
use crate::domain::surrogates::without_lone_surrogates;

/// Parses arguments that are a text, and returns that text if it is not kept. Arguments that cannot be parsed, or that
/// are nested too deep, stay or become a text, which satisfies no tool's schema; the model gets the violation as the result.
pub(crate) fn parse(arguments: &mut Value) -> Option<String> {
    let mut written = None;
    if let Value::String(text) = arguments {
        let text = std::mem::take(text);
        *arguments = read(&text).unwrap_or_else(|| Value::String(text.clone()));
        written = (arguments.as_str() != Some(&text)).then_some(text);
    }
    if is_value_too_deep(arguments) {
        *arguments = Value::String(arguments.to_string());
    }
    written
}

/// Parses tool arguments. Models often leave an empty argument list out; anything else that is not JSON stays a text,
/// for the validator to reject.
fn read(arguments: &str) -> Option<Value> {
    if arguments.trim().is_empty() {
        return Some(Value::Object(serde_json::Map::new()));
    }
    let read = |text: &str| serde_json::from_str::<Value>(text).ok();
    match read(arguments).or_else(|| read(&without_lone_surrogates(arguments)))? {
        // Some servers encode the arguments twice, as a string of JSON.
        Value::String(text) => match read(&text) {
            Some(inner @ Value::Object(_)) => Some(inner),
            _ => Some(Value::String(text)),
        },
        value => Some(value),
    }
}

/// Judges a call. `of_page` is what the checker said of its arguments if it is one of a client tool.
pub(super) fn finish(
    policy: &Policy,
    call: &mut (String, Value),
    of_page: Option<&ArgumentsCheck>,
    findings: &[Finding],
) -> CallVerdict {
    let (name, arguments) = call;
    let kind = ContentKind::ToolCall;
    if let Some(rule) = guard::blocked_by(kind, findings) {
        *arguments = REDACTED.into();
        // The name is the content's first text. A finding in the content as a whole may mean it too, unless it is one
        // that the configuration gave.
        let is_meant = |finding: &Finding| match &finding.place {
            Some(place) => place.number == 0,
            None => !policy.tools.contains_key(name.as_str()),
        };
        let mut sets = kind.rules(&policy.rules);
        if findings.iter().any(is_meant) || sets.any(|set| set.matching_text(name).is_some()) {
            REDACTED.clone_into(name);
        }
        return CallVerdict {
            forbidden_by: Some(rule.to_owned()),
            arguments: Arguments::NoTool,
        };
    }
    let checked = policy.tools.get(name.as_str());
    let checked = checked.map(|tool| match tool.tool.parameters.check(arguments) {
        Ok(()) => Arguments::Valid,
        Err(violations) => Arguments::Invalid(describe(&violations)),
    });
    let of_page = of_page.map(|check| match check {
        ArgumentsCheck::Valid => Arguments::ValidForPage,
        ArgumentsCheck::Invalid(why) => Arguments::Invalid(why.clone()),
    });
    CallVerdict {
        forbidden_by: None,
        arguments: checked.or(of_page).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn arguments_are_what_the_model_wrote_or_a_text() {
        for (written, expected) in [
            ("", json!({})),
            (" \n", json!({})),
            (r#"{"a":1}"#, json!({"a": 1})),
            (r#"{"a":"\ud83d"}"#, json!({"a": "\u{fffd}"})),
            (r#""{\"a\":1}""#, json!({"a": 1})),
            (r#""text""#, json!("text")),
            (r#"{"a":"#, json!(r#"{"a":"#)),
            (r#"{"a":1}{"b":2}"#, json!(r#"{"a":1}{"b":2}"#)),
            ("null", json!(null)),
            ("[]", json!([])),
        ] {
            let mut arguments = Value::String(written.to_owned());
            let kept = parse(&mut arguments);
            assert_eq!(arguments, expected, "{written}");
            assert_eq!(kept.is_none(), arguments == json!(written), "{written}");
        }
    }
}
