//! Accepting a prompt.

use super::Rejection;
use super::draft::Draft;
use super::halt::halt;
use super::lifecycle::check_metadata;
use crate::domain::command::{Env, Halt, WhenBusy};
use crate::domain::conversation::Conversation;
use crate::domain::event::{Event, FailureCode, GuardAction, GuardStage, Idempotency};
use crate::domain::ids::TurnId;
use crate::domain::schema::Violation;

/// Finds the turn that an earlier copy of this request made.
pub(super) fn copy_of(
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
    // The directory asks once more when an answer was lost; ids are made once per request.
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
    stopped: &Halt,
) -> Result<Option<TurnId>, Rejection> {
    let text = check(draft, &queued)?;
    let busy = !draft.book.turns.is_empty();
    let waiting = draft.book.turns.len().saturating_sub(1);
    match when_busy {
        WhenBusy::Reject if busy => return Err(Rejection::TurnRunning),
        WhenBusy::Enqueue if busy && waiting >= draft.limits().queue => return Err(Rejection::QueueFull { waiting }),
        WhenBusy::Interrupt => {
            if let Some(active) = draft.book.active().map(|turn| turn.id) {
                halt(draft, active, stopped);
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
    let blocking = blocking(draft, &queued, &text);
    draft.push(turn, queued);
    if let Some(rule) = blocking {
        let (stage, action) = (GuardStage::Input, GuardAction::Block);
        draft.push(
            turn,
            Event::GuardrailTriggered {
                stage,
                rule,
                action,
                detail: None,
            },
        );
        draft.fail(
            turn,
            FailureCode::GuardrailBlocked,
            "the prompt breaks a rule of this copilot",
        );
    }
    draft.start_next();
    Ok(Some(turn))
}

/// Names a rule that blocks anything that the request brings: the prompt, its metadata, or the schema, which models read too.
fn blocking(draft: &Draft<'_>, queued: &Event, text: &str) -> Option<String> {
    let rules = &draft.policy().rules.input;
    let Event::TurnQueued {
        metadata,
        response_schema,
        ..
    } = queued
    else {
        return None;
    };
    if rules.is_empty() {
        return None;
    }
    let in_schema = || response_schema.as_ref().and_then(|schema| rules.blocking_value(schema));
    let in_metadata = || {
        let mut members = metadata.iter();
        members.find_map(|(name, value)| rules.blocking(name).or_else(|| rules.blocking_value(value)))
    };
    let rule = rules.blocking_text(text).or_else(in_schema).or_else(in_metadata)?;
    Some(rule.name.clone())
}

/// Checks sizes and shapes; returns the prompt's text.
fn check(draft: &Draft<'_>, queued: &Event) -> Result<String, Rejection> {
    let Event::TurnQueued { input, metadata, .. } = queued else {
        return Err(Rejection::NotFound);
    };
    let max = draft.limits().input_bytes;
    if input.bytes() > max {
        return Err(Rejection::TooLarge { what: "input", max });
    }
    check_metadata(metadata, draft.env)?;
    let text = input.text();
    if text.trim().is_empty() {
        return Err(invalid("/input", "must not be empty"));
    }
    Ok(text)
}

fn invalid(pointer: &str, message: &str) -> Rejection {
    Rejection::Invalid(vec![Violation {
        pointer: pointer.to_owned(),
        message: message.to_owned(),
    }])
}
