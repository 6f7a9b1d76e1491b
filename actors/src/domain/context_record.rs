//! What the prompt of a model step was made of: stored with `context.assembled`, so that an administrator can see later
//! what the model was given, what was left out and why. Holds ids and sizes, never content.

use serde::{Deserialize, Serialize};

use super::ids::Seq;
use super::usage::Usage;

/// What went into a prompt and what was left out.
///
/// Invariants: every part that was gathered is counted in exactly one item; the number of items is bounded by
/// [`ContextRecord::MAX_LISTED`] per list and a constant, so the record stays small however much was gathered.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ContextRecord {
    /// What the model was given, in the order of the prompt.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub included: Vec<ContextItem<Included>>,
    /// What was gathered and left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub omitted: Vec<ContextItem<Omitted>>,
    /// How earlier messages were searched; none if they were not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recall: Option<RecallRecord>,
}

/// One part of a context, or several of the same kind that share one reason.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ContextItem<R: Default + PartialEq> {
    /// What it is.
    pub kind: ItemKind,
    /// ID of the fact, chunk or file; sequence number of an earlier message that was put back into the prompt; none for other
    /// kinds and for items that stand for several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// First record that messages come from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_seq: Option<Seq>,
    /// Last record that messages come from, or that a summary covers; none for a running turn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upto_seq: Option<Seq>,
    /// How many parts the item stands for.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub count: u64,
    /// Tokens of all of them.
    pub tokens: u64,
    /// Relevance of a fact, chunk or earlier message, from whatever found it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score: Option<f64>,
    /// Why it was included or left out.
    #[serde(default, skip_serializing_if = "is_default")]
    pub reason: R,
}

/// The kind of a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ItemKind {
    /// The copilot's instructions, with our own notice about data.
    Instructions,
    /// A tool that the model may call. Sent beside the messages and not counted among their tokens.
    Tool,
    /// The schema that the answer must satisfy. Sent beside the messages and not counted among their tokens.
    ResponseSchema,
    /// The summary of older turns.
    Summary,
    /// A message of the window: a prompt, an answer or a tool result. With an id: an earlier prompt or answer that bears
    /// on the question.
    Message,
    /// A remembered fact.
    Fact,
    /// A retrieved chunk of a document.
    Chunk,
    /// A file that the user attached.
    File,
}

/// Why a part was included.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Included {
    /// Every prompt contains it.
    #[default]
    Required,
    /// It is optional and fitted into the budget.
    Fitted,
    /// As `Fitted`: an earlier message beside one that bears on the question.
    Neighbour,
}

/// Why a part was left out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Omitted {
    /// It did not fit into the budget.
    #[default]
    Budget,
    /// A guardrail does not let it pass, or could not check it.
    Guardrail,
    /// It was deleted, or could not be read.
    Unavailable,
    /// A summary in the prompt stands for it.
    Compressed,
    /// A new summary that takes effect with the next turn; this prompt still has the messages that it stands for.
    Pending,
}

/// How a turn's documents were searched. Holds no content.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RetrievalRecord {
    /// Whether the search had a result.
    pub status: RetrievalStatus,
    /// Whether vectors took part; if not, words alone decided.
    pub is_semantic: bool,
    /// The steps that ran, with their times.
    #[serde(default)]
    pub steps: Vec<RetrievalTime>,
    /// What rewriting the question cost; none if it was not rewritten.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rewrite: Option<SmallModelCost>,
    /// What ordering the chunks by the small model cost; none if it was not asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rerank: Option<SmallModelCost>,
}

impl RetrievalRecord {
    /// Returns what the small model cost.
    pub fn costs(&self) -> impl Iterator<Item = &SmallModelCost> {
        self.rewrite.iter().chain(&self.rerank)
    }
}

/// How earlier messages of the conversation were searched. Holds no content.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RecallRecord {
    /// Whether the search had a result.
    pub status: RecallStatus,
    /// Whether vectors took part; if not, words alone decided.
    pub is_semantic: bool,
    /// The steps that ran, with their times.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<RetrievalTime>,
}

/// Whether a search for earlier messages had a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RecallStatus {
    /// It had; perhaps nothing was found.
    Completed,
    /// Only the older messages were searched: the log was still being read.
    Partial,
    /// It failed or took too long: the turn ran without earlier messages.
    Unavailable,
}

/// Whether a search had a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RetrievalStatus {
    /// It had; perhaps nothing was found.
    Completed,
    /// It failed or took too long: the turn ran without documents.
    Unavailable,
}

/// The time of one step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetrievalTime {
    /// The step.
    pub step: RetrievalStep,
    /// Milliseconds.
    pub ms: u64,
}

/// What the small model used.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SmallModelCost {
    /// The model that answered.
    pub model: String,
    /// Its usage.
    pub usage: Usage,
}

/// A step of a retrieval.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RetrievalStep {
    /// A small model rewrites a question that needs the conversation to be understood.
    Rewrite,
    /// The question becomes a vector.
    Embed,
    /// The index is searched.
    Search,
    /// A model orders again what was found.
    Rerank,
    /// The chunks are read, or the messages of the log.
    Read,
}

impl RetrievalStep {
    /// Returns the name, as it is serialised.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rewrite => "rewrite",
            Self::Embed => "embed",
            Self::Search => "search",
            Self::Rerank => "rerank",
            Self::Read => "read",
        }
    }
}

fn one() -> u64 {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_one(count: &u64) -> bool {
    *count == 1
}

fn is_default<R: Default + PartialEq>(reason: &R) -> bool {
    *reason == R::default()
}

impl<R: Default + PartialEq> ContextItem<R> {
    /// Returns one part of a kind.
    pub fn new(kind: ItemKind, tokens: u64, reason: R) -> Self {
        Self {
            kind,
            id: None,
            from_seq: None,
            upto_seq: None,
            count: 1,
            tokens,
            score: None,
            reason,
        }
    }
}

impl ContextRecord {
    /// Maximum number of facts and chunks that one list names; those beyond are counted in one item per kind and reason.
    pub const MAX_LISTED: usize = 32;
    /// Maximum number of earlier messages that one list names, and that a prompt contains: each can be read in the log.
    pub const MAX_RECALLED: usize = 128;
    /// Maximum length of an id, in bytes.
    const MAX_ID: usize = 128;

    /// Adds a part to what was included.
    pub fn include(&mut self, item: ContextItem<Included>) {
        push(&mut self.included, item);
    }

    /// Adds a part to what was left out.
    pub fn omit(&mut self, item: ContextItem<Omitted>) {
        push(&mut self.omitted, item);
    }

    /// Returns roughly the bytes of the record as JSON.
    pub fn weight(&self) -> usize {
        const ITEM: usize = 96;
        let ids = |id: &Option<String>| id.as_ref().map_or(0, String::len) + ITEM;
        let included: usize = self.included.iter().map(|item| ids(&item.id)).sum();
        let recall = self.recall.as_ref().map_or(0, |_| ITEM);
        recall + included + self.omitted.iter().map(|item| ids(&item.id)).sum::<usize>()
    }
}

/// Adds an item; a named one beyond the limit is merged into the item for the rest of its kind and reason.
fn push<R: Default + PartialEq>(items: &mut Vec<ContextItem<R>>, mut item: ContextItem<R>) {
    // JSON has no other numbers: anything else would be written as null.
    item.score = item.score.filter(|score| score.is_finite());
    let Some(id) = &mut item.id else {
        items.push(item);
        return;
    };
    id.truncate(id.floor_char_boundary(ContextRecord::MAX_ID));
    let is_message = |kind| kind == ItemKind::Message;
    let alike = |other: &&ContextItem<R>| other.id.is_some() && is_message(other.kind) == is_message(item.kind);
    let most = if is_message(item.kind) {
        ContextRecord::MAX_RECALLED
    } else {
        ContextRecord::MAX_LISTED
    };
    if items.iter().filter(alike).count() < most {
        items.push(item);
        return;
    }
    let is_rest =
        |other: &&mut ContextItem<R>| other.id.is_none() && other.kind == item.kind && other.reason == item.reason;
    match items.iter_mut().find(is_rest) {
        Some(rest) => {
            rest.count += item.count;
            rest.tokens = rest.tokens.saturating_add(item.tokens);
        }
        None => items.push(ContextItem {
            id: None,
            score: None,
            ..item
        }),
    }
}
