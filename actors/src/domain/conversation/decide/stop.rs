//! Stops a turn: cancel, interrupt, expiry. Records exactly what readers saw and what was sent.

use super::Rejection;
use super::draft::Draft;
use super::tools::{changes_something, finish_call};
use crate::domain::content::{Finish, ToolStatus};
use crate::domain::conversation::command::StoppedWork;
use crate::domain::conversation::turn::{Phase, Stage};
use crate::domain::event::{ApprovalOutcome, Event, FailureCode};
use crate::domain::ids::{MessageId, TurnId};

pub(super) fn cancel(draft: &mut Draft<'_>, turn: TurnId, stopped: &StoppedWork) -> Result<Option<TurnId>, Rejection> {
    let open = draft.book.turn(turn).ok_or(Rejection::TurnEnded)?;
    if open.phase != Phase::Queued {
        stop(draft, turn, stopped);
    }
    let usage = draft.book.turn(turn).map(|turn| turn.usage.clone()).unwrap_or_default();
    draft.push(turn, Event::TurnCancelled { usage });
    draft.start_next();
    Ok(Some(turn))
}

pub(super) fn expire(draft: &mut Draft<'_>, turn: TurnId, attempt: u32, stopped: &StoppedWork) -> Option<TurnId> {
    let active = draft
        .book
        .active()
        .filter(|active| active.id == turn && active.attempt == attempt)?;
    // A decision or a wait may have moved the deadline since the timer was set.
    let due = active
        .clock_from
        .saturating_add(draft.limits().time)
        .unwrap_or(jiff::Timestamp::MAX);
    if active.is_parked() || draft.env.now < due {
        return None;
    }
    stop(draft, turn, stopped);
    let message = format!("the turn took longer than {} s", draft.limits().time.as_secs());
    draft.fail(turn, FailureCode::LimitTime, message);
    draft.start_next();
    Some(turn)
}

/// Closes the running turn's open message and gives every open call its one result. The caller ends the turn.
pub(super) fn stop(draft: &mut Draft<'_>, id: TurnId, stopped: &StoppedWork) {
    let Some(turn) = draft.book.turn(id).cloned() else {
        return;
    };
    match &turn.phase {
        Phase::Queued => {}
        Phase::Thinking => {
            let message_id = MessageId::of_step(id, turn.attempt, turn.step);
            let sealed = stopped.sealed.as_ref().filter(|sealed| sealed.at == turn.present());
            let model = draft.policy().model.clone();
            let Some(sealed) = sealed.filter(|sealed| !sealed.text.is_empty()) else {
                // Every segment is closed: a reader that waits for this one must learn that it is empty.
                let reason = "stopped".to_owned();
                draft.push(id, Event::MessageReset { message_id, reason });
                if let Some(sealed) = sealed.filter(|sealed| sealed.usage.total_tokens() > 0) {
                    let class = "cancelled".to_owned();
                    draft.push(
                        id,
                        Event::ModelFailed {
                            class,
                            model,
                            usage: sealed.usage,
                            detail: None,
                        },
                    );
                }
                return;
            };
            draft.push(
                id,
                Event::MessageCompleted {
                    message_id,
                    text: sealed.text.clone(),
                    citations: Vec::new(),
                    unsupported: Vec::new(),
                    tool_calls: Vec::new(),
                    finish: Finish::Cancelled,
                    structured: None,
                    step: turn.step,
                    model,
                    usage: sealed.usage,
                    first_token_ms: None,
                },
            );
        }
        Phase::Acting(calls) => {
            for call in calls {
                let (status, why) = match call.stage {
                    Stage::Done(_) => continue,
                    Stage::AwaitingApproval(_) => {
                        draft.push(
                            id,
                            Event::ApprovalDecided {
                                call_id: call.id,
                                decision: ApprovalOutcome::Rejected,
                                arguments: None,
                                reason: Some("the turn was stopped".into()),
                                by: "system".into(),
                            },
                        );
                        (ToolStatus::Rejected, "the turn was stopped before a decision")
                    }
                    Stage::Proposed | Stage::Offered(_) => (ToolStatus::Cancelled, "the turn was stopped"),
                    Stage::Claimed { .. } => (
                        ToolStatus::Unknown,
                        "the turn was stopped while a page was running the call",
                    ),
                    Stage::Running { .. } => {
                        let unsent = stopped.unsent.contains(&call.id);
                        if unsent || !changes_something(draft.policy(), &call.name) {
                            (ToolStatus::Cancelled, "the turn was stopped")
                        } else {
                            (
                                ToolStatus::Unknown,
                                "the turn was stopped while the call was on its way",
                            )
                        }
                    }
                };
                finish_call(draft, id, call.id, status, None, Some(why.to_owned()));
            }
        }
    }
}
