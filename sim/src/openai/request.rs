//! Reads a chat completion request.

use serde_json::Value;

use crate::model::chat::{Chat, Message, PastCall, Role, array, content_text, prompt_text, text};

/// Reads a request that has passed [`super::validate::chat`].
pub(crate) fn read(body: &Value) -> Chat {
    let messages: Vec<_> = array(&body["messages"]).map(message).collect();
    let format = &body["response_format"];
    let response_schema = match format["type"].as_str() {
        Some("json_schema") => Some(format["json_schema"]["schema"].clone()),
        Some("json_object") => Some(Value::Bool(true)),
        _ => None,
    };
    let no_calls = body["tool_choice"] == "none";
    Chat {
        model: body["model"].as_str().unwrap_or_default().to_owned(),
        stream: body["stream"] == true,
        include_usage: body["stream_options"]["include_usage"] == true,
        n: body["n"].as_u64().unwrap_or(1),
        max_tokens: body["max_completion_tokens"].as_u64().or(body["max_tokens"].as_u64()),
        tools: array(&body["tools"])
            .filter(|_| !no_calls)
            .filter_map(|tool| tool["function"]["name"].as_str())
            .map(str::to_owned)
            .collect(),
        no_calls,
        response_schema,
        prompt: prompt_text(body, &["tools", "response_format"], &messages),
        messages,
    }
}

fn message(message: &Value) -> Message {
    let role = match message["role"].as_str() {
        Some("system" | "developer") => Role::System,
        Some("assistant") => Role::Assistant,
        Some("tool" | "function") => Role::Tool,
        _ => Role::User,
    };
    let calls = array(&message["tool_calls"])
        .map(|call| PastCall {
            id: text(&call["id"]),
            name: text(&call["function"]["name"]),
            arguments: text(&call["function"]["arguments"]),
        })
        .collect();
    Message {
        role,
        text: content_text(&message["content"]),
        calls,
        call_id: message["tool_call_id"].as_str().map(str::to_owned),
    }
}
