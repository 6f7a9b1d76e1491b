//! A client that takes OpenAI's protocol literally, as the vendors' own libraries do: it concatenates texts, and fails
//! on what is not the protocol.

use std::collections::BTreeMap;

use serde_json::Value;

/// An answer as a client reads it.
#[derive(Debug, Default, PartialEq)]
pub struct Heard {
    pub text: String,
    pub thought: String,
    /// Names and arguments.
    pub calls: Vec<(String, String)>,
    pub finish: Option<String>,
}

const REASONS: [&str; 5] = ["stop", "length", "tool_calls", "content_filter", "function_call"];

fn optional_text<'a>(object: &'a Value, name: &str) -> &'a str {
    match object.get(name) {
        None | Some(Value::Null) => "",
        Some(Value::String(text)) => text,
        Some(other) => panic!("{name} is {other} in {object}"),
    }
}

fn usage(usage: Option<&Value>) {
    let Some(usage) = usage.filter(|usage| !usage.is_null()) else {
        return;
    };
    for name in ["prompt_tokens", "completion_tokens", "total_tokens"] {
        assert!(usage[name].is_u64(), "{name} in {usage}");
    }
}

fn document(document: &Value) {
    for name in ["id", "model"] {
        optional_text(document, name);
    }
    assert!(
        document
            .get("created")
            .is_none_or(|created| created.is_null() || created.is_u64()),
        "{document}"
    );
    usage(document.get("usage"));
}

/// Reads the chunks of a stream with one choice.
pub fn heard(chunks: &[String]) -> Heard {
    let (mut heard, mut calls) = (Heard::default(), BTreeMap::<u64, [String; 3]>::new());
    for chunk in chunks {
        let chunk: Value = serde_json::from_str(chunk).unwrap();
        document(&chunk);
        let choices = chunk["choices"].as_array().unwrap_or_else(|| panic!("{chunk}"));
        for choice in choices {
            assert_eq!(choice["index"], 0, "{chunk}");
            assert!(heard.finish.is_none(), "behind the end: {chunk}");
            let delta = &choice["delta"];
            assert!(delta.is_object(), "{chunk}");
            heard.text += optional_text(delta, "content");
            heard.thought += optional_text(delta, "reasoning_content");
            optional_text(delta, "role");
            optional_text(delta, "refusal");
            for call in delta["tool_calls"].as_array().into_iter().flatten() {
                let index = call["index"].as_u64().unwrap_or_else(|| panic!("{chunk}"));
                let function = &call["function"];
                if !calls.contains_key(&index) {
                    assert_eq!(index, calls.len() as u64, "{chunk}");
                    assert!(!optional_text(call, "id").is_empty(), "{chunk}");
                    assert!(!optional_text(function, "name").is_empty(), "{chunk}");
                    assert_eq!(optional_text(call, "type"), "function", "{chunk}");
                }
                let known = calls.entry(index).or_default();
                known[0] += optional_text(call, "id");
                known[1] += optional_text(function, "name");
                known[2] += optional_text(function, "arguments");
            }
            let reason = optional_text(choice, "finish_reason");
            if !reason.is_empty() {
                assert!(REASONS.contains(&reason), "{chunk}");
                heard.finish = Some(reason.to_owned());
            }
        }
    }
    let ids: std::collections::HashSet<&String> = calls.values().map(|call| &call[0]).collect();
    assert_eq!(ids.len(), calls.len(), "every call has its own id: {calls:?}");
    heard.calls = calls
        .into_values()
        .map(|[_, name, arguments]| (name, arguments))
        .collect();
    heard
}

/// Reads a document of one choice.
pub fn read(body: &[u8]) -> Heard {
    let body: Value = serde_json::from_slice(body).unwrap();
    document(&body);
    let [choice] = body["choices"].as_array().unwrap().as_slice() else {
        panic!("{body}")
    };
    let message = &choice["message"];
    let reason = optional_text(choice, "finish_reason");
    assert!(REASONS.contains(&reason), "{body}");
    let call = |call: &Value| {
        assert!(!optional_text(call, "id").is_empty(), "{body}");
        let function = &call["function"];
        (
            optional_text(function, "name").to_owned(),
            function["arguments"]
                .as_str()
                .unwrap_or_else(|| panic!("{body}"))
                .to_owned(),
        )
    };
    Heard {
        text: optional_text(message, "content").to_owned(),
        thought: optional_text(message, "reasoning_content").to_owned(),
        calls: message["tool_calls"]
            .as_array()
            .into_iter()
            .flatten()
            .map(call)
            .collect(),
        finish: Some(reason.to_owned()),
    }
}
