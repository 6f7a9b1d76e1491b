//! Reads the chunks of a streamed answer.
//!
//! These are our own types: only the touched fields are read, and any of them may be missing or null. async-openai's
//! chunk insists on `id`, `created`, `object` and a closed list of finish reasons, which self-hosted servers do not all
//! keep, and does not know `reasoning_content`.

use std::collections::VecDeque;

use copilotd_actors::domain::command::FailureClass;
use copilotd_actors::domain::content::Finish;
use copilotd_actors::domain::usage::Usage;
use copilotd_actors::ports::{ModelError, ModelEvent};
use serde::Deserialize;
use serde_json::Value;

use super::errors::Errors;
use super::estimate::Transcript;

/// Most calls of one step. A wild index must not become a wild allocation further on.
const MAX_CALLS: usize = 128;
/// What is kept of a refusal.
const MAX_REFUSAL: usize = 2_000;

#[derive(Debug, Deserialize)]
struct Chunk {
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
struct WireUsage {
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

/// What an event meant for the clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// Nothing.
    None,
    /// Content: text, reasoning or a piece of a call.
    Content,
    /// The provider gave its reason to finish.
    Finished,
    /// Nothing more will come.
    Done,
}

/// The memory of one answer's reading.
#[derive(Debug)]
pub struct Decoder {
    errors: Errors,
    /// A refusal where a schema was asked for is a failure; without a schema it is simply what the model says.
    has_schema: bool,
    /// Calls whose name is known, one bit each.
    named: u128,
    last_call: Option<usize>,
    model_told: bool,
    content_seen: bool,
    refusal: String,
    finish: Option<Result<Finish, ModelError>>,
    usage: Option<Usage>,
}

impl Decoder {
    /// Begins an answer.
    pub fn new(errors: Errors, has_schema: bool) -> Self {
        Self {
            errors,
            has_schema,
            named: 0,
            last_call: None,
            model_told: false,
            content_seen: false,
            refusal: String::new(),
            finish: None,
            usage: None,
        }
    }

    /// Reads the data of one event and puts what it means into `out` and `transcript`.
    pub fn decode(
        &mut self,
        data: &[u8],
        out: &mut VecDeque<Result<ModelEvent, ModelError>>,
        transcript: &mut Transcript,
    ) -> Result<Progress, ModelError> {
        if data.trim_ascii() == b"[DONE]" {
            return Ok(Progress::Done);
        }
        // The cause is not quoted: it may hold a piece of the conversation.
        let chunk: Chunk = serde_json::from_slice(data).map_err(|_| {
            self.errors
                .malformed("it sent something that is not a chunk of an answer")
        })?;
        if let Some(error) = chunk.error.filter(|error| !error.is_null()) {
            return Err(self.errors.in_stream(&error));
        }
        if let Some(usage) = chunk.usage {
            self.usage = usage.read().or(self.usage);
        }
        if let Some(model) = chunk
            .model
            .filter(|model| !model.is_empty() && !self.model_told && !self.content_seen)
        {
            self.model_told = true;
            out.push_back(Ok(ModelEvent::Model(model)));
        }
        let mut progress = Progress::None;
        // One answer is asked for; another index would be a second one mixed in.
        for choice in chunk
            .choices
            .into_iter()
            .flatten()
            .filter(|choice| choice.index.unwrap_or(0) == 0)
        {
            if self.delta(choice.delta.unwrap_or_default(), out, transcript)? {
                self.content_seen = true;
                progress = Progress::Content;
            }
            if let Some(reason) = choice.finish_reason.filter(|reason| !reason.is_empty()) {
                self.finish.get_or_insert(self.ending(&reason));
                progress = Progress::Finished;
            }
        }
        Ok(progress)
    }

    /// Tells whether content has come: from then on the provider bills.
    pub fn content_seen(&self) -> bool {
        self.content_seen
    }

    /// Tells whether the provider gave its reason to finish.
    pub fn is_finished(&self) -> bool {
        self.finish.is_some()
    }

    /// Takes how the answer ended; none when it was cut.
    pub fn take_finish(&mut self) -> Option<Result<Finish, ModelError>> {
        self.finish.take()
    }

    /// Returns what the provider says that it used.
    pub fn usage(&self) -> Option<Usage> {
        self.usage
    }

    fn delta(
        &mut self,
        delta: Delta,
        out: &mut VecDeque<Result<ModelEvent, ModelError>>,
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
            if !self.has_schema {
                out.push_back(Ok(ModelEvent::Text(refusal)));
            } else if self.refusal.len() < MAX_REFUSAL {
                self.refusal.push_str(&refusal);
            }
        }
        if let Some(text) = delta.content.filter(|text| !text.is_empty()) {
            content = true;
            transcript.add(&text);
            out.push_back(Ok(ModelEvent::Text(text)));
        }
        for call in delta.tool_calls.into_iter().flatten() {
            content |= self.call(call, out, transcript)?;
        }
        Ok(content)
    }

    fn call(
        &mut self,
        call: CallDelta,
        out: &mut VecDeque<Result<ModelEvent, ModelError>>,
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
        out.push_back(Ok(ModelEvent::ToolCall { index, name, arguments }));
        Ok(true)
    }

    fn ending(&self, reason: &str) -> Result<Finish, ModelError> {
        if !self.refusal.is_empty() {
            let text = format!("it refused: {}", self.errors.clean(&self.refusal));
            return Err(self.errors.plain(FailureClass::ContentPolicy, &text));
        }
        match reason {
            "length" | "max_tokens" | "model_length" => Ok(Finish::Length),
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
            "tool_calls" | "function_call" if self.named == 0 => {
                Err(self.errors.malformed("it asked for tools and named none"))
            }
            // Several servers say `stop` after calls, and some have words of their own for a good end.
            _ if self.named != 0 => Ok(Finish::ToolCalls),
            _ => Ok(Finish::Stop),
        }
    }
}

impl WireUsage {
    /// A report of nothing at all is no report: some servers fill the field with zeros.
    fn read(self) -> Option<Usage> {
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
