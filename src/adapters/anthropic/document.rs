//! Reads an answer that came as one document, and writes it as a chat.completion.

use bytes::Bytes;
use copilotd_actors::domain::content::Finish;
use copilotd_actors::domain::usage::Usage;
use copilotd_actors::ports::ModelError;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::chunk;
use super::wire::{Ending, WireUsage};
use crate::adapters::provider::{Errors, Transcript};

#[derive(Deserialize)]
struct Message {
    id: Option<String>,
    model: Option<String>,
    content: Option<Vec<Value>>,
    stop_reason: Option<String>,
    usage: Option<WireUsage>,
    error: Option<Value>,
}

/// What a document says.
#[derive(Debug)]
pub(super) struct Document {
    /// The model, as the provider names it.
    pub(super) model: Option<String>,
    /// What the provider says that it used.
    pub(super) usage: Option<Usage>,
    /// Why it ended.
    pub(super) finish: Finish,
    id: String,
    reason: &'static str,
    message: Value,
}

/// Reads a document; what was said goes into `transcript`.
pub(super) fn read(body: &[u8], errors: &Errors, transcript: &mut Transcript) -> Result<Document, ModelError> {
    // The cause is not quoted: it may hold a piece of the conversation.
    let message: Message =
        serde_json::from_slice(body).map_err(|_| errors.malformed("it sent something that is not an answer"))?;
    if let Some(error) = message.error.filter(|error| !error.is_null()) {
        return Err(errors.in_stream(&error));
    }
    let content = message
        .content
        .ok_or_else(|| errors.malformed("it sent an answer without content"))?;
    let usage = message.usage.and_then(WireUsage::read);
    let mut said = Said::default();
    for block in content {
        said.block(block).map_err(|what| errors.malformed(what))?;
    }
    for text in [&said.text, &said.thinking, &said.arguments] {
        transcript.add(text);
    }
    // A document says why it ended; none at all is half an answer.
    let reason = message.stop_reason.as_deref().filter(|reason| !reason.is_empty());
    let reason = reason.ok_or_else(|| errors.cut())?;
    let ending = Ending::read(reason, !said.calls.is_empty(), true, errors)?;
    // A model that says nothing at all has not used a token either: the server broke, and says so politely.
    let is_silent = said.text.is_empty() && said.thinking.is_empty() && said.calls.is_empty();
    if is_silent && ending.finish == Finish::Stop && usage.is_none_or(|usage| usage.completion_tokens == 0) {
        return Err(errors.malformed("it said nothing"));
    }
    Ok(Document {
        model: message.model.filter(|model| !model.is_empty()),
        usage,
        finish: ending.finish,
        id: message.id.unwrap_or_default(),
        reason: ending.reason,
        message: said.message(),
    })
}

impl Document {
    /// Writes it as a chat.completion.
    pub(super) fn completion(&self, model: &str, created: i64, usage: &Usage) -> Bytes {
        let choice = json!({"index": 0, "message": self.message, "logprobs": null, "finish_reason": self.reason});
        let completion = json!({
            "id": self.id,
            "object": "chat.completion",
            "created": created,
            "model": model,
            "choices": [choice],
            "usage": chunk::report(usage),
        });
        completion.to_string().into()
    }
}

#[derive(Default)]
struct Said {
    text: String,
    thinking: String,
    thinking_blocks: Vec<Value>,
    calls: Vec<Value>,
    /// Names and arguments of the calls, to be counted.
    arguments: String,
}

impl Said {
    fn block(&mut self, block: Value) -> Result<(), &'static str> {
        match block["type"].as_str() {
            Some("text") => self.text += block["text"].as_str().ok_or("it sent a text without a text")?,
            Some("thinking") => {
                self.thinking += block["thinking"].as_str().unwrap_or_default();
                self.thinking_blocks.push(block);
            }
            Some("redacted_thinking") => self.thinking_blocks.push(block),
            Some("tool_use") => {
                let (Some(id), Some(name), true) =
                    (block["id"].as_str(), block["name"].as_str(), block["input"].is_object())
                else {
                    return Err("it asked for a tool that it did not name");
                };
                let arguments = block["input"].to_string();
                self.arguments += name;
                self.arguments += &arguments;
                let function = json!({"name": name, "arguments": arguments});
                self.calls
                    .push(json!({"id": id, "type": "function", "function": function}));
            }
            Some(_) => {}
            None => return Err("it sent a block without a type"),
        }
        Ok(())
    }

    fn message(self) -> Value {
        let mut message = Map::new();
        message.insert("role".to_owned(), json!("assistant"));
        let content = if self.text.is_empty() && !self.calls.is_empty() {
            Value::Null
        } else {
            Value::String(self.text)
        };
        message.insert("content".to_owned(), content);
        message.insert("refusal".to_owned(), Value::Null);
        if !self.thinking.is_empty() {
            message.insert("reasoning_content".to_owned(), Value::String(self.thinking));
        }
        for (name, items) in [("thinking_blocks", self.thinking_blocks), ("tool_calls", self.calls)] {
            if !items.is_empty() {
                message.insert(name.to_owned(), items.into());
            }
        }
        Value::Object(message)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use copilotd_actors::domain::command::FailureClass;

    use super::*;
    use crate::gateway::body::ChatBody;

    fn document(body: &str) -> Result<Document, FailureClass> {
        let prompt = ChatBody::parse(br#"{"model":"m","messages":[]}"#).unwrap();
        let mut transcript = Transcript::new(Arc::new(prompt));
        read(body.as_bytes(), &Errors::new("main", Vec::new()), &mut transcript).map_err(|error| error.class)
    }

    #[test]
    fn a_message_becomes_a_completion() {
        let body = json!({
            "id": "msg_1", "type": "message", "role": "assistant", "model": "claude-x",
            "content": [
                {"type": "thinking", "thinking": "Hm.", "signature": "s"},
                {"type": "text", "text": "Let me "},
                {"type": "something_new", "x": 1},
                {"type": "text", "text": "see."},
                {"type": "tool_use", "id": "toolu_1", "name": "get_weather", "input": {"city": "Łódź"}},
            ],
            "stop_reason": "tool_use", "stop_sequence": null,
            "usage": {"input_tokens": 10, "cache_read_input_tokens": 5, "output_tokens": 7},
        });
        let document = document(&body.to_string()).unwrap();
        let usage = document.usage.unwrap();
        let completion: Value = serde_json::from_slice(&document.completion("claude-x", 7, &usage)).unwrap();
        assert_eq!(
            completion,
            json!({
                "id": "msg_1", "object": "chat.completion", "created": 7, "model": "claude-x",
                "choices": [{"index": 0, "logprobs": null, "finish_reason": "tool_calls", "message": {
                    "role": "assistant", "content": "Let me see.", "refusal": null, "reasoning_content": "Hm.",
                    "thinking_blocks": [{"type": "thinking", "thinking": "Hm.", "signature": "s"}],
                    "tool_calls": [{"id": "toolu_1", "type": "function",
                                    "function": {"name": "get_weather", "arguments": "{\"city\":\"Łódź\"}"}}],
                }}],
                "usage": {"prompt_tokens": 15, "completion_tokens": 7, "total_tokens": 22,
                          "prompt_tokens_details": {"cached_tokens": 5, "cache_write_tokens": 0},
                          "completion_tokens_details": {"reasoning_tokens": 0}},
            })
        );
        assert_eq!(document.finish, Finish::ToolCalls);
    }

    #[test]
    fn documents_end_well_or_have_a_class() {
        let one = |block: &str, reason: &str| format!(r#"{{"model":"m","content":[{block}],"stop_reason":{reason}}}"#);
        let text = r#"{"type":"text","text":"hi"}"#;
        let call = r#"{"type":"tool_use","id":"1","name":"f","input":{}}"#;
        for (body, expected) in [
            (one(text, "\"end_turn\""), Ok(Finish::Stop)),
            (one(text, "\"max_tokens\""), Ok(Finish::Length)),
            (one("", "\"refusal\""), Ok(Finish::Length)),
            (one(call, "\"tool_use\""), Ok(Finish::ToolCalls)),
            (one(text, "null"), Err(FailureClass::Cut)),
            (one(text, "\"tool_use\""), Err(FailureClass::Malformed)),
            (one("", "\"end_turn\""), Err(FailureClass::Malformed)),
            (one(r#"{"text":"hi"}"#, "\"end_turn\""), Err(FailureClass::Malformed)),
            (
                one(r#"{"type":"tool_use","id":"1"}"#, "\"tool_use\""),
                Err(FailureClass::Malformed),
            ),
            ("{}".to_owned(), Err(FailureClass::Malformed)),
            ("<html>".to_owned(), Err(FailureClass::Malformed)),
            (String::new(), Err(FailureClass::Malformed)),
            (
                r#"{"type":"error","error":{"type":"overloaded_error","message":"x"}}"#.to_owned(),
                Err(FailureClass::Overload),
            ),
            (
                r#"{"type":"error","error":{"type":"rate_limit_error","message":"x"}}"#.to_owned(),
                Err(FailureClass::Rate),
            ),
        ] {
            assert_eq!(document(&body).map(|document| document.finish), expected, "{body}");
        }
    }
}
