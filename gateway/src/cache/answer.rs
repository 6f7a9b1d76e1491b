//! Cacheable answers, and their replay as a document or a stream, whichever is requested.
//!
//! Invariant: only a complete, plain answer becomes a [`CachedAnswer`]: one choice that ended with `stop` and has
//! text and nothing else.

use std::borrow::Cow;
use std::collections::BTreeMap;

use bytes::Bytes;
use copilotd_actors::domain::content::Finish;
use copilotd_actors::domain::usage::{NanoUsd, Usage};
use copilotd_actors::ports::ModelEvent;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::provider::Piece;
use crate::target::TargetName;

/// Longest cacheable answer, in bytes.
pub const LONGEST: usize = 64 * 1024;
/// Most bytes of text in a replayed chunk.
const CHUNK: usize = 256;

/// The members of a chat.completion that decide whether it is cacheable. The others are skipped over.
#[derive(Deserialize)]
struct Document<'a> {
    #[serde(borrow)]
    model: Cow<'a, str>,
    #[serde(borrow)]
    choices: Vec<DocumentChoice<'a>>,
}

#[derive(Deserialize)]
struct DocumentChoice<'a> {
    #[serde(borrow)]
    message: BTreeMap<String, &'a RawValue>,
    #[serde(borrow)]
    finish_reason: Cow<'a, str>,
}

/// A complete answer.
#[derive(Debug, Clone, PartialEq)]
pub struct CachedAnswer {
    /// Model name as reported by the provider.
    pub model: String,
    /// The target that answered, if known.
    pub by: Option<TargetName>,
    /// The text.
    pub text: String,
    /// Usage of the original call; a replay costs nothing.
    pub usage: Usage,
}

impl CachedAnswer {
    /// Parses a chat.completion. `None` if it is not cacheable.
    pub fn from_whole(body: &[u8], usage: Usage) -> Option<Self> {
        // Parsed on the request path: a longer body takes too long, and its text hardly fits.
        if body.len() > 2 * LONGEST {
            return None;
        }
        let Document { model, choices } = serde_json::from_slice(body).ok()?;
        let [choice] = choices.as_slice() else {
            return None;
        };
        let is_empty = |value: &RawValue| match value.get() {
            "null" | "\"\"" => true,
            text => {
                let items = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
                items.is_some_and(|items| items.trim().is_empty())
            }
        };
        let is_plain =
            |(name, value): (&String, &&RawValue)| matches!(name.as_str(), "role" | "content") || is_empty(value);
        if choice.finish_reason != "stop" || !choice.message.iter().all(is_plain) {
            return None;
        }
        let text: String = serde_json::from_str(choice.message.get("content")?.get()).ok()?;
        Self::new(&model, &text, usage)
    }

    fn new(model: &str, text: &str, usage: Usage) -> Option<Self> {
        let fits = !text.trim().is_empty() && text.len() <= LONGEST;
        fits.then(|| Self {
            model: model.to_owned(),
            by: None,
            text: text.to_owned(),
            usage: Usage {
                cost: NanoUsd::default(),
                ..usage
            },
        })
    }

    /// Approximate size in bytes.
    pub fn size(&self) -> usize {
        self.model.len() + self.text.len() + size_of::<Self>()
    }

    /// Replays the answer as a chat.completion.
    pub fn whole(&self, id: &str, created: i64) -> Bytes {
        let body = json!({
            "id": id,
            "object": "chat.completion",
            "created": created,
            "model": self.model,
            "choices": [{
                "index": 0,
                "message": { "role": "assistant", "content": self.text, "refusal": null },
                "logprobs": null,
                "finish_reason": "stop",
            }],
            "usage": self.usage(),
        });
        body.to_string().into()
    }

    /// Replays the answer as a stream including its end; with the usage chunk if `include_usage`.
    pub fn pieces(&self, id: &str, created: i64, include_usage: bool) -> Vec<Piece> {
        let chunk = |choices: Value, usage: Option<Value>| {
            let mut chunk = json!({
                "id": id,
                "object": "chat.completion.chunk",
                "created": created,
                "model": self.model,
                "choices": choices,
            });
            // With `include_usage` every chunk has the member; without it, none.
            if include_usage {
                chunk["usage"] = usage.unwrap_or(Value::Null);
            }
            Some(Bytes::from(chunk.to_string()))
        };
        let delta = |delta: Value, finish: Option<&str>| {
            chunk(
                json!([{ "index": 0, "delta": delta, "logprobs": null, "finish_reason": finish }]),
                None,
            )
        };
        let mut pieces = vec![Piece {
            chunk: delta(json!({ "role": "assistant", "content": "" }), None),
            events: vec![ModelEvent::Model(self.model.clone())],
            content: false,
            ..Piece::default()
        }];
        pieces.extend(parts(&self.text).map(|part| Piece {
            chunk: delta(json!({ "content": part }), None),
            events: vec![ModelEvent::Text(part.to_owned())],
            content: true,
            ..Piece::default()
        }));
        let mut end = Piece {
            chunk: delta(json!({}), Some("stop")),
            ..Piece::default()
        };
        let told = vec![ModelEvent::Usage(self.usage), ModelEvent::Finished(Finish::Stop)];
        if include_usage {
            pieces.push(end);
            end = Piece {
                chunk: chunk(json!([]), Some(self.report())),
                ..Piece::default()
            };
        }
        end.events = told;
        pieces.push(end);
        pieces
    }

    /// The usage as reported in a stream, with a price of zero.
    fn report(&self) -> Value {
        let mut usage = self.usage();
        usage["cost_usd"] = json!(0.0);
        usage
    }

    fn usage(&self) -> Value {
        json!({
            "prompt_tokens": self.usage.prompt_tokens,
            "completion_tokens": self.usage.completion_tokens,
            "total_tokens": self.usage.prompt_tokens + self.usage.completion_tokens,
            "prompt_tokens_details": { "cached_tokens": self.usage.cached_tokens },
            "completion_tokens_details": { "reasoning_tokens": self.usage.reasoning_tokens },
        })
    }
}

/// Splits a text into parts of bounded size, never within a character.
fn parts(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let (part, after) = rest.split_at(rest.floor_char_boundary(CHUNK.min(rest.len())));
        rest = after;
        Some(part)
    })
}

/// Assembles a streamed answer while it passes through.
#[derive(Debug, Default)]
pub struct Recorder {
    model: String,
    text: String,
    usage: Usage,
    is_uncacheable: bool,
}

impl Recorder {
    /// Whether the answer seen so far is not cacheable.
    pub fn is_uncacheable(&self) -> bool {
        self.is_uncacheable
    }

    /// Observes a piece. Returns the answer if that completed it.
    pub fn observe(&mut self, piece: &Piece) -> Option<CachedAnswer> {
        let mut said = false;
        for event in &piece.events {
            match event {
                ModelEvent::Model(model) => self.model.clone_from(model),
                ModelEvent::Text(text) => {
                    said = true;
                    if self.text.len() + text.len() > LONGEST {
                        self.is_uncacheable = true;
                        self.text = String::new();
                    } else if !self.is_uncacheable {
                        self.text.push_str(text);
                    }
                }
                ModelEvent::Usage(usage) => self.usage = *usage,
                ModelEvent::Finished(Finish::Stop) if !self.is_uncacheable => {
                    return CachedAnswer::new(&self.model, &self.text, self.usage);
                }
                ModelEvent::Fallback { .. } => {}
                ModelEvent::ToolCall { .. } | ModelEvent::Finished(_) => self.is_uncacheable = true,
            }
        }
        // Content that is not text (reasoning, another choice) would be missing from a replay.
        self.is_uncacheable |= piece.content && !said;
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(text: &str) -> CachedAnswer {
        let usage = Usage {
            prompt_tokens: 7,
            completion_tokens: 3,
            ..Usage::default()
        };
        CachedAnswer::new("sim-large", text, usage).unwrap()
    }

    #[test]
    fn an_answer_survives_both_forms() {
        for text in ["Thirty days.", "ä".repeat(700).as_str(), "🦀\n\"quoted\" \u{0}"] {
            let kept = kept(text);
            assert_eq!(
                CachedAnswer::from_whole(&kept.whole("id", 1), kept.usage),
                Some(kept.clone())
            );
            for include_usage in [true, false] {
                let mut recorder = Recorder::default();
                let pieces = kept.pieces("id", 1, include_usage);
                let ends: Vec<_> = pieces.iter().filter_map(|piece| recorder.observe(piece)).collect();
                assert_eq!(ends, std::slice::from_ref(&kept));
                let chunks: Vec<Value> = pieces
                    .iter()
                    .map(|piece| serde_json::from_slice(piece.chunk.as_ref().unwrap()).unwrap())
                    .collect();
                let said: String = chunks
                    .iter()
                    .filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str())
                    .collect();
                assert_eq!(said, text);
                assert_eq!(chunks.last().unwrap()["usage"]["total_tokens"] == 10, include_usage);
            }
        }
    }

    #[test]
    fn only_complete_plain_answers_are_cacheable() {
        let body = |choices: Value| json!({ "model": "m", "choices": choices }).to_string();
        let choice = |message: Value, finish: &str| json!({ "message": message, "finish_reason": finish });
        let good = choice(
            json!({ "role": "assistant", "content": "yes", "refusal": null, "annotations": [] }),
            "stop",
        );
        for (choices, expected) in [
            (json!([good]), true),
            (json!([good, good]), false),
            (json!([choice(json!({ "content": "yes" }), "length")]), false),
            (json!([choice(json!({ "content": "yes" }), "content_filter")]), false),
            (json!([choice(json!({ "content": "" }), "stop")]), false),
            (
                json!([choice(json!({ "content": null, "refusal": "no" }), "stop")]),
                false,
            ),
            (
                json!([choice(json!({ "content": "a", "reasoning_content": "b" }), "stop")]),
                false,
            ),
            (
                json!([choice(json!({ "content": "a", "tool_calls": [{}] }), "stop")]),
                false,
            ),
            (
                json!([choice(json!({ "content": "x".repeat(LONGEST + 1) }), "stop")]),
                false,
            ),
            (json!([choice(json!({ "content": ["yes"] }), "stop")]), false),
            (json!([choice(json!({ "role": "assistant" }), "stop")]), false),
            (json!([choice(json!({ "content": "a", "audio": {} }), "stop")]), false),
            (json!([choice(json!({ "content": "a", "refusal": "" }), "stop")]), true),
            (
                json!([{ "message": { "content": "yes" }, "finish_reason": null }]),
                false,
            ),
            (json!([{ "message": null, "finish_reason": "stop" }]), false),
            (json!({}), false),
        ] {
            let read = CachedAnswer::from_whole(body(choices.clone()).as_bytes(), Usage::default());
            assert_eq!(read.is_some(), expected, "{choices}");
        }
        assert_eq!(CachedAnswer::from_whole(b"not json", Usage::default()), None);
        let spaced = br#"{ "choices": [ { "finish_reason": "\u0073top", "message":
            { "annotations": [ ], "c\u006fntent": "\u0079es \"1\"" } } ], "model": "\u006d" }"#;
        let read = CachedAnswer::from_whole(spaced, Usage::default()).unwrap();
        assert_eq!((read.model.as_str(), read.text.as_str()), ("m", "yes \"1\""));
    }

    #[test]
    fn streams_that_break_or_have_more_than_text_are_not_cacheable() {
        let text = |text: &str| Piece {
            events: vec![ModelEvent::Text(text.to_owned())],
            content: true,
            ..Piece::default()
        };
        let end = |finish| Piece {
            events: vec![ModelEvent::Finished(finish)],
            ..Piece::default()
        };
        let thought = Piece {
            content: true,
            ..Piece::default()
        };
        for (name, pieces, expected) in [
            ("whole", vec![text("a"), text("b"), end(Finish::Stop)], true),
            ("cut", vec![text("a")], false),
            ("too long for the model", vec![text("a"), end(Finish::Length)], false),
            ("thoughts", vec![thought, text("a"), end(Finish::Stop)], false),
            (
                "too long for us",
                vec![text(&"a".repeat(LONGEST)), text("a"), end(Finish::Stop)],
                false,
            ),
            ("nothing", vec![end(Finish::Stop)], false),
        ] {
            let mut recorder = Recorder::default();
            let kept = pieces.iter().filter_map(|piece| recorder.observe(piece)).count();
            assert_eq!(kept, usize::from(expected), "{name}");
        }
    }
}
