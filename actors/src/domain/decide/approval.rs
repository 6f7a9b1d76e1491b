//! Calls that wait for a person.

use serde_json::Value;

use super::Rejection;
use super::draft::Draft;
use super::tools::{call_tool, finish_call, forbid, note_rules};
use crate::domain::command::Decision;
use crate::domain::content::{MAX_ARGUMENTS, ToolStatus};
use crate::domain::event::{ApprovalOutcome, Event, GuardAction};
use crate::domain::ids::{CallId, TurnId};
use crate::domain::schema::{MAX_DEPTH, Violation, too_deep};
use crate::domain::turn::{Call, Stage};

pub(super) fn decide(
    draft: &mut Draft<'_>,
    turn: TurnId,
    call: CallId,
    decision: Decision,
    reason: Option<String>,
    by: String,
) -> Result<Option<TurnId>, Rejection> {
    let Call {
        name, arguments, stage, ..
    } = find(draft, turn, call).ok_or(Rejection::NotWaiting)?;
    match stage {
        Stage::AwaitingApproval(expires_at) if draft.env.now < expires_at => {}
        _ => return Err(Rejection::NotWaiting),
    }
    if let Some(rule) = forbidden(draft, &decision, reason.as_deref()) {
        note_rules(draft, turn, GuardAction::Block, [&rule]);
        // Nothing of what the person wrote is kept, and what they wanted does not happen.
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
            if let Some(edited) = &edited {
                check(draft, &name, edited)?;
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
            call_tool(draft, turn, call, name, edited.unwrap_or(arguments));
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
    let waiting = find(draft, turn, call)?;
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

/// Names a rule that forbids what a person wrote: readers see it, and models read it.
fn forbidden(draft: &Draft<'_>, decision: &Decision, reason: Option<&str>) -> Option<String> {
    let rules = &draft.policy().rules;
    let in_arguments = match decision {
        Decision::Approve {
            arguments: Some(arguments),
        } => rules.forbidding(arguments),
        Decision::Approve { arguments: None } | Decision::Reject => None,
    };
    let rule = in_arguments.or_else(|| rules.forbidding_text(reason?))?;
    Some(rule.name.clone())
}

fn find(draft: &Draft<'_>, turn: TurnId, call: CallId) -> Option<Call> {
    draft
        .book
        .turn(turn)?
        .calls()
        .iter()
        .find(|known| known.id == call)
        .cloned()
}

fn check(draft: &Draft<'_>, tool: &str, arguments: &Value) -> Result<(), Rejection> {
    if arguments.to_string().len() > MAX_ARGUMENTS {
        let (what, max) = ("arguments", MAX_ARGUMENTS);
        return Err(Rejection::TooLarge { what, max });
    }
    if too_deep(arguments) {
        let (pointer, message) = (
            "/arguments".to_owned(),
            format!("nested deeper than {MAX_DEPTH} levels"),
        );
        return Err(Rejection::Invalid(vec![Violation { pointer, message }]));
    }
    let Some(tool) = draft.policy().tools.get(tool) else {
        return Ok(());
    };
    tool.tool.parameters.check(arguments).map_err(|violations| {
        let below = |v: Violation| Violation {
            pointer: format!("/arguments{}", v.pointer),
            message: v.message,
        };
        Rejection::Invalid(violations.into_iter().map(below).collect())
    })
}
