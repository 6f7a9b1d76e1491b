//! The provider-independent prompt.

use serde::Serialize;
use serde_json::Value;

use crate::domain::file::PromptFile;
use crate::domain::ids::CallId;
use crate::domain::weight;

/// One message of a prompt. Adapters translate it into their provider's format.
///
/// Invariant of a list built by the projector: at most one `System` message, at the beginning; then `User` and
/// `Assistant` alternate, where an `Assistant` message with calls is followed by exactly one `Tool` message per call,
/// in the order of the calls, before anything else; no text is empty.
///
/// As JSON it is what administrators are shown and what the recorded hash of a prompt covers.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "role", rename_all = "snake_case")]
#[expect(missing_docs, reason = "the variants are the roles of chat protocols")]
pub enum PromptMessage {
    System {
        text: String,
    },
    User {
        text: String,
    },
    /// A message of the user that shows files.
    #[serde(rename = "user")]
    Files {
        files: Vec<PromptFile>,
    },
    Assistant {
        text: String,
        #[serde(rename = "tool_calls", skip_serializing_if = "Vec::is_empty")]
        calls: Vec<PromptCall>,
    },
    Tool {
        #[serde(rename = "call_id")]
        call: CallId,
        #[serde(rename = "text")]
        content: String,
    },
}

impl PromptMessage {
    /// Returns the bytes of its text and of its calls' arguments, roughly.
    pub fn bytes(&self) -> usize {
        match self {
            Self::System { text } | Self::User { text } | Self::Tool { content: text, .. } => text.len(),
            Self::Files { files } => files.iter().map(|file| file.text.len() + file.info.name.len()).sum(),
            Self::Assistant { text, calls } => {
                let arguments = calls.iter().map(|call| weight::of(&call.arguments));
                text.len() + arguments.sum::<usize>()
            }
        }
    }

    /// Returns the text of a message of the system or the user.
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::System { text } | Self::User { text } => Some(text),
            Self::Assistant { .. } | Self::Tool { .. } | Self::Files { .. } => None,
        }
    }
}

/// An earlier tool call of the model.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PromptCall {
    /// Our id of the call.
    pub id: CallId,
    /// The name of the tool.
    pub name: String,
    /// The arguments; always a JSON object here.
    pub arguments: Value,
}
