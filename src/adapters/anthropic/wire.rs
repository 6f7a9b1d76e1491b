//! The words that streams and documents share.
//!
//! Only what is read is named, and any of it may be missing or null; what is new in the API is passed over.

use copilotd_actors::domain::command::FailureClass;
use copilotd_actors::domain::content::Finish;
use copilotd_actors::domain::usage::Usage;
use copilotd_actors::ports::ModelError;
use serde::Deserialize;

use crate::adapters::provider::Errors;

/// Most calls of one step, as for other providers.
pub(super) const MAX_CALLS: usize = 128;

/// What a message says that it used. A stream says it twice: the second time what has changed since.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
pub(super) struct WireUsage {
    input_tokens: Option<u64>,
    cache_creation_input_tokens: Option<u64>,
    cache_read_input_tokens: Option<u64>,
    output_tokens: Option<u64>,
    output_tokens_details: Option<OutputDetails>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
struct OutputDetails {
    thinking_tokens: Option<u64>,
}

impl WireUsage {
    /// Lays a later report over this one.
    pub(super) fn update(&mut self, later: Self) {
        *self = Self {
            input_tokens: later.input_tokens.or(self.input_tokens),
            cache_creation_input_tokens: later.cache_creation_input_tokens.or(self.cache_creation_input_tokens),
            cache_read_input_tokens: later.cache_read_input_tokens.or(self.cache_read_input_tokens),
            output_tokens: later.output_tokens.or(self.output_tokens),
            output_tokens_details: later.output_tokens_details.or(self.output_tokens_details),
        };
    }

    /// Reads it. Anthropic counts what it reads from and writes to its cache apart from the rest of the prompt. A report of
    /// nothing at all is no report.
    pub(super) fn read(self) -> Option<Usage> {
        let cached_tokens = self.cache_read_input_tokens.unwrap_or(0);
        let cache_write_tokens = self.cache_creation_input_tokens.unwrap_or(0);
        let fresh = self.input_tokens.unwrap_or(0);
        let thought = self.output_tokens_details.and_then(|details| details.thinking_tokens);
        let usage = Usage {
            prompt_tokens: fresh.saturating_add(cached_tokens).saturating_add(cache_write_tokens),
            completion_tokens: self.output_tokens.unwrap_or(0),
            cached_tokens,
            cache_write_tokens,
            reasoning_tokens: thought.unwrap_or(0),
            ..Usage::default()
        };
        (usage.total_tokens() > 0).then_some(usage)
    }
}

/// How an answer ended.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Ending {
    /// In OpenAI's word.
    pub(super) reason: &'static str,
    /// In ours. An end by the content filter is not the whole answer, so it must not count as one.
    pub(super) finish: Finish,
}

impl Ending {
    /// Reads a stop reason. `is_told`: the caller reads OpenAI's word, so that a refusal is its own to see; else it is a
    /// failure.
    pub(super) fn read(reason: &str, has_calls: bool, is_told: bool, errors: &Errors) -> Result<Self, ModelError> {
        let (reason, finish) = match reason {
            "max_tokens" | "model_context_window_exceeded" => ("length", Finish::Length),
            // The provider's own tools would go on; nobody can ask for them here.
            "pause_turn" => ("length", Finish::Length),
            "refusal" if is_told => ("content_filter", Finish::Length),
            "refusal" => {
                let text = "the provider's content policy stopped the answer";
                return Err(errors.plain(FailureClass::ContentPolicy, text));
            }
            "tool_use" if !has_calls => return Err(errors.malformed("it asked for tools and named none")),
            _ if has_calls => ("tool_calls", Finish::ToolCalls),
            _ => ("stop", Finish::Stop),
        };
        Ok(Self { reason, finish })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_cache_read_and_wrote_is_part_of_the_prompt() {
        let wire = |text: &str| -> WireUsage { serde_json::from_str(text).unwrap() };
        let mut usage = wire(
            r#"{"input_tokens":10,"cache_read_input_tokens":300,"cache_creation_input_tokens":50,"output_tokens":1,"service_tier":"standard"}"#,
        );
        usage.update(wire(
            r#"{"output_tokens":42,"input_tokens":null,"output_tokens_details":{"thinking_tokens":20}}"#,
        ));
        let expected = Usage {
            prompt_tokens: 360,
            completion_tokens: 42,
            cached_tokens: 300,
            cache_write_tokens: 50,
            reasoning_tokens: 20,
            ..Usage::default()
        };
        assert_eq!(usage.read(), Some(expected));
        assert_eq!(wire("{}").read(), None);
        assert_eq!(wire(r#"{"input_tokens":0,"output_tokens":0}"#).read(), None);
    }

    #[test]
    fn reasons_have_openais_words() {
        let errors = Errors::new("main", Vec::new());
        for (reason, has_calls, is_told, expected) in [
            ("end_turn", false, true, Ok(("stop", Finish::Stop))),
            ("stop_sequence", false, false, Ok(("stop", Finish::Stop))),
            ("something_new", false, false, Ok(("stop", Finish::Stop))),
            ("max_tokens", true, true, Ok(("length", Finish::Length))),
            (
                "model_context_window_exceeded",
                false,
                true,
                Ok(("length", Finish::Length)),
            ),
            ("pause_turn", false, true, Ok(("length", Finish::Length))),
            ("tool_use", true, true, Ok(("tool_calls", Finish::ToolCalls))),
            ("end_turn", true, true, Ok(("tool_calls", Finish::ToolCalls))),
            ("tool_use", false, true, Err(FailureClass::Malformed)),
            ("refusal", false, true, Ok(("content_filter", Finish::Length))),
            ("refusal", false, false, Err(FailureClass::ContentPolicy)),
        ] {
            let read = Ending::read(reason, has_calls, is_told, &errors);
            let read = read
                .map(|ending| (ending.reason, ending.finish))
                .map_err(|error| error.class);
            assert_eq!(read, expected, "{reason} {has_calls} {is_told}");
        }
    }
}
