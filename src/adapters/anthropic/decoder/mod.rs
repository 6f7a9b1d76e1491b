//! Reads the events of a streamed message, and writes them as OpenAI's chunks.
//!
//! Invariant: an answer is whole only when `message_stop` has come. The chunk that says why it ended goes out with it, so
//! that nobody is told of an end that was then cut off.

#[cfg(test)]
mod tests;

use bytes::Bytes;
use copilotd_actors::domain::content::Finish;
use copilotd_actors::domain::usage::Usage;
use copilotd_actors::ports::{ModelError, ModelEvent};
use serde::Deserialize;
use serde_json::{Value, json};

use super::chunk::Identity;
use super::wire::{Ending, MAX_CALLS, WireUsage};
use crate::adapters::provider::{self, Errors, Out, Progress, Transcript, priced};
use crate::gateway::upstream::Piece;

/// What is kept of a thought to be told again with its signature; a longer one cannot be given back.
const MAX_THOUGHT: usize = 256 * 1024;

#[derive(Debug, Deserialize)]
struct Event {
    #[serde(rename = "type", default)]
    kind: String,
    message: Option<Start>,
    index: Option<u64>,
    content_block: Option<Value>,
    delta: Option<Delta>,
    usage: Option<WireUsage>,
    error: Option<Value>,
}

#[derive(Debug, Deserialize)]
struct Start {
    id: Option<String>,
    model: Option<String>,
    usage: Option<WireUsage>,
}

/// Of a block or of the whole message.
#[derive(Debug, Default, Deserialize)]
struct Delta {
    text: Option<String>,
    partial_json: Option<String>,
    thinking: Option<String>,
    signature: Option<String>,
    stop_reason: Option<String>,
}

/// What the caller wants to see.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wish {
    /// Whether chunks are wanted. Then an end by the content filter is the caller's to read; else it is a failure.
    pub(super) chunks: bool,
    /// Whether the last chunk shall report usage.
    pub(super) include_usage: bool,
    /// When the answer was begun, in seconds since 1970.
    pub(super) created: i64,
}

/// The block that is being written; they come one after the other.
#[derive(Debug)]
enum Block {
    Text,
    /// A call, and whether arguments have come.
    Call {
        number: usize,
        has_arguments: bool,
    },
    /// A thought and its signature; none when it is too long to be kept.
    Thinking(Option<(String, String)>),
    /// Something that is passed over.
    Other,
}

/// The memory of one answer's reading.
#[derive(Debug)]
pub(super) struct Decoder {
    errors: Errors,
    wish: Wish,
    /// None until the message has begun.
    identity: Option<Identity>,
    block: Option<(u64, Block)>,
    calls: usize,
    content_seen: bool,
    usage: WireUsage,
    stop_reason: Option<String>,
    finish: Option<Result<Finish, ModelError>>,
}

impl Decoder {
    /// Begins an answer.
    pub(super) fn new(errors: Errors, wish: Wish) -> Self {
        Self {
            errors,
            wish,
            identity: None,
            block: None,
            calls: 0,
            content_seen: false,
            usage: WireUsage::default(),
            stop_reason: None,
            finish: None,
        }
    }

    fn start(&mut self, message: Option<Start>, out: &mut Out) -> Result<(), ModelError> {
        if self.identity.is_some() {
            return Err(self.errors.malformed("it began twice"));
        }
        let message = message.ok_or_else(|| self.errors.malformed("it began without a message"))?;
        self.usage.update(message.usage.unwrap_or_default());
        let model = message.model.unwrap_or_default();
        self.identity = Some(Identity {
            id: message.id.unwrap_or_default(),
            model: model.clone(),
            created: self.wish.created,
            include_usage: self.wish.include_usage,
        });
        out.push_back(Ok(Piece {
            chunk: self.chunk(|| json!({"role": "assistant", "content": ""}), None),
            events: (!model.is_empty())
                .then_some(ModelEvent::Model(model))
                .into_iter()
                .collect(),
            content: false,
            ..Piece::default()
        }));
        Ok(())
    }

    fn block_start(
        &mut self,
        index: Option<u64>,
        block: &Value,
        out: &mut Out,
        transcript: &mut Transcript,
    ) -> Result<Progress, ModelError> {
        let index = index.filter(|_| self.identity.is_some() && self.block.is_none());
        let index = index.ok_or_else(|| self.errors.malformed("it began a block out of turn"))?;
        let (block, said) = match block["type"].as_str() {
            Some("text") => (Block::Text, self.text(text(&block["text"]), out, transcript)),
            Some("thinking") => {
                let kept = (String::new(), text(&block["signature"]));
                let mut block_kept = Block::Thinking(Some(kept));
                let said = self.thought(text(&block["thinking"]), &mut block_kept, out, transcript);
                (block_kept, said)
            }
            Some("redacted_thinking") => {
                let told = self.chunk(|| json!({"thinking_blocks": [block]}), None);
                out.extend(told.map(|chunk| Ok(beside(chunk))));
                (Block::Other, Progress::None)
            }
            Some("tool_use") => {
                let number = self.call(block, out, transcript)?;
                let mut call = Block::Call {
                    number,
                    has_arguments: false,
                };
                // The arguments come in pieces; some proxies send them whole.
                if block["input"].as_object().is_some_and(|input| !input.is_empty()) {
                    self.arguments(block["input"].to_string(), &mut call, out, transcript);
                }
                (call, Progress::Content)
            }
            Some(_) => (Block::Other, Progress::None),
            None => return Err(self.errors.malformed("it sent a block without a type")),
        };
        self.block = Some((index, block));
        Ok(said)
    }

    fn block_delta(
        &mut self,
        index: Option<u64>,
        delta: Delta,
        out: &mut Out,
        transcript: &mut Transcript,
    ) -> Result<Progress, ModelError> {
        let mut block = self.take_block(index)?;
        let mut said = Progress::None;
        match &mut block.1 {
            Block::Text => said = self.text(delta.text.unwrap_or_default(), out, transcript),
            call @ Block::Call { .. } => {
                said = self.arguments(delta.partial_json.unwrap_or_default(), call, out, transcript);
            }
            thinking @ Block::Thinking(_) => {
                said = self.thought(delta.thinking.unwrap_or_default(), thinking, out, transcript);
                if let Block::Thinking(Some((_, signature))) = thinking {
                    signature.push_str(&delta.signature.unwrap_or_default());
                }
            }
            Block::Other => {}
        }
        self.block = Some(block);
        Ok(said)
    }

    fn block_stop(
        &mut self,
        index: Option<u64>,
        out: &mut Out,
        transcript: &mut Transcript,
    ) -> Result<Progress, ModelError> {
        match self.take_block(index)?.1 {
            // A call without arguments has none at all, and OpenAI's clients read an object.
            mut call @ Block::Call {
                has_arguments: false, ..
            } => Ok(self.arguments("{}".to_owned(), &mut call, out, transcript)),
            Block::Thinking(Some((thinking, signature))) if !signature.is_empty() => {
                let told =
                    || json!({"thinking_blocks": [{"type": "thinking", "thinking": thinking, "signature": signature}]});
                out.extend(self.chunk(told, None).map(|chunk| Ok(beside(chunk))));
                Ok(Progress::None)
            }
            _ => Ok(Progress::None),
        }
    }

    /// Takes the block that is being written, which has to be number `index`.
    fn take_block(&mut self, index: Option<u64>) -> Result<(u64, Block), ModelError> {
        let block = self.block.take_if(|(known, _)| Some(*known) == index);
        block.ok_or_else(|| self.errors.malformed("it went on with a block that it had not begun"))
    }

    fn text(&mut self, text: String, out: &mut Out, transcript: &mut Transcript) -> Progress {
        if text.is_empty() {
            return Progress::None;
        }
        transcript.add(&text);
        let chunk = self.chunk(|| json!({"content": text}), None);
        self.say(chunk, Some(ModelEvent::Text(text)), out)
    }

    /// Reasoning is passed on and is no text of the answer.
    fn thought(&mut self, text: String, block: &mut Block, out: &mut Out, transcript: &mut Transcript) -> Progress {
        if text.is_empty() {
            return Progress::None;
        }
        transcript.add(&text);
        if let Block::Thinking(kept) = block {
            *kept = kept
                .take()
                .filter(|(thought, _)| self.wish.chunks && thought.len() + text.len() <= MAX_THOUGHT)
                .map(|(thought, signature)| (thought + &text, signature));
        }
        let chunk = self.chunk(|| json!({"reasoning_content": text}), None);
        self.say(chunk, None, out)
    }

    /// Begins a call; returns its number.
    fn call(&mut self, block: &Value, out: &mut Out, transcript: &mut Transcript) -> Result<usize, ModelError> {
        let (Some(id), Some(name)) = (
            block["id"].as_str(),
            block["name"].as_str().filter(|name| !name.is_empty()),
        ) else {
            return Err(self.errors.malformed("it asked for a tool that it did not name"));
        };
        let index = self.calls;
        if index >= MAX_CALLS {
            return Err(self.errors.malformed("it asked for too many tools at once"));
        }
        self.calls += 1;
        transcript.add(name);
        let function = json!({"name": name, "arguments": ""});
        let call = json!({"index": index, "id": id, "type": "function", "function": function});
        let chunk = self.chunk(|| json!({"tool_calls": [call]}), None);
        let event = ModelEvent::ToolCall {
            index,
            name: Some(name.to_owned()),
            arguments: String::new(),
        };
        self.say(chunk, Some(event), out);
        Ok(index)
    }

    fn arguments(&mut self, text: String, call: &mut Block, out: &mut Out, transcript: &mut Transcript) -> Progress {
        let Block::Call { number, has_arguments } = call else {
            return Progress::None;
        };
        if text.is_empty() {
            return Progress::None;
        }
        *has_arguments = true;
        let index = *number;
        transcript.add(&text);
        let delta = || json!({"tool_calls": [{"index": index, "function": {"arguments": text}}]});
        let chunk = self.chunk(delta, None);
        let event = ModelEvent::ToolCall {
            index,
            name: None,
            arguments: text,
        };
        self.say(chunk, Some(event), out)
    }

    fn say(&mut self, chunk: Option<Bytes>, event: Option<ModelEvent>, out: &mut Out) -> Progress {
        self.content_seen = true;
        out.push_back(Ok(Piece {
            chunk,
            events: event.into_iter().collect(),
            content: true,
            ..Piece::default()
        }));
        Progress::Content
    }

    /// The message is whole.
    fn stop(&mut self, out: &mut Out) -> Result<Progress, ModelError> {
        if self.identity.is_none() || self.block.is_some() {
            return Err(self.errors.malformed("it ended out of turn"));
        }
        let Some(reason) = self.stop_reason.take() else {
            return Err(self.errors.malformed("it ended without a reason"));
        };
        let ending = Ending::read(&reason, self.calls > 0, self.wish.chunks, &self.errors);
        if let Ok(ending) = &ending
            && let Some(chunk) = self.chunk(|| json!({}), Some(ending.reason))
        {
            out.push_back(Ok(beside(chunk)));
        }
        self.finish = Some(ending.map(|ending| ending.finish));
        Ok(Progress::Done)
    }

    /// Writes a chunk, if the caller wants chunks.
    fn chunk(&self, delta: impl FnOnce() -> Value, finish: Option<&str>) -> Option<Bytes> {
        let identity = self.identity.as_ref().filter(|_| self.wish.chunks)?;
        Some(identity.delta(&delta(), finish))
    }
}

/// A piece that is no content.
fn beside(chunk: Bytes) -> Piece {
    Piece {
        chunk: Some(chunk),
        ..Piece::default()
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

impl provider::Decoder for Decoder {
    fn decode(&mut self, data: &[u8], out: &mut Out, transcript: &mut Transcript) -> Result<Progress, ModelError> {
        // The cause is not quoted: it may hold a piece of the conversation.
        let event: Event = serde_json::from_slice(data).map_err(|_| {
            self.errors
                .malformed("it sent something that is not an event of a message")
        })?;
        match event.kind.as_str() {
            "message_start" => self.start(event.message, out).map(|()| Progress::None),
            "content_block_start" => {
                let block = event.content_block.unwrap_or_default();
                self.block_start(event.index, &block, out, transcript)
            }
            "content_block_delta" => self.block_delta(event.index, event.delta.unwrap_or_default(), out, transcript),
            "content_block_stop" => self.block_stop(event.index, out, transcript),
            "message_delta" => {
                self.usage.update(event.usage.unwrap_or_default());
                let reason = event.delta.unwrap_or_default().stop_reason;
                match reason.filter(|reason| !reason.is_empty()) {
                    // The end is near, which is as good as content.
                    Some(reason) => {
                        self.stop_reason = Some(reason);
                        Ok(Progress::Content)
                    }
                    None => Ok(Progress::None),
                }
            }
            "message_stop" => self.stop(out),
            "error" => Err(self.errors.in_stream(&event.error.unwrap_or_default())),
            "" => Err(match event.error {
                Some(error) => self.errors.in_stream(&error),
                None => self.errors.malformed("it sent an event without a type"),
            }),
            // `ping`, and what the API may come to say.
            _ => Ok(Progress::None),
        }
    }

    fn content_seen(&self) -> bool {
        self.content_seen
    }

    fn is_finished(&self) -> bool {
        self.finish.is_some()
    }

    fn take_finish(&mut self) -> Option<Result<Finish, ModelError>> {
        self.finish.take()
    }

    fn usage(&self) -> Option<Usage> {
        self.usage.read()
    }

    fn usage_chunk(&mut self, usage: &Usage) -> Option<Bytes> {
        let identity = self.identity.as_ref()?;
        (self.wish.chunks && self.wish.include_usage).then(|| priced(identity.report(usage), usage.cost))
    }
}
