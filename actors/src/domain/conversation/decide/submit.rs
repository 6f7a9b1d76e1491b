//! Accepts a prompt.

use super::Rejection;
use super::draft::Draft;
use super::stop::stop;
use crate::domain::conversation::Conversation;
use crate::domain::conversation::command::{Env, StoppedWork, WhenBusy};
use crate::domain::conversation::screen::ScreeningResult;
use crate::domain::event::{Event, FailureCode, GuardAction, Idempotency};
use crate::domain::guardrail::Stage;
use crate::domain::ids::TurnId;

/// Finds the turn that an earlier copy of this request created.
pub(super) fn find_copy(
    conversation: &Conversation,
    env: Env<'_>,
    turn: TurnId,
    idempotency: Option<&Idempotency>,
) -> Result<Option<TurnId>, Rejection> {
    if let Some(asked) = idempotency
        && let Some((known, made)) = conversation.keys.find(&asked.key, env.now)
    {
        return if known == asked {
            Ok(Some(made))
        } else {
            Err(Rejection::KeyReused)
        };
    }
    // The directory retries once when an answer was lost; the turn id is generated once per request.
    Ok(conversation
        .live()
        .filter(|book| book.accepted.contains(&turn))
        .map(|_| turn))
}

pub(super) fn submit(
    draft: &mut Draft<'_>,
    turn: TurnId,
    mut queued: Event,
    when_busy: WhenBusy,
    stopped: &StoppedWork,
    verdict: ScreeningResult,
) -> Result<Option<TurnId>, Rejection> {
    if let Some(fault) = verdict.fault {
        return Err(fault);
    }
    let busy = !draft.book.turns.is_empty();
    let waiting = draft.book.turns.len().saturating_sub(1);
    match when_busy {
        WhenBusy::Reject if busy => return Err(Rejection::TurnRunning),
        WhenBusy::Enqueue if busy && waiting >= draft.limits().queue => return Err(Rejection::QueueFull { waiting }),
        WhenBusy::Interrupt => {
            if let Some(active) = draft.book.active().map(|turn| turn.id) {
                stop(draft, active, stopped);
                let usage = draft
                    .book
                    .turn(active)
                    .map(|turn| turn.usage.clone())
                    .unwrap_or_default();
                draft.push(active, Event::TurnCancelled { usage });
            }
            if let Event::TurnQueued { next, .. } = &mut queued {
                *next = true;
            }
        }
        WhenBusy::Reject | WhenBusy::Enqueue => {}
    }
    draft.push(turn, queued);
    if let Some(rule) = verdict.forbidden_by {
        draft.trigger(turn, Stage::Input, rule, GuardAction::Block);
        draft.fail(
            turn,
            FailureCode::GuardrailBlocked,
            "the prompt was blocked by a guardrail of this copilot",
        );
    }
    draft.start_next();
    Ok(Some(turn))
}
