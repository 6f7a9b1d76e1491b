//! Reads an answer that came as one document, and writes it as a chat.completion.

use bytes::Bytes;
use copilotd_actors::domain::content::Finish;
use copilotd_actors::domain::usage::Usage;
use copilotd_actors::ports::ModelError;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::chunk;
use super::wire::WireUsage;
use crate::adapters::llm::provider::lenient::{
    Members, PendingSurrogate, is_text, items, mend, said, skipped, without_lone_surrogates, word,
};
use crate::adapters::llm::provider::{Errors, Reason, Transcript};

/// The content of a document.
#[derive(Debug)]
pub(super) struct Document {
    /// The model, as the provider names it.
    pub(super) model: Option<String>,
    /// The usage that the provider reported.
    pub(super) usage: Option<Usage>,
    /// Why it ended.
    pub(super) finish: Finish,
    id: String,
    reason: &'static str,
    message: Value,
}

/// Reads a document; its content is appended to `transcript`.
pub(super) fn read(body: &[u8], errors: &Errors, transcript: &mut Transcript) -> Result<Document, ModelError> {
    let text = String::from_utf8_lossy(body);
    let text = text.trim_matches(['\u{feff}', ' ', '\t', '\r', '\n']);
    let list: Vec<&RawValue> = if text.starts_with('[') {
        serde_json::from_str(text).unwrap_or_default()
    } else {
        Vec::new()
    };
    let text = list.first().map_or(text, |first| first.get());
    let mended;
    // The cause is not quoted: it may contain a piece of the conversation.
    let message = match Members::read(text) {
        Some(message) => message,
        None => {
            mended = mend(text);
            Members::read(&mended)
                .ok_or_else(|| errors.malformed("the provider sent a response that is not an answer"))?
        }
    };
    if let Some(error) = message.get("error") {
        return Err(errors.in_stream(&serde_json::from_str(error.get()).unwrap_or(Value::Null)));
    }
    let content = message
        .get("content")
        .ok_or_else(|| errors.malformed("the provider sent an answer without content"))?;
    let usage = Members::of(message.get("usage")).and_then(|usage| WireUsage::of(&usage).read());
    let mut spoken = MessageContent::default();
    for block in items(Some(content)) {
        spoken.block(block).map_err(|what| errors.malformed(what))?;
    }
    for text in [&spoken.text, &spoken.thinking, &spoken.arguments] {
        transcript.add(text);
    }
    // A document has a stop reason; without one it is half an answer.
    let reason = Reason::of(message.get("stop_reason")).ok_or_else(|| errors.cut())?;
    let has_calls = !spoken.calls.is_empty();
    let finish = reason.ending(has_calls, true, errors)?;
    let reason = match reason {
        Reason::Stop if has_calls => Reason::ToolCalls,
        reason => reason,
    };
    // No content and no tokens used: the server failed, but answered with a success status.
    let is_silent = spoken.text.is_empty() && spoken.thinking.is_empty() && !has_calls;
    if is_silent && finish == Finish::Stop && usage.is_none_or(|usage| usage.completion_tokens == 0) {
        return Err(errors.malformed("the provider sent an empty answer"));
    }
    Ok(Document {
        model: message.text("model"),
        usage,
        finish,
        id: message.text("id").unwrap_or_default(),
        reason: reason.word().unwrap_or("stop"),
        message: spoken.message(),
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
struct MessageContent {
    text: String,
    thinking: String,
    thinking_blocks: Vec<Value>,
    calls: Vec<Value>,
    /// Names and arguments of the calls, to be counted.
    arguments: String,
}

impl MessageContent {
    fn block(&mut self, raw: &RawValue) -> Result<(), &'static str> {
        if is_text(raw) {
            self.text += &plain(raw);
            return Ok(());
        }
        let Some(block) = Members::read(raw.get()) else {
            skipped("block");
            return Ok(());
        };
        let value = || serde_json::from_str::<Value>(&without_lone_surrogates(raw.get())).ok();
        match block.text("type").as_deref() {
            Some("text") | None if block.has("text") => {
                self.text += &block.get("text").map(plain).unwrap_or_default();
            }
            Some("thinking") => {
                self.thinking += &block.text("thinking").unwrap_or_default();
                self.thinking_blocks.extend(value());
            }
            Some("redacted_thinking") => self.thinking_blocks.extend(value()),
            Some("tool_use") => {
                let name = block
                    .text("name")
                    .ok_or("the provider sent a tool call without a name")?;
                let id = block
                    .text("id")
                    .unwrap_or_else(|| format!("call_{}", Uuid::now_v7().simple()));
                let arguments = match block.get("input") {
                    None => "{}".to_owned(),
                    // Some proxies write it as OpenAI does.
                    Some(input) if is_text(input) => word(input).unwrap_or_default(),
                    Some(input) => compact(input),
                };
                self.arguments += &name;
                self.arguments += &arguments;
                let function = json!({"name": name, "arguments": arguments});
                self.calls
                    .push(json!({"id": id, "type": "function", "function": function}));
            }
            _ => skipped("block"),
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

fn plain(raw: &RawValue) -> String {
    let mut seam = PendingSurrogate::default();
    let mut said = said(raw, &mut seam);
    seam.close(&mut said.text);
    said.text
}

/// Writes arguments as JSON without white space.
fn compact(raw: &RawValue) -> String {
    let text = without_lone_surrogates(raw.get());
    serde_json::from_str::<Value>(&text).map_or_else(|_| text.clone().into_owned(), |value| value.to_string())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use copilotd_actors::domain::failure::FailureClass;
    use copilotd_gateway::request::body::ChatBody;

    use super::*;

    fn document(body: &str) -> Result<Document, FailureClass> {
        let prompt = ChatBody::parse(br#"{"model":"m","messages":[]}"#).unwrap();
        let mut transcript = Transcript::new(Arc::new(prompt), Arc::default());
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
    fn documents_succeed_or_fail_with_a_class() {
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
            (one(r#"{"text":"hi"}"#, "\"end_turn\""), Ok(Finish::Stop)),
            (one(text, "\"END_TURN\""), Ok(Finish::Stop)),
            (one(text, "\"something_new\""), Err(FailureClass::Cut)),
            (one(&format!("null,7,{text},{{}}"), "\"end_turn\""), Ok(Finish::Stop)),
            (
                r#"{"content":"hi","stop_reason":"end_turn"}"#.to_owned(),
                Ok(Finish::Stop),
            ),
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
