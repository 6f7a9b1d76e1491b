//! Everything that a prompt may be made of, with its tokens counted.

use std::collections::VecDeque;
use std::sync::Arc;

use serde_json::Value;

use super::memory::{Block, Memory, Summary};
use super::project::{READ_AS_DATA, summary_text};
use super::{recalled, tokens};
use crate::domain::context_record::{Included, ItemKind};
use crate::domain::file::PromptFile;
use crate::domain::ids::Seq;
use crate::domain::policy::{Policy, ToolDefinition};
use crate::domain::sent_prompt::{FixedPrompt, ToolOffer};
use crate::domain::tool::client;
use crate::domain::weight;

/// What was gathered for one model step. [`assemble`](super::assemble::assemble) only adds up its counts.
#[derive(Debug, Clone)]
pub struct Gathered {
    /// The conversation as its turn sees it.
    pub current: MemoryView,
    /// The same conversation with the summary that waits for the next turn, if there is one.
    pub compressed: Option<MemoryView>,
    /// Whether an earlier prompt of this turn was too long; if so, `compressed` is used even if `current` fits.
    pub needs_summary: bool,
    /// Number of tools that the model may call.
    pub tools: u64,
    /// Tokens of their definitions.
    pub tool_tokens: u64,
    /// Tokens of the schema of the answer, if it has one; estimated if long.
    pub response_schema_tokens: Option<u64>,
    /// Optional parts, in the order in which they stand in the prompt.
    pub passages: Vec<Passage>,
    /// Tokens of a pair of messages that gives the model data, without the data.
    pub frame_tokens: u64,
    /// Tokens of the same for recalled messages, with the delimiters around them.
    pub recalled_frame_tokens: u64,
    /// The random part of the delimiters in the running turn.
    pub nonce: Option<Arc<str>>,
}

/// Instructions, summary and window that belong together.
#[derive(Debug, Clone)]
pub struct MemoryView {
    /// System message and tools.
    pub fixed: Arc<FixedPrompt>,
    /// Tokens of the system message.
    pub system_tokens: u64,
    /// The summary of older turns.
    pub summary: Option<CountedSummary>,
    /// The turns after the summary, oldest first. Each message caches its own count.
    pub blocks: VecDeque<Block>,
}

/// A summary as the model reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CountedSummary {
    /// The last record that it covers.
    pub upto_seq: Seq,
    /// The message, delimited as data.
    pub text: String,
    /// Tokens of the message and of the reply after it.
    pub tokens: u64,
}

/// The kind of a passage, which decides its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PassageKind {
    /// A remembered fact: stands before the window, because it rarely changes from turn to turn.
    Fact,
    /// A retrieved chunk: stands before the running turn, because each turn has its own.
    Chunk,
    /// An earlier message that bears on the question: stands before the running turn, too.
    Recalled,
    /// A file that the user attached to this turn or to one shortly before: stands before the running turn, too.
    File,
}

/// An optional part of a prompt.
#[derive(Debug, Clone, PartialEq)]
pub struct Passage {
    /// Fact, chunk or message.
    pub kind: PassageKind,
    /// ID of the fact or chunk, or the message's sequence number, for the record.
    pub id: String,
    /// What the model reads, already delimited as data; of a message its line, which [`recalled::delimited`] delimits.
    pub text: String,
    /// Tokens of `text` and the line break after it.
    pub tokens: u64,
    /// Passages of higher priority are chosen first; among equals, those gathered first.
    pub priority: u8,
    /// Relevance, for the record.
    pub score: Option<f64>,
    /// Why it is in the prompt, if it is.
    pub reason: Included,
    /// The file, if it is one.
    pub file: Option<PromptFile>,
}

impl PassageKind {
    /// Returns the kind for the record.
    pub fn item(self) -> ItemKind {
        match self {
            Self::Fact => ItemKind::Fact,
            Self::Chunk => ItemKind::Chunk,
            Self::Recalled => ItemKind::Message,
            Self::File => ItemKind::File,
        }
    }
}

impl Gathered {
    /// Gathers what memory and policy hold and counts it. Expensive: see [`Gathered::counted_bytes`].
    pub fn count(memory: Memory, needs_summary: bool, policy: &Policy, response_schema: Option<&Value>) -> Self {
        let frame_tokens = tokens::count(READ_AS_DATA) + 2 * tokens::PER_MESSAGE;
        let compressed = memory.with_pending();
        let nonce = memory.blocks.back().and_then(|block| block.nonce.clone());
        Self {
            compressed: compressed.map(|memory| MemoryView::count(memory, policy, frame_tokens)),
            current: MemoryView::count(memory, policy, frame_tokens),
            needs_summary,
            tools: policy.tools.len() as u64,
            tool_tokens: policy.tools.values().map(|tool| tool_tokens(&tool.tool)).sum(),
            response_schema_tokens: response_schema.map(|schema| tokens::estimate(&schema.to_string())),
            passages: Vec::new(),
            frame_tokens,
            recalled_frame_tokens: tokens::count(&recalled::delimited(nonce.as_deref(), &[])) + frame_tokens,
            nonce,
        }
    }

    /// Adds those of a turn's client tools that the model may call. Expensive: counts them, and the system message,
    /// which then says how to read results.
    pub fn offer(&mut self, policy: &Policy, client_tools: &[ToolOffer]) {
        let offered: Vec<ToolOffer> = client::callable(policy, client_tools).cloned().collect();
        if offered.is_empty() {
            return;
        }
        self.tools += offered.len() as u64;
        self.tool_tokens += offered.iter().map(offer_tokens).sum::<u64>();
        for view in std::iter::once(&mut self.current).chain(&mut self.compressed) {
            (view.fixed, view.system_tokens) = policy.fixed_prompt_with(view.summary.is_some(), &offered);
        }
    }

    /// Returns the bytes of text that [`Gathered::count`] tokenizes, apart from the messages of the window.
    pub fn counted_bytes(memory: &Memory, policy: &Policy) -> usize {
        let summary = |summary: &Option<Summary>| summary.as_ref().map_or(0, |summary| summary.text.len());
        let current = policy.uncounted_bytes(memory.summary.is_some());
        let compressed = memory.pending.as_ref().map_or(0, |_| policy.uncounted_bytes(true));
        let uncounted = |tool: &ToolDefinition| match tool.tokens.get() {
            Some(_) => 0,
            None => tool.description.len() + weight::of(tool.parameters.source()),
        };
        let tools: usize = policy.tools.values().map(|tool| uncounted(&tool.tool)).sum();
        current + compressed + summary(&memory.summary) + summary(&memory.pending) + tools
    }
}

impl MemoryView {
    fn count(memory: Memory, policy: &Policy, frame_tokens: u64) -> Self {
        let (fixed, system_tokens) = policy.fixed_prompt(memory.summary.is_some());
        let nonce = memory.blocks.front().and_then(|block| block.nonce.clone());
        let summary = memory.summary.map(|summary| {
            let text = summary_text(nonce.as_deref(), &summary.text);
            CountedSummary {
                upto_seq: summary.upto_seq,
                tokens: tokens::count(&text) + frame_tokens,
                text,
            }
        });
        Self {
            system_tokens,
            fixed: Arc::clone(fixed),
            summary,
            blocks: memory.blocks,
        }
    }

    /// Returns the tokens of all its messages.
    pub fn tokens(&self) -> u64 {
        let summary = self.summary.as_ref().map_or(0, |summary| summary.tokens);
        self.system_tokens + summary + self.blocks.iter().map(Block::tokens).sum::<u64>()
    }
}

impl Passage {
    /// Returns a passage with its tokens counted.
    pub fn count(kind: PassageKind, id: String, text: String, priority: u8, score: Option<f64>) -> Self {
        Self {
            tokens: tokens::count(&text) + 1,
            kind,
            id,
            text,
            priority,
            score,
            reason: Included::Fitted,
            file: None,
        }
    }

    /// Returns a file with its tokens: those of its text, and what its content counts as.
    pub fn of_file(file: PromptFile, priority: u8) -> Self {
        // A target that cannot read it gets the other text, which is longer by a few tokens.
        let text = if file.text.len() < file.unreadable.len() {
            &file.unreadable
        } else {
            &file.text
        };
        let mut passage = Self::count(PassageKind::File, file.id.to_string(), text.to_string(), priority, None);
        passage.tokens += file.content_tokens();
        passage.file = Some(file);
        passage
    }
}

/// Returns the tokens of a tool's definition; counted once per process and configuration.
fn tool_tokens(tool: &ToolDefinition) -> u64 {
    *tool.tokens.get_or_init(|| {
        let parameters = tool.parameters.source().to_string();
        [&tool.name, &tool.description, &parameters]
            .map(|text| tokens::count(text))
            .iter()
            .sum()
    })
}

fn offer_tokens(tool: &ToolOffer) -> u64 {
    let parameters = tool.parameters.to_string();
    [&tool.name, &tool.description, &parameters]
        .map(|text| tokens::count(text))
        .iter()
        .sum()
}
