//! Reads the chunks of a streamed answer.
//!
//! These are our own types: only the touched fields are read, and any of them may be missing or null. async-openai's
//! chunk insists on `id`, `created`, `object` and a closed list of finish reasons, which self-hosted servers do not all
//! keep, and does not know `reasoning_content`.

use bytes::Bytes;
use copilotd_actors::domain::command::FailureClass;
use copilotd_actors::domain::content::Finish;
use copilotd_actors::domain::usage::Usage;
use copilotd_actors::ports::{ModelError, ModelEvent};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::adapters::provider::{self, Errors, Out, Progress, Transcript, priced};
use crate::gateway::upstream::Piece;

/// Most calls of one step. A wild index must not become a wild allocation further on.
const MAX_CALLS: usize = 128;
/// What is kept of a refusal.
const MAX_REFUSAL: usize = 2_000;

#[derive(Debug, Deserialize)]
struct Chunk {
    id: Option<String>,
    created: Option<u64>,
    model: Option<String>,
    choices: Option<Vec<Choice>>,
    usage: Option<WireUsage>,
    error: Option<Value>,
}

#[derive(Debug, Deserialize)]
struct Choice {
    index: Option<u64>,
    delta: Option<Delta>,
    finish_reason: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
struct Delta {
    content: Option<String>,
    refusal: Option<String>,
    /// vLLM, SGLang, DeepSeek, llama.cpp.
    reasoning_content: Option<String>,
    /// Ollama, OpenRouter.
    reasoning: Option<String>,
    tool_calls: Option<Vec<CallDelta>>,
    /// What came before `tool_calls`.
    function_call: Option<FunctionDelta>,
}

#[derive(Debug, Deserialize)]
struct CallDelta {
    index: Option<u64>,
    id: Option<String>,
    function: Option<FunctionDelta>,
}

#[derive(Debug, Default, Deserialize)]
struct FunctionDelta {
    name: Option<String>,
    arguments: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct WireUsage {
    prompt_tokens: Option<u64>,
    completion_tokens: Option<u64>,
    prompt_tokens_details: Option<PromptDetails>,
    completion_tokens_details: Option<CompletionDetails>,
    /// DeepSeek's name for the cached ones.
    prompt_cache_hit_tokens: Option<u64>,
}

#[derive(Debug, Deserialize)]
struct PromptDetails {
    cached_tokens: Option<u64>,
}

#[derive(Debug, Deserialize)]
struct CompletionDetails {
    reasoning_tokens: Option<u64>,
}

/// The memory of one answer's reading.
#[derive(Debug)]
pub struct Decoder {
    errors: Errors,
    wish: Wish,
    /// Calls whose name is known, one bit each.
    named: u128,
    last_call: Option<usize>,
    model_told: bool,
    /// The provider's own report, which goes out last, with our price in it.
    report: Option<Bytes>,
    content_seen: bool,
    refusal: String,
    /// Choices that have ended, one bit each.
    ended: u128,
    finish: Option<Result<Finish, ModelError>>,
    usage: Option<Usage>,
    /// Identity of the answer, for a chunk of our own.
    id: Option<String>,
    created: Option<u64>,
    model: Option<String>,
}

/// What the caller wants to see.
#[derive(Debug, Clone, Copy)]
pub struct Wish {
    /// Whether chunks are passed on. Then a refusal and an end by the content filter are the caller's to read; else they
    /// are failures: a refusal where a schema was asked for, the filter always.
    pub chunks: bool,
    /// Whether the last chunk shall report usage.
    pub include_usage: bool,
    /// A schema was asked for.
    pub has_schema: bool,
    /// How many answers were asked for.
    pub choices: u64,
}

impl Decoder {
    /// Begins an answer.
    pub fn new(errors: Errors, wish: Wish) -> Self {
        Self {
            errors,
            wish,
            named: 0,
            last_call: None,
            model_told: false,
            report: None,
            content_seen: false,
            refusal: String::new(),
            ended: 0,
            finish: None,
            usage: None,
            id: None,
            created: None,
            model: None,
        }
    }

    /// Notes who answers, and tells it once.
    fn identity(&mut self, chunk: &mut Chunk, events: &mut Vec<ModelEvent>) {
        if self.wish.chunks && self.id.is_none() {
            self.id = chunk.id.take();
            self.created = chunk.created;
            self.model.clone_from(&chunk.model);
        }
        let model = chunk.model.take().filter(|model| !model.is_empty());
        if let Some(model) = model
            && !self.model_told
            && !self.content_seen
        {
            self.model_told = true;
            events.push(ModelEvent::Model(model));
        }
    }

    /// Reads one choice. Only the first one's text is told as events.
    fn choice(
        &mut self,
        choice: Choice,
        piece: &mut Piece,
        transcript: &mut Transcript,
    ) -> Result<Progress, ModelError> {
        let index = choice.index.unwrap_or(0);
        // A choice that nobody asked for would be a second answer mixed in.
        if index >= self.wish.choices.clamp(1, 128) {
            return Ok(Progress::None);
        }
        let mut others = Vec::new();
        let events = if index == 0 { &mut piece.events } else { &mut others };
        let mut progress = Progress::None;
        if self.delta(choice.delta.unwrap_or_default(), index, events, transcript)? {
            self.content_seen = true;
            piece.content = true;
            progress = Progress::Content;
        }
        if let Some(reason) = choice.finish_reason.filter(|reason| !reason.is_empty()) {
            self.ended |= 1 << index;
            let ending = self.ending(&reason, index);
            if index == 0 {
                self.finish.get_or_insert(ending);
            } else {
                ending?;
            }
            progress = if self.has_ended() {
                Progress::Finished
            } else {
                Progress::Content
            };
        }
        Ok(progress)
    }

    /// Tells whether every choice that was asked for has ended.
    fn has_ended(&self) -> bool {
        u64::from(self.ended.count_ones()) >= self.wish.choices
    }

    /// Passes a chunk on, unless it holds nothing that the caller asked for, or an ending that is a failure. The report of
    /// usage is kept for the end.
    fn pass(&mut self, data: &[u8], only_usage: bool) -> Option<Bytes> {
        if !self.wish.chunks || matches!(self.finish, Some(Err(_))) {
            return None;
        }
        let chunk = Bytes::copy_from_slice(data);
        if only_usage {
            self.report = Some(chunk).filter(|_| self.usage.is_some());
            return None;
        }
        Some(chunk)
    }

    fn delta(
        &mut self,
        delta: Delta,
        choice: u64,
        out: &mut Vec<ModelEvent>,
        transcript: &mut Transcript,
    ) -> Result<bool, ModelError> {
        let mut content = false;
        for reasoning in [delta.reasoning_content, delta.reasoning].into_iter().flatten() {
            content |= !reasoning.is_empty();
            transcript.add(&reasoning);
        }
        if let Some(refusal) = delta.refusal.filter(|refusal| !refusal.is_empty()) {
            content = true;
            transcript.add(&refusal);
            if self.wish.chunks || !self.wish.has_schema {
                out.push(ModelEvent::Text(refusal));
            } else if self.refusal.len() < MAX_REFUSAL {
                self.refusal.push_str(&refusal);
            }
        }
        if let Some(text) = delta.content.filter(|text| !text.is_empty()) {
            content = true;
            transcript.add(&text);
            out.push(ModelEvent::Text(text));
        }
        // The old form of a call, which knows one at most.
        let old = delta.function_call.map(|function| CallDelta {
            index: Some(0),
            id: None,
            function: Some(function),
        });
        for call in delta.tool_calls.into_iter().flatten().chain(old) {
            content |= match choice {
                0 => self.call(call, out, transcript)?,
                // Another choice's calls are the caller's to put together.
                _ => {
                    transcript.add(call.function.and_then(|f| f.arguments).as_deref().unwrap_or_default());
                    true
                }
            };
        }
        Ok(content)
    }

    fn call(
        &mut self,
        call: CallDelta,
        out: &mut Vec<ModelEvent>,
        transcript: &mut Transcript,
    ) -> Result<bool, ModelError> {
        let function = call.function.unwrap_or_default();
        let index = match (call.index, self.last_call) {
            (Some(index), _) => usize::try_from(index).unwrap_or(usize::MAX),
            // Some servers leave the index out and send each call in one piece, with its id.
            (None, Some(last)) if call.id.is_none() => last,
            (None, last) => last.map_or(0, |last| last + 1),
        };
        if index >= MAX_CALLS {
            return Err(self.errors.malformed("it asked for too many tools at once"));
        }
        self.last_call = Some(index);
        let bit = 1_u128 << index;
        // Some servers repeat the name, or send an empty one, in every piece.
        let name = function.name.filter(|name| !name.is_empty() && self.named & bit == 0);
        let arguments = function.arguments.unwrap_or_default();
        if name.is_some() {
            self.named |= bit;
        } else if arguments.is_empty() {
            return Ok(false);
        } else if self.named & bit == 0 {
            return Err(self
                .errors
                .malformed("it sent arguments for a tool that it did not name"));
        }
        transcript.add(name.as_deref().unwrap_or_default());
        transcript.add(&arguments);
        out.push(ModelEvent::ToolCall { index, name, arguments });
        Ok(true)
    }

    fn ending(&self, reason: &str, choice: u64) -> Result<Finish, ModelError> {
        if !self.refusal.is_empty() {
            let text = format!("it refused: {}", self.errors.clean(&self.refusal));
            return Err(self.errors.plain(FailureClass::ContentPolicy, &text));
        }
        match reason {
            "length" | "max_tokens" | "model_length" => Ok(Finish::Length),
            // It says so in the chunk. It is not the whole answer, so it must not count as one.
            "content_filter" if self.wish.chunks => Ok(Finish::Length),
            "content_filter" => {
                let text = "the provider's content policy stopped the answer";
                Err(self.errors.plain(FailureClass::ContentPolicy, text))
            }
            // vLLM and SGLang, when the server drops a request.
            "abort" => Err(self.errors.cut()),
            // OpenRouter and DeepSeek, when something behind them broke.
            "error" | "insufficient_system_resource" => Err(self
                .errors
                .plain(FailureClass::Overload, "the provider broke off the answer")),
            "tool_calls" | "function_call" if self.named == 0 && choice == 0 => {
                Err(self.errors.malformed("it asked for tools and named none"))
            }
            // Several servers say `stop` after calls, and some have words of their own for a good end.
            _ if self.named != 0 => Ok(Finish::ToolCalls),
            _ => Ok(Finish::Stop),
        }
    }
}

impl provider::Decoder for Decoder {
    fn decode(&mut self, data: &[u8], out: &mut Out, transcript: &mut Transcript) -> Result<Progress, ModelError> {
        if data.trim_ascii() == b"[DONE]" {
            return Ok(Progress::Done);
        }
        // The cause is not quoted: it may hold a piece of the conversation.
        let mut chunk: Chunk = serde_json::from_slice(data).map_err(|_| {
            self.errors
                .malformed("it sent something that is not a chunk of an answer")
        })?;
        if let Some(error) = chunk.error.filter(|error| !error.is_null()) {
            return Err(self.errors.in_stream(&error));
        }
        chunk.error = None;
        let mut piece = Piece::default();
        let mut progress = Progress::None;
        let has_usage = chunk.usage.is_some();
        if let Some(usage) = chunk.usage.take() {
            self.usage = usage.read().or(self.usage);
        }
        self.identity(&mut chunk, &mut piece.events);
        let choices = chunk.choices.unwrap_or_default();
        let only_usage = has_usage && choices.is_empty();
        for choice in choices {
            match self.choice(choice, &mut piece, transcript)? {
                Progress::None => {}
                found => progress = found,
            }
        }
        piece.chunk = self.pass(data, only_usage);
        if piece.chunk.is_some() || piece.content || !piece.events.is_empty() {
            out.push_back(Ok(piece));
        }
        Ok(progress)
    }

    fn content_seen(&self) -> bool {
        self.content_seen
    }

    fn is_finished(&self) -> bool {
        self.finish.is_some() && self.has_ended()
    }

    fn take_finish(&mut self) -> Option<Result<Finish, ModelError>> {
        if matches!(self.finish, Some(Ok(_))) && !self.has_ended() {
            return None;
        }
        self.finish.take()
    }

    fn usage(&self) -> Option<Usage> {
        self.usage
    }

    fn usage_chunk(&mut self, usage: &Usage) -> Option<Bytes> {
        if !self.wish.chunks || !self.wish.include_usage {
            return None;
        }
        let report = self.report.take().unwrap_or_else(|| {
            let chunk = json!({
                "id": self.id, "object": "chat.completion.chunk", "created": self.created.unwrap_or(0), "model": self.model,
                "choices": [],
                "usage": {
                    "prompt_tokens": usage.prompt_tokens,
                    "completion_tokens": usage.completion_tokens,
                    "total_tokens": usage.total_tokens(),
                    "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
                },
            });
            chunk.to_string().into()
        });
        Some(priced(report, usage.cost))
    }
}

impl WireUsage {
    /// A report of nothing at all is no report: some servers fill the field with zeros.
    pub(super) fn read(self) -> Option<Usage> {
        let details = self.prompt_tokens_details.and_then(|details| details.cached_tokens);
        let reasoned = self
            .completion_tokens_details
            .and_then(|details| details.reasoning_tokens);
        let usage = Usage {
            prompt_tokens: self.prompt_tokens.unwrap_or(0),
            completion_tokens: self.completion_tokens.unwrap_or(0),
            cached_tokens: details.or(self.prompt_cache_hit_tokens).unwrap_or(0),
            reasoning_tokens: reasoned.unwrap_or(0),
            ..Usage::default()
        };
        (usage.total_tokens() > 0).then_some(usage)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::adapters::provider::{Decoder as _, SseReader};
    use crate::gateway::body::ChatBody;

    /// What a provider may send: members that nobody here knows, numbers in forms of their own, characters of many bytes,
    /// escapes, a call, two choices; between them comments and the line ends that the standard allows.
    const SENT: [&str; 7] = [
        r#"{"id":"a","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}],"usage":null}"#,
        r#"{ "x_own" : {"b":1.00,"a":2e0}, "id":"a","choices":[{"index":0,"delta":{"content":"Grüße € 😀 data: \n\r"},"logprobs":null}] }"#,
        r#"{"id":"a","choices":[{"index":1,"delta":{"content":"the \u00e9 other"}}]}"#,
        r#"{"id":"a","choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"id":"c","type":"function","function":{"name":"look","arguments":""}}]}}]}"#,
        r#"{"id":"a","choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":"{\"a\":1}"}}]}}]}"#,
        r#"{"id":"a","choices":[{"index":1,"delta":{},"finish_reason":"stop"}]}"#,
        r#"{"id":"a","choices":[{"index":0,"delta":{},"finish_reason":"tool_calls"}]}"#,
    ];
    const REPORT: &str = r#"{"id":"a","choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2,"x":1.0}}"#;

    /// Reads a stream that arrives cut at `cuts`; returns the chunks that are passed on.
    fn relayed(stream: &[u8], cuts: &[usize], include_usage: bool) -> Vec<Bytes> {
        let body = ChatBody::parse(br#"{"model":"m","messages":[]}"#).unwrap();
        let mut transcript = Transcript::new(Arc::new(body));
        let wish = Wish {
            chunks: true,
            include_usage,
            has_schema: false,
            choices: 2,
        };
        let mut decoder = Decoder::new(Errors::new("main", Vec::new()), wish);
        let (mut sse, mut out) = (SseReader::default(), Out::new());
        let mut from = 0;
        for &to in cuts.iter().chain([&stream.len()]) {
            let mut piece = Bytes::copy_from_slice(&stream[from..to]);
            from = to;
            while sse.advance(&mut piece).unwrap() {
                decoder.decode(sse.data(), &mut out, &mut transcript).unwrap();
            }
        }
        let usage = Usage {
            cost: 7,
            ..decoder.usage().unwrap()
        };
        let last = decoder.usage_chunk(&usage);
        let pieces = out.into_iter().filter_map(|piece| piece.unwrap().chunk);
        pieces.chain(last).collect()
    }

    fn stream(line_end: &str) -> Vec<u8> {
        let mut stream = format!(": hello{line_end}{line_end}");
        for chunk in SENT.iter().chain([&REPORT, &"[DONE]"]) {
            stream += &format!("data: {chunk}{line_end}{line_end}: still here{line_end}");
        }
        stream.into_bytes()
    }

    fn assert_same(stream: &[u8], cuts: &[usize]) {
        let report = REPORT.replace("1.0}", "1.0,\"cost_usd\":0.000000007}");
        let expected: Vec<&str> = SENT.into_iter().chain([report.as_str()]).collect();
        assert_eq!(relayed(stream, cuts, true), expected, "{cuts:?}");
        assert_eq!(relayed(stream, cuts, false), SENT, "{cuts:?}");
    }

    #[test]
    fn chunks_are_passed_on_byte_for_byte_wherever_the_stream_is_cut_once() {
        for line_end in ["\n", "\r\n"] {
            let stream = stream(line_end);
            for cut in 0..=stream.len() {
                assert_same(&stream, &[cut]);
            }
            let every: Vec<usize> = (0..stream.len()).collect();
            assert_same(&stream, &every);
        }
    }

    proptest! {
        #[test]
        fn chunks_are_passed_on_byte_for_byte_however_the_stream_is_cut(
            parts in proptest::collection::vec(any::<proptest::sample::Index>(), 0..40),
            crlf in any::<bool>(),
        ) {
            let stream = stream(if crlf { "\r\n" } else { "\n" });
            let mut cuts: Vec<usize> = parts.iter().map(|part| part.index(stream.len() + 1)).collect();
            cuts.sort_unstable();
            assert_same(&stream, &cuts);
        }
    }
}
