//! What is kept of an answer that rules apply to: what is checked, and the protocol's own.

use copilotd_actors::domain::guardrail::Rules;

use super::Object;

/// Longest id or name in a chunk that is passed on; real ones are far shorter.
const MOST_OF_NAME: usize = 1024;

/// Keeps of a choice what is checked and how it ended. Log probabilities would repeat the text. Without rules for answers
/// all is kept.
pub(super) fn strip(rules: &Rules, choice: &mut Object, said: &str) {
    if rules.output.is_empty() {
        return;
    }
    choice.retain(|name, value| match name.as_str() {
        "index" => value.is_number(),
        "finish_reason" => value.is_string() || value.is_null(),
        "logprobs" => true,
        name => name == said,
    });
    if let Some(logprobs) = choice.get_mut("logprobs") {
        *logprobs = serde_json::Value::Null;
    }
}

/// Keeps of a document or chunk what is checked or is the protocol's own. Without rules for answers all is kept.
pub(super) fn strip_top(rules: &Rules, document: &mut Object) {
    if rules.output.is_empty() {
        return;
    }
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
