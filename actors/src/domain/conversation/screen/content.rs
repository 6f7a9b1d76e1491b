//! The contents of a command, as guardrails see them.

use std::borrow::Borrow;

use serde_json::Value;

use super::PreparedCommand;
use crate::domain::conversation::command::{Command, Decision};
use crate::domain::guardrail::content::{Numbered, Unreadable, Visit};
use crate::domain::guardrail::{ContentKind, TextRole, Texts};
use crate::domain::schema::AcceptedSchema;

/// A content of a command.
#[derive(Debug, Clone)]
pub(super) enum Part {
    /// The text, the response schema, the metadata and the client tools of a submission.
    Prompt,
    /// A person's arguments, unless they are too large, and reason.
    CallDecision { with_arguments: bool },
    /// A call that a model asks for.
    ToolCall {
        number: usize,
        /// The arguments as the model wrote them, if they were parsed: members that hide one another are only here.
        written: Option<String>,
    },
    /// What a tool answered, taken out of the command: a list of the result and the error.
    ToolAnswer(Value),
    /// A provider's error text.
    ProviderError,
}

impl Part {
    pub(super) fn kind(&self) -> ContentKind {
        match self {
            Self::Prompt => ContentKind::Prompt,
            Self::CallDecision { .. } => ContentKind::CallDecision,
            Self::ToolCall { .. } => ContentKind::ToolCall,
            Self::ToolAnswer(_) => ContentKind::ToolAnswer,
            Self::ProviderError => ContentKind::ProviderError,
        }
    }
}

/// The texts of one content of a command.
#[derive(Debug)]
pub struct PartTexts<P> {
    prepared: P,
    number: usize,
}

impl PreparedCommand {
    /// Returns the number of contents.
    pub fn len(&self) -> usize {
        self.parts.len()
    }

    /// Returns whether the command has no content to be checked.
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// Returns what a content is.
    ///
    /// # Panics
    /// If there is no such content.
    pub fn kind(&self, number: usize) -> ContentKind {
        self.parts[number].kind()
    }
}

impl<P: Borrow<PreparedCommand>> PartTexts<P> {
    /// Returns the texts of the content of this number.
    pub fn new(prepared: P, number: usize) -> Self {
        Self { prepared, number }
    }
}

impl<P: Borrow<PreparedCommand> + Send + Sync> Texts for PartTexts<P> {
    fn each(&self, visit: &mut Visit<'_>) -> Result<(), Unreadable> {
        let prepared = self.prepared.borrow();
        let mut texts = Numbered::new(visit);
        match (prepared.parts.get(self.number), &prepared.command) {
            (
                Some(Part::Prompt),
                Command::Submit {
                    input,
                    response_schema,
                    metadata,
                    client_tools,
                    ..
                },
            ) => {
                texts.text(TextRole::Text, &input.text());
                if let Some(schema) = response_schema.as_ref().map(AcceptedSchema::source) {
                    texts.value(schema);
                }
                metadata.iter().for_each(|(name, value)| texts.member(name, value));
                for tool in client_tools.iter() {
                    texts.text(TextRole::Text, &tool.name);
                    texts.text(TextRole::Text, &tool.description);
                    texts.value(&tool.parameters);
                }
            }
            (Some(Part::CallDecision { with_arguments }), Command::Decide { decision, reason, .. }) => {
                if let Decision::Approve {
                    arguments: Some(edited),
                } = decision
                    && *with_arguments
                {
                    texts.value(edited);
                }
                if let Some(reason) = reason {
                    texts.text(TextRole::Text, reason);
                }
            }
            (Some(Part::ToolCall { number, written }), Command::ModelReplied { reply, .. }) => {
                // In the order of the endpoint, so that of two rules both report the same.
                if let Some((name, arguments)) = reply.calls.get(*number) {
                    texts.text(TextRole::Text, name);
                    if let Some(written) = written {
                        texts.text(TextRole::Text, written);
                    }
                    texts.value(arguments);
                }
            }
            (Some(Part::ToolAnswer(answer)), _) => texts.value(answer),
            (Some(Part::ProviderError), Command::ModelFailed { failure, .. }) => {
                texts.text(TextRole::Text, &failure.message);
            }
            // Each part belongs to its command.
            _ => return Err(Unreadable("the command has no such content".to_owned())),
        }
        Ok(())
    }
}
