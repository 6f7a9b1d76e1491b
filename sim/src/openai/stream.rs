//! Says a step: as a stream of server-sent events, or as one object.
//!
//! A stream's state is small and its text is made as it goes, so that ten thousand fit in one process.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::state::Open;
use super::step::{Call, Step};
use super::usage::{Usage, tokens};

/// Characters of arguments in one delta, when the step does not say.
const ARGUMENT_CHARS: usize = 12;
/// The longest piece of a text without blanks.
const LONGEST_PIECE: usize = 24;
/// Time for what was written to leave, before the connection is dropped behind it.
const BEFORE_CUT: Duration = Duration::from_millis(10);

const VOCABULARY: [&str; 40] = [
    "the", "model", "answers", "with", "words", "that", "mean", "little", "and", "arrive", "at", "a", "steady", "pace",
    "so", "anyone", "can", "measure", "how", "each", "piece", "travels", "from", "here", "to", "its", "reader",
    "while", "nothing", "is", "lost", "on", "long", "way", "between", "them", "every", "single", "time", "again",
];

/// What is needed beside the step to say it.
#[derive(Debug)]
pub(crate) struct Manner {
    pub(crate) id: String,
    pub(crate) created: i64,
    pub(crate) model: String,
    pub(crate) n: u64,
    pub(crate) include_usage: bool,
    pub(crate) max_pieces: Option<u64>,
    pub(crate) prompt_tokens: u64,
    pub(crate) cached_tokens: u64,
    pub(crate) first: Duration,
    pub(crate) pace: Duration,
    /// Makes the ids of tool calls unique.
    pub(crate) call_prefix: String,
}

/// Cuts a text into the pieces a model would stream.
#[derive(Debug)]
struct Pieces {
    text: Option<Arc<str>>,
    /// Byte position in the text, or number of the word.
    at: usize,
    words: u64,
    chunk: Option<usize>,
    said_chars: usize,
    said_pieces: u64,
    max_pieces: Option<u64>,
    max_chars: Option<usize>,
}

impl Pieces {
    fn new(step: &Step, max_pieces: Option<u64>) -> Self {
        let stops = [
            step.cut_after_chars,
            step.end_without_finish_after_chars,
            step.stall_after_chars,
        ];
        Self {
            text: step.text.clone(),
            at: 0,
            words: step.words.unwrap_or(0),
            chunk: step.chunk_chars.filter(|&chars| chars > 0),
            said_chars: 0,
            said_pieces: 0,
            max_pieces,
            max_chars: stops.into_iter().flatten().min(),
        }
    }

    /// Characters that may still be said before the stream is to fail.
    fn room(&self) -> usize {
        self.max_chars
            .map_or(usize::MAX, |max| max.saturating_sub(self.said_chars))
    }

    /// Whether there was more to say than `max_tokens` allows.
    fn was_shortened(&self) -> bool {
        self.max_pieces == Some(self.said_pieces) && self.has_more()
    }

    fn has_more(&self) -> bool {
        match &self.text {
            Some(text) => self.at < text.len(),
            None => (self.at as u64) < self.words,
        }
    }

    fn tokens(&self) -> u64 {
        match &self.text {
            Some(text) => tokens(&text[..self.at]),
            None => self.said_pieces,
        }
    }

    fn word(at: usize) -> String {
        let word = VOCABULARY[(at * 7 + at / 5) % VOCABULARY.len()];
        let blank = if at == 0 { "" } else { " " };
        match at % 12 {
            0 => format!("{blank}{}{}", word[..1].to_uppercase(), &word[1..]),
            11 => format!("{blank}{word}."),
            _ => format!("{blank}{word}"),
        }
    }
}

impl Iterator for Pieces {
    type Item = String;

    fn next(&mut self) -> Option<String> {
        let room = self.room();
        if room == 0 || self.max_pieces == Some(self.said_pieces) || !self.has_more() {
            return None;
        }
        let mut piece = match &self.text {
            None => {
                self.at += 1;
                Self::word(self.at - 1)
            }
            Some(text) => {
                let rest = &text[self.at..];
                let mut in_word = false;
                let mut chars = 0;
                let end = rest
                    .char_indices()
                    .find(|(_, character)| {
                        chars += 1;
                        let blank = character.is_whitespace();
                        let ends = match self.chunk {
                            Some(size) => chars > size,
                            None => (in_word && blank) || chars > LONGEST_PIECE,
                        };
                        in_word |= !blank;
                        ends
                    })
                    .map_or(rest.len(), |(at, _)| at);
                self.at += end;
                rest[..end].to_owned()
            }
        };
        if let Some((end, _)) = piece.char_indices().nth(room) {
            piece.truncate(end);
        }
        self.said_chars += piece.chars().count();
        self.said_pieces += 1;
        Some(piece)
    }
}

/// What to do next in a stream.
#[derive(Debug)]
enum Act {
    Send(String),
    /// The last bytes of a whole answer.
    Last(String),
    Cut,
    End,
    Stall(Option<Duration>),
}

#[derive(Debug)]
enum Phase {
    Text,
    /// The number of the call and the position in its arguments; `None` before its first delta.
    Call(usize, Option<usize>),
    Closing,
    Over,
}

/// The frames of a stream, without their timing.
#[derive(Debug)]
struct Frames {
    head: String,
    tail: &'static str,
    step: Step,
    manner: Manner,
    pieces: Pieces,
    phase: Phase,
    begun: bool,
    broken: bool,
}

impl Frames {
    fn new(step: Step, manner: Manner) -> Self {
        let include_usage = step.usage.unwrap_or(manner.include_usage);
        let start = json!({
            "id": manner.id,
            "object": "chat.completion.chunk",
            "created": manner.created,
            "model": manner.model,
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
            pieces: Pieces::new(&step, manner.max_pieces),
            step,
            manner: Manner {
                include_usage,
                ..manner
            },
            phase: Phase::Text,
            begun: false,
            broken: false,
        }
    }

    /// Writes a chunk for each of the `n` choices.
    fn chunk(&self, delta: &Value, finish: Option<&str>) -> String {
        let finish = json!(finish);
        (0..self.manner.n)
            .map(|index| {
                format!(
                    "{}{{\"index\":{index},\"delta\":{delta},\"logprobs\":null,\"finish_reason\":{finish}}}{}",
                    self.head, self.tail
                )
            })
            .collect()
    }

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
            // A cut after no characters still lets the role out first.
            _ => Act::Send(opening),
        }
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
                if let Some(end) = self.early_end(self.step.tool_calls.is_empty()) {
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
                if let Some(end) = self.early_end(true) {
                    return end;
                }
                self.phase = Phase::Over;
                let reason = finish_reason(&self.step, &self.pieces);
                let mut last = self.chunk(&json!({}), Some(&reason));
                if self.manner.include_usage {
                    let usage = usage(&self.manner, &self.step, &self.pieces).to_json();
                    last.push_str(&format!("{}],\"usage\":{usage}}}\n\n", self.head));
                }
                last.push_str("data: [DONE]\n\n");
                Act::Last(last)
            }
            Phase::Over => Act::End,
        }
    }

    /// How the stream ends before its time, if it does: after the wanted characters of text and
    /// arguments, or when there are `no_more`.
    fn early_end(&self, no_more: bool) -> Option<Act> {
        if self.pieces.room() > 0 && !no_more {
            return None;
        }
        if self.step.cut_after_chars.is_some() {
            Some(Act::Cut)
        } else if self.step.end_without_finish_after_chars.is_some() {
            Some(Act::End)
        } else if self.step.stall_after_chars.is_some() {
            let keepalive = self.step.stall_keepalive_ms.map(Duration::from_millis);
            Some(Act::Stall(keepalive))
        } else {
            None
        }
    }

    fn call_delta(&mut self, number: usize, at: Option<usize>) -> Act {
        if let Some(end) = self.early_end(false) {
            return end;
        }
        let Some(call) = self.step.tool_calls.get(number) else {
            self.phase = Phase::Closing;
            return self.body();
        };
        let Some(at) = at else {
            let delta = json!({"tool_calls": [{
                "index": number,
                "id": call_id(&self.manner, number),
                "type": "function",
                "function": {"name": call.name, "arguments": ""},
            }]});
            self.phase = Phase::Call(number, Some(0));
            return Act::Send(self.chunk(&delta, None));
        };
        let arguments = call.arguments();
        let size = self.step.chunk_chars.unwrap_or(ARGUMENT_CHARS).max(1);
        let size = size.min(self.pieces.room());
        let fragment: String = arguments.chars().skip(at).take(size).collect();
        self.pieces.said_chars += fragment.chars().count();
        if fragment.is_empty() {
            self.phase = Phase::Call(number + 1, None);
            return self.body();
        }
        self.phase = Phase::Call(number, Some(at + size));
        let delta = json!({"tool_calls": [{
            "index": number,
            "function": {"arguments": fragment},
        }]});
        Act::Send(self.chunk(&delta, None))
    }
}

fn call_id(manner: &Manner, number: usize) -> String {
    format!("call_{}{number}", manner.call_prefix)
}

fn finish_reason(step: &Step, pieces: &Pieces) -> String {
    let natural = if pieces.was_shortened() {
        "length"
    } else if step.tool_calls.is_empty() {
        "stop"
    } else {
        "tool_calls"
    };
    step.finish.as_deref().unwrap_or(natural).to_owned()
}

fn usage(manner: &Manner, step: &Step, pieces: &Pieces) -> Usage {
    let calls: u64 = step
        .tool_calls
        .iter()
        .map(|call| tokens(&call.name) + tokens(&call.arguments()))
        .sum();
    Usage {
        prompt: manner.prompt_tokens,
        cached: manner.cached_tokens,
        completion: (pieces.tokens() + calls) * manner.n,
    }
}

/// Streams the step; `open` counts the stream until it ends or the client leaves.
pub(crate) fn body(step: Step, manner: Manner, open: Open) -> impl Stream<Item = Result<Bytes, io::Error>> + Send {
    let due = Instant::now() + manner.first;
    let frames = Frames::new(step, manner);
    futures::stream::unfold((frames, due, open), async |(mut frames, due, mut open)| {
        // The time a piece is due is counted from the start, so that delays do not add up.
        match frames.next() {
            Act::Send(bytes) => {
                tokio::time::sleep_until(due).await;
                let due = due + frames.manner.pace;
                Some((Ok(Bytes::from(bytes)), (frames, due, open)))
            }
            Act::Last(bytes) => {
                tokio::time::sleep_until(due).await;
                // Now, not after the write: a client may leave as soon as it has read the end.
                open.finish("completed");
                Some((Ok(Bytes::from(bytes)), (frames, due, open)))
            }
            Act::End => {
                open.finish("ended_early");
                None
            }
            Act::Cut => {
                tokio::time::sleep(BEFORE_CUT).await;
                open.finish("cut");
                let error = io::Error::new(io::ErrorKind::ConnectionAborted, "cut as told");
                Some((Err(error), (frames, due, open)))
            }
            Act::Stall(None) => {
                open.stalled();
                std::future::pending::<Infallible>().await;
                None
            }
            Act::Stall(Some(every)) => {
                open.stalled();
                tokio::time::sleep(every).await;
                Some((Ok(Bytes::from_static(b": keepalive\n\n")), (frames, due, open)))
            }
        }
    })
}

/// How an answer in one piece ends.
pub(crate) enum Whole {
    Answer(Value),
    /// The connection is dropped instead.
    Cut,
    /// Nothing ever comes.
    Stall,
}

/// Says the step in one object, with the time it takes to produce it.
pub(crate) fn whole(step: &Step, manner: &Manner) -> (Duration, Whole) {
    let mut pieces = Pieces::new(step, manner.max_pieces);
    let text: String = pieces.by_ref().collect();
    let paces = u32::try_from(pieces.said_pieces.saturating_sub(1)).unwrap_or(u32::MAX);
    let takes = manner.first + manner.pace * paces;
    if step.cut_after_chars.is_some() || step.end_without_finish_after_chars.is_some() || step.malformed {
        return (takes, Whole::Cut);
    }
    if step.stall_after_chars.is_some() {
        return (takes, Whole::Stall);
    }
    let calls = step.tool_calls.iter().enumerate();
    let calls: Vec<_> = calls
        .map(|(number, call): (usize, &Call)| {
            json!({
                "id": call_id(manner, number),
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
    let reason = finish_reason(step, &pieces);
    let choices: Vec<_> = (0..manner.n)
        .map(|index| json!({"index": index, "message": message, "logprobs": null, "finish_reason": reason}))
        .collect();
    let answer = json!({
        "id": manner.id,
        "object": "chat.completion",
        "created": manner.created,
        "model": manner.model,
        "choices": choices,
        "usage": usage(manner, step, &pieces).to_json(),
        "service_tier": "default",
        "system_fingerprint": "fp_simulated",
    });
    (takes, Whole::Answer(answer))
}
