//! Writes a step in OpenAI's form: as a stream of chunks, or as one object.
//!
//! A stream's state is small and its text is generated as it is sent, so that ten thousand fit in one process.

use serde_json::{Value, json};

use crate::model::pieces::Pieces;
use crate::model::play::{self, Act, completion_tokens, early_end, finish_reason};
use crate::model::step::{Call, Step};
use crate::model::usage::Usage;

/// What is needed besides the step to write the answer.
#[derive(Debug)]
pub(crate) struct ResponseOptions {
    pub(crate) id: String,
    pub(crate) created: i64,
    pub(crate) model: String,
    pub(crate) n: u64,
    pub(crate) include_usage: bool,
    pub(crate) max_pieces: Option<u64>,
    pub(crate) prompt_tokens: u64,
    pub(crate) cached_tokens: u64,
    /// Prefix that makes the ids of tool calls unique.
    pub(crate) call_prefix: String,
}

#[derive(Debug)]
enum Phase {
    Text,
    /// The number of the call and the position in its arguments; `None` before its first delta.
    Call(usize, Option<usize>),
    Closing,
    Over,
}

/// The chunks of a stream.
#[derive(Debug)]
pub(crate) struct Frames {
    head: String,
    tail: &'static str,
    step: Step,
    options: ResponseOptions,
    pieces: Pieces,
    phase: Phase,
    begun: bool,
    broken: bool,
}

impl Frames {
    pub(crate) fn new(step: Step, options: ResponseOptions) -> Self {
        let include_usage = step.usage.unwrap_or(options.include_usage);
        let start = json!({
            "id": options.id,
            "object": "chat.completion.chunk",
            "created": options.created,
            "model": options.model,
            "service_tier": "default",
            "system_fingerprint": "fp_simulated",
        });
        let start = start.to_string();
        Self {
            head: format!("data: {},\"choices\":[", &start[..start.len() - 1]),
            tail: if include_usage {
                "],\"usage\":null}\n\n"
            } else {
                "]}\n\n"
            },
            pieces: Pieces::new(&step, options.max_pieces),
            step,
            options: ResponseOptions {
                include_usage,
                ..options
            },
            phase: Phase::Text,
            begun: false,
            broken: false,
        }
    }

    /// Writes a chunk for each of the `n` choices.
    fn chunk(&self, delta: &Value, finish: Option<&str>) -> String {
        let finish = json!(finish);
        (0..self.options.n)
            .map(|index| {
                format!(
                    "{}{{\"index\":{index},\"delta\":{delta},\"logprobs\":null,\"finish_reason\":{finish}}}{}",
                    self.head, self.tail
                )
            })
            .collect()
    }

    fn body(&mut self) -> Act {
        if self.step.malformed && !self.broken && self.pieces.said_pieces > 0 {
            self.broken = true;
            return Act::Send("data: {\"id\": \"chatcmpl-broken\", \"choi\n\n".to_owned());
        }
        match self.phase {
            Phase::Text => {
                if let Some(piece) = self.pieces.next() {
                    return Act::Send(self.chunk(&json!({"content": piece}), None));
                }
                if let Some(end) = early_end(&self.step, &self.pieces, self.step.tool_calls.is_empty()) {
                    return end;
                }
                if let Some(error) = self.step.in_stream_error.take() {
                    self.phase = Phase::Over;
                    return Act::Send(format!("data: {}\n\n", json!({"error": error})));
                }
                self.phase = Phase::Call(0, None);
                self.body()
            }
            Phase::Call(number, at) => self.call_delta(number, at),
            Phase::Closing => {
                if let Some(end) = early_end(&self.step, &self.pieces, true) {
                    return end;
                }
                self.phase = Phase::Over;
                let reason = finish_reason(&self.step, &self.pieces);
                let mut last = self.chunk(&json!({}), Some(&reason));
                if self.options.include_usage {
                    let usage = usage(&self.options, &self.step, &self.pieces).to_json();
                    last.push_str(&format!("{}],\"usage\":{usage}}}\n\n", self.head));
                }
                last.push_str("data: [DONE]\n\n");
                Act::Last(last)
            }
            Phase::Over => Act::End,
        }
    }

    fn call_delta(&mut self, number: usize, at: Option<usize>) -> Act {
        if let Some(end) = early_end(&self.step, &self.pieces, false) {
            return end;
        }
        let Some(call) = self.step.tool_calls.get(number) else {
            self.phase = Phase::Closing;
            return self.body();
        };
        let Some(at) = at else {
            let delta = json!({"tool_calls": [{
                "index": number,
                "id": call_id(&self.options, number),
                "type": "function",
                "function": {"name": call.name, "arguments": ""},
            }]});
            self.phase = Phase::Call(number, Some(0));
            return Act::Send(self.chunk(&delta, None));
        };
        let arguments = call.arguments();
        let fragment = self.pieces.fragment(&arguments, at);
        if fragment.is_empty() {
            self.phase = Phase::Call(number + 1, None);
            return self.body();
        }
        self.phase = Phase::Call(number, Some(at + fragment.chars().count()));
        let delta = json!({"tool_calls": [{
            "index": number,
            "function": {"arguments": fragment},
        }]});
        Act::Send(self.chunk(&delta, None))
    }
}

fn call_id(options: &ResponseOptions, number: usize) -> String {
    format!("call_{}{number}", options.call_prefix)
}

impl play::Frames for Frames {
    const KEEPALIVE: &'static str = ": keepalive\n\n";

    fn next(&mut self) -> Act {
        let opening = if self.begun {
            String::new()
        } else {
            self.begun = true;
            let content = if self.step.tool_calls.is_empty() || self.pieces.has_more() {
                json!("")
            } else {
                Value::Null
            };
            self.chunk(&json!({"role": "assistant", "content": content, "refusal": null}), None)
        };
        match self.body() {
            Act::Send(body) => Act::Send(opening + &body),
            Act::Last(body) => Act::Last(opening + &body),
            act if opening.is_empty() => act,
            // A cut after zero characters still sends the role first.
            _ => Act::Send(opening),
        }
    }
}

fn usage(options: &ResponseOptions, step: &Step, pieces: &Pieces) -> Usage {
    Usage {
        prompt: options.prompt_tokens,
        cached: options.cached_tokens,
        completion: completion_tokens(step, pieces) * options.n,
    }
}

/// Writes the step as one object; consumes `pieces`.
pub(crate) fn whole(step: &Step, pieces: &mut Pieces, options: &ResponseOptions) -> Value {
    let text: String = pieces.by_ref().collect();
    let calls = step.tool_calls.iter().enumerate();
    let calls: Vec<_> = calls
        .map(|(number, call): (usize, &Call)| {
            json!({
                "id": call_id(options, number),
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments()},
            })
        })
        .collect();
    let mut message = json!({"role": "assistant", "content": text, "refusal": null, "annotations": []});
    if !calls.is_empty() {
        if text.is_empty() {
            message["content"] = Value::Null;
        }
        message["tool_calls"] = json!(calls);
    }
    let reason = finish_reason(step, pieces);
    let choices: Vec<_> = (0..options.n)
        .map(|index| json!({"index": index, "message": message, "logprobs": null, "finish_reason": reason}))
        .collect();
    json!({
        "id": options.id,
        "object": "chat.completion",
        "created": options.created,
        "model": options.model,
        "choices": choices,
        "usage": usage(options, step, pieces).to_json(),
        "service_tier": "default",
        "system_fingerprint": "fp_simulated",
    })
}
