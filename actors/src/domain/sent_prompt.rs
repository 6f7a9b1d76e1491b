//! What is kept of a prompt so that an administrator can be shown the very prompt later.
//!
//! The log has most of a prompt already: the messages of its turns, and the summaries. Beside the record of what a prompt
//! was made of, `context.assembled` keeps what only the moment knew: the system message and the tools
//! ([`FixedPrompt`], once for as long as they stay the same), the retrieved passages (once for each attempt of a turn), and
//! a hash. [`replay`](super::context::replay) puts the prompt together again; the hash tells whether it is the same to the
//! byte.

use std::sync::{Arc, OnceLock};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::context_record::ItemKind;
use super::file::PromptFile;
use super::ids::Seq;
use super::weight;

/// The parts of a prompt that are the same in every turn while the configuration stays the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FixedPrompt {
    /// SHA-256 of the two others as JSON, base64url.
    pub hash: String,
    /// The system message.
    pub system: String,
    /// The tools that the model may call.
    #[serde(default)]
    pub tools: Arc<Vec<ToolOffer>>,
}

/// A tool as described to the model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolOffer {
    /// The name of the tool.
    pub name: String,
    /// What the tool does.
    pub description: String,
    /// The JSON Schema of its arguments.
    pub parameters: Value,
}

/// What one `context.assembled` keeps.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SentPrompt {
    /// SHA-256 of the messages as JSON and of the hash of the fixed parts, base64url.
    pub hash: String,
    /// System message and tools.
    pub fixed: Fixed,
    /// The passages of the prompt, in its order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub passages: Vec<SentPassage>,
}

/// System message and tools of a prompt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fixed {
    /// The same as those of an earlier record of the conversation.
    At(Seq),
    /// These.
    Parts(Arc<FixedPrompt>),
}

/// A passage of a prompt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SentPassage {
    /// Its kind.
    pub kind: ItemKind,
    /// ID of the fact or chunk.
    pub id: String,
    /// What the model read; none if an earlier step of the same attempt read the same, and for facts, which may be erased while
    /// this conversation stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// The file, if it is one; its content is not kept here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<PromptFile>,
}

/// The fixed parts of a policy's prompts, with their tokens: made at their first use, because every step needs them.
#[derive(Debug, Default)]
pub struct FixedParts(pub(super) [OnceLock<(Arc<FixedPrompt>, u64)>; 2]);

/// A copy may be changed before it is used, so it makes its own.
impl Clone for FixedParts {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl FixedPrompt {
    /// Returns the cost of writing it as JSON.
    fn weight(&self) -> usize {
        let tools = self.tools.iter();
        let tools = tools.map(|tool| tool.name.len() + tool.description.len() + weight::of(&tool.parameters));
        self.system.len() + tools.sum::<usize>()
    }
}

impl SentPrompt {
    /// Returns the cost of writing it as JSON.
    pub fn weight(&self) -> usize {
        let fixed = match &self.fixed {
            Fixed::At(_) => 0,
            Fixed::Parts(parts) => parts.weight(),
        };
        let passage = |passage: &SentPassage| {
            /// Of a file: hash, type, numbers and names of members.
            const FILE: usize = 256;
            let file = passage.file.as_ref().map_or(0, |file| FILE + file.info.name.len());
            passage.id.len() + passage.text.as_ref().map_or(0, String::len) + file
        };
        fixed + self.passages.iter().map(passage).sum::<usize>()
    }
}
