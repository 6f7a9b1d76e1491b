//! Reads the events of a streamed message, and writes them as OpenAI's chunks.
//!
//! The protocol is read leniently: blocks may be interleaved, and need no end; unknown events are skipped.
//!
//! Invariant: the chunk with the finish reason is sent when nothing more came, so that nobody sees an end that was then
//! revoked or cut off.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use bytes::Bytes;
use copilotd_actors::domain::content::Finish;
use copilotd_actors::domain::usage::Usage;
use copilotd_actors::ports::{ModelError, ModelEvent};
use copilotd_gateway::provider::Piece;
use copilotd_gateway::request::report::{self, ReportCarrier};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::chunk::Identity;
use super::wire::WireUsage;
use crate::adapters::llm::provider::calls::{Arguments, CallPiece, Calls};
use crate::adapters::llm::provider::lenient::{Members, PendingSurrogate, is_text, items, mend, said, skipped, word};
use crate::adapters::llm::provider::{self, End, Errors, Out, Progress, Reason, Transcript};

/// Most bytes of a thinking block that are kept to be sent again with its signature; a longer one cannot be sent back.
const MAX_THOUGHT: usize = 256 * 1024;

/// What the caller wants to receive.
#[derive(Debug, Clone, Copy)]
pub(super) struct AnswerOptions {
    /// Whether chunks are wanted. Then an end by the content filter is the caller's to read; otherwise it is a failure.
    pub(super) chunks: bool,
    /// Whether the last chunk shall report usage.
    pub(super) include_usage: bool,
    /// When the answer started, in seconds since 1970.
    pub(super) created: i64,
}

/// A block that is being streamed.
#[derive(Debug)]
enum Block {
    Text,
    /// A call, by its number.
    Call(usize),
    /// A thinking block and its signature; `None` if it is too long to be kept.
    Thinking(Option<(String, String)>),
    /// Skipped.
    Other,
}

/// The state of reading one answer.
#[derive(Debug)]
pub(super) struct Decoder {
    errors: Errors,
    options: AnswerOptions,
    /// `None` until the message has started.
    identity: Option<Identity>,
    /// Blocks by their indexes; of two with one index the later.
    blocks: BTreeMap<u64, Block>,
    last_block: u64,
    calls: Calls,
    text: PendingSurrogate,
    content_seen: bool,
    usage: WireUsage,
    reason: Option<Reason>,
    /// An end was revoked by later content.
    was_ended: bool,
}

impl Decoder {
    /// Starts an answer.
    pub(super) fn new(errors: Errors, options: AnswerOptions) -> Self {
        Self {
            errors,
            options,
            identity: None,
            blocks: BTreeMap::new(),
            last_block: 0,
            calls: Calls::new(options.chunks),
            text: PendingSurrogate::default(),
            content_seen: false,
            usage: WireUsage::default(),
            reason: None,
            was_ended: false,
        }
    }

    /// Starts the message. Some servers put the whole message into this event.
    fn start(
        &mut self,
        message: &Members<'_>,
        out: &mut Out,
        transcript: &mut Transcript,
    ) -> Result<Progress, ModelError> {
        if self.identity.is_some() {
            return Err(self.errors.malformed("the provider started the message twice"));
        }
        let reports = self.report(message);
        let model = message.text("model").unwrap_or_default();
        self.identity = Some(Identity {
            id: message.text("id").unwrap_or_default(),
            model: model.clone(),
            created: self.options.created,
            include_usage: self.options.include_usage,
        });
        out.push_back(Ok(Piece {
            chunk: self.chunk(|| json!({"role": "assistant", "content": ""})),
            events: (!model.is_empty())
                .then_some(ModelEvent::Model(model))
                .into_iter()
                .collect(),
            ..Piece::default()
        }));
        let mut progress = Progress::None;
        for (at, block) in items(message.get("content")).into_iter().enumerate() {
            let index = Some(at as u64);
            if is_text(block) {
                progress = self.say(block, out, transcript);
                continue;
            }
            progress = self.block_start(index, Some(block), out, transcript)?;
            self.block_stop(index, out);
        }
        let ended = self.end_of(message.get("stop_reason"));
        // A report at the start covers only the prompt.
        if reports && ended.is_some() {
            transcript.note_report();
        }
        Ok(ended.unwrap_or(progress))
    }

    /// Reads a usage report. Returns whether there was one.
    fn report(&mut self, members: &Members<'_>) -> bool {
        let usage = Members::of(members.get("usage"));
        if let Some(usage) = &usage {
            self.usage.update(WireUsage::of(usage));
        }
        usage.is_some()
    }

    /// Reads a stop reason.
    fn end_of(&mut self, reason: Option<&RawValue>) -> Option<Progress> {
        let reason = Reason::of(reason)?;
        // Of two, the worse one: a part is never reported as the whole.
        self.reason = Some(self.reason.map_or(reason, |known| known.max(reason)));
        Some(Progress::Finished)
    }

    fn block_start(
        &mut self,
        index: Option<u64>,
        block: Option<&RawValue>,
        out: &mut Out,
        transcript: &mut Transcript,
    ) -> Result<Progress, ModelError> {
        if self.identity.is_none() {
            return Err(self.errors.malformed("the provider started a block before its message"));
        }
        let index = index.unwrap_or_else(|| self.blocks.keys().next_back().map_or(0, |last| last + 1));
        self.block_stop_of_thought(index, out);
        self.last_block = index;
        let Some(members) = Members::of(block) else {
            skipped("block");
            self.blocks.insert(index, Block::Other);
            return Ok(Progress::None);
        };
        let kind = members.text("type").unwrap_or_else(|| {
            let of = [("text", "text"), ("thinking", "thinking"), ("name", "tool_use")];
            let found = of.iter().find(|(member, _)| members.has(member));
            found.map_or_else(String::new, |(_, kind)| (*kind).to_owned())
        });
        let (block, said) = match kind.as_str() {
            "text" => {
                let said = match members.get("text") {
                    Some(text) => self.say(text, out, transcript),
                    None => Progress::None,
                };
                (Block::Text, said)
            }
            "thinking" => {
                let mut block = Block::Thinking(Some((String::new(), members.text("signature").unwrap_or_default())));
                let text = members.text("thinking").unwrap_or_default();
                let said = self.thought(text, &mut block, out, transcript);
                (block, said)
            }
            "redacted_thinking" => {
                let whole = block.and_then(|raw| serde_json::from_str::<Value>(raw.get()).ok());
                let told = self.chunk(|| json!({"thinking_blocks": [whole]}));
                out.extend(told.map(|chunk| Ok(beside(chunk))));
                (Block::Other, Progress::None)
            }
            "tool_use" => (
                Block::Call(self.call(index, &members, out, transcript)?),
                Progress::Content,
            ),
            _ => {
                skipped("block");
                (Block::Other, Progress::None)
            }
        };
        self.blocks.insert(index, block);
        Ok(said)
    }

    fn block_delta(
        &mut self,
        index: Option<u64>,
        delta: &Members<'_>,
        out: &mut Out,
        transcript: &mut Transcript,
    ) -> Result<Progress, ModelError> {
        if self.identity.is_none() {
            return Err(self
                .errors
                .malformed("the provider continued a block before its message"));
        }
        let index = index.unwrap_or(self.last_block);
        self.last_block = index;
        if matches!(self.blocks.get(&index), Some(Block::Other)) {
            return Ok(Progress::None);
        }
        if let Some(raw) = delta.get("partial_json") {
            return self.arguments(index, raw, out, transcript);
        }
        if let Some(raw) = delta.get("text") {
            return Ok(self.say(raw, out, transcript));
        }
        let mut block = self.blocks.remove(&index).unwrap_or(Block::Thinking(None));
        let text = delta.text("thinking").unwrap_or_default();
        let said = self.thought(text, &mut block, out, transcript);
        if let Block::Thinking(Some((_, signature))) = &mut block {
            signature.push_str(&delta.text("signature").unwrap_or_default());
        }
        self.blocks.insert(index, block);
        Ok(said)
    }

    fn block_stop(&mut self, index: Option<u64>, out: &mut Out) {
        let index = index.unwrap_or(self.last_block);
        if let Some(Block::Call(number)) = self.blocks.get(&index) {
            self.calls.close(*number);
        }
        self.block_stop_of_thought(index, out);
        self.blocks.remove(&index);
    }

    /// Sends a complete thinking block again, with its signature.
    fn block_stop_of_thought(&mut self, index: u64, out: &mut Out) {
        if let Some(Block::Thinking(Some((thinking, signature)))) = self.blocks.get(&index)
            && !signature.is_empty()
        {
            let told =
                || json!({"thinking_blocks": [{"type": "thinking", "thinking": thinking, "signature": signature}]});
            out.extend(self.chunk(told).map(|chunk| Ok(beside(chunk))));
            self.blocks.remove(&index);
        }
    }

    fn say(&mut self, raw: &RawValue, out: &mut Out, transcript: &mut Transcript) -> Progress {
        let said = said(raw, &mut self.text);
        let text = said.text + &said.refusal;
        self.tell_text(text, out, transcript)
    }

    fn tell_text(&mut self, text: String, out: &mut Out, transcript: &mut Transcript) -> Progress {
        if text.is_empty() {
            return Progress::None;
        }
        transcript.add(&text);
        let chunk = self.chunk(|| json!({"content": text}));
        self.content(chunk, Some(ModelEvent::Text(text)), out)
    }

    /// Reasoning is passed on and is not part of the answer's text.
    fn thought(&mut self, text: String, block: &mut Block, out: &mut Out, transcript: &mut Transcript) -> Progress {
        if text.is_empty() {
            return Progress::None;
        }
        transcript.add(&text);
        if let Block::Thinking(kept) = block {
            *kept = kept
                .take()
                .filter(|(thought, _)| self.options.chunks && thought.len() + text.len() <= MAX_THOUGHT)
                .map(|(thought, signature)| (thought + &text, signature));
        }
        let chunk = self.chunk(|| json!({"reasoning_content": text}));
        self.content(chunk, None, out)
    }

    /// Starts a call; returns its number.
    fn call(
        &mut self,
        index: u64,
        block: &Members<'_>,
        out: &mut Out,
        transcript: &mut Transcript,
    ) -> Result<usize, ModelError> {
        // The arguments come in pieces; some proxies send them at once.
        let arguments = match block.get("input") {
            Some(raw) if is_text(raw) => Arguments::Text(word(raw).unwrap_or_default()),
            Some(raw) if Members::read(raw.get()).is_none_or(|input| input.iter().next().is_some()) => {
                Arguments::Value(raw.get().to_owned())
            }
            _ => Arguments::None,
        };
        let name = block.text("name").unwrap_or_default();
        transcript.add(&name);
        transcript.add(arguments.text());
        let piece = CallPiece {
            index: Some(index),
            id: block.text("id").unwrap_or_default(),
            name,
            arguments,
        };
        let number = self.calls.begin(piece).map_err(|what| self.errors.malformed(what))?;
        self.tell_call(number, out);
        Ok(number)
    }

    fn arguments(
        &mut self,
        index: u64,
        raw: &RawValue,
        out: &mut Out,
        transcript: &mut Transcript,
    ) -> Result<Progress, ModelError> {
        let arguments = if is_text(raw) {
            Arguments::Text(word(raw).unwrap_or_default())
        } else {
            Arguments::Value(raw.get().to_owned())
        };
        if arguments.text().is_empty() {
            return Ok(Progress::None);
        }
        transcript.add(arguments.text());
        let piece = CallPiece {
            index: Some(index),
            arguments,
            ..CallPiece::default()
        };
        let written = is_text(raw).then_some(raw);
        let offers = &*transcript;
        let taken = self.calls.take(piece, written, &|name| offers.offers(name));
        let Some(number) = taken.map_err(|what| self.errors.malformed(what))? else {
            return Ok(Progress::None);
        };
        Ok(self.tell_call(number, out))
    }

    /// Reports that there is a call, and sends a client what is new of it.
    fn tell_call(&mut self, number: usize, out: &mut Out) -> Progress {
        let told = self.options.chunks.then(|| self.calls.tell(number)).flatten();
        let told = told.and_then(|call| serde_json::from_str::<Value>(&call).ok());
        let chunk = told.and_then(|call| self.chunk(|| json!({"tool_calls": [call]})));
        let event = ModelEvent::ToolCall {
            index: number,
            name: None,
            arguments: String::new(),
        };
        self.content(chunk, Some(event), out)
    }

    fn content(&mut self, chunk: Option<Bytes>, event: Option<ModelEvent>, out: &mut Out) -> Progress {
        self.content_seen = true;
        self.was_ended |= self.reason.take().is_some();
        out.push_back(Ok(Piece {
            chunk,
            events: event.into_iter().collect(),
            content: true,
            ..Piece::default()
        }));
        Progress::Content
    }

    /// The provider says that the message is complete.
    fn stop(&mut self) -> Result<Progress, ModelError> {
        if self.identity.is_none() {
            return Err(self
                .errors
                .malformed("the provider ended the message before it started"));
        }
        if self.reason.is_none() && !self.content_seen {
            return Err(self
                .errors
                .malformed("the provider ended the message without a stop reason"));
        }
        Ok(Progress::Done)
    }

    /// Writes a chunk, if the caller wants chunks.
    fn chunk(&self, delta: impl FnOnce() -> Value) -> Option<Bytes> {
        let identity = self.identity.as_ref().filter(|_| self.options.chunks)?;
        Some(identity.delta(&delta(), None))
    }

    fn event(
        &mut self,
        name: &str,
        data: &str,
        out: &mut Out,
        transcript: &mut Transcript,
    ) -> Result<Progress, ModelError> {
        let mended;
        // The cause is not quoted: it may contain a piece of the conversation.
        let (data, top) = match Members::read(data) {
            Some(top) => (data, top),
            None => {
                mended = mend(data);
                let top = Members::read(&mended).ok_or_else(|| {
                    self.errors
                        .malformed("the provider sent something that is not an event of a message")
                })?;
                (mended.as_str(), top)
            }
        };
        let kind = top.text("type").unwrap_or_else(|| name.to_owned());
        if kind == "error" || top.get("error").is_some() {
            let error = top.get("error").map_or(data, RawValue::get);
            let error = serde_json::from_str(error).unwrap_or(Value::Null);
            return Err(self.errors.in_stream(&error));
        }
        let index = top.count("index").known();
        match kind.as_str() {
            "message_start" => match Members::of(top.get("message")) {
                Some(message) => self.start(&message, out, transcript),
                None => Err(self
                    .errors
                    .malformed("the provider sent a message_start without a message")),
            },
            // A document in answer to a streaming request.
            "message" => self.start(&top, out, transcript),
            "content_block_start" => self.block_start(index, top.get("content_block"), out, transcript),
            "content_block_delta" => {
                let delta = Members::of(top.get("delta")).unwrap_or_default();
                self.block_delta(index, &delta, out, transcript)
            }
            "content_block_stop" => {
                self.block_stop(index, out);
                Ok(Progress::None)
            }
            "message_delta" => {
                if self.report(&top) {
                    transcript.note_report();
                }
                let delta = Members::of(top.get("delta")).unwrap_or_default();
                let reason = delta.get("stop_reason").or_else(|| top.get("stop_reason"));
                Ok(self.end_of(reason).unwrap_or(Progress::None))
            }
            "message_stop" => self.stop(),
            "" => Err(self.errors.malformed("the provider sent an event without a type")),
            // `ping`, and future event types.
            _ => Ok(Progress::None),
        }
    }

    /// Why the answer ended; `None` if it was cut off.
    fn ending(&self, end: End) -> Option<Reason> {
        let unsaid = || {
            let is_whole = end == End::Done && !self.was_ended && self.content_seen;
            match self.calls.any() {
                _ if !is_whole => None,
                false => Some(Reason::Stop),
                true => self.calls.are_closed().then_some(Reason::ToolCalls),
            }
        };
        self.reason.or_else(unsaid)
    }

    /// Sends what was held back until the good end.
    fn flush(&mut self, reason: Reason, out: &mut Out, transcript: &mut Transcript) {
        let indexes: Vec<u64> = self.blocks.keys().copied().collect();
        for index in indexes {
            self.block_stop_of_thought(index, out);
        }
        let mut text = String::new();
        self.text.close(&mut text);
        let reason_kept = self.reason.take();
        self.tell_text(text, out, transcript);
        self.reason = reason_kept;
        let is_whole = reason <= Reason::ToolCalls;
        let rest = self.calls.tell_rest(is_whole, true);
        let told: Vec<Value> = rest.iter().filter_map(|call| serde_json::from_str(call).ok()).collect();
        let chunk = (!told.is_empty())
            .then(|| self.chunk(|| json!({"tool_calls": told})))
            .flatten();
        let whole = if is_whole {
            self.calls.whole().unwrap_or_default()
        } else {
            Vec::new()
        };
        let events: Vec<ModelEvent> = whole
            .into_iter()
            .map(|call| ModelEvent::ToolCall {
                index: call.number,
                name: Some(call.name),
                arguments: call.arguments,
            })
            .collect();
        if chunk.is_some() || !events.is_empty() {
            out.push_back(Ok(Piece {
                chunk,
                events,
                ..Piece::default()
            }));
        }
        let word = match reason {
            Reason::Stop if self.calls.any() => Reason::ToolCalls.word(),
            reason => reason.word(),
        };
        let identity = self.identity.as_ref().filter(|_| self.options.chunks);
        out.extend(identity.map(|identity| Ok(beside(identity.delta(&json!({}), word)))));
    }
}

/// A piece without content.
fn beside(chunk: Bytes) -> Piece {
    Piece {
        chunk: Some(chunk),
        ..Piece::default()
    }
}

impl provider::Decoder for Decoder {
    fn decode(
        &mut self,
        name: &str,
        data: &[u8],
        out: &mut Out,
        transcript: &mut Transcript,
    ) -> Result<Progress, ModelError> {
        let text = String::from_utf8_lossy(data);
        let text = text.trim();
        let bare = text.trim_matches('"');
        if bare.eq_ignore_ascii_case("[DONE]") {
            return Ok(Progress::Done);
        }
        if text.is_empty() || name == "ping" || bare == "ping" {
            return Ok(Progress::None);
        }
        if name == "error" && !text.starts_with(['{', '[']) {
            return Err(self.errors.in_stream(&Value::from(bare)));
        }
        if !text.starts_with('[') {
            return self.event(name, text, out, transcript);
        }
        // Some proxies write lists, of errors above all.
        let items: Vec<&RawValue> = serde_json::from_str(text).map_err(|_| {
            self.errors
                .malformed("the provider sent something that is not an event of a message")
        })?;
        let mut progress = Progress::None;
        for item in items {
            match self.event(name, item.get(), out, transcript)? {
                Progress::None => {}
                found => progress = found,
            }
        }
        Ok(progress)
    }

    fn content_seen(&self) -> bool {
        self.content_seen
    }

    fn is_finished(&self) -> bool {
        self.reason.is_some()
    }

    fn finish(&mut self, end: End, out: &mut Out, transcript: &mut Transcript) -> Option<Result<Finish, ModelError>> {
        self.identity.as_ref()?;
        let reason = self.ending(end)?;
        let ended = reason.ending(self.calls.any(), self.options.chunks, &self.errors);
        let ended = ended.and_then(|finish| match finish {
            Finish::Length => Ok(finish),
            _ => match self.calls.whole() {
                Ok(_) => Ok(finish),
                Err(what) => Err(self.errors.malformed(what)),
            },
        });
        if ended.is_ok() {
            self.flush(reason, out, transcript);
        }
        Some(ended)
    }

    fn usage(&self) -> Option<Usage> {
        self.usage.read()
    }

    fn usage_chunk(&mut self, usage: &Usage) -> Option<Bytes> {
        let identity = self.identity.as_ref()?;
        let report = || report::write(identity.report(usage), ReportCarrier::Chunk, usage);
        (self.options.chunks && self.options.include_usage).then(report)
    }
}
