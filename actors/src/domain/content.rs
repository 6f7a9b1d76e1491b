//! What users and models say: prompts, messages, tool calls.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::ids::CallId;

/// JSON object of a caller; the only place where unknown fields are welcome.
pub type Metadata = serde_json::Map<String, Value>;

/// Most bytes of one tool call's arguments, as JSON.
pub const MAX_ARGUMENTS: usize = 64 * 1024;

/// Most bytes of the arguments of all tool calls of one answer, as JSON.
pub const MAX_ANSWER_ARGUMENTS: usize = 1024 * 1024;

/// A prompt as it was given: kept in that form so that it is returned in that form.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Input {
    /// Plain text.
    Text(String),
    /// Typed parts.
    Parts(Vec<Part>),
}

impl Input {
    /// Returns the text of all parts, in order.
    pub fn text(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Parts(parts) => {
                let texts: Vec<&str> = parts.iter().map(|Part::Text { text }| text.as_str()).collect();
                texts.join("\n\n")
            }
        }
    }

    /// Length of all text in bytes.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Parts(parts) => parts.iter().map(|Part::Text { text }| text.len()).sum(),
        }
    }

    /// Returns the prompt as a list of parts.
    pub fn parts(&self) -> Vec<Part> {
        match self {
            Self::Text(text) => vec![Part::Text { text: text.clone() }],
            Self::Parts(parts) => parts.clone(),
        }
    }
}

/// One part of a message.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum Part {
    /// A piece of text.
    Text {
        /// The text itself.
        text: String,
    },
}

/// A tool call that a model asks for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ToolCall {
    /// Our id of the call; providers see it too.
    pub id: CallId,
    /// Name of the tool.
    pub name: String,
    /// Arguments as the model gave them: an object, or a string when they were not even JSON.
    pub arguments: Value,
}

/// A passage of a document that an answer rests on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Citation {
    /// Id of the document.
    pub document_id: String,
    /// Title of the document.
    pub title: String,
    /// Where the document can be opened.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uri: Option<String>,
    /// The passage.
    pub quote: String,
}

/// Why a model step ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Finish {
    /// The model had said everything.
    Stop,
    /// The model wants tools to be called.
    ToolCalls,
    /// The model reached its output limit.
    Length,
    /// The turn was cancelled while the message was being written.
    Cancelled,
}

/// How a tool call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToolStatus {
    /// The tool did its work.
    Succeeded,
    /// The tool refused or broke; nothing was changed as far as it says.
    Failed,
    /// A person, a policy or the expiry of an approval said no.
    Rejected,
    /// It never left the house, or changes nothing.
    Cancelled,
    /// It left the house and nobody can say whether it took effect.
    Unknown,
}
