//! Directives: `[[sim key=value …]]` in the last user message decides the answers of this turn.
//!
//! Their whole state is in the message (only `fail_times` counts), so thousands of conversations can behave differently
//! at the same time. Keys:
//!
//! | key | meaning |
//! | --- | --- |
//! | `tokens=N` | say N made-up words |
//! | `text=…` | say exactly this (a JSON string, or everything up to `]]`) |
//! | `json={…}` | say exactly this JSON |
//! | `tool=NAME` | call this tool first, offered or not (but never against `tool_choice: none`); after its result, answer with text that quotes it |
//! | `args={…}` | its arguments; `$i` is replaced by the call's number, from 0 |
//! | `calls=N` | make the call N times in parallel |
//! | `rounds=N` | make it in N steps, one after the other; `$r` is replaced by the step's number, from 0 |
//! | `first_ms=N`, `pace_ms=N`, `chunk=N` | time to the first piece, between pieces, characters in a piece |
//! | `finish=WORD` | another `finish_reason` |
//! | `status=N`, `code=WORD`, `retry_after=N` | fail with this HTTP status |
//! | `body=JSON` | answer with this body instead, with status 200 unless `status` says otherwise; a string is sent as
//! is |
//! | `cut_after=N` | drop the connection after N characters |
//! | `end_without_finish_after=N` | end the body there, without `finish_reason` and `[DONE]` |
//! | `stall_after=N`, `keepalive_ms=N` | fall silent there, optionally sending comments |
//! | `malformed=1` | send a data line that is not JSON |
//! | `stream_error=CODE` | send an error object inside the stream, after the text |
//! | `fail_times=N` | fail (with 500 unless specified) on the first N attempts only |
//! | `fail_step=N` | fail in this step of the turn only, from 0 |

use std::str::FromStr;

use serde_json::{Value, json};

use super::chat::Chat;
use super::step::{Call, Refusal, Step};

/// A parsed directive.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Directive {
    tokens: Option<u64>,
    text: Option<String>,
    tool: Option<String>,
    args: Option<String>,
    calls: Option<u64>,
    rounds: Option<u64>,
    first_ms: Option<u64>,
    pace_ms: Option<u64>,
    chunk: Option<usize>,
    finish: Option<String>,
    status: Option<u16>,
    code: Option<String>,
    retry_after: Option<u64>,
    body: Option<String>,
    cut_after: Option<usize>,
    end_without_finish_after: Option<usize>,
    stall_after: Option<usize>,
    keepalive_ms: Option<u64>,
    malformed: bool,
    stream_error: Option<String>,
    fail_times: Option<u64>,
    fail_step: Option<u64>,
}

impl Directive {
    /// Finds the directive in a message; `Err` says what is wrong with it.
    pub(crate) fn find(message: &str) -> Option<Result<Self, String>> {
        let (_, rest) = message.split_once("[[sim")?;
        Some(Self::read(rest))
    }

    fn read(mut rest: &str) -> Result<Self, String> {
        let mut directive = Self::default();
        loop {
            rest = rest.trim_start();
            if rest.starts_with("]]") {
                return Ok(directive);
            }
            let (key, value) = rest
                .split_once('=')
                .ok_or("a directive needs key=value pairs and a closing ]]")?;
            let (value, after) = match key {
                "text" | "args" | "json" | "body" => long_value(key, value)?,
                _ => short_value(value),
            };
            directive.set(key, value)?;
            rest = after;
        }
    }

    fn set(&mut self, key: &str, value: String) -> Result<(), String> {
        match key {
            "tokens" => self.tokens = Some(number(key, &value)?),
            "text" | "json" => self.text = Some(value),
            "tool" => self.tool = Some(value),
            "args" => self.args = Some(value),
            "calls" => self.calls = Some(number(key, &value)?),
            "rounds" => self.rounds = Some(number(key, &value)?),
            "first_ms" => self.first_ms = Some(number(key, &value)?),
            "pace_ms" => self.pace_ms = Some(number(key, &value)?),
            "chunk" => self.chunk = Some(number(key, &value)?),
            "finish" => self.finish = Some(value),
            "status" => self.status = Some(number(key, &value)?),
            "code" => self.code = Some(value),
            "retry_after" => self.retry_after = Some(number(key, &value)?),
            "body" => self.body = Some(value),
            "cut_after" => self.cut_after = Some(number(key, &value)?),
            "end_without_finish_after" => {
                self.end_without_finish_after = Some(number(key, &value)?);
            }
            "stall_after" => self.stall_after = Some(number(key, &value)?),
            "keepalive_ms" => self.keepalive_ms = Some(number(key, &value)?),
            "malformed" => self.malformed = value == "1" || value == "true",
            "stream_error" => self.stream_error = Some(value),
            "fail_times" => self.fail_times = Some(number(key, &value)?),
            "fail_step" => self.fail_step = Some(number(key, &value)?),
            _ => return Err(format!("unknown directive key {key:?}")),
        }
        Ok(())
    }

    /// Decides the response. `step` counts the turn's model calls from 0, `attempt` the requests for this same step
    /// from 1.
    pub(crate) fn step(&self, chat: &Chat, step: u64, attempt: u64) -> Step {
        let mut answer = self.answer(chat, step);
        answer.delay_first_ms = self.first_ms;
        answer.pace_ms = self.pace_ms;
        answer.chunk_chars = self.chunk;
        if answer.tool_calls.is_empty() {
            answer.finish.clone_from(&self.finish);
        }
        let fails = self.fail_times.is_none_or(|times| attempt <= times)
            && self.fail_step.is_none_or(|failing| failing == step);
        if fails {
            self.apply_failures(&mut answer);
        }
        answer
    }

    fn answer(&self, chat: &Chat, step: u64) -> Step {
        if let Some(tool) = self
            .tool
            .as_ref()
            .filter(|_| !chat.no_calls && step < self.rounds.unwrap_or(1))
        {
            let arguments = self.args.as_deref().unwrap_or("{}");
            let arguments = arguments.replace("$r", &step.to_string());
            let call = |i: u64| {
                let arguments = arguments.replace("$i", &i.to_string());
                Call::new(tool, Value::String(arguments))
            };
            return Step::call((0..self.calls.unwrap_or(1)).map(call).collect());
        }
        match (&self.text, self.tokens, &self.tool) {
            (Some(text), _, _) => Step::say(text.as_str()),
            (None, Some(words), _) => Step {
                words: Some(words),
                ..Step::default()
            },
            (None, None, Some(tool)) => Step::say(quote_results(chat, tool)),
            (None, None, None) => Step::say("Is there anything else that I can help you with?"),
        }
    }

    fn apply_failures(&self, answer: &mut Step) {
        let otherwise_whole = self.cut_after.is_none()
            && self.stall_after.is_none()
            && self.end_without_finish_after.is_none()
            && self.stream_error.is_none()
            && !self.malformed;
        let status = self
            .status
            .or(self.body.as_ref().map(|_| 200))
            .or((self.fail_times.is_some() && otherwise_whole).then_some(500));
        if let Some(status) = status {
            let mut refusal = Refusal::status(status);
            refusal.code.clone_from(&self.code);
            refusal.retry_after = self.retry_after;
            refusal.body = self.body.as_deref().and_then(|body| serde_json::from_str(body).ok());
            answer.error = Some(refusal);
        }
        answer.cut_after_chars = self.cut_after;
        answer.end_without_finish_after_chars = self.end_without_finish_after;
        answer.stall_after_chars = self.stall_after;
        answer.stall_keepalive_ms = self.keepalive_ms;
        answer.malformed = self.malformed;
        answer.in_stream_error = self.stream_error.as_ref().map(|code| {
            json!({"message": "The simulated model failed.", "type": "server_error", "param": null, "code": code})
        });
    }
}

fn quote_results(chat: &Chat, tool: &str) -> String {
    let results: Vec<_> = chat
        .results()
        .iter()
        .map(|(call, result)| {
            let result: String = result.chars().take(400).collect();
            format!("{} answered: {result}", call.name)
        })
        .collect();
    if results.is_empty() {
        format!("{tool} has not answered.")
    } else {
        results.join("\n")
    }
}

/// Reads up to a blank or the end of the directive.
fn short_value(text: &str) -> (String, &str) {
    let end = text
        .char_indices()
        .find(|&(at, character)| character.is_whitespace() || text[at..].starts_with("]]"))
        .map_or(text.len(), |(at, _)| at);
    (text[..end].to_owned(), &text[end..])
}

/// Reads a JSON value as written; for `text`, the content of a JSON string or everything up to `]]`.
fn long_value<'a>(key: &str, text: &'a str) -> Result<(String, &'a str), String> {
    if key == "text" && !text.starts_with('"') {
        let (value, _) = text.split_once("]]").ok_or("the directive has no end")?;
        return Ok((value.trim_end().to_owned(), &text[value.len()..]));
    }
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<Value>();
    let value = match values.next() {
        Some(Ok(value)) => value,
        _ => return Err(format!("the value of {key} is not JSON")),
    };
    let end = values.byte_offset();
    let written = match (key, value) {
        ("text", Value::String(said)) => said,
        _ => text[..end].to_owned(),
    };
    Ok((written, &text[end..]))
}

fn number<N: FromStr>(key: &str, value: &str) -> Result<N, String> {
    value
        .parse()
        .map_err(|_| format!("the value of {key} is not a number: {value:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(message: &str) -> Directive {
        Directive::find(message).expect("there is one").expect("it is valid")
    }

    #[test]
    fn keys_are_read() {
        assert_eq!(
            read("hello [[sim tokens=5 pace_ms=0 finish=length]] there"),
            Directive {
                tokens: Some(5),
                pace_ms: Some(0),
                finish: Some("length".into()),
                ..Directive::default()
            }
        );
        assert_eq!(
            read(r#"[[sim tool=t calls=2 args={"a": [[1]], "b": "]]"} ]]"#),
            Directive {
                tool: Some("t".into()),
                calls: Some(2),
                args: Some(r#"{"a": [[1]], "b": "]]"}"#.into()),
                ..Directive::default()
            }
        );
        assert_eq!(
            read("[[sim text=so be it = well]]").text.as_deref(),
            Some("so be it = well")
        );
        assert_eq!(read(r#"[[sim text="a ]] b" status=500]]"#).status, Some(500));
        assert_eq!(read("[[sim tokens=3]]").tokens, Some(3));
    }

    #[test]
    fn mistakes_are_told() {
        for wrong in [
            "[[sim tokens=x]]",
            "[[sim nonsense=1]]",
            "[[sim tokens=1",
            "[[sim args={]]",
        ] {
            assert!(Directive::find(wrong).expect("there is one").is_err(), "{wrong}");
        }
        assert!(Directive::find("no directive").is_none());
    }
}
