//! A cache of a conversation's state, so that activating a conversation does not read its whole log.
//!
//! Invariant: a snapshot completed from the log equals the full fold. A snapshot contains no text of a turn: the window
//! and the prompts of open turns are read from the log again, starting at the record that [`decode`] returns. Only the
//! summaries are stored, because the log does not say which of them is in effect.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::turn::Turn;
use super::{Conversation, DecisionState, IdempotencyKeys};
use crate::domain::content::Input;
use crate::domain::context::memory::{Memory, Summary};
use crate::domain::event::{Event, Record};
use crate::domain::ids::{ConversationId, Seq};
use crate::domain::weight as json;

/// The version of the encoding. A snapshot of another version is ignored: increase it with every change of a type
/// below.
pub const VERSION: u32 = 8;

#[derive(Deserialize)]
struct SnapshotVersion {
    version: u32,
}

#[derive(Serialize, Deserialize)]
struct Snapshot {
    version: u32,
    /// The first record that has to be read again.
    read_from: Seq,
    book: Option<DecisionState>,
    keys: IdempotencyKeys,
    summary: Option<Summary>,
    pending: Option<Summary>,
}

/// Returns the cost of [`encode`], in the unit of [`compute`](crate::compute).
pub fn weight(conversation: &Conversation) -> usize {
    let turns = conversation.book.iter().flat_map(|book| &book.turns);
    let calls = turns.flat_map(Turn::calls).map(|call| json::of(&call.arguments));
    let memory = &conversation.memory;
    let summaries = memory
        .summary
        .iter()
        .chain(&memory.pending)
        .map(|summary| summary.text.len());
    let header = conversation
        .book
        .as_ref()
        .map_or(0, |book| json::of_members(&book.header.metadata));
    calls.sum::<usize>() + summaries.sum::<usize>() + header
}

/// Serialises the state, without the texts that are in the log.
pub fn encode(conversation: &Conversation) -> Vec<u8> {
    let mut book = conversation.book.clone();
    let open = book.iter().flat_map(|book| &book.turns).map(|turn| turn.queued_seq);
    let read_from = open
        .chain(conversation.memory.window_from())
        .min()
        .unwrap_or(conversation.seq + 1);
    let blank = Arc::new(Input::Text(String::new()));
    for turn in book.iter_mut().flat_map(|book| &mut book.turns) {
        turn.input = blank.clone();
        turn.response_schema = None;
        turn.client_tools = Arc::default();
    }
    let snapshot = Snapshot {
        version: VERSION,
        read_from,
        book,
        keys: conversation.keys.clone(),
        summary: conversation.memory.summary.clone(),
        pending: conversation.memory.pending.clone(),
    };
    // Nothing here can fail to serialise; if it did, the empty snapshot would be ignored.
    serde_json::to_vec(&snapshot).unwrap_or_default()
}

/// Decodes a snapshot that was taken after record `seq`; also returns the number of the first record to be read again.
/// The records from there to `seq` go through [`refill`], later ones through [`Conversation::apply`]. `None` if the
/// snapshot cannot be used: then the log is folded from its beginning.
pub fn decode(id: ConversationId, seq: Seq, bytes: &[u8]) -> Option<(Conversation, Seq)> {
    let SnapshotVersion { version } = serde_json::from_slice(bytes).ok()?;
    if version != VERSION {
        return None;
    }
    let snapshot: Snapshot = serde_json::from_slice(bytes).ok()?;
    let header = snapshot.book.as_ref().map(|book| &book.header);
    let fits = header.map_or(seq == 0, |header| header.id == id && header.last_seq == seq);
    if !fits || snapshot.read_from > seq + 1 {
        return None;
    }
    let conversation = Conversation {
        id,
        seq,
        book: snapshot.book,
        keys: snapshot.keys,
        memory: Memory::from_summaries(snapshot.summary, snapshot.pending),
    };
    Some((conversation, snapshot.read_from))
}

/// Restores from one record, not newer than the snapshot, the text that the snapshot left to the log.
pub fn refill(conversation: &mut Conversation, record: &Record) {
    conversation.memory.apply_window(record);
    let (Event::TurnQueued { .. }, Some(book)) = (&record.event, &mut conversation.book) else {
        return;
    };
    let turn = book.turns.iter_mut().find(|turn| turn.queued_seq == record.seq);
    if let (Some(turn), Some(opened)) = (turn, Turn::open(record)) {
        turn.input = opened.input;
        turn.response_schema = opened.response_schema;
        turn.client_tools = opened.client_tools;
    }
}
