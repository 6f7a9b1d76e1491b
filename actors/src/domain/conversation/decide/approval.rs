//! Approvals: calls that wait for a person's decision.

use std::sync::Arc;

use super::Rejection;
use super::draft::Draft;
use super::tools::{call_tool, finish_call, forbid, record_triggered_rules};
use crate::domain::content::ToolStatus;
use crate::domain::conversation::command::Decision;
use crate::domain::conversation::screen::ScreeningResult;
use crate::domain::conversation::turn::{Call, Stage};
use crate::domain::event::{ApprovalOutcome, Event, GuardAction};
use crate::domain::ids::{CallId, TurnId};

pub(super) fn decide(
    draft: &mut Draft<'_>,
    turn: TurnId,
    call: CallId,
    decision: Decision,
    reason: Option<String>,
    by: String,
    verdict: ScreeningResult,
) -> Result<Option<TurnId>, Rejection> {
    let Call {
        name, arguments, stage, ..
    } = draft.call(turn, call).ok_or(Rejection::NotWaiting)?;
    match stage {
        Stage::AwaitingApproval(expires_at) if draft.env.now < expires_at => {}
        _ => return Err(Rejection::NotWaiting),
    }
    if let Some(rule) = verdict.forbidden_by {
        record_triggered_rules(draft, turn, GuardAction::Block, [&rule]);
        // The person's text is not stored, and their decision does not take effect.
        draft.push(
            turn,
            Event::ApprovalDecided {
                call_id: call,
                decision: ApprovalOutcome::Rejected,
                arguments: None,
                reason: None,
                by: "system".into(),
            },
        );
        forbid(draft, turn, call, &rule);
        draft.bound_next_step();
        return Ok(Some(turn));
    }
    match decision {
        Decision::Approve { arguments: edited } => {
            if edited.is_some() {
                if let Some(fault) = verdict.fault {
                    return Err(fault);
                }
                // The edited arguments were checked against another tool's schema.
                if verdict.tool.as_ref() != Some(&name) {
                    return Err(Rejection::NotWaiting);
                }
            }
            draft.push(
                turn,
                Event::ApprovalDecided {
                    call_id: call,
                    decision: ApprovalOutcome::Approved,
                    arguments: edited.clone(),
                    reason,
                    by,
                },
            );
            call_tool(
                draft,
                turn,
                call,
                name,
                edited.unwrap_or_else(|| Arc::unwrap_or_clone(arguments)),
            );
        }
        Decision::Reject => {
            let error = reason.clone().map_or("a person refused this call".to_owned(), |why| {
                format!("a person refused this call: {why}")
            });
            let decision = ApprovalOutcome::Rejected;
            draft.push(
                turn,
                Event::ApprovalDecided {
                    call_id: call,
                    decision,
                    arguments: None,
                    reason,
                    by,
                },
            );
            finish_call(draft, turn, call, ToolStatus::Rejected, None, Some(error));
        }
    }
    draft.bound_next_step();
    Ok(Some(turn))
}

pub(super) fn expire(draft: &mut Draft<'_>, turn: TurnId, call: CallId) -> Option<TurnId> {
    let waiting = draft.call(turn, call)?;
    match waiting.stage {
        Stage::AwaitingApproval(expires_at) if draft.env.now >= expires_at => {}
        _ => return None,
    }
    draft.push(
        turn,
        Event::ApprovalDecided {
            call_id: call,
            decision: ApprovalOutcome::Expired,
            arguments: None,
            reason: None,
            by: "system".into(),
        },
    );
    let error = Some("nobody decided on this call in time".to_owned());
    finish_call(draft, turn, call, ToolStatus::Rejected, None, error);
    draft.bound_next_step();
    Some(turn)
}
