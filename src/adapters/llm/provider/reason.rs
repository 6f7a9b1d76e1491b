//! Why an answer ended, in the terms of many servers.
//!
//! Servers write the same reason in several ways (`MAX_TOKENS`, `max-tokens`, `FinishReason.MAX_TOKENS`), so case and
//! punctuation do not count. An unknown word is not a good end: it may be a new way to break off.

use copilotd_actors::domain::content::Finish;
use copilotd_actors::domain::failure::FailureClass;
use copilotd_actors::ports::ModelError;
use serde_json::value::RawValue;

use super::errors::Errors;
use super::lenient::{Members, is_null, word};

/// Why an answer ended; the later, the worse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// The model had finished.
    Stop,
    /// The model calls tools.
    ToolCalls,
    /// The answer reached a length limit.
    Length,
    /// A filter stopped it.
    Filter,
    /// An unknown word.
    Unknown,
    /// The model wrote a tool call that its server could not read.
    Malformed,
    /// The server was told to abort it.
    Cut,
    /// Something behind the server failed.
    Broken,
}

impl Reason {
    /// Reads a reason; `None` if there is none yet.
    pub fn of(raw: Option<&RawValue>) -> Option<Self> {
        let raw = raw.filter(|raw| !is_null(raw) && raw.get() != "false")?;
        let said = word(raw).or_else(|| Members::of(Some(raw))?.text("type"));
        said.map_or(Some(Self::Unknown), |said| Self::read(&said))
    }

    /// Reads a word.
    pub fn read(said: &str) -> Option<Self> {
        let letters: String = said
            .chars()
            .filter(|c| c.is_alphanumeric())
            .flat_map(char::to_lowercase)
            .collect();
        let bare = ["finishreason", "stopreason"]
            .iter()
            .find_map(|prefix| letters.strip_prefix(prefix))
            .unwrap_or(&letters);
        Some(match bare {
            "" | "null" | "none" | "unspecified" => return None,
            "stop" | "stopped" | "stopsequence" | "stopstring" | "stopstr" | "stoptoken" | "endturn" | "eos"
            | "eostoken" | "eosfound" | "stoppedeos" | "endoftext" | "endofturn" | "imend" | "complete"
            | "completed" | "done" | "end" | "finish" | "finished" | "success" => Self::Stop,
            "toolcalls" | "toolcall" | "tooluse" | "functioncall" | "functioncalls" => Self::ToolCalls,
            "length"
            | "maxtokens"
            | "maxoutputtokens"
            | "maxcompletiontokens"
            | "maxnewtokens"
            | "maxlength"
            | "maxtokensreached"
            | "modellength"
            | "contextlength"
            | "contextlengthexceeded"
            | "modelcontextwindowexceeded"
            | "contextwindowexceeded"
            | "tokenlimit"
            | "tokenlimitreached"
            | "limit"
            | "errorlimit"
            | "lengthlimit"
            | "truncated"
            | "incomplete"
            | "pauseturn" => Self::Length,
            "contentfilter"
            | "contentfiltered"
            | "filter"
            | "filtered"
            | "safety"
            | "recitation"
            | "blocklist"
            | "blocked"
            | "prohibitedcontent"
            | "spii"
            | "imagesafety"
            | "imageprohibitedcontent"
            | "imagerecitation"
            | "language"
            | "refusal"
            | "refused"
            | "guardrail"
            | "guardrailintervened"
            | "sensitive"
            | "moderation"
            | "errortoxic"
            | "toxic"
            | "contentpolicy"
            | "contentpolicyviolation"
            | "policyviolation"
            | "jailbreak"
            | "modelarmor" => Self::Filter,
            "malformed"
            | "malformedfunctioncall"
            | "malformedtoolcall"
            | "malformedtooluse"
            | "malformedresponse"
            | "malformedmodeloutput"
            | "unexpectedtoolcall"
            | "unexpectedfunctioncall"
            | "invalidtoolcall"
            | "invalidfunctioncall"
            | "toolerror"
            | "toomanytoolcalls"
            | "missingthoughtsignature" => Self::Malformed,
            "abort" | "aborted" | "cancel" | "cancelled" | "canceled" | "usercancel" | "interrupted" | "eof" => {
                Self::Cut
            }
            "error"
            | "insufficientsystemresource"
            | "networkerror"
            | "internalerror"
            | "servererror"
            | "timeout"
            | "overloaded"
            | "engineoverloaded"
            | "failed"
            | "failure" => Self::Broken,
            _ => Self::Unknown,
        })
    }

    /// Returns OpenAI's word, if its protocol has one.
    pub fn word(self) -> Option<&'static str> {
        match self {
            Self::Stop => Some("stop"),
            Self::ToolCalls => Some("tool_calls"),
            Self::Length => Some("length"),
            Self::Filter => Some("content_filter"),
            Self::Unknown | Self::Malformed | Self::Cut | Self::Broken => None,
        }
    }

    /// Returns how a step ended, with calls or without. `is_told`: the caller reads OpenAI's word and so sees an end by
    /// a filter itself (the answer is then incomplete and does not count as whole); otherwise that is a failure.
    pub fn ending(self, has_calls: bool, is_told: bool, errors: &Errors) -> Result<Finish, ModelError> {
        match self {
            Self::ToolCalls if !has_calls => Err(errors.malformed("the provider announced tool calls and sent none")),
            // Several servers send `stop` after calls.
            Self::Stop | Self::ToolCalls if has_calls => Ok(Finish::ToolCalls),
            Self::Stop | Self::ToolCalls => Ok(Finish::Stop),
            Self::Length => Ok(Finish::Length),
            Self::Filter if is_told => Ok(Finish::Length),
            Self::Filter => {
                let text = "the provider's content policy stopped the answer";
                Err(errors.plain(FailureClass::ContentPolicy, text))
            }
            Self::Unknown => Err(errors.plain(
                FailureClass::Cut,
                "the provider ended the answer with an unknown finish reason",
            )),
            Self::Malformed => Err(errors.malformed("the provider could not parse the tool call that its model wrote")),
            Self::Cut => Err(errors.cut()),
            Self::Broken => Err(errors.plain(FailureClass::Overload, "the provider broke off the answer")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_read_in_any_case_and_unknown_ones_are_failures() {
        for (json, expected) in [
            (r#""stop""#, Some(Reason::Stop)),
            (r#""STOP""#, Some(Reason::Stop)),
            (r#""end_turn""#, Some(Reason::Stop)),
            (r#""endTurn""#, Some(Reason::Stop)),
            (r#""eos_token""#, Some(Reason::Stop)),
            (r#""COMPLETE""#, Some(Reason::Stop)),
            (r#""FinishReason.STOP""#, Some(Reason::Stop)),
            (r#""MAX_TOKENS""#, Some(Reason::Length)),
            (r#""FINISH_REASON_MAX_TOKENS""#, Some(Reason::Length)),
            (r#""max-tokens""#, Some(Reason::Length)),
            (r#""Length""#, Some(Reason::Length)),
            (r#""tool_use""#, Some(Reason::ToolCalls)),
            (r#""TOOL_CALLS""#, Some(Reason::ToolCalls)),
            (r#""function_call""#, Some(Reason::ToolCalls)),
            (r#""SAFETY""#, Some(Reason::Filter)),
            (r#""PROHIBITED_CONTENT""#, Some(Reason::Filter)),
            (r#""RECITATION""#, Some(Reason::Filter)),
            (r#""content_filter""#, Some(Reason::Filter)),
            (r#""MALFORMED_FUNCTION_CALL""#, Some(Reason::Malformed)),
            (r#""abort""#, Some(Reason::Cut)),
            (r#""network_error""#, Some(Reason::Broken)),
            (r#""OTHER""#, Some(Reason::Unknown)),
            (r#""whatever""#, Some(Reason::Unknown)),
            (r#"{"type":"stop"}"#, Some(Reason::Stop)),
            ("{}", Some(Reason::Unknown)),
            ("1", Some(Reason::Unknown)),
            ("true", Some(Reason::Unknown)),
            ("false", None),
            ("null", None),
            (r#""""#, None),
            (r#""null""#, None),
            (r#""FINISH_REASON_UNSPECIFIED""#, None),
        ] {
            let raw: &RawValue = serde_json::from_str(json).unwrap();
            assert_eq!(Reason::of(Some(raw)), expected, "{json}");
        }
        assert_eq!(Reason::of(None), None);
    }

    #[test]
    fn only_a_known_good_reason_ends_well() {
        let errors = Errors::new("main", Vec::new());
        for (reason, has_calls, is_told, expected) in [
            (Reason::Stop, false, false, Ok(Finish::Stop)),
            (Reason::Stop, true, false, Ok(Finish::ToolCalls)),
            (Reason::ToolCalls, true, true, Ok(Finish::ToolCalls)),
            (Reason::ToolCalls, false, true, Err(FailureClass::Malformed)),
            (Reason::Length, true, true, Ok(Finish::Length)),
            (Reason::Filter, true, true, Ok(Finish::Length)),
            (Reason::Filter, false, false, Err(FailureClass::ContentPolicy)),
            (Reason::Unknown, true, true, Err(FailureClass::Cut)),
            (Reason::Malformed, true, false, Err(FailureClass::Malformed)),
            (Reason::Cut, false, true, Err(FailureClass::Cut)),
            (Reason::Broken, false, true, Err(FailureClass::Overload)),
        ] {
            let ending = reason.ending(has_calls, is_told, &errors).map_err(|error| error.class);
            assert_eq!(ending, expected, "{reason:?} {has_calls} {is_told}");
        }
    }
}
