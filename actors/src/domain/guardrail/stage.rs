//! What is checked where: the one table of stages, contents, rules and consequences.
//!
//! | content | stage | rules | a finding |
//! | --- | --- | --- | --- |
//! | prompt: text, metadata, response schema; a request to the endpoint | input | input | blocks |
//! | decision on a call: edited arguments, reason | tool | output, input | blocks |
//! | tool call of a model: name, arguments | tool | output, input | blocks |
//! | answer of a tool: result, error | tool | output | redacts, or withholds the whole |
//! | retrieved passage | retrieval | output | redacts, or withholds the whole |
//! | answer of a model | output | output | redacts, or blocks the whole |
//! | error text of a provider | output | output | withholds the text |
//!
//! Prompts are stored as they were written, and a call with a replaced word would be another call: neither is ever
//! edited, so there a redacting rule blocks too. A request to the endpoint is one prompt, including
//! the answers of tools in it: whoever wrote a part, the caller sends it.

use serde::{Deserialize, Serialize};

use super::{RuleSet, Rules};

/// Where a guardrail is triggered. Part of the log: names never change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// The user's prompt.
    Input,
    /// Passages retrieved for the prompt.
    Retrieval,
    /// Arguments or results of a tool.
    Tool,
    /// The model's answer.
    Output,
}

impl Stage {
    /// All stages.
    pub const ALL: [Self; 4] = [Self::Input, Self::Retrieval, Self::Tool, Self::Output];

    /// Returns the name in logs and metrics; events have the same.
    pub fn name(self) -> &'static str {
        match self {
            Self::Input => "input",
            Self::Retrieval => "retrieval",
            Self::Tool => "tool",
            Self::Output => "output",
        }
    }
}

/// What a content is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ContentKind {
    /// A prompt with its metadata and response schema, or a request to the endpoint.
    Prompt,
    /// A person's decision on a tool call: edited arguments and the reason.
    CallDecision,
    /// A tool call that a model asks for: name and arguments.
    ToolCall,
    /// A tool's result and error.
    ToolAnswer,
    /// A passage retrieved for a prompt.
    RetrievedText,
    /// A model's answer.
    Answer,
    /// The text with which a provider explains its error; it may quote the prompt or the model.
    ProviderError,
}

/// What a finding does to the content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnFinding {
    /// The content is never edited: any finding blocks it.
    Block,
    /// What a redacting finding marks is replaced. A blocking one, or one that marks nothing replaceable, withholds the
    /// whole content.
    Redact,
    /// Any finding withholds the whole content, and what it belongs to goes on.
    Withhold,
}

impl ContentKind {
    /// All kinds.
    pub const ALL: [Self; 7] = [
        Self::Prompt,
        Self::CallDecision,
        Self::ToolCall,
        Self::ToolAnswer,
        Self::RetrievedText,
        Self::Answer,
        Self::ProviderError,
    ];

    /// Returns the stage at which the content is checked.
    pub fn stage(self) -> Stage {
        match self {
            Self::Prompt => Stage::Input,
            Self::CallDecision | Self::ToolCall | Self::ToolAnswer => Stage::Tool,
            Self::RetrievedText => Stage::Retrieval,
            Self::Answer | Self::ProviderError => Stage::Output,
        }
    }

    /// Returns the rules that apply, those that count first before the others.
    pub fn rules(self, rules: &Rules) -> impl Iterator<Item = &RuleSet> {
        let (first, then) = match self {
            Self::Prompt => (&rules.input, None),
            Self::CallDecision | Self::ToolCall => (&rules.output, Some(&rules.input)),
            Self::ToolAnswer | Self::RetrievedText | Self::Answer | Self::ProviderError => (&rules.output, None),
        };
        [Some(first), then].into_iter().flatten().filter(|set| !set.is_empty())
    }

    /// Returns what a finding does.
    pub fn on_finding(self) -> OnFinding {
        match self {
            Self::Prompt | Self::CallDecision | Self::ToolCall => OnFinding::Block,
            Self::ToolAnswer | Self::RetrievedText | Self::Answer => OnFinding::Redact,
            Self::ProviderError => OnFinding::Withhold,
        }
    }
}
