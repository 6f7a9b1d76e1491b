//! The model's view of a conversation: a rolling summary, then a window of verbatim messages.
//!
//! The full history stays in the log; this is a view of its end. The window holds one block per turn, and only whole
//! blocks leave it, so a tool call is never separated from its result.
//! Invariant: between two compressions the window only grows at its end, and so does the prompt (byte-stable prefix, for
//! provider caches), unless a budget leaves older turns of the window out (`recent`).

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, OnceLock};

use serde_json::Value;

use super::project::READ_AS_DATA;
use super::tokens;
use crate::domain::content::{Finish, Input, ToolCall, ToolStatus};
use crate::domain::event::{Event, Record};
use crate::domain::ids::{CallId, Seq, TurnId};
use crate::domain::weight;

/// Calls of replaced turns of which a prompt says more than that they were made.
const MAX_DONE: usize = 64;
/// Bytes of the arguments, and of the result, that it says of each: enough not to repeat the call.
const MAX_DONE_BYTES: usize = 1024;

/// The window and the summary of what came before it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Memory {
    /// Replaces everything up to its `upto_seq`.
    pub summary: Option<Summary>,
    /// Takes effect when the next turn starts, so that a running turn's prompt does not change.
    pub pending: Option<Summary>,
    /// The turns after the summary, oldest first. The last one may be running.
    pub blocks: VecDeque<Block>,
    /// Prompts of turns that have not started.
    queued: BTreeMap<TurnId, QueuedPrompt>,
}

/// The prompt of a turn that has not started.
#[derive(Debug, Clone, PartialEq)]
struct QueuedPrompt {
    seq: Seq,
    input: Arc<Input>,
    nonce: Option<Arc<str>>,
    /// What the turn that it replaces had done.
    carried: Option<Carried>,
}

/// What a replaced turn had done, and the turns that it had replaced itself.
#[derive(Debug, Clone, PartialEq)]
struct Carried {
    /// The first record that says so.
    from_seq: Seq,
    done: DoneCalls,
}

/// Tool calls of replaced turns that took effect, or may have.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct DoneCalls {
    /// The newest 64, oldest first.
    pub calls: Vec<DoneCall>,
    /// Number of older ones.
    pub older: u64,
}

/// A tool call of a replaced turn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DoneCall {
    /// The name of the tool.
    pub name: String,
    /// Succeeded or unknown.
    pub status: ToolStatus,
    /// The arguments as JSON; the beginning of long ones.
    pub arguments: String,
    /// The result as JSON, or the error; the beginning of a long one.
    pub outcome: String,
}

/// A summary of the older part.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Summary {
    /// The last record that the summary replaces.
    pub upto_seq: Seq,
    /// The text of the summary.
    pub text: String,
}

/// The part of the prompt that one turn contributes.
#[derive(Debug, Clone, PartialEq)]
pub struct Block {
    /// The id of the turn.
    pub turn: TurnId,
    /// Sequence number of the record with the prompt.
    pub queued_seq: Seq,
    /// The first record that its entries are made from: that of a replaced turn of which it says what was done.
    pub from_seq: Seq,
    /// Sequence number of the record that ended the turn; none while it runs.
    pub end_seq: Option<Seq>,
    /// The messages of the turn.
    pub entries: Vec<Arc<Entry>>,
    /// The random part of the delimiters around the turn's tool results; none for turns of older records.
    pub nonce: Option<Arc<str>>,
    /// Arguments that a person changed, for calls without a result so far.
    edited: Vec<(CallId, Value)>,
}

/// One message of the window.
#[derive(Debug)]
pub struct Entry {
    /// The message, by role.
    pub content: EntryContent,
    tokens: OnceLock<u64>,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.content == other.content
    }
}

/// A message of the window, by role.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "the variants are the roles of a prompt")]
pub enum EntryContent {
    User {
        input: Arc<Input>,
    },
    Assistant {
        text: String,
        calls: Vec<ToolCall>,
    },
    Tool {
        call: CallId,
        name: String,
        status: ToolStatus,
        result: Option<Value>,
        error: Option<String>,
        /// Arguments with which a person replaced the model's; the model's own message keeps its original ones for
        /// ever.
        edited: Option<Value>,
        /// The random part of the delimiters around the result.
        nonce: Option<Arc<str>>,
    },
    /// What replaced turns had done. It stands before the prompt, and an answer to it between the two.
    Done {
        calls: DoneCalls,
        nonce: Option<Arc<str>>,
    },
    /// The validator's error about the answer before it.
    Correction {
        error: String,
    },
    /// Stands in for a missing answer, so that roles alternate.
    Note {
        text: &'static str,
    },
}

impl Entry {
    fn new(content: EntryContent) -> Arc<Self> {
        Arc::new(Self {
            content,
            tokens: OnceLock::new(),
        })
    }

    /// Returns the tokens of this message in a prompt; counted once.
    pub fn tokens(&self) -> u64 {
        *self.tokens.get_or_init(|| {
            super::project::text_of(&self.content).map_or(0, |text| tokens::count(&text)) + tokens::PER_MESSAGE
        })
    }

    /// Returns an upper bound of [`Entry::tokens`] without counting: a token has at least one byte.
    pub fn tokens_at_most(&self) -> u64 {
        let bytes = || (self.bytes_written_at_most() as u64).saturating_add(tokens::PER_MESSAGE);
        self.tokens.get().copied().unwrap_or_else(bytes)
    }

    /// Returns an upper bound of the message's bytes as the model reads it: JSON in it is escaped, and tool results are
    /// delimited.
    fn bytes_written_at_most(&self) -> usize {
        /// An escape such as `\u0001` for one byte; delimiting a tool's text does not make it longer.
        const ESCAPED: usize = 8;
        /// The text around the message.
        const FRAME: usize = 1024;
        match &self.content {
            EntryContent::User { .. } => self.bytes(),
            EntryContent::Assistant { calls, .. } if calls.is_empty() => self.bytes(),
            EntryContent::Correction { .. } | EntryContent::Note { .. } => self.bytes() + FRAME,
            EntryContent::Assistant { .. } | EntryContent::Tool { .. } => self.bytes() * ESCAPED + FRAME,
            EntryContent::Done { calls, .. } => self.bytes() * ESCAPED + (calls.calls.len() + 1) * FRAME,
        }
    }

    /// Returns roughly how many bytes counting would have to scan; 0 once counted.
    pub fn uncounted_bytes(&self) -> usize {
        if self.tokens.get().is_some() { 0 } else { self.bytes() }
    }

    /// Returns the approximate size of the content in bytes, without serialising it.
    pub fn bytes(&self) -> usize {
        let json = |value: &Option<Value>| value.as_ref().map_or(0, weight::of);
        match &self.content {
            EntryContent::User { input } => {
                let between = match input.as_ref() {
                    Input::Text(_) => 0,
                    Input::Parts(parts) => 2 * parts.len(),
                };
                input.bytes() + between
            }
            EntryContent::Assistant { text, calls } => {
                let calls = calls.iter().map(|call| call.name.len() + weight::of(&call.arguments));
                text.len() + calls.sum::<usize>()
            }
            EntryContent::Tool {
                result, error, edited, ..
            } => json(result) + error.as_ref().map_or(0, String::len) + json(edited),
            EntryContent::Done { calls, .. } => calls.calls.iter().map(DoneCall::bytes).sum(),
            EntryContent::Correction { error } => error.len(),
            EntryContent::Note { text } => text.len(),
        }
    }
}

impl Block {
    /// Returns the tokens of the whole block.
    pub fn tokens(&self) -> u64 {
        self.entries.iter().map(|entry| entry.tokens()).sum()
    }

    /// Returns what the turn has done so far, after what it says of the turns that it replaced; none if nothing.
    fn done(&self) -> Option<DoneCalls> {
        let mut done = DoneCalls::default();
        for entry in &self.entries {
            match &entry.content {
                EntryContent::Done { calls, .. } => done = calls.clone(),
                EntryContent::Tool {
                    call,
                    name,
                    status: status @ (ToolStatus::Succeeded | ToolStatus::Unknown),
                    result,
                    error,
                    edited,
                    ..
                } => {
                    let arguments = edited.as_ref().or_else(|| Some(&self.call(*call)?.arguments));
                    done.calls.push(DoneCall {
                        name: name.clone(),
                        status: *status,
                        arguments: arguments.map(|value| beginning(value.to_string())).unwrap_or_default(),
                        outcome: match (result, error) {
                            (Some(result), _) => beginning(result.to_string()),
                            (None, Some(error)) => beginning(error.clone()),
                            (None, None) => String::new(),
                        },
                    });
                }
                _ => {}
            }
        }
        let excess = done.calls.len().saturating_sub(MAX_DONE);
        done.calls.drain(..excess);
        done.older += excess as u64;
        (!done.calls.is_empty()).then_some(done)
    }

    fn call(&self, id: CallId) -> Option<&ToolCall> {
        self.entries.iter().rev().find_map(|entry| match &entry.content {
            EntryContent::Assistant { calls, .. } => calls.iter().find(|call| call.id == id),
            _ => None,
        })
    }
}

impl DoneCall {
    fn bytes(&self) -> usize {
        self.name.len() + self.arguments.len() + self.outcome.len()
    }
}

fn beginning(mut text: String) -> String {
    if text.len() > MAX_DONE_BYTES {
        text.truncate(text.floor_char_boundary(MAX_DONE_BYTES));
        text.push('\u{2026}');
    }
    text
}

impl Carried {
    /// Returns the entries that say what was done.
    fn entries(self, nonce: Option<&Arc<str>>) -> [Arc<Entry>; 2] {
        let content = EntryContent::Done {
            calls: self.done,
            nonce: nonce.cloned(),
        };
        [
            Entry::new(content),
            Entry::new(EntryContent::Note { text: READ_AS_DATA }),
        ]
    }
}

impl Memory {
    /// Creates a memory whose window is yet to be read from the log, with [`Memory::apply_window`].
    pub fn from_summaries(summary: Option<Summary>, pending: Option<Summary>) -> Self {
        Self {
            summary,
            pending,
            ..Self::default()
        }
    }

    /// Applies one record.
    pub fn apply(&mut self, record: &Record) {
        match &record.event {
            Event::MemoryCompressed { upto_seq, summary, .. } => {
                self.pending = Some(Summary {
                    upto_seq: *upto_seq,
                    text: summary.clone(),
                });
                if self.blocks.back().is_none_or(|block| block.end_seq.is_some()) {
                    self.adopt();
                }
            }
            Event::ConversationErased { .. } => *self = Self::default(),
            Event::TurnStarted { attempt: 1, .. } => {
                self.adopt();
                self.apply_window(record);
            }
            _ => self.apply_window(record),
        }
    }

    /// Applies one record to the window only; the summaries are already known (from a snapshot).
    pub fn apply_window(&mut self, record: &Record) {
        let Some(turn) = record.turn else { return };
        match &record.event {
            Event::TurnQueued {
                input, nonce, replaces, ..
            } => {
                let queued = QueuedPrompt {
                    seq: record.seq,
                    input: Arc::new(input.clone()),
                    nonce: nonce.as_deref().map(Arc::from),
                    carried: replaces.and_then(|replaced| self.remove(replaced)),
                };
                self.queued.insert(turn, queued);
            }
            Event::TurnStarted { attempt: 1, .. } => {
                let Some(queued) = self.queued.remove(&turn) else {
                    return;
                };
                if self.is_covered(record.seq) {
                    return;
                }
                let QueuedPrompt {
                    seq,
                    input,
                    nonce,
                    carried,
                } = queued;
                let from_seq = carried.as_ref().map_or(seq, |carried| carried.from_seq);
                let done = carried.into_iter().flat_map(|carried| carried.entries(nonce.as_ref()));
                let mut entries: Vec<Arc<Entry>> = done.collect();
                entries.push(Entry::new(EntryContent::User { input }));
                self.blocks.push_back(Block {
                    turn,
                    queued_seq: seq,
                    from_seq,
                    end_seq: None,
                    entries,
                    nonce,
                    edited: Vec::new(),
                });
            }
            Event::MessageCompleted {
                text,
                tool_calls,
                finish,
                ..
            } => {
                let calls = if *finish == Finish::Cancelled {
                    Vec::new()
                } else {
                    tool_calls.clone()
                };
                self.add(
                    turn,
                    EntryContent::Assistant {
                        text: text.clone(),
                        calls,
                    },
                );
            }
            Event::OutputRejected { text, error, .. } => {
                self.add(
                    turn,
                    EntryContent::Assistant {
                        text: text.clone(),
                        calls: Vec::new(),
                    },
                );
                self.add(turn, EntryContent::Correction { error: error.clone() });
            }
            Event::ApprovalDecided {
                call_id,
                arguments: Some(arguments),
                ..
            } => {
                let changed = self
                    .call(turn, *call_id)
                    .is_some_and(|call| call.arguments != *arguments);
                if let Some(block) = self.block(turn).filter(|_| changed) {
                    block.edited.push((*call_id, arguments.clone()));
                }
            }
            Event::ToolFinished {
                call_id,
                status,
                result,
                error,
                ..
            } => {
                let name = self
                    .call(turn, *call_id)
                    .map(|call| call.name.clone())
                    .unwrap_or_default();
                let edited = self.block(turn).and_then(|block| {
                    let place = block.edited.iter().position(|(call, _)| call == call_id)?;
                    Some(block.edited.swap_remove(place).1)
                });
                let (result, error) = (result.clone(), error.clone());
                let nonce = self.block(turn).and_then(|block| block.nonce.clone());
                self.add(
                    turn,
                    EntryContent::Tool {
                        call: *call_id,
                        name,
                        status: *status,
                        result,
                        error,
                        edited,
                        nonce,
                    },
                );
            }
            Event::TurnCompleted { .. } => self.end(turn, record.seq, "(no answer)"),
            Event::TurnFailed { .. } => self.end(turn, record.seq, "(this request failed before it was answered)"),
            Event::TurnCancelled { .. } => self.end(turn, record.seq, "(this request was cancelled)"),
            _ => {}
        }
    }

    /// Returns the first record that the window needs; `None` if it needs none.
    pub fn window_from(&self) -> Option<Seq> {
        let first = |queued: &QueuedPrompt| queued.carried.as_ref().map_or(queued.seq, |carried| carried.from_seq);
        let queued = self.queued.values().map(first);
        self.blocks.iter().map(|block| block.from_seq).chain(queued).min()
    }

    /// Returns the tokens of summary and window together.
    pub fn tokens(&self) -> u64 {
        let summary = self
            .pending
            .as_ref()
            .or(self.summary.as_ref())
            .map_or(0, |summary| tokens::count(&summary.text));
        summary + self.blocks.iter().map(Block::tokens).sum::<u64>()
    }

    /// Returns an upper bound of [`Memory::tokens`] without counting.
    pub fn tokens_at_most(&self) -> u64 {
        let current = self.pending.as_ref().or(self.summary.as_ref());
        let summary = current.map_or(0, |summary| summary.text.len() as u64);
        let entries = self.blocks.iter().flat_map(|block| &block.entries);
        summary + entries.map(|entry| entry.tokens_at_most()).sum::<u64>()
    }

    /// Returns the memory as the next turn will see it, if a summary is pending: for a prompt that does not fit
    /// otherwise.
    pub fn with_pending(&self) -> Option<Self> {
        self.pending.as_ref()?;
        let mut memory = self.clone();
        memory.adopt();
        Some(memory)
    }

    /// Puts a pending summary into effect.
    fn adopt(&mut self) {
        let Some(summary) = self.pending.take() else { return };
        self.blocks
            .retain(|block| block.end_seq.is_none_or(|end| end > summary.upto_seq));
        self.summary = Some(summary);
    }

    fn block(&mut self, turn: TurnId) -> Option<&mut Block> {
        self.blocks
            .back_mut()
            .filter(|block| block.turn == turn && block.end_seq.is_none())
    }

    fn add(&mut self, turn: TurnId, content: EntryContent) {
        if let Some(block) = self.block(turn) {
            block.entries.push(Entry::new(content));
        }
    }

    /// Finds a call of the running turn.
    fn call(&self, turn: TurnId, id: CallId) -> Option<&ToolCall> {
        self.blocks.back().filter(|block| block.turn == turn)?.call(id)
    }

    /// Returns whether the summary replaces a record.
    fn is_covered(&self, seq: Seq) -> bool {
        self.summary.as_ref().is_some_and(|summary| seq <= summary.upto_seq)
    }

    /// Removes a replaced turn, which is the last one, and returns what it had done.
    fn remove(&mut self, replaced: TurnId) -> Option<Carried> {
        let block = self.blocks.pop_back_if(|block| block.turn == replaced)?;
        Some(Carried {
            from_seq: block.from_seq,
            done: block.done()?,
        })
    }

    fn end(&mut self, turn: TurnId, seq: Seq, note: &'static str) {
        if let Some(QueuedPrompt {
            seq: queued_seq,
            nonce,
            carried: Some(carried),
            ..
        }) = self.queued.remove(&turn)
            && !self.is_covered(seq)
        {
            // It never started; what the turn before it had done is done all the same.
            self.blocks.push_back(Block {
                turn,
                queued_seq,
                from_seq: carried.from_seq,
                end_seq: Some(seq),
                entries: carried.entries(nonce.as_ref()).into(),
                nonce,
                edited: Vec::new(),
            });
            return;
        }
        let Some(block) = self.block(turn) else { return };
        block.end_seq = Some(seq);
        let answered = block
            .entries
            .last()
            .is_some_and(|entry| matches!(&entry.content, EntryContent::Assistant { calls, .. } if calls.is_empty()));
        if !answered {
            block.entries.push(Entry::new(EntryContent::Note { text: note }));
        }
    }
}
