//! Resumes open turns after a crash, after a hand-over, or when their tenant is no longer left out. Each case first
//! records its claim; after that, the turn runs as in normal operation.

use super::draft::Draft;
use super::tools::{finish_call, settles_at};
use crate::domain::content::ToolStatus;
use crate::domain::conversation::turn::{Call, Pause, Phase, Stage, Turn};
use crate::domain::event::{Event, FailureCode, LOST_CALL, RetryMode};
use crate::domain::ids::{CallId, MessageId, TurnId};
use crate::domain::policy::Repeat;
use crate::domain::tool::outcome;
use crate::domain::tool::outcome::{LookUpState, NextAction, SendState};
use crate::domain::usage::LostUsage;

/// Claims the work that was running. The usage of lost model calls is recorded with the claim, so that it is counted
/// exactly once.
pub(super) fn recover(draft: &mut Draft<'_>, lost: Vec<LostUsage>) -> Option<TurnId> {
    draft.start_next();
    // A turn that was started just now has lost nothing.
    if !draft.records.is_empty() {
        return None;
    }
    let turn = draft.book.active()?.clone();
    match &turn.phase {
        Phase::Queued => {}
        // Nothing was running when the turn was paused: no attempt is lost.
        Phase::Thinking if turn.pause.as_ref().is_some_and(|pause| !pause.asked) => {
            draft.push(turn.id, Event::TurnResumed {});
            record_lost_usage(draft, turn.id, lost);
        }
        Phase::Thinking => {
            let message_id = MessageId::of_step(turn.id, turn.attempt, turn.step);
            draft.push(
                turn.id,
                Event::MessageReset {
                    message_id,
                    reason: "recovered".into(),
                },
            );
            record_lost_usage(draft, turn.id, lost);
            // A turn that only waited for its provider lost nothing: its wait continues and costs no attempt.
            let wait = turn
                .waiting
                .zip(turn.waiting_until.filter(|until| *until > draft.env.now));
            let attempts = turn.counted_attempts();
            if wait.is_none() && attempts >= draft.limits().attempts {
                let message = format!("the turn was interrupted {attempts} times");
                draft.fail(turn.id, FailureCode::AttemptsExhausted, message);
                draft.start_next();
            } else {
                // Lost calls were billed: the retry counts against the turn's limits like any other step.
                draft.bound_next_step();
                if draft.book.turn(turn.id).is_none() {
                    return Some(turn.id);
                }
                let model = draft.policy().model.clone();
                draft.push(
                    turn.id,
                    Event::TurnStarted {
                        attempt: turn.attempt + 1,
                        model,
                    },
                );
                if let Some((reason, until)) = wait {
                    draft.push(turn.id, Event::TurnWaiting { reason, until });
                }
            }
        }
        Phase::Acting(calls) => {
            if turn.pause.is_some() && !turn.is_parked() {
                draft.push(turn.id, Event::TurnResumed {});
            }
            for call in calls {
                resume_call(draft, &turn, call, !turn.is_handed_over());
            }
            draft.bound_next_step();
        }
    }
    Some(turn.id)
}

fn record_lost_usage(draft: &mut Draft<'_>, turn: TurnId, lost: Vec<LostUsage>) {
    for LostUsage { model, usage } in lost {
        draft.push(
            turn,
            Event::ModelFailed {
                class: LOST_CALL.into(),
                model,
                usage,
                detail: None,
            },
        );
    }
}

/// Records the progress of a turn when its tenant was left out, unless it is already recorded.
pub(super) fn pause(draft: &mut Draft<'_>, unsent: Vec<CallId>, asked: bool) -> Option<TurnId> {
    let turn = draft.book.active()?;
    let id = turn.id;
    let is_known = |pause: &Pause| pause.unsent == unsent && pause.asked == asked;
    if turn.pause.as_ref().is_some_and(is_known) || turn.is_parked() {
        return None;
    }
    draft.push(id, Event::TurnPaused { unsent, asked });
    Some(id)
}

/// Records the progress of a turn when its process stopped cleanly, so that resuming it does not count as an attempt. A
/// turn that only waits for approval has nothing running.
pub(super) fn hand_over(draft: &mut Draft<'_>, unsent: Vec<CallId>, asked: bool) -> Option<TurnId> {
    let turn = draft.book.active()?;
    let id = turn.id;
    let is_known = |pause: &Pause| pause.handed_over && pause.unsent == unsent && pause.asked == asked;
    if turn.phase == Phase::Queued || turn.is_parked() || turn.pause.as_ref().is_some_and(is_known) {
        return None;
    }
    draft.push(id, Event::TurnHandedOver { unsent, asked });
    Some(id)
}

/// Resumes a paused turn. Running calls continue; those that were never sent are sent now; what may be done with the
/// others depends on their tools, as after a crash. Counts neither as an attempt nor as a retry.
pub(super) fn resume(draft: &mut Draft<'_>, under_way: &[CallId]) -> Option<TurnId> {
    draft.start_next();
    if !draft.records.is_empty() {
        return None;
    }
    let turn = draft.book.active()?.clone();
    if turn.phase == Phase::Queued || turn.is_parked() {
        return None;
    }
    draft.push(turn.id, Event::TurnResumed {});
    for call in turn.calls() {
        if !under_way.contains(&call.id) {
            resume_call(draft, &turn, call, false);
        }
    }
    draft.bound_next_step();
    Some(turn.id)
}

/// Claims a call that was in flight or has not been sent yet.
fn resume_call(draft: &mut Draft<'_>, turn: &Turn, call: &Call, counts: bool) {
    let Stage::Running { retry, .. } = call.stage else {
        return;
    };
    let now = draft.env.now;
    let (unsent, turn) = (turn.never_sent(call), turn.id);
    let Some(tool) = draft.policy().tools.get(&call.name) else {
        if unsent {
            let error = Some("the tool is not configured any more; the call was not sent".into());
            return finish_call(draft, turn, call.id, ToolStatus::Failed, None, error);
        }
        let error = Some("the tool is not configured any more; whether the call took effect is not known".into());
        return finish_call(draft, turn, call.id, ToolStatus::Unknown, None, error);
    };
    if unsent {
        let again = Event::ToolRetried {
            call_id: call.id,
            retry: 0,
            mode: RetryMode::Repeat,
            settles_at: settles_at(now, tool),
        };
        return draft.push(turn, again);
    }
    let called_at = call.called_at.unwrap_or(now);
    let exhausted = counts && retry + 1 >= draft.limits().attempts;
    let next = if counts { retry + 1 } else { retry.max(1) };
    let sent = SendState::Earlier(now.duration_since(called_at));
    let mode = match outcome::next(tool.tool.repeat, sent, LookUpState::NotYet) {
        NextAction::Send => Some(RetryMode::Repeat),
        NextAction::LookUp(_) => Some(RetryMode::LookUp),
        NextAction::End(_) => None,
    };
    match mode {
        Some(mode) if !exhausted => draft.push(
            turn,
            Event::ToolRetried {
                call_id: call.id,
                retry: next,
                mode,
                settles_at: settles_at(now, tool),
            },
        ),
        _ if tool.tool.repeat == Repeat::Read => {
            let error = Some("the call was interrupted too often".into());
            finish_call(draft, turn, call.id, ToolStatus::Failed, None, error);
        }
        _ => {
            let error = Some("the process was interrupted; whether the call took effect is not known".into());
            finish_call(draft, turn, call.id, ToolStatus::Unknown, None, error);
        }
    }
}
