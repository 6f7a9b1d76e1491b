//! Writes a step in Anthropic's form: as a stream of events, or as one message.

use serde_json::{Value, json};

use super::refusal;
use crate::model::pieces::Pieces;
use crate::model::play::{self, Act, completion_tokens, early_end, finish_reason};
use crate::model::step::Step;

const THOUGHT: &str = "Let me think about that.";
const SIGNATURE: &str = "c2lnbmVk";

/// What is needed besides the step to write the answer.
#[derive(Debug)]
pub(super) struct ResponseOptions {
    pub(super) id: String,
    pub(super) model: String,
    pub(super) max_pieces: Option<u64>,
    pub(super) prompt_tokens: u64,
    pub(super) cache_read: u64,
    pub(super) cache_written: u64,
    pub(super) thinks: bool,
    /// Prefix that makes the ids of tool calls unique.
    pub(super) call_prefix: String,
}

#[derive(Debug)]
enum Phase {
    Text,
    /// The number of the call and the position in its arguments; `None` before its first delta.
    Call(usize, Option<usize>),
    Closing,
    Over,
}

/// The events of a stream.
#[derive(Debug)]
pub(super) struct Frames {
    step: Step,
    options: ResponseOptions,
    pieces: Pieces,
    phase: Phase,
    /// Number of the next block, and whether the one before it is open.
    block: u64,
    is_open: bool,
    begun: bool,
    broken: bool,
    /// Sent before the next event.
    before: String,
}

fn event(kind: &str, mut data: Value) -> String {
    data["type"] = json!(kind);
    format!("event: {kind}\ndata: {data}\n\n")
}

impl Frames {
    pub(super) fn new(step: Step, options: ResponseOptions) -> Self {
        Self {
            pieces: Pieces::new(&step, options.max_pieces),
            step,
            options,
            phase: Phase::Text,
            block: 0,
            is_open: false,
            begun: false,
            broken: false,
            before: String::new(),
        }
    }

    fn opening(&mut self) -> String {
        let mut message = head(&self.options);
        message["content"] = json!([]);
        message["stop_reason"] = Value::Null;
        message["stop_sequence"] = Value::Null;
        message["usage"] = usage(&self.options, &self.step, 1);
        let mut out = event("message_start", json!({ "message": message }));
        if self.options.thinks {
            out += &self.open(&json!({"type": "thinking", "thinking": "", "signature": ""}));
            out += &self.delta(&json!({"type": "thinking_delta", "thinking": THOUGHT}));
            out += &self.delta(&json!({"type": "signature_delta", "signature": SIGNATURE}));
            out += &self.close();
        }
        out
    }

    fn open(&mut self, block: &Value) -> String {
        self.is_open = true;
        event(
            "content_block_start",
            json!({"index": self.block, "content_block": block}),
        )
    }

    fn delta(&self, delta: &Value) -> String {
        event("content_block_delta", json!({"index": self.block, "delta": delta}))
    }

    fn close(&mut self) -> String {
        if !std::mem::take(&mut self.is_open) {
            return String::new();
        }
        self.block += 1;
        event("content_block_stop", json!({"index": self.block - 1}))
    }

    fn body(&mut self) -> Act {
        if self.step.malformed && !self.broken && self.pieces.said_pieces > 0 {
            self.broken = true;
            return Act::Send("event: content_block_delta\ndata: {\"type\": \"content_block_del\n\n".to_owned());
        }
        match self.phase {
            Phase::Text => self.text(),
            Phase::Call(number, at) => self.call(number, at),
            Phase::Closing => {
                if let Some(end) = early_end(&self.step, &self.pieces, true) {
                    return end;
                }
                self.phase = Phase::Over;
                let delta = json!({"stop_reason": stop_reason(&self.step, &self.pieces), "stop_sequence": null});
                let tokens = completion_tokens(&self.step, &self.pieces);
                let usage = json!({"output_tokens": usage(&self.options, &self.step, tokens)["output_tokens"]});
                let mut last = event("message_delta", json!({"delta": delta, "usage": usage}));
                last += &event("message_stop", json!({}));
                Act::Last(last)
            }
            Phase::Over => Act::End,
        }
    }

    fn text(&mut self) -> Act {
        if let Some(piece) = self.pieces.next() {
            let mut out = String::new();
            if !self.is_open {
                out += &self.open(&json!({"type": "text", "text": ""}));
                out += <Self as play::Frames>::KEEPALIVE;
            }
            return Act::Send(out + &self.delta(&json!({"type": "text_delta", "text": piece})));
        }
        if let Some(end) = early_end(&self.step, &self.pieces, self.step.tool_calls.is_empty()) {
            return end;
        }
        if let Some(error) = self.step.in_stream_error.take() {
            self.phase = Phase::Over;
            return Act::Send(event("error", refusal::in_stream(&error)));
        }
        let stop = self.close();
        self.before += &stop;
        self.phase = Phase::Call(0, None);
        self.body()
    }

    fn call(&mut self, number: usize, at: Option<usize>) -> Act {
        if let Some(end) = early_end(&self.step, &self.pieces, false) {
            return end;
        }
        let Some(call) = self.step.tool_calls.get(number) else {
            self.phase = Phase::Closing;
            return self.body();
        };
        let Some(at) = at else {
            let block =
                json!({"type": "tool_use", "id": call_id(&self.options, number), "name": call.name, "input": {}});
            self.phase = Phase::Call(number, Some(0));
            return Act::Send(self.open(&block));
        };
        let arguments = call.arguments();
        // A call without arguments has no fragment at all.
        let fragment = match arguments.as_str() {
            "{}" => String::new(),
            arguments => self.pieces.fragment(arguments, at),
        };
        if fragment.is_empty() {
            let stop = self.close();
            self.before += &stop;
            self.phase = Phase::Call(number + 1, None);
            return self.body();
        }
        self.phase = Phase::Call(number, Some(at + fragment.chars().count()));
        Act::Send(self.delta(&json!({"type": "input_json_delta", "partial_json": fragment})))
    }
}

impl play::Frames for Frames {
    const KEEPALIVE: &'static str = "event: ping\ndata: {\"type\": \"ping\"}\n\n";

    fn next(&mut self) -> Act {
        if !self.begun {
            self.begun = true;
            self.before = self.opening();
        }
        match self.body() {
            Act::Send(body) => Act::Send(std::mem::take(&mut self.before) + &body),
            Act::Last(body) => Act::Last(std::mem::take(&mut self.before) + &body),
            act if self.before.is_empty() => act,
            // A cut after zero characters still sends the beginning first.
            _ => Act::Send(std::mem::take(&mut self.before)),
        }
    }
}

/// Writes the step as one message; consumes `pieces`.
pub(super) fn whole(step: &Step, pieces: &mut Pieces, options: &ResponseOptions) -> Value {
    let text: String = pieces.by_ref().collect();
    let mut content = Vec::new();
    if options.thinks {
        content.push(json!({"type": "thinking", "thinking": THOUGHT, "signature": SIGNATURE}));
    }
    if !text.is_empty() {
        content.push(json!({"type": "text", "text": text}));
    }
    for (number, call) in step.tool_calls.iter().enumerate() {
        let input: Value = serde_json::from_str(&call.arguments()).unwrap_or_else(|_| json!({}));
        content.push(json!({"type": "tool_use", "id": call_id(options, number), "name": call.name, "input": input}));
    }
    let mut message = head(options);
    message["content"] = content.into();
    message["stop_reason"] = json!(stop_reason(step, pieces));
    message["stop_sequence"] = Value::Null;
    message["usage"] = usage(options, step, completion_tokens(step, pieces));
    message
}

fn head(options: &ResponseOptions) -> Value {
    json!({"id": options.id, "type": "message", "role": "assistant", "model": options.model})
}

fn call_id(options: &ResponseOptions, number: usize) -> String {
    format!("toolu_{}{number}", options.call_prefix)
}

fn stop_reason(step: &Step, pieces: &Pieces) -> String {
    let reason = finish_reason(step, pieces);
    match reason.as_str() {
        "stop" => "end_turn",
        "length" => "max_tokens",
        "tool_calls" => "tool_use",
        "content_filter" => "refusal",
        own => own,
    }
    .to_owned()
}

fn usage(options: &ResponseOptions, step: &Step, output: u64) -> Value {
    let told = |tokens: u64| if step.usage == Some(false) { 0 } else { tokens };
    json!({
        "input_tokens": told(options.prompt_tokens - options.cache_read - options.cache_written),
        "cache_creation_input_tokens": told(options.cache_written),
        "cache_read_input_tokens": told(options.cache_read),
        "output_tokens": told(output),
    })
}
