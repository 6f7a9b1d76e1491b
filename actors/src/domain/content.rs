//! The content of conversations: prompts, messages, tool calls.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::file::FileInfo;
use super::ids::{CallId, FileId};

/// A JSON object of the caller; the only place where unknown fields are accepted.
pub type Metadata = serde_json::Map<String, Value>;

/// Maximum size of one tool call's arguments, in bytes of JSON.
pub const MAX_ARGUMENTS: usize = 64 * 1024;

/// Maximum size of the arguments of all tool calls of one answer, in bytes of JSON.
pub const MAX_ANSWER_ARGUMENTS: usize = 1024 * 1024;

/// A prompt as submitted: stored in that form so that it is returned in that form.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Input {
    /// Plain text.
    Text(String),
    /// Typed parts.
    Parts(Vec<Part>),
}

impl Input {
    /// Returns the text of all parts, in order. A file is mentioned by its name and type.
    pub fn text(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Parts(parts) => {
                let texts: Vec<Cow<'_, str>> = parts.iter().map(Part::text).collect();
                texts.join("\n\n")
            }
        }
    }

    /// Returns the length of all text in bytes, mentions of files included.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Parts(parts) => parts.iter().map(|part| part.text().len()).sum(),
        }
    }

    /// Returns the ids of the files, in order.
    pub fn files(&self) -> impl Iterator<Item = FileId> {
        let parts: &[Part] = match self {
            Self::Text(_) => &[],
            Self::Parts(parts) => parts.as_slice(),
        };
        parts.iter().filter_map(|part| match part {
            Part::Text { .. } => None,
            Part::File { file_id, .. } => Some(*file_id),
        })
    }

    /// Returns whether a part has text of its own; a file is a prompt too.
    pub fn is_blank(&self) -> bool {
        self.files().next().is_none() && self.text().trim().is_empty()
    }

    /// Returns the prompt as the caller gave it, without what is known of its files.
    #[must_use]
    pub fn as_given(&self) -> Self {
        let given = |part: &Part| match part {
            Part::Text { .. } => part.clone(),
            Part::File { file_id, .. } => Part::File {
                file_id: *file_id,
                info: None,
            },
        };
        match self {
            Self::Text(_) => self.clone(),
            Self::Parts(parts) => Self::Parts(parts.iter().map(given).collect()),
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
    /// A file that the user uploaded to the conversation.
    File {
        /// Its id.
        file_id: FileId,
        /// What is known of it: set when the prompt is accepted, never by a caller.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        info: Option<FileInfo>,
    },
}

impl Part {
    /// Returns the text, or what stands for a file where only text can be.
    pub fn text(&self) -> Cow<'_, str> {
        match self {
            Self::Text { text } => Cow::Borrowed(text),
            Self::File { info, .. } => match info {
                Some(info) => Cow::Owned(info.mention()),
                None => Cow::Borrowed("[Attached file]"),
            },
        }
    }
}

/// A tool call requested by a model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ToolCall {
    /// Our id of the call, which providers see too.
    pub id: CallId,
    /// The name of the tool.
    pub name: String,
    /// The arguments as the model wrote them: an object, or a string if they were not valid JSON.
    pub arguments: Value,
}

/// A passage of a document that an answer cites.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Citation {
    /// Id of the document.
    pub document_id: String,
    /// The document's id in the tenant's own system.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub external_id: String,
    /// Title of the document; empty if it has none.
    pub title: String,
    /// The address of the document.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uri: Option<String>,
    /// The cited text: it occurs in the chunk.
    pub quote: String,
    /// The page on which the chunk begins, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub page: Option<u32>,
    /// Id of the cited chunk.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub chunk_id: String,
    /// Relevance of the chunk to the question; compares the chunks of one retrieval.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score: Option<f64>,
    /// Where the citation belongs in the answer: the UTF-8 offset behind the supported sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<u64>,
}

/// Why a model step ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Finish {
    /// The model finished its answer.
    Stop,
    /// The model asks for tool calls.
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
    /// The tool succeeded.
    Succeeded,
    /// The tool refused or failed; nothing was changed as far as it reports.
    Failed,
    /// Rejected by a person or a policy, or because the approval expired.
    Rejected,
    /// Cancelled: the call was never sent, or it changes nothing.
    Cancelled,
    /// The call was sent, and it cannot be determined whether it took effect.
    Unknown,
}
