//! Extracts tickets and failures from tool results, however they are wrapped.
//!
//! A result reaches the model as text: JSON, perhaps between markers that say it is untrusted, perhaps truncated. A
//! real model copes with all of that, so the persona must too.

use serde_json::{Map, Value};

/// Attempts to parse JSON in one text before giving up.
const MAX_ATTEMPTS: usize = 40;

/// One ticket as a tool returned it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Ticket(pub(crate) Map<String, Value>);

impl Ticket {
    pub(crate) fn id(&self) -> Option<u64> {
        let id = self.0.get("id").or_else(|| self.0.get("ticket_id"))?;
        id.as_u64().or_else(|| id.as_str()?.parse().ok())
    }

    /// Returns the text of a field, empty if there is none.
    pub(crate) fn text(&self, name: &str) -> &str {
        self.0.get(name).and_then(Value::as_str).unwrap_or_default()
    }

    pub(crate) fn subject(&self) -> &str {
        match self.text("subject") {
            "" => self.text("title"),
            subject => subject,
        }
    }
}

/// Returns the first JSON object or array in a text.
pub(crate) fn json_in(text: &str) -> Option<Value> {
    text.char_indices()
        .filter(|(_, character)| "{[".contains(*character))
        .take(MAX_ATTEMPTS)
        .find_map(|(at, _)| {
            let values = serde_json::Deserializer::from_str(&text[at..]);
            let value = values.into_iter::<Value>().next()?.ok()?;
            // `[untrusted]` does not parse, and `[1]` in a sentence is not a result.
            let holds_objects = match &value {
                Value::Array(items) => items.iter().all(Value::is_object),
                value => value.is_object(),
            };
            holds_objects.then_some(value)
        })
}

/// Returns the tickets in a tool result.
pub(crate) fn tickets_in(text: &str) -> Vec<Ticket> {
    let mut found = Vec::new();
    // Truncated JSON parses only in part, and its first complete object would be mistaken for the result: search for
    // the fields instead.
    match json_in(text) {
        Some(value) => collect(&value, &mut found),
        None => found = scan(text),
    }
    if found.len() <= 1 {
        let scanned = scan(text);
        if scanned.len() > found.len() {
            return scanned;
        }
    }
    found
}

fn collect(value: &Value, found: &mut Vec<Ticket>) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| collect(item, found)),
        Value::Object(fields) => {
            let ticket = Ticket(fields.clone());
            if ticket.id().is_some() && !ticket.subject().is_empty() {
                found.push(ticket);
            } else {
                let nested = fields.values().filter(|value| value.is_array() || value.is_object());
                nested.for_each(|value| collect(value, found));
            }
        }
        _ => {}
    }
}

/// Finds `"id": N` followed by a subject in text that is not complete JSON.
fn scan(text: &str) -> Vec<Ticket> {
    let starts: Vec<_> = text.match_indices("\"id\"").map(|(at, _)| at).collect();
    let mut found = Vec::new();
    for (number, &start) in starts.iter().enumerate() {
        let end = starts.get(number + 1).copied().unwrap_or(text.len());
        let part = &text[start..end];
        let mut fields = Map::new();
        for name in ["id", "subject", "status", "priority", "description"] {
            if let Some(value) = field_in(part, name) {
                fields.insert(name.to_owned(), value);
            }
        }
        let ticket = Ticket(fields);
        if ticket.id().is_some() && !ticket.subject().is_empty() {
            found.push(ticket);
        }
    }
    found
}

fn field_in(part: &str, name: &str) -> Option<Value> {
    let (_, after) = part.split_once(&format!("\"{name}\""))?;
    let value = after.trim_start().strip_prefix(':')?;
    serde_json::Deserializer::from_str(value)
        .into_iter::<Value>()
        .next()?
        .ok()
        .filter(|value| value.is_string() || value.is_number())
}

/// How a tool call went wrong, in words for the user.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    Rejected,
    Failed,
    /// The outcome is unknown.
    Unknown,
}

/// Returns whether the result is a failure. Text inside a ticket does not count.
pub(crate) fn failure_in(text: &str) -> Option<Failure> {
    let fields = match json_in(text) {
        Some(Value::Object(fields)) => fields,
        Some(_) => return None,
        None => return failure_word(&text.chars().take(200).collect::<String>()),
    };
    if fields.contains_key("ticket") || fields.contains_key("tickets") || fields.contains_key("id") {
        return None;
    }
    for name in ["status", "outcome", "result"] {
        if let Some(failure) = fields.get(name).and_then(Value::as_str).and_then(failure_word) {
            return Some(failure);
        }
    }
    match fields.get("error") {
        None | Some(Value::Null | Value::Bool(false)) => {
            (fields.get("ok") == Some(&Value::Bool(false))).then_some(Failure::Failed)
        }
        Some(error) => failure_word(&error.to_string()).or(Some(Failure::Failed)),
    }
}

fn failure_word(text: &str) -> Option<Failure> {
    let text = text.to_lowercase();
    let has = |words: &[&str]| words.iter().any(|word| text.contains(word));
    if has(&["reject", "denied", "declined", "not approved", "refused"]) {
        Some(Failure::Rejected)
    } else if has(&["unknown", "uncertain", "in doubt", "may or may not", "expired"]) {
        Some(Failure::Unknown)
    } else if has(&["fail", "error", "timed out", "timeout", "not available", "invalid"]) {
        Some(Failure::Failed)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(text: &str) -> Vec<u64> {
        tickets_in(text).iter().filter_map(Ticket::id).collect()
    }

    #[test]
    fn tickets_are_found_in_any_wrapping() {
        let two = r#"{"tickets":[{"id":1,"subject":"a","requester":{"id":7,"name":"Ada"}},{"id":2,"subject":"b"}],"count":2}"#;
        assert_eq!(ids(two), [1, 2]);
        assert_eq!(ids(&format!("[untrusted data from zendesk]\n{two}\n[end]")), [1, 2]);
        assert_eq!(ids(&two[..two.len() - 12]), [1, 2]);
        assert_eq!(ids(r#"{"ticket":{"id":"3","subject":"c"}}"#), [3]);
        assert_eq!(ids(r#"{"tickets":[],"count":0}"#), [0_u64; 0]);
        assert_eq!(ids("nothing [1] here"), [0_u64; 0]);
    }

    #[test]
    fn failures_are_told_from_results() {
        assert_eq!(failure_in("The user rejected this call."), Some(Failure::Rejected));
        assert_eq!(failure_in(r#"{"error":{"code":"timeout"}}"#), Some(Failure::Failed));
        assert_eq!(failure_in(r#"{"status":"unknown"}"#), Some(Failure::Unknown));
        assert_eq!(
            failure_in(r#"{"ticket":{"id":1,"subject":"Payment failed","status":"open"}}"#),
            None
        );
        assert_eq!(failure_in(r#"{"ok":true,"ts":"1.2"}"#), None);
    }
}
