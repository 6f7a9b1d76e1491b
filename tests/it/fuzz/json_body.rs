//! Request bodies.

use copilotd::http::bodies::parse;
use copilotd_actors::domain::json::MAX_NESTING;
use copilotd_gateway::request::body::ChatBody;
use serde_json::Value;

use super::text;

fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Object(members) => 1 + members.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

/// Every accepted body is valid JSON, parses as other parsers do, and is not nested too deeply.
fn check(body: &[u8]) {
    if let Ok(value) = parse(body) {
        assert!(depth(&value) <= MAX_NESTING);
        assert_eq!(serde_json::from_slice::<Value>(body).unwrap(), value);
    }
    if let Ok(chat) = ChatBody::parse(body) {
        let value: Value = serde_json::from_slice(body).unwrap();
        assert!(value.is_object());
        let written: Value = serde_json::from_slice(&chat.to_bytes()).unwrap();
        assert_eq!(written, value, "a body is passed on as it came");
    }
}

#[test]
fn fuzz_json_body_bytes() {
    super::fuzz(4096, check);
}

#[test]
fn fuzz_json_body_grown() {
    super::fuzz(4096, |input| check(text::json(input).as_bytes()));
}
