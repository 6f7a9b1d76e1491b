//! Reads the content of one choice of a chunk, and rewrites it as clients expect it.

use copilotd_actors::ports::ModelEvent;
use serde_json::value::RawValue;

use super::{AnswerOptions, State};
use crate::adapters::llm::openai::read::{self, WrittenCall};
use crate::adapters::llm::provider::Transcript;
use crate::adapters::llm::provider::lenient::{Members, Writer, is_list, items, said, skipped};

/// Most bytes that are kept of a refusal.
const MAX_REFUSAL: usize = 2_000;

/// Reads the content of one choice.
pub(super) struct Reader<'r> {
    pub(super) state: &'r mut State,
    pub(super) options: AnswerOptions,
    pub(super) refusal: &'r mut String,
    pub(super) events: &'r mut Vec<ModelEvent>,
    pub(super) transcript: &'r mut Transcript,
    pub(super) is_odd: bool,
    pub(super) has_content: bool,
}

impl Reader<'_> {
    /// Reads a delta, or a whole message; returns it as clients expect it.
    pub(super) fn delta(&mut self, members: &Members<'_>, is_whole: bool) -> Result<String, &'static str> {
        let (mut delta, mut thought) = (Writer::default(), String::new());
        let list = members.get("tool_calls");
        for (name, raw) in members.iter() {
            match name {
                "content" => {
                    let said = said(raw, &mut self.state.content);
                    self.is_odd |= said.is_odd;
                    self.reasoning(&said.thought);
                    thought.push_str(&said.thought);
                    if !said.refusal.is_empty() {
                        delta.text("refusal", &said.refusal);
                        self.refuse(said.refusal);
                    }
                    if said.text.is_empty() && (said.is_odd || raw.get() == "null") {
                        delta.raw("content", if raw.get() == "null" { "null" } else { "\"\"" });
                    } else {
                        delta.text("content", &said.text);
                    }
                    self.say(said.text);
                }
                // vLLM, SGLang, DeepSeek, llama.cpp; Ollama, OpenRouter.
                "reasoning_content" | "reasoning" => {
                    let said = said(raw, &mut self.state.thought);
                    self.is_odd |= said.is_odd;
                    let text = said.text + &said.thought;
                    self.reasoning(&text);
                    match raw.get() {
                        "null" => delta.raw(name, "null"),
                        _ => delta.text(name, &text),
                    }
                }
                "refusal" => {
                    let said = said(raw, &mut self.state.refusal);
                    self.is_odd |= said.is_odd;
                    let text = said.text + &said.refusal;
                    match raw.get() {
                        "null" => delta.raw(name, "null"),
                        _ => delta.text(name, &text),
                    }
                    self.refuse(text);
                }
                "tool_calls" if list.is_none() => delta.raw(name, "null"),
                "tool_calls" => {
                    let calls = self.calls(raw, is_whole)?;
                    if !calls.is_empty() {
                        delta.raw(name, &format!("[{}]", calls.join(",")));
                    }
                }
                "function_call" => {
                    if let Some(call) = self.function_call(raw)? {
                        delta.raw(name, &call);
                    }
                }
                "role" if !raw.get().starts_with('"') => {
                    self.is_odd = true;
                    delta.text("role", "assistant");
                }
                _ => delta.pass(name, raw),
            }
        }
        if !thought.is_empty() && !members.has("reasoning_content") {
            delta.text("reasoning_content", &thought);
        }
        Ok(delta.finish())
    }

    fn say(&mut self, text: String) {
        if !text.is_empty() {
            self.has_content = true;
            self.transcript.add(&text);
            self.events.push(ModelEvent::Text(text));
        }
    }

    /// Reasoning is passed on and is not part of the answer's text.
    fn reasoning(&mut self, text: &str) {
        self.has_content |= !text.is_empty();
        self.transcript.add(text);
    }

    fn refuse(&mut self, text: String) {
        if text.is_empty() {
            return;
        }
        if self.options.chunks || !self.options.has_schema {
            return self.say(text);
        }
        self.has_content = true;
        self.transcript.add(&text);
        if self.refusal.len() < MAX_REFUSAL {
            self.refusal.push_str(&text);
        }
    }

    fn calls(&mut self, raw: &RawValue, is_whole: bool) -> Result<Vec<String>, &'static str> {
        self.is_odd |= !is_list(raw);
        let mut told = Vec::new();
        for (at, item) in items(Some(raw)).into_iter().enumerate() {
            let Some(mut written) = read::call(item) else {
                if !item.get().starts_with('{') {
                    skipped("tool_call");
                    self.is_odd = true;
                    continue;
                }
                // Of a type that only the caller can read.
                self.state.has_others = true;
                self.has_content = true;
                self.transcript.add(item.get());
                told.push(item.get().to_owned());
                continue;
            };
            if is_whole {
                // In a message each is a call.
                written.piece.index = Some(at as u64);
            }
            self.state.has_list = true;
            match self.take(&written)? {
                None => self.is_odd = true,
                Some(number) if written.is_plain && self.state.calls.reads_well(number, &written.piece) => {
                    self.state.calls.passed(number);
                    told.push(item.get().to_owned());
                }
                Some(number) => {
                    self.is_odd = true;
                    told.extend(self.state.calls.tell(number));
                }
            }
        }
        Ok(told)
    }

    /// Reads the old form of a call, which allows only one. Some servers write both forms for old clients.
    fn function_call(&mut self, raw: &RawValue) -> Result<Option<String>, &'static str> {
        let Some(members) = Members::of(Some(raw)) else {
            self.is_odd |= raw.get() != "null";
            return Ok((raw.get() == "null").then(|| "null".to_owned()));
        };
        let mut written = read::function(&members);
        if self.state.has_list {
            return Ok(Some(raw.get().to_owned()));
        }
        written.piece.index = Some(0);
        self.is_odd |= !written.is_plain;
        let Some(number) = self.take(&written)? else {
            return Ok(None);
        };
        self.state.calls.passed(number);
        let mut call = Writer::default();
        if members.has("name") {
            call.text("name", &written.piece.name);
        }
        call.text("arguments", written.piece.arguments.text());
        Ok(Some(if written.is_plain {
            raw.get().to_owned()
        } else {
            call.finish()
        }))
    }

    fn take(&mut self, written: &WrittenCall<'_>) -> Result<Option<usize>, &'static str> {
        let piece = written.piece.clone();
        let (name, arguments) = (piece.name.clone(), piece.arguments.text().to_owned());
        let transcript = &*self.transcript;
        let taken = self
            .state
            .calls
            .take(piece, written.text, &|name| transcript.offers(name))?;
        if let Some(index) = taken.filter(|_| !name.is_empty() || !arguments.is_empty()) {
            self.has_content = true;
            self.transcript.add(&name);
            self.transcript.add(&arguments);
            // The whole call is reported at the end; until then, only that there is one.
            self.events.push(ModelEvent::ToolCall {
                index,
                name: None,
                arguments: String::new(),
            });
        }
        Ok(taken)
    }
}
