//! What a tool answered, reduced to what readers, and therefore the model, may see. An answer that a rule blocks is
//! withheld as a whole; the call has taken effect all the same.

use serde_json::{Value, json};

use super::ScreeningResult;
use super::content::Part;
use crate::domain::guardrail::Verdict;
use crate::domain::json::is_value_too_deep;
use crate::domain::policy::Policy;

/// Maximum stored length of a tool's error, in characters.
const MAX_ERROR: usize = 4096;

/// Takes the answer out of its command, bounded: what is cut off need not be checked.
pub(super) fn prepare(policy: &Policy, result: &mut Option<Value>, error: &mut Option<String>) -> Part {
    let (rules, max) = (&policy.rules.output, policy.limits.result_bytes);
    let result = result.as_mut().map(|value| bounded(value.take(), max));
    let error = error.as_ref().map(|text| bounded_error(text, max).into());
    let answer = vec![result.unwrap_or_default(), error.unwrap_or_default()];
    Part::ToolAnswer(rules.thin(Value::Array(answer)))
}

/// Puts back what may be seen of the answer.
pub(super) fn finish(
    policy: &Policy,
    verdict: Verdict<Value>,
    result: &mut Option<Value>,
    error: &mut Option<String>,
    screening: &mut ScreeningResult,
) {
    let max = policy.limits.result_bytes;
    let (answer, rules) = match verdict {
        Verdict::Allowed(answer) => (answer, Vec::new()),
        Verdict::Redacted { content, rules } => (content, rules),
        Verdict::Blocked { rule } => {
            let withheld = format!("the rule {rule:?} does not allow what the tool answered to be shown");
            (*result, *error) = (None, Some(bounded_error(&withheld, max)));
            screening.forbidden_by = Some(rule);
            return;
        }
    };
    let Value::Array(answer) = answer else { return };
    let [mut value, mut said] = <[Value; 2]>::try_from(answer).unwrap_or_default();
    if let Some(result) = result {
        // Redaction may have made the texts longer.
        *result = if rules.is_empty() {
            value.take()
        } else {
            bounded(value.take(), max)
        };
    }
    if error.is_some() {
        *error = said.take().as_str().map(|said| bounded_error(said, max));
    }
    screening.redactions = rules;
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
