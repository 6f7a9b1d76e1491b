//! One response, as given by a script, a directive or the persona.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Value, json};

use super::pieces::Pieces;
use super::play::completion_tokens;

/// One response.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Step {
    pub(crate) text: Option<Arc<str>>,
    /// Instead of `text`: this many words, generated while they are sent.
    pub(crate) words: Option<u64>,
    pub(crate) tool_calls: Vec<Call>,
    /// Characters in a piece; by default a piece is a word.
    pub(crate) chunk_chars: Option<usize>,
    pub(crate) delay_first_ms: Option<u64>,
    pub(crate) pace_ms: Option<u64>,
    /// The `finish_reason`, if not the natural one.
    pub(crate) finish: Option<String>,
    pub(crate) error: Option<Box<Refusal>>,
    /// Drops the connection after this many characters.
    pub(crate) cut_after_chars: Option<usize>,
    /// Ends the body properly after this many characters, without `finish_reason` and `[DONE]`.
    pub(crate) end_without_finish_after_chars: Option<usize>,
    /// Falls silent after this many characters and keeps the connection open.
    pub(crate) stall_after_chars: Option<usize>,
    /// While stalled, sends an SSE comment this often.
    pub(crate) stall_keepalive_ms: Option<u64>,
    /// Whether to report usage; by default as the request asks.
    pub(crate) usage: Option<bool>,
    /// Inserts a data line that is not JSON.
    pub(crate) malformed: bool,
    /// Sends this error object in a data line after the text, and ends there.
    pub(crate) in_stream_error: Option<Value>,
}

impl Step {
    pub(crate) fn say(text: impl Into<Arc<str>>) -> Self {
        Self {
            text: Some(text.into()),
            ..Self::default()
        }
    }

    /// Counts the tokens of the complete answer, as a provider would that sends all of it.
    pub(crate) fn whole_tokens(&self, max_pieces: Option<u64>) -> u64 {
        if self.error.is_some() {
            return 0;
        }
        let mut pieces = Pieces::new(self, max_pieces);
        pieces.say_all();
        completion_tokens(self, &pieces)
    }

    pub(crate) fn call(calls: Vec<Call>) -> Self {
        Self {
            tool_calls: calls,
            ..Self::default()
        }
    }
}

/// A tool call; `arguments` may be a string, so that a script can send arguments that are not JSON.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Call {
    pub(crate) name: String,
    #[serde(default)]
    arguments: Value,
}

impl Call {
    pub(crate) fn new(name: &str, arguments: Value) -> Self {
        Self {
            name: name.to_owned(),
            arguments,
        }
    }

    pub(crate) fn arguments(&self) -> String {
        match &self.arguments {
            Value::String(text) => text.clone(),
            Value::Null => "{}".to_owned(),
            value => value.to_string(),
        }
    }
}

/// An HTTP error instead of a completion.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Refusal {
    pub(crate) status: u16,
    /// The whole body: a string is sent as is, anything else as JSON.
    pub(crate) body: Option<Value>,
    pub(crate) code: Option<String>,
    #[serde(rename = "type")]
    pub(crate) kind: Option<String>,
    pub(crate) message: Option<String>,
    pub(crate) param: Option<String>,
    pub(crate) retry_after: Option<u64>,
}

impl Refusal {
    pub(crate) fn status(status: u16) -> Box<Self> {
        Box::new(Self {
            status,
            ..Self::default()
        })
    }

    /// Returns the error for an invalid request.
    pub(crate) fn invalid(message: impl Into<String>, param: Option<&str>) -> Box<Self> {
        Box::new(Self {
            status: 400,
            message: Some(message.into()),
            param: param.map(str::to_owned),
            ..Self::default()
        })
    }

    pub(crate) fn with_code(mut self: Box<Self>, code: &str) -> Box<Self> {
        self.code = Some(code.to_owned());
        self
    }

    /// Returns the error object in OpenAI's form.
    pub(crate) fn to_json(&self) -> Value {
        let (kind, code, message) = match self.status {
            401 => (
                "invalid_request_error",
                Some("invalid_api_key"),
                "Incorrect API key provided.",
            ),
            404 => (
                "invalid_request_error",
                Some("model_not_found"),
                "The model does not exist or you do not have access to it.",
            ),
            429 => (
                "requests",
                Some("rate_limit_exceeded"),
                "Rate limit reached for requests.",
            ),
            400..=499 => ("invalid_request_error", None, "The request is invalid."),
            503 => (
                "server_error",
                None,
                "The engine is currently overloaded, please try again later",
            ),
            _ => (
                "server_error",
                None,
                "The server had an error while processing your request. Sorry about that!",
            ),
        };
        json!({"error": {
            "message": self.message.as_deref().unwrap_or(message),
            "type": self.kind.as_deref().unwrap_or(kind),
            "param": self.param,
            "code": self.code.as_deref().or(code),
        }})
    }
}
