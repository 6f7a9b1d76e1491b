//! Reads an answer that came as one document. It is passed on unchanged unless it is nonstandard; this module reads its
//! meaning.

use std::borrow::Cow;

use bytes::Bytes;
use copilotd_actors::domain::content::Finish;
use copilotd_actors::domain::usage::Usage;
use copilotd_actors::ports::ModelError;
use serde_json::Value;
use serde_json::value::RawValue;
use uuid::Uuid;

use super::read::{self, Choice, ParsedChunk};
use super::rewrite::{self, OpenCompletion};
use crate::adapters::llm::provider::lenient::{
    Members, PendingSurrogate, Writer, is_list, is_null, is_text, items, mend, quoted, said, skipped,
    without_lone_surrogates, word,
};
use crate::adapters::llm::provider::{Errors, Reason, Transcript};

/// The meaning of a document.
#[derive(Debug)]
pub struct ParsedDocument {
    /// The model, as the provider names it.
    pub model: Option<String>,
    /// The usage that the provider reported.
    pub usage: Option<Usage>,
    /// Why the first choice ended.
    pub finish: Finish,
    /// The document as clients expect it, if it is nonstandard.
    rewritten: Option<OpenCompletion>,
}

impl ParsedDocument {
    /// Returns what a client gets for `body`.
    pub fn body(&self, body: Bytes, usage: &Usage) -> Bytes {
        self.rewritten.as_ref().map_or(body, |written| written.with(usage))
    }
}

/// Reads a document; its content is appended to `transcript`.
pub fn read(body: &[u8], errors: &Errors, transcript: &mut Transcript) -> Result<ParsedDocument, ModelError> {
    let text = String::from_utf8_lossy(body);
    let is_marked = text.trim_start().starts_with('\u{feff}');
    let is_mended = matches!(text, Cow::Owned(_)) || is_marked;
    let text = text.trim_matches(['\u{feff}', ' ', '\t', '\r', '\n']);
    // The cause is not quoted: it may contain a piece of the conversation.
    let unreadable = || errors.malformed("the provider sent a response that is not an answer");
    // Clients expect neither a byte order mark nor a list.
    let (text, is_mended) = match items_of(text) {
        Some(first) => (first, true),
        None => (text, is_mended),
    };
    let mended;
    let (top, is_mended) = match Members::read(text) {
        Some(top) => (top, is_mended),
        None => {
            mended = mend(text);
            (Members::read(&mended).ok_or_else(unreadable)?, true)
        }
    };
    if let Some(found) = read::error("", &top) {
        let error = found.first().map_or(text, |raw| raw.get());
        let error = serde_json::from_str(error).unwrap_or(Value::Null);
        return Err(errors.in_stream(&error));
    }
    let is_mended = is_mended || matches!(without_lone_surrogates(text), Cow::Owned(_));
    let read = ParsedChunk::of(top, "chat.completion");
    let usage = read.report.and_then(|report| report.usage);
    let mut spoken = DocumentContent {
        // Kept only if it has to be counted.
        transcript: usage
            .is_none_or(|usage| usage.completion_tokens == 0)
            .then_some(transcript),
        has_said: false,
        is_odd: is_mended || read.is_odd,
    };
    let (mut first, mut written) = (None, Vec::new());
    for choice in &read.choices {
        let (message, has_calls) = spoken.choice(choice);
        // Vendors that stream give a finish reason, also in a document; without one it is half an answer.
        let reason = choice.reason.ok_or_else(|| errors.cut())?;
        let finish = reason.ending(has_calls, true, errors)?;
        let word = match (reason, choice.members.get("finish_reason")) {
            (Reason::ToolCalls, Some(raw)) if raw.get().contains("function_call") => Some("function_call"),
            (Reason::Stop, _) if has_calls => Reason::ToolCalls.word(),
            (reason, _) => reason.word(),
        };
        spoken.is_odd |= choice.is_odd || choice.members.get("finish_reason").and_then(self::word).as_deref() != word;
        let word = word.map_or_else(|| "null".to_owned(), quoted);
        written.push(rewrite::choice(choice, "message", &message, &word));
        first.get_or_insert(finish);
    }
    let finish = first.ok_or_else(|| errors.malformed("the provider sent an answer without a choice"))?;
    // No content and no tokens used: the server failed, but answered with a success status.
    if !spoken.has_said && finish == Finish::Stop && usage.is_none_or(|usage| usage.completion_tokens == 0) {
        return Err(errors.malformed("the provider sent an empty answer"));
    }
    Ok(ParsedDocument {
        model: read.top.text("model"),
        usage,
        finish,
        rewritten: spoken.is_odd.then(|| rewrite::completion(&read, &written)),
    })
}

/// Returns the first item, if the document is a list: some servers answer with lists, of errors above all.
fn items_of(text: &str) -> Option<&str> {
    let items: Vec<&RawValue> = text.starts_with('[').then(|| serde_json::from_str(text).ok())??;
    items.first().map(|item| item.get())
}

/// The content of a document's choices.
struct DocumentContent<'t> {
    transcript: Option<&'t mut Transcript>,
    has_said: bool,
    is_odd: bool,
}

impl DocumentContent<'_> {
    fn keep(&mut self, text: &str) {
        self.has_said |= !text.is_empty();
        if let Some(transcript) = &mut self.transcript {
            transcript.add(text);
        }
    }

    /// Reads a choice; returns its message as clients expect it, and whether it calls tools.
    fn choice(&mut self, choice: &Choice<'_>) -> (String, bool) {
        let (mut message, mut has_calls) = (Writer::default(), false);
        self.is_odd |= !choice.is_whole;
        let mut thought = String::new();
        for (name, raw) in choice.said.iter() {
            match name {
                "content" | "refusal" | "reasoning_content" | "reasoning" if !is_null(raw) => {
                    let mut seam = PendingSurrogate::default();
                    let mut said = said(raw, &mut seam);
                    seam.close(&mut said.text);
                    self.is_odd |= said.is_odd;
                    for text in [&said.text, &said.thought, &said.refusal] {
                        self.keep(text);
                    }
                    if name == "content" {
                        thought = said.thought;
                    }
                    message.text(name, &said.text);
                }
                "tool_calls" if !is_null(raw) => {
                    self.is_odd |= !is_list(raw);
                    let calls: Vec<String> = items(Some(raw))
                        .into_iter()
                        .filter_map(|item| self.call(item))
                        .collect();
                    has_calls |= !calls.is_empty();
                    message.raw(name, &format!("[{}]", calls.join(",")));
                }
                "function_call" if !is_null(raw) => match Members::read(raw.get()) {
                    Some(members) => {
                        has_calls = true;
                        self.keep(raw.get());
                        message.raw(name, &self.function(&members));
                    }
                    None => self.is_odd = true,
                },
                "audio" if !is_null(raw) => {
                    self.has_said = true;
                    message.pass(name, raw);
                }
                _ => message.pass(name, raw),
            }
        }
        if !thought.is_empty() && !choice.said.has("reasoning_content") {
            message.text("reasoning_content", &thought);
        }
        (message.finish(), has_calls)
    }

    fn call(&mut self, item: &RawValue) -> Option<String> {
        let Some(members) = Members::read(item.get()) else {
            skipped("tool_call");
            self.is_odd = true;
            return None;
        };
        self.keep(item.get());
        let function = Members::of(members.get("function"));
        if function.is_none() && members.has("custom") {
            return Some(item.get().to_owned());
        }
        let id = members.text("id");
        self.is_odd |= function.is_none() || id.is_none() || !members.get("id").is_some_and(is_text);
        let mut call = Writer::default();
        call.text("id", &id.unwrap_or_else(|| format!("call_{}", Uuid::now_v7().simple())));
        call.text("type", "function");
        let written = self.function(function.as_ref().unwrap_or(&members));
        call.raw("function", &written);
        if function.is_some() {
            let others = members
                .iter()
                .filter(|(name, _)| !matches!(*name, "id" | "type" | "function"));
            others.for_each(|(name, raw)| call.pass(name, raw));
        }
        Some(call.finish())
    }

    fn function(&mut self, members: &Members<'_>) -> String {
        let read = read::function(members);
        self.is_odd |= !read.is_plain || read.text.is_none();
        let mut function = Writer::default();
        function.text("name", &read.piece.name);
        // In a complete answer, a call without arguments has none.
        let arguments = if read.text.is_none() && read.piece.arguments.text().is_empty() {
            "{}"
        } else {
            read.piece.arguments.text()
        };
        function.text("arguments", arguments);
        function.finish()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use copilotd_actors::domain::failure::FailureClass;
    use copilotd_gateway::request::body::ChatBody;

    use super::*;

    fn meaning(body: &str) -> Result<ParsedDocument, FailureClass> {
        let prompt = ChatBody::parse(br#"{"model":"m","messages":[]}"#).unwrap();
        let mut transcript = Transcript::new(Arc::new(prompt), Arc::default());
        read(body.as_bytes(), &Errors::new("main", Vec::new()), &mut transcript).map_err(|error| error.class)
    }

    #[test]
    fn documents_succeed_or_fail_with_a_class() {
        let one = |message: &str, reason: &str| {
            format!(r#"{{"model":"m","choices":[{{"message":{message},"finish_reason":{reason}}}]}}"#)
        };
        let text = r#"{"role":"assistant","content":"hi"}"#;
        let call = r#"{"content":null,"tool_calls":[{"id":"1","function":{"name":"f","arguments":"{}"}}]}"#;
        let empty = r#"{"role":"assistant","content":""}"#;
        for (body, expected) in [
            (one(text, "\"stop\""), Ok(Finish::Stop)),
            (one(text, "\"length\""), Ok(Finish::Length)),
            (one(text, "\"content_filter\""), Ok(Finish::Length)),
            (one(call, "\"tool_calls\""), Ok(Finish::ToolCalls)),
            (one(call, "\"stop\""), Ok(Finish::ToolCalls)),
            (one(text, "null"), Err(FailureClass::Cut)),
            (one(text, "\"abort\""), Err(FailureClass::Cut)),
            (one(text, "\"error\""), Err(FailureClass::Overload)),
            (one(text, "\"tool_calls\""), Err(FailureClass::Malformed)),
            (one(empty, "\"stop\""), Err(FailureClass::Malformed)),
            (one(empty, "\"length\""), Ok(Finish::Length)),
            (r#"{"choices":[]}"#.to_owned(), Err(FailureClass::Malformed)),
            ("{}".to_owned(), Err(FailureClass::Malformed)),
            ("<html>".to_owned(), Err(FailureClass::Malformed)),
            (String::new(), Err(FailureClass::Malformed)),
            (
                r#"{"error":{"message":"x","type":"server_error"}}"#.to_owned(),
                Err(FailureClass::Overload),
            ),
            (
                r#"{"error":{"message":"x","code":429}}"#.to_owned(),
                Err(FailureClass::Rate),
            ),
        ] {
            assert_eq!(meaning(&body).map(|meaning| meaning.finish), expected, "{body}");
        }
    }
}
