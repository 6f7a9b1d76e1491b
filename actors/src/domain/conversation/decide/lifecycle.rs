//! Creates, updates and erases a conversation.

use jiff::Timestamp;

use super::draft::Draft;
use super::stop::stop;
use super::{Decision, Rejection};
use crate::domain::content::Metadata;
use crate::domain::conversation::command::{Env, StoppedWork};
use crate::domain::conversation::screen::ScreeningResult;
use crate::domain::conversation::{Conversation, MAX_TITLE_ATTEMPTS};
use crate::domain::event::{Event, Idempotency, Record};
use crate::domain::ids::TurnId;
use crate::domain::usage::Usage;

/// Maximum number of times that feedback on one turn is stored.
pub const MAX_FEEDBACK: u32 = 20;

pub(super) fn create(
    conversation: &Conversation,
    env: Env<'_>,
    idempotency: Option<Idempotency>,
    created: Event,
    verdict: ScreeningResult,
) -> Result<Decision, Rejection> {
    if let Some(book) = &conversation.book {
        // The id is derived from the key: a copy of the request finds the conversation that the first one created.
        let same = !book.header.erased && idempotency.is_some() && book.header.idempotency == idempotency;
        return if same {
            Ok(Decision::default())
        } else {
            Err(Rejection::KeyReused)
        };
    }
    if let Some(fault) = verdict.fault {
        return Err(fault);
    }
    let record = Record {
        seq: conversation.seq + 1,
        at: env.now,
        turn: None,
        event: created,
    };
    Ok(Decision {
        records: vec![record],
        turn: None,
    })
}

pub(super) fn update(
    draft: &mut Draft<'_>,
    title: Option<String>,
    metadata: Option<Metadata>,
    verdict: ScreeningResult,
) -> Result<Option<TurnId>, Rejection> {
    if let Some(fault) = verdict.fault {
        return Err(fault);
    }
    if title.is_some() || metadata.is_some() {
        draft.push_plain(Event::ConversationUpdated { title, metadata });
    }
    Ok(None)
}

/// Stores the title that the small model wrote, unless there is one: a client's own stays, whoever came first. What the
/// attempt cost is recorded in any case.
pub(super) fn titled(draft: &mut Draft<'_>, title: Option<String>, model: String, usage: Usage) -> Option<TurnId> {
    if draft.book.title_attempts < MAX_TITLE_ATTEMPTS {
        let title = title.filter(|_| draft.book.header.title.is_none());
        draft.push_plain(Event::ConversationTitled { title, model, usage });
    }
    None
}

pub(super) fn erase(draft: &mut Draft<'_>, by: String, stopped: &StoppedWork) -> Option<TurnId> {
    cancel_all(draft, stopped);
    draft.push_plain(Event::ConversationErased { by });
    None
}

/// Erases a conversation that was not used after `since`.
pub(super) fn erase_idle(draft: &mut Draft<'_>, by: String, since: Timestamp) -> Result<Option<TurnId>, Rejection> {
    let header = &draft.book.header;
    if !draft.book.turns.is_empty() || header.open_turns > 0 || header.updated_at >= since {
        return Err(Rejection::TurnRunning);
    }
    draft.push_plain(Event::ConversationErased { by });
    Ok(None)
}

/// Cancels all open turns, so that nothing is sent for a suspended tenant, not even after a restart.
pub(super) fn suspend(draft: &mut Draft<'_>, stopped: &StoppedWork) -> Option<TurnId> {
    cancel_all(draft, stopped);
    None
}

fn cancel_all(draft: &mut Draft<'_>, stopped: &StoppedWork) {
    if let Some(active) = draft.book.active().map(|turn| turn.id) {
        stop(draft, active, stopped);
    }
    let open: Vec<TurnId> = draft.book.turns.iter().map(|turn| turn.id).collect();
    for turn in open {
        let usage = draft.book.turn(turn).map(|turn| turn.usage.clone()).unwrap_or_default();
        draft.push(turn, Event::TurnCancelled { usage });
    }
}

/// Stores a user's feedback on an answer; the last one counts. The number of changes is bounded, because each is a
/// record.
pub(super) fn give_feedback(
    draft: &mut Draft<'_>,
    turn: TurnId,
    earlier: u32,
    given: Event,
) -> Result<Option<TurnId>, Rejection> {
    // What the caller read may be outdated, and the state remembers only the most recently rated turns.
    if earlier.max(draft.book.feedback_on(turn)) >= MAX_FEEDBACK {
        return Err(Rejection::FeedbackFull { max: MAX_FEEDBACK });
    }
    draft.push(turn, given);
    Ok(Some(turn))
}
