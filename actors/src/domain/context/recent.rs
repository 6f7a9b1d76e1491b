//! What of a window stays in the prompt as messages, and what earlier messages have to share. Pure.
//!
//! Without a budget for the conversation, the whole window stays. With one, a window that fits beside nothing else
//! stays whole; otherwise only the newest whole turns stay that fit a fixed part, the previous one preferably, and every
//! other message competes with the older ones for what is left.

use super::gathered::{Gathered, MemoryView};
use super::memory::{Block, Memory};
use crate::domain::ids::Seq;
use crate::domain::policy::{MemoryPolicy, Policy};

/// The newest turns have one part in this many of a conversation's budget.
const RECENT_PART: u64 = 16;
/// The previous turn stays if it has at most one part in this many: "it" and "that one" are mostly in there.
const PREVIOUS_PART: u64 = 4;

/// What of a view stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Recent {
    /// Whether the summary stays; not if it exceeds the budget by itself.
    pub has_summary: bool,
    /// The first turn of the window that stays.
    pub first: usize,
    /// Tokens that recalled messages may have, with the frame around them.
    pub left: u64,
}

/// What to search the earlier messages for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecallPlan {
    /// Messages that were said after this record are in the prompt already.
    pub before: Seq,
    /// The end of the last turn before the running one.
    pub upto_seq: Seq,
    /// Tokens that the lines of all messages may have.
    pub budget_tokens: u64,
}

impl Recent {
    /// Divides a conversation's budget; `recalled_tokens` is what recalled messages have if there is none.
    pub(super) fn of(view: &MemoryView, conversation_tokens: Option<u64>, recalled_tokens: u64) -> Self {
        let summary = view.summary.as_ref().map_or(0, |summary| summary.tokens);
        let Some(budget) = conversation_tokens else {
            return Self {
                has_summary: true,
                first: 0,
                // Nothing older exists if nothing was compressed.
                left: if summary > 0 { recalled_tokens } else { 0 },
            };
        };
        let has_summary = summary <= budget;
        let mut left = if has_summary { budget - summary } else { budget };
        let ended = view.blocks.iter().take_while(|block| block.end_seq.is_some()).count();
        let of_ended = || view.blocks.iter().take(ended).map(Block::tokens);
        if view.summary.is_none() && of_ended().sum::<u64>() <= budget {
            return Self {
                has_summary,
                first: 0,
                left: 0,
            };
        }
        let (mut first, mut used) = (ended, 0);
        for tokens in of_ended().rev() {
            let is_previous = first == ended && tokens <= budget / PREVIOUS_PART;
            let fits = used + tokens <= budget / RECENT_PART || is_previous;
            if !fits || tokens > left {
                break;
            }
            used += tokens;
            left -= tokens;
            first -= 1;
        }
        Self {
            has_summary,
            first,
            left,
        }
    }
}

/// Returns whether prompts of this conversation may leave out messages that a search can find. An upper bound, without
/// counting.
pub fn may_recall(memory: &Memory, policy: &MemoryPolicy) -> bool {
    let is_longer = |budget| memory.tokens_at_most() > budget;
    memory.summary.is_some() || memory.pending.is_some() || policy.conversation_tokens.is_some_and(is_longer)
}

/// Plans the search for the prompt of the turn at the end of the window; none if the prompt leaves nothing out.
/// Expensive like [`Gathered::count`].
pub fn plan(memory: Memory, needs_summary: bool, policy: &Policy) -> Option<RecallPlan> {
    let memory = match memory.with_pending() {
        Some(compressed) if needs_summary => compressed,
        _ => memory,
    };
    let gathered = Gathered::count(memory, false, policy, None);
    let (view, figures) = (&gathered.current, &policy.memory);
    let recent = Recent::of(view, figures.conversation_tokens, figures.recalled_tokens);
    let summarised = view.summary.as_ref().map(|summary| summary.upto_seq);
    let before = match recent.first.checked_sub(1) {
        Some(left_out) => view.blocks.get(left_out)?.end_seq?,
        None => summarised?,
    };
    let ended = view.blocks.iter().filter_map(|block| block.end_seq);
    let budget_tokens = recent.left.saturating_sub(gathered.recalled_frame_tokens);
    (budget_tokens > 0).then_some(RecallPlan {
        before,
        upto_seq: ended.chain([before]).max()?,
        budget_tokens,
    })
}
