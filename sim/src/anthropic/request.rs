//! Reads a message request.

use serde_json::Value;

use crate::model::chat::{Chat, Message, PastCall, Role, array, content_text, prompt_text, text};

/// Reads a request that has passed [`super::validate::request`].
pub(super) fn read(body: &Value) -> Chat {
    let mut messages = Vec::new();
    if !body["system"].is_null() {
        messages.push(plain(Role::System, content_text(&body["system"])));
    }
    for said in array(&body["messages"]) {
        if said["role"] == "assistant" {
            messages.push(assistant(&said["content"]));
        } else {
            user(&said["content"], &mut messages);
        }
    }
    let no_calls = body["tool_choice"]["type"] == "none";
    let format = &body["output_config"]["format"];
    Chat {
        model: text(&body["model"]),
        stream: body["stream"] == true,
        include_usage: true,
        n: 1,
        max_tokens: body["max_tokens"].as_u64(),
        tools: array(&body["tools"])
            .filter(|_| !no_calls)
            .filter_map(|tool| tool["name"].as_str())
            .map(str::to_owned)
            .collect(),
        no_calls,
        response_schema: (!format.is_null()).then(|| format["schema"].clone()),
        prompt: prompt_text(body, &["tools", "output_config"], &messages),
        messages,
    }
}

/// Returns whether a part of the prompt is marked for the cache.
pub(super) fn is_cached(body: &Value) -> bool {
    match body {
        Value::Object(fields) => fields
            .iter()
            .any(|(name, value)| (name == "cache_control" && !value.is_null()) || is_cached(value)),
        Value::Array(items) => items.iter().any(is_cached),
        _ => false,
    }
}

fn plain(role: Role, text: String) -> Message {
    Message {
        role,
        text,
        calls: Vec::new(),
        call_id: None,
    }
}

fn assistant(content: &Value) -> Message {
    let uses = array(content).filter(|block| block["type"] == "tool_use");
    Message {
        calls: uses
            .map(|block| PastCall {
                id: text(&block["id"]),
                name: text(&block["name"]),
                arguments: block["input"].to_string(),
            })
            .collect(),
        ..plain(Role::Assistant, content_text(content))
    }
}

/// Tool results are in user messages here; the persona reads them as tool messages.
fn user(content: &Value, messages: &mut Vec<Message>) {
    let results = array(content).filter(|block| block["type"] == "tool_result");
    let before = messages.len();
    messages.extend(results.map(|block| Message {
        call_id: block["tool_use_id"].as_str().map(str::to_owned),
        ..plain(Role::Tool, content_text(&block["content"]))
    }));
    let said = content_text(content);
    if messages.len() == before || !said.is_empty() {
        messages.push(plain(Role::User, said));
    }
}
