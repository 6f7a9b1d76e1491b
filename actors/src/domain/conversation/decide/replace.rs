//! Replaces the last turn by a new one: an edited prompt, or the same one again.
//!
//! Invariant: only the last turn is replaced, after its end and before anything else is asked. So nothing that stays in
//! the prompt answers what was replaced.

use super::Rejection;
use super::draft::Draft;
use crate::domain::context::memory::Memory;
use crate::domain::event::Event;
use crate::domain::ids::TurnId;

pub(super) fn replace(draft: &mut Draft<'_>, memory: &Memory, replaced: TurnId, by: TurnId) -> Result<(), Rejection> {
    let refused = |why| Err(Rejection::NotReplaceable { why });
    let last = draft.book.last_turn.filter(|last| last.id == replaced);
    let Some(last) = last else {
        return refused("it is not the last turn of this conversation");
    };
    let Some(end) = last.end_seq.filter(|_| draft.book.turns.is_empty()) else {
        return refused("it has not ended; cancel it first, or wait for its end");
    };
    // A summary cannot be undone: its text would still say what was replaced.
    let summaries = memory.summary.iter().chain(&memory.pending);
    let is_covered = summaries.map(|summary| summary.upto_seq).any(|upto| upto >= end);
    if last.has_started && is_covered {
        return refused("it is already part of the conversation's summary");
    }
    draft.push(replaced, Event::TurnReplaced { by });
    Ok(())
}
