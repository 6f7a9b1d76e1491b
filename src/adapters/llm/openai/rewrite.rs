//! Rewrites nonstandard chunks and completions as clients expect them. Unknown members are kept.

use bytes::Bytes;
use copilotd_actors::domain::usage::Usage;
use serde_json::json;

use super::read::{Choice, ParsedChunk};
use crate::adapters::llm::provider::lenient::{Count, Members, Writer, quoted, word};

/// Placeholder for the finish reason or a report until it is known. It cannot occur in JSON text.
const REASON: &str = "\0";

/// Which model answers.
#[derive(Debug, Clone, Default)]
pub(super) struct Identity {
    pub(super) id: Option<String>,
    pub(super) created: Option<u64>,
    pub(super) model: Option<String>,
}

/// A chunk whose finish reason is not filled in yet.
#[derive(Debug)]
pub(super) struct OpenChunk(String);

impl OpenChunk {
    /// Writes it with OpenAI's finish reason, or with none.
    pub(super) fn with(&self, reason: Option<&str>) -> Bytes {
        let reason = reason.map_or_else(|| "null".to_owned(), quoted);
        self.0.replacen(REASON, &reason, 1).into()
    }
}

/// Writes one choice of a chunk with `delta` as its content, without the chunk's usage report.
pub(super) fn chunk(read: &ParsedChunk<'_>, choice: Option<(&Choice<'_>, &str)>, identity: &Identity) -> OpenChunk {
    let choices = choice.map(|(choice, delta)| self::choice(choice, "delta", delta, REASON));
    OpenChunk(document(
        read,
        &choices.unwrap_or_default(),
        identity,
        "chat.completion.chunk",
        None,
    ))
}

/// Writes a chunk of our own.
pub(super) fn own(identity: &Identity, index: u64, delta: &str) -> OpenChunk {
    let mut choice = Writer::default();
    choice.raw("index", &index.to_string());
    choice.raw("delta", delta);
    choice.raw("logprobs", "null");
    choice.raw("finish_reason", REASON);
    let mut chunk = Writer::default();
    identity.write(
        &mut chunk,
        "chat.completion.chunk",
        &["id", "object", "created", "model"],
    );
    chunk.raw("choices", &format!("[{}]", choice.finish()));
    OpenChunk(chunk.finish())
}

/// A completion whose usage report is not filled in yet.
#[derive(Debug)]
pub(super) struct OpenCompletion(String);

impl OpenCompletion {
    /// Writes it with a report of `usage`.
    pub(super) fn with(&self, usage: &Usage) -> Bytes {
        self.0.replacen(REASON, &usage_report(usage), 1).into()
    }
}

/// Writes a completion with the given choices.
pub(super) fn completion(read: &ParsedChunk<'_>, choices: &[String]) -> OpenCompletion {
    let identity = Identity::default();
    OpenCompletion(document(
        read,
        &choices.join(","),
        &identity,
        "chat.completion",
        Some(REASON),
    ))
}

/// Writes a choice.
pub(super) fn choice(choice: &Choice<'_>, said_in: &str, said: &str, reason: &str) -> String {
    let mut out = Writer::default();
    out.raw("index", &choice.index.to_string());
    out.raw(said_in, said);
    for (name, raw) in choice.members.iter() {
        match name {
            "index" | "delta" | "message" | "text" | "finish_reason" | "usage" => {}
            _ => out.pass(name, raw),
        }
    }
    out.raw("finish_reason", reason);
    out.finish()
}

fn document(read: &ParsedChunk<'_>, choices: &str, identity: &Identity, object: &str, usage: Option<&str>) -> String {
    let mut out = Writer::default();
    let mut missing = vec!["id", "object", "created", "model"];
    for (name, raw) in read.top.iter() {
        match name {
            "id" | "object" | "created" | "model" => {
                identity.own(&read.top).write(&mut out, object, &[name]);
                missing.retain(|known| *known != name);
            }
            "choices" | "usage" => {}
            _ => out.pass(name, raw),
        }
    }
    identity.own(&read.top).write(&mut out, object, &missing);
    out.raw("choices", &format!("[{choices}]"));
    match usage {
        Some(usage) => out.raw("usage", usage),
        None if read.top.has("usage") => out.raw("usage", "null"),
        None => {}
    }
    out.finish()
}

impl Identity {
    /// Reads which model answers.
    pub(super) fn of(top: &Members<'_>) -> Self {
        Self {
            id: top.get("id").and_then(word),
            created: Count::of(top.get("created")).known(),
            model: top.get("model").and_then(word),
        }
    }

    /// The chunk's own identity, or else that of the first chunk.
    fn own(&self, top: &Members<'_>) -> Self {
        let said = Self::of(top);
        Self {
            id: said.id.or_else(|| self.id.clone()),
            created: said.created.or(self.created),
            model: said.model.or_else(|| self.model.clone()),
        }
    }

    fn write(&self, out: &mut Writer, object: &str, names: &[&str]) {
        for name in names {
            match *name {
                "id" => out.text("id", self.id.as_deref().unwrap_or_default()),
                "object" => out.text("object", object),
                "created" => out.raw("created", &self.created.unwrap_or(0).to_string()),
                _ => out.text("model", self.model.as_deref().unwrap_or_default()),
            }
        }
    }
}

/// Writes a report of usage.
pub(super) fn usage_report(usage: &Usage) -> String {
    let report = json!({
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens(),
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    });
    report.to_string()
}
