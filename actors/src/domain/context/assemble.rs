//! Decides what of the gathered parts a prompt contains. Pure and cheap: the tokens have been counted.
//!
//! Invariants, checked by `tests/domain/assemble.rs`: the same input gives the same prompt, to the byte; no prompt has
//! more tokens than its budget; what is included and what is omitted add up to what was gathered. The parts that change
//! least come first, so that a provider can reuse its cache of the prompt's beginning.

use std::cmp::Reverse;
use std::sync::Arc;

use super::gathered::{Gathered, MemoryView, Passage, PassageKind};
use super::memory::Block;
use super::project::{READ_AS_DATA, push_block};
use super::prompt::PromptMessage;
use super::recalled;
use super::recent::Recent;
use super::sent;
use crate::domain::context_record::{ContextItem, ContextRecord, Included, ItemKind, Omitted};
use crate::domain::file::{FILE_NOTICE_TOKENS, PromptFile};
use crate::domain::ids::Seq;
use crate::domain::policy::MemoryPolicy;
use crate::domain::sent_prompt::{Fixed, FixedPrompt, SentPassage, SentPrompt};

/// How many tokens the messages of a prompt may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// Context size of the model.
    pub context_tokens: u64,
    /// Tokens of it that the messages must leave free, for the answer or for what is sent beside the messages.
    pub reserved_tokens: u64,
    /// Tokens that the optional parts leave free besides, for the answer.
    pub answer_tokens: u64,
    /// The most that retrieved chunks have.
    pub retrieved_tokens: u64,
    /// The most that summary, earlier turns and recalled messages have together; none if the whole window is sent.
    pub conversation_tokens: Option<u64>,
    /// The most that recalled messages have in that case.
    pub recalled_tokens: u64,
    /// The most that facts about the user have.
    pub fact_tokens: u64,
}

/// A prompt and what it was made of.
#[derive(Debug, Clone, PartialEq)]
pub struct Assembled {
    /// The messages of the prompt.
    pub messages: Vec<PromptMessage>,
    /// Their tokens.
    pub tokens: u64,
    /// The last record that the summary in the prompt covers.
    pub summary_upto_seq: Option<Seq>,
    /// What went in, what was left out, and why.
    pub record: ContextRecord,
    /// System message and tools.
    pub fixed: Arc<FixedPrompt>,
    /// What is kept of it, with the texts of all its passages.
    pub sent: SentPrompt,
}

/// The parts that every prompt contains exceed the budget by themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("prompt has {tokens} tokens; the model accepts {available}")]
pub struct TooLarge {
    /// Tokens of the required parts.
    pub tokens: u64,
    /// Tokens that the messages may have.
    pub available: u64,
}

impl Budget {
    /// Returns the budget of a copilot's prompts. The compression keeps the window well below the model's context, which
    /// leaves room for the answer.
    pub fn of(policy: &MemoryPolicy) -> Self {
        Self {
            context_tokens: policy.context_tokens,
            reserved_tokens: 0,
            answer_tokens: policy.answer_tokens,
            retrieved_tokens: policy.retrieved_tokens,
            conversation_tokens: policy.conversation_tokens,
            recalled_tokens: policy.recalled_tokens,
            fact_tokens: policy.fact_tokens,
        }
    }

    fn recent(self, view: &MemoryView) -> Recent {
        Recent::of(view, self.conversation_tokens, self.recalled_tokens)
    }

    /// Returns the most tokens that attached files have: half of the context, so that they never crowd out the answer.
    fn file_tokens(self) -> u64 {
        self.context_tokens / 2
    }

    /// Returns the number of tokens that the messages may have.
    pub fn available(self) -> u64 {
        self.context_tokens.saturating_sub(self.reserved_tokens)
    }
}

/// Assembles the prompt for the turn at the end of the window. If it is too long with the current summary, the pending
/// one is used now instead of at the next turn.
pub fn assemble(gathered: &Gathered, budget: Budget) -> Result<Assembled, TooLarge> {
    let available = budget.available();
    let measured = |view| {
        let recent = budget.recent(view);
        (view, recent, required(view, recent))
    };
    let current = measured(&gathered.current);
    let compressed = gathered.compressed.as_ref();
    let compressed = compressed.filter(|_| gathered.needs_summary || current.2 > available);
    let (view, recent, required) = compressed.map_or(current, measured);
    if required > available {
        return Err(TooLarge {
            tokens: required,
            available,
        });
    }
    let (chosen, tokens) = choose(gathered, required, recent, budget);
    let messages = Written::of(gathered, view, recent, &chosen).messages();
    Ok(Assembled {
        fixed: Arc::clone(&view.fixed),
        sent: sent(gathered, view, &chosen, &messages),
        messages,
        tokens,
        summary_upto_seq: view
            .summary
            .as_ref()
            .filter(|_| recent.has_summary)
            .map(|summary| summary.upto_seq),
        record: record(gathered, compressed, recent, &chosen),
    })
}

/// Returns the tokens of what every prompt with this view contains.
fn required(view: &MemoryView, recent: Recent) -> u64 {
    let summary = view.summary.as_ref().filter(|_| recent.has_summary);
    let blocks = view.blocks.iter().skip(recent.first);
    view.system_tokens + summary.map_or(0, |summary| summary.tokens) + blocks.map(Block::tokens).sum::<u64>()
}

/// Chooses the passages that fit, the most important first; returns for each whether it was chosen, and the tokens of
/// the whole prompt. A passage that does not fit leaves its place to smaller ones.
fn choose(gathered: &Gathered, required: u64, recent: Recent, budget: Budget) -> (Vec<bool>, u64) {
    let available = budget.available().saturating_sub(budget.answer_tokens);
    let (mut of_chunks, mut of_messages, mut of_facts, mut of_files) = (0_u64, 0_u64, 0_u64, 0_u64);
    let passages = &gathered.passages;
    let mut order: Vec<usize> = (0..passages.len()).collect();
    // Stable: passages of the same priority stay in the order in which they were gathered.
    order.sort_by_key(|index| Reverse(passages[*index].priority));
    let (mut chosen, mut tokens) = (vec![false; passages.len()], required);
    let mut framed: Vec<PassageKind> = Vec::new();
    for index in order {
        let passage = &passages[index];
        let is_first = !framed.contains(&passage.kind);
        let frame = match passage.kind {
            _ if !is_first => 0,
            PassageKind::Recalled => gathered.recalled_frame_tokens,
            PassageKind::Fact | PassageKind::Chunk => gathered.frame_tokens,
            PassageKind::File => gathered.frame_tokens + FILE_NOTICE_TOKENS,
        };
        let more = passage.tokens.saturating_add(frame);
        let total = tokens.saturating_add(more);
        let (sum, most) = match passage.kind {
            PassageKind::Chunk => (&mut of_chunks, budget.retrieved_tokens),
            PassageKind::Recalled => (&mut of_messages, recent.left),
            PassageKind::Fact => (&mut of_facts, budget.fact_tokens),
            PassageKind::File => (&mut of_files, budget.file_tokens()),
        };
        if total > available || sum.saturating_add(more) > most {
            continue;
        }
        *sum += more;
        if is_first {
            framed.push(passage.kind);
        }
        (chosen[index], tokens) = (true, total);
    }
    (chosen, tokens)
}

/// The parts of a prompt, ready to be written.
pub(super) struct Written<'a> {
    /// The system message.
    pub system: &'a str,
    /// The summary, delimited as data.
    pub summary: Option<&'a str>,
    /// Texts of the facts.
    pub facts: Vec<&'a str>,
    /// Lines of the recalled messages.
    pub recalled: Vec<&'a str>,
    /// Texts of the retrieved chunks.
    pub chunks: Vec<&'a str>,
    /// The attached files.
    pub files: Vec<&'a PromptFile>,
    /// The turns, oldest first.
    pub blocks: Vec<&'a Block>,
}

impl<'a> Written<'a> {
    fn of(gathered: &'a Gathered, view: &'a MemoryView, recent: Recent, chosen: &[bool]) -> Self {
        let texts = |kind| {
            let chosen = included(gathered, chosen).filter(|passage| passage.kind == kind);
            chosen.map(|passage| passage.text.as_str()).collect()
        };
        Self {
            system: &view.fixed.system,
            summary: view
                .summary
                .as_ref()
                .filter(|_| recent.has_summary)
                .map(|summary| summary.text.as_str()),
            facts: texts(PassageKind::Fact),
            recalled: texts(PassageKind::Recalled),
            chunks: texts(PassageKind::Chunk),
            files: included(gathered, chosen)
                .filter_map(|passage| passage.file.as_ref())
                .collect(),
            blocks: view.blocks.iter().skip(recent.first).collect(),
        }
    }

    /// Writes them.
    pub(super) fn messages(&self) -> Vec<PromptMessage> {
        let mut messages = vec![PromptMessage::System {
            text: self.system.to_owned(),
        }];
        if let Some(summary) = self.summary {
            push_data(&mut messages, summary.to_owned());
        }
        push_passages(&mut messages, &self.facts);
        let (ended, running) = split(self.blocks.iter().copied());
        ended.into_iter().for_each(|block| push_block(&mut messages, block));
        let nonce = self.blocks.last().and_then(|block| block.nonce.as_deref());
        push_recalled(&mut messages, &self.recalled, nonce);
        push_passages(&mut messages, &self.chunks);
        push_files(&mut messages, &self.files);
        running.into_iter().for_each(|block| push_block(&mut messages, block));
        messages
    }
}

fn included<'a>(gathered: &'a Gathered, chosen: &[bool]) -> impl Iterator<Item = &'a Passage> {
    let passages = gathered.passages.iter().zip(chosen);
    passages.filter(|(_, chosen)| **chosen).map(|(passage, _)| passage)
}

/// Returns what is kept of a prompt.
fn sent(gathered: &Gathered, view: &MemoryView, chosen: &[bool], messages: &[PromptMessage]) -> SentPrompt {
    let passage = |passage: &Passage| SentPassage {
        kind: passage.kind.item(),
        id: passage.id.clone(),
        text: match passage.kind {
            PassageKind::Chunk => Some(passage.text.clone()),
            // A fact was learned in another conversation perhaps, whose erasure must find no copy of it here. The log has the
            // messages.
            // A file is erased when somebody deletes it, whatever became of the conversation.
            PassageKind::Fact | PassageKind::Recalled | PassageKind::File => None,
        },
        file: passage.file.as_ref().map(PromptFile::reference),
    };
    SentPrompt {
        hash: sent::hash(messages, &view.fixed),
        fixed: Fixed::Parts(Arc::clone(&view.fixed)),
        passages: included(gathered, chosen).map(passage).collect(),
    }
}

/// Splits the window into the turns that have ended and the one that is running.
fn split<'a>(blocks: impl Iterator<Item = &'a Block>) -> (Vec<&'a Block>, Vec<&'a Block>) {
    blocks.partition(|block| block.end_seq.is_some())
}

/// Adds a message with data and the assistant's reply to it, because providers require alternating roles.
fn push_data(messages: &mut Vec<PromptMessage>, text: String) {
    messages.push(PromptMessage::User { text });
    messages.push(read_as_data());
}

/// Adds the recalled messages, all between one pair of delimiters: one around each would cost more than most messages.
fn push_recalled(messages: &mut Vec<PromptMessage>, lines: &[&str], nonce: Option<&str>) {
    if !lines.is_empty() {
        push_data(messages, recalled::delimited(nonce, lines));
    }
}

/// Adds the attached files, all in one message.
fn push_files(messages: &mut Vec<PromptMessage>, files: &[&PromptFile]) {
    if !files.is_empty() {
        let files = files.iter().copied().cloned().collect();
        messages.push(PromptMessage::Files { files });
        messages.push(read_as_data());
    }
}

fn read_as_data() -> PromptMessage {
    PromptMessage::Assistant {
        text: READ_AS_DATA.to_owned(),
        calls: Vec::new(),
    }
}

fn push_passages(messages: &mut Vec<PromptMessage>, texts: &[&str]) {
    if !texts.is_empty() {
        push_data(messages, texts.join("\n"));
    }
}

/// Records what the prompt contains and what not. `compressed` is the view with the pending summary, if it is used.
fn record(gathered: &Gathered, compressed: Option<&MemoryView>, recent: Recent, chosen: &[bool]) -> ContextRecord {
    let view = compressed.unwrap_or(&gathered.current);
    let mut record = ContextRecord::default();
    let required = |kind, tokens| ContextItem::new(kind, tokens, Included::Required);
    record.include(required(ItemKind::Instructions, view.system_tokens));
    if gathered.tools > 0 {
        let count = gathered.tools;
        let tools = required(ItemKind::Tool, gathered.tool_tokens);
        record.include(ContextItem { count, ..tools });
    }
    if let Some(tokens) = gathered.response_schema_tokens {
        record.include(required(ItemKind::ResponseSchema, tokens));
    }
    if let Some(item) = summary(view, Included::Required).filter(|_| recent.has_summary) {
        record.include(item);
    }
    let passages = |kind| (gathered.passages.iter().zip(chosen)).filter(move |(passage, _)| passage.kind == kind);
    let included = |record: &mut ContextRecord, kind| {
        for (passage, _) in passages(kind).filter(|(_, chosen)| **chosen) {
            record.include(named(passage, passage.reason));
        }
    };
    included(&mut record, PassageKind::Fact);
    let (ended, running) = split(view.blocks.iter().skip(recent.first));
    for blocks in [ended, running] {
        let window = window(blocks.into_iter(), Included::Required);
        window.into_iter().for_each(|item| record.include(item));
    }
    included(&mut record, PassageKind::Recalled);
    included(&mut record, PassageKind::Chunk);
    included(&mut record, PassageKind::File);
    if !recent.has_summary {
        record.omitted.extend(summary(view, Omitted::Budget));
    }
    let left_out = view.blocks.iter().take(recent.first);
    record.omitted.extend(window(left_out, Omitted::Budget));
    match (compressed, &gathered.compressed) {
        (Some(compressed), _) => omit_compressed(&mut record, &gathered.current, compressed),
        (None, Some(pending)) => record.omitted.extend(summary(pending, Omitted::Pending)),
        (None, None) => {}
    }
    for (passage, _) in gathered.passages.iter().zip(chosen).filter(|(_, chosen)| !**chosen) {
        record.omit(named(passage, Omitted::Budget));
    }
    record
}

/// Records what the summary in `compressed` stands for.
fn omit_compressed(record: &mut ContextRecord, current: &MemoryView, compressed: &MemoryView) {
    record.omitted.extend(summary(current, Omitted::Compressed));
    // Whole turns leave the window, oldest first.
    let left = current.blocks.len().saturating_sub(compressed.blocks.len());
    let left = current.blocks.iter().take(left);
    record.omitted.extend(window(left, Omitted::Compressed));
}

fn summary<R: Default + PartialEq>(view: &MemoryView, reason: R) -> Option<ContextItem<R>> {
    let summary = view.summary.as_ref()?;
    Some(ContextItem {
        upto_seq: Some(summary.upto_seq),
        ..ContextItem::new(ItemKind::Summary, summary.tokens, reason)
    })
}

/// Returns one item for the messages of successive turns; none if there are none.
fn window<'a, R: Default + PartialEq>(blocks: impl Iterator<Item = &'a Block>, reason: R) -> Option<ContextItem<R>> {
    let mut item = ContextItem::new(ItemKind::Message, 0, reason);
    item.count = 0;
    for block in blocks {
        // A turn may have been queued before one that was started earlier.
        let first = item.from_seq.map_or(block.from_seq, |first| first.min(block.from_seq));
        item.from_seq = Some(first);
        item.upto_seq = block.end_seq;
        item.count += block.entries.len() as u64;
        item.tokens += block.tokens();
    }
    (item.count > 0).then_some(item)
}

fn named<R: Default + PartialEq>(passage: &Passage, reason: R) -> ContextItem<R> {
    ContextItem {
        id: Some(passage.id.clone()),
        score: passage.score,
        ..ContextItem::new(passage.kind.item(), passage.tokens, reason)
    }
}
