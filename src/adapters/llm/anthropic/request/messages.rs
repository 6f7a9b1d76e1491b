//! The conversation: system texts are separate, results of tools are the user's, and roles alternate.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use super::Unsupported;
use super::parts::{self, MessageRole};

/// A conversation in the form of the Messages API.
#[derive(Debug, Default)]
pub(super) struct TranslatedMessages {
    pub(super) system: Vec<Value>,
    pub(super) messages: Vec<Value>,
    pub(super) called: CalledTools,
}

/// Names of the tools that were called, each once, in order.
#[derive(Debug, Default)]
pub(super) struct CalledTools {
    names: Vec<String>,
    known: HashSet<String>,
}

impl CalledTools {
    fn add(&mut self, name: &str) {
        if !self.known.contains(name) {
            self.known.insert(name.to_owned());
            self.names.push(name.to_owned());
        }
    }

    /// Returns the names.
    pub(super) fn into_names(self) -> Vec<String> {
        self.names
    }
}

/// Reads the messages of a body.
pub(super) fn read(messages: &Value) -> Result<TranslatedMessages, Unsupported> {
    let mut said = TranslatedMessages::default();
    let mut turns: Vec<(&'static str, Vec<Value>)> = Vec::new();
    for (at, message) in messages.as_array().into_iter().flatten().enumerate() {
        let (role, blocks) = match message["role"].as_str() {
            Some("system" | "developer") => {
                said.system.extend(plain(at, message, MessageRole::System)?);
                continue;
            }
            Some("user") => ("user", plain(at, message, MessageRole::User)?),
            Some("assistant") => ("assistant", assistant(at, message, &mut said.called)?),
            Some("tool") => ("user", vec![result(at, message)?]),
            _ => return Err(wrong(at, ".role", "unknown role")),
        };
        if blocks.is_empty() && role == "user" {
            return Err(wrong(at, ".content", "empty messages are not supported"));
        }
        match turns.last_mut() {
            Some((last, known)) if *last == role => known.extend(blocks),
            // An assistant message without content is omitted.
            _ if blocks.is_empty() => {}
            _ => turns.push((role, blocks)),
        }
    }
    let ends = [turns.first(), turns.last()];
    if ends.iter().any(|turn| turn.is_none_or(|(role, _)| *role != "user")) {
        return Err(Unsupported::new(
            "messages",
            "the first and the last message must be of the role user or tool",
        ));
    }
    said.messages = turns
        .into_iter()
        .map(|(role, content)| json!({"role": role, "content": content}))
        .collect();
    Ok(said)
}

fn wrong(at: usize, part: &str, why: &str) -> Unsupported {
    Unsupported::new(format!("messages[{at}]{part}"), why)
}

/// The content of a message that has nothing else.
fn plain(at: usize, message: &Value, side: MessageRole) -> Result<Vec<Value>, Unsupported> {
    if !message["name"].is_null() {
        return Err(wrong(at, ".name", "participant names are not supported"));
    }
    let mut blocks = parts::blocks(at, &message["content"], side)?;
    mark(message, &mut blocks);
    Ok(blocks)
}

/// Some clients mark a whole message for the cache: that means its last block.
fn mark(message: &Value, blocks: &mut [Value]) {
    if let (Some(last), Some(mark)) = (blocks.last_mut(), message.get("cache_control")) {
        last["cache_control"] = mark.clone();
    }
}

fn assistant(at: usize, message: &Value, called: &mut CalledTools) -> Result<Vec<Value>, Unsupported> {
    for part in ["function_call", "audio", "name"] {
        if !message[part].is_null() {
            return Err(wrong(at, &format!(".{part}"), "there is no such field"));
        }
    }
    // Its thinking, as this adapter sent it.
    let mut blocks: Vec<Value> = message["thinking_blocks"].as_array().cloned().unwrap_or_default();
    blocks.extend(parts::blocks(at, &message["content"], MessageRole::Assistant)?);
    blocks.extend(parts::text(&message["refusal"]));
    for (n, call) in message["tool_calls"].as_array().into_iter().flatten().enumerate() {
        let wrong = |part: &str, why: &str| wrong(at, &format!(".tool_calls[{n}]{part}"), why);
        let function = &call["function"];
        let (Some(id), Some(name), Some(arguments)) = (
            call["id"].as_str(),
            function["name"].as_str(),
            function["arguments"].as_str(),
        ) else {
            return Err(wrong("", "only function calls are supported"));
        };
        let input: Map<String, Value> = match arguments.trim() {
            "" => Map::new(),
            arguments => {
                serde_json::from_str(arguments).map_err(|_| wrong(".function.arguments", "must be a JSON object"))?
            }
        };
        called.add(name);
        blocks.push(json!({"type": "tool_use", "id": tool_id(id), "name": name, "input": input}));
    }
    mark(message, &mut blocks);
    Ok(blocks)
}

fn result(at: usize, message: &Value) -> Result<Value, Unsupported> {
    let id = message["tool_call_id"]
        .as_str()
        .ok_or_else(|| wrong(at, ".tool_call_id", "must be a string"))?;
    let mut block = json!({"type": "tool_result", "tool_use_id": tool_id(id)});
    match &message["content"] {
        Value::String(text) if text.trim().is_empty() => {}
        Value::String(text) => block["content"] = json!(text),
        content => {
            let blocks = parts::blocks(at, content, MessageRole::Tool)?;
            if !blocks.is_empty() {
                block["content"] = blocks.into();
            }
        }
    }
    if message["is_error"] == true {
        block["is_error"] = Value::Bool(true);
    }
    mark(message, std::slice::from_mut(&mut block));
    Ok(block)
}

/// Writes a call's id in the characters that the API accepts; other providers' ids may have others. Different ids stay
/// different.
fn tool_id(id: &str) -> Cow<'_, str> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    if !id.is_empty() && !id.starts_with("id_") && id.bytes().all(fits) {
        return Cow::Borrowed(id);
    }
    let mut out = String::from("id_");
    for byte in id.bytes() {
        if byte.is_ascii_alphanumeric() {
            out.push(char::from(byte));
        } else {
            // Writing to a string does not fail.
            let _ = write!(out, "-{byte:02x}");
        }
    }
    Cow::Owned(out)
}
