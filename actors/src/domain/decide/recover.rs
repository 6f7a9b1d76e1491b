//! Taking up open turns after a death. Recovery writes its claim first; what it then does is what life does.

use super::draft::Draft;
use super::model::RATE_WAIT;
use super::tools::{finish_call, may_repeat, settles_at};
use crate::domain::content::ToolStatus;
use crate::domain::event::{Event, FailureCode};
use crate::domain::ids::{MessageId, TurnId};
use crate::domain::policy::Repeat;
use crate::domain::turn::{Call, Phase, Stage};

pub(super) fn recover(draft: &mut Draft<'_>) -> Option<TurnId> {
    draft.start_next();
    // A turn that was started just now has lost nothing.
    if !draft.records.is_empty() {
        return None;
    }
    let turn = draft.book.active()?.clone();
    match &turn.phase {
        Phase::Queued => {}
        Phase::Thinking => {
            let message_id = MessageId::of_step(turn.id, turn.attempt, turn.step);
            draft.push(
                turn.id,
                Event::MessageReset {
                    message_id,
                    reason: "recovered".into(),
                },
            );
            if turn.attempt >= draft.limits().attempts {
                let message = format!("the work was interrupted {} times", turn.attempt);
                draft.fail(turn.id, FailureCode::AttemptsExhausted, message);
                draft.start_next();
            } else {
                let model = draft.policy().model.clone();
                draft.push(
                    turn.id,
                    Event::TurnStarted {
                        attempt: turn.attempt + 1,
                        model,
                    },
                );
                // The provider's wish outlives our process.
                if let Some(until) = turn.waiting_until.filter(|until| *until > draft.env.now) {
                    let reason = RATE_WAIT.to_owned();
                    draft.push(turn.id, Event::TurnWaiting { reason, until });
                }
            }
        }
        Phase::Acting(calls) => {
            for call in calls {
                take_up(draft, turn.id, call);
            }
            draft.bound_next_step();
        }
    }
    Some(turn.id)
}

fn take_up(draft: &mut Draft<'_>, turn: TurnId, call: &Call) {
    let Stage::Running {
        retry,
        settles_at: settled,
        ..
    } = call.stage
    else {
        return;
    };
    let now = draft.env.now;
    let Some(tool) = draft.policy().tools.get(&call.name) else {
        let error = Some("the tool is not configured any more; whether the call took effect is not known".into());
        return finish_call(draft, turn, call.id, ToolStatus::Unknown, None, error);
    };
    let called_at = call.called_at.unwrap_or(now);
    let exhausted = retry + 1 >= draft.limits().attempts;
    match may_repeat(tool.tool.repeat, called_at, now) {
        Some(mode) if !exhausted => {
            // A look-up may end in sending the call once the first one has settled: count from the later of the two.
            let settles_at = settles_at(now.max(settled), tool);
            draft.push(
                turn,
                Event::ToolRetried {
                    call_id: call.id,
                    retry: retry + 1,
                    mode,
                    settles_at,
                },
            );
        }
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
