//! Builds a document from a stream: some servers stream whether they are asked to or not.

use std::collections::BTreeMap;

use bytes::Bytes;
use copilotd_actors::ports::ModelError;
use serde_json::{Map, Value, json};

use super::chunk::{AnswerOptions, Decoder};
use super::rewrite;
use crate::adapters::llm::provider::{Decoder as _, End, Errors, Out, Progress, SseReader, Transcript};

/// Beginnings of lines of server-sent events.
const FIELDS: [&[u8]; 5] = [b"data:", b"event:", b"id:", b"retry:", b":"];

/// Builds a document from `body` if that is a stream of events.
pub(super) fn document(
    body: &Bytes,
    choices: u64,
    errors: &Errors,
    transcript: &Transcript,
) -> Option<Result<Bytes, ModelError>> {
    let start = body.trim_ascii_start();
    let start = start.strip_prefix(b"\xef\xbb\xbf").unwrap_or(start);
    let is_stream = FIELDS.iter().any(|field| start.starts_with(field));
    // The content is counted when the document is read.
    is_stream.then(|| assembled(body.clone(), choices, errors, transcript.apart()))
}

fn assembled(mut body: Bytes, choices: u64, errors: &Errors, mut transcript: Transcript) -> Result<Bytes, ModelError> {
    let options = AnswerOptions {
        chunks: true,
        include_usage: false,
        has_schema: false,
        choices,
    };
    let (mut decoder, mut sse, mut out) = (Decoder::new(errors.clone(), options), SseReader::default(), Out::new());
    let mut end = End::Body;
    loop {
        let is_open = match sse.advance(&mut body) {
            Ok(true) => false,
            Ok(false) if sse.finish() => true,
            Ok(false) => break,
            Err(_) => return Err(errors.malformed("the provider sent a line that is too long")),
        };
        match decoder.decode(sse.name(), sse.data(), &mut out, &mut transcript) {
            Ok(Progress::Done) => {
                end = End::Done;
                break;
            }
            Ok(_) => {}
            // The answer is complete without it, or it is the half of an event where the answer was cut off.
            Err(_) if decoder.is_finished() || is_open => break,
            Err(error) => return Err(error),
        }
        if is_open {
            break;
        }
    }
    decoder
        .finish(end, &mut out, &mut transcript)
        .unwrap_or_else(|| Err(errors.cut()))?;
    let mut document = json!({"object": "chat.completion", "choices": []});
    let mut told: BTreeMap<u64, Choice> = BTreeMap::new();
    let chunks = out.into_iter().flatten().filter_map(|piece| piece.chunk);
    for chunk in chunks.filter_map(|chunk| serde_json::from_slice::<Value>(&chunk).ok()) {
        for name in ["id", "created", "model", "system_fingerprint"] {
            if let Some(value) = chunk.get(name).filter(|value| !value.is_null()) {
                document[name] = value.clone();
            }
        }
        for choice in chunk.get("choices").and_then(Value::as_array).into_iter().flatten() {
            let index = choice.get("index").and_then(Value::as_u64).unwrap_or(0);
            told.entry(index).or_default().add(choice);
        }
    }
    document["choices"] = told.into_iter().map(|(index, choice)| choice.finish(index)).collect();
    if let Some(usage) = decoder.usage() {
        document["usage"] = serde_json::from_str(&rewrite::usage_report(&usage)).unwrap_or(Value::Null);
    }
    Ok(document.to_string().into())
}

#[derive(Default)]
struct Choice {
    message: Map<String, Value>,
    calls: BTreeMap<u64, Map<String, Value>>,
    reason: Value,
}

impl Choice {
    fn add(&mut self, choice: &Value) {
        if let Some(reason) = choice.get("finish_reason").filter(|reason| !reason.is_null()) {
            self.reason = reason.clone();
        }
        for (name, value) in choice.get("delta").and_then(Value::as_object).into_iter().flatten() {
            if name != "tool_calls" {
                add(&mut self.message, name, value);
                continue;
            }
            for call in value.as_array().into_iter().flatten().filter_map(Value::as_object) {
                let index = call.get("index").and_then(Value::as_u64).unwrap_or(0);
                let known = self.calls.entry(index).or_default();
                let members = call.iter().filter(|(name, _)| *name != "index");
                members.for_each(|(name, value)| add(known, name, value));
            }
        }
    }

    fn finish(mut self, index: u64) -> Value {
        self.message.insert("role".to_owned(), json!("assistant"));
        self.message.entry("content").or_insert(Value::Null);
        if !self.calls.is_empty() {
            let calls = self.calls.into_values().map(Value::Object).collect();
            self.message.insert("tool_calls".to_owned(), calls);
        }
        json!({"index": index, "message": self.message, "logprobs": null, "finish_reason": self.reason})
    }
}

/// Merges a piece of a member as clients do: texts are concatenated, objects are merged.
fn add(to: &mut Map<String, Value>, name: &str, piece: &Value) {
    match (to.get_mut(name), piece) {
        (_, Value::Null) => {}
        (Some(Value::String(text)), Value::String(more)) if !matches!(name, "type" | "role") => text.push_str(more),
        (Some(Value::Object(known)), Value::Object(more)) => {
            more.iter().for_each(|(name, piece)| add(known, name, piece))
        }
        _ => _ = to.insert(name.to_owned(), piece.clone()),
    }
}
