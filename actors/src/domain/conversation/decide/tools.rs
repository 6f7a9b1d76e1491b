//! Tool calls: from the model's request to exactly one result.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;

use super::draft::Draft;
use crate::domain::content::{ToolCall, ToolStatus};
use crate::domain::conversation::screen::{Arguments, CallVerdict, ScreeningResult, bounded_error};
use crate::domain::conversation::turn::Stage;
use crate::domain::event::{Event, GuardAction};
use crate::domain::guardrail;
use crate::domain::ids::{CallId, TurnId};
use crate::domain::policy::{Policy, ToolPolicy};

/// Time beyond a call's own timeout in which to look up its effect.
pub const SETTLE_MARGIN: Duration = Duration::from_secs(10);

/// Returns whether a call of this tool may have changed something; true for a tool that is no longer configured.
pub(super) fn changes_something(policy: &Policy, tool: &str) -> bool {
    policy
        .tools
        .get(tool)
        .is_none_or(|tool| tool.tool.repeat.changes_something())
}

/// Returns until when this process waits for the outcome of a call that it starts or resumes now.
pub(super) fn settles_at(from: Timestamp, tool: &ToolPolicy) -> Timestamp {
    from.saturating_add(tool.timeout + SETTLE_MARGIN)
        .unwrap_or(Timestamp::MAX)
}

/// A call that the model asks for, with its screening verdict.
pub(super) struct Proposal {
    pub(super) call: ToolCall,
    pub(super) verdict: CallVerdict,
}

/// Rejects a call that a rule forbids.
pub(super) fn forbid(draft: &mut Draft<'_>, turn: TurnId, call: CallId, rule: &str) {
    let error = format!("the rule {rule:?} does not allow this call");
    finish_call(draft, turn, call, ToolStatus::Rejected, None, Some(error));
}

/// Records that guardrail rules were triggered by a call.
pub(super) fn record_triggered_rules<'r>(
    draft: &mut Draft<'_>,
    turn: TurnId,
    action: GuardAction,
    rules: impl IntoIterator<Item = &'r String>,
) {
    for rule in rules {
        draft.trigger(turn, guardrail::Stage::Tool, rule.clone(), action);
    }
}

/// Records the next event of each call that the model asks for.
pub(super) fn propose(draft: &mut Draft<'_>, turn: TurnId, proposals: Vec<Proposal>) {
    let mut calls = Vec::new();
    for Proposal { call, verdict } in proposals {
        match verdict.forbidden_by {
            None => calls.push((call, verdict.arguments)),
            Some(rule) => {
                record_triggered_rules(draft, turn, GuardAction::Block, [&rule]);
                forbid(draft, turn, call.id, &rule);
            }
        }
    }
    let most = draft.limits().calls_per_step;
    let policy = draft.policy();
    let refusal = |index: usize, call: &ToolCall, arguments: Arguments| {
        if index >= most {
            return Some(format!("at most {most} calls are allowed at once"));
        }
        match arguments {
            Arguments::Valid if policy.tools.contains_key(&call.name) => None,
            Arguments::Invalid(why) => Some(format!("the arguments do not satisfy the tool's schema: {why}")),
            // Also for a tool that was configured or removed while the model was answering.
            Arguments::Valid | Arguments::NoTool => Some(format!("there is no tool named {:?}", call.name)),
        }
    };
    let calls: Vec<(ToolCall, Option<String>)> = calls
        .into_iter()
        .enumerate()
        .map(|(index, (call, arguments))| {
            let refused = refusal(index, &call, arguments);
            (call, refused)
        })
        .collect();
    if calls.iter().any(|(_, refused)| refused.is_some()) {
        // Once per step: several invalid calls of one answer count as one repair.
        draft.trigger(
            turn,
            guardrail::Stage::Tool,
            "tool_arguments".to_owned(),
            GuardAction::Repair,
        );
    }
    for (call, refused) in calls {
        if refused.is_some() {
            finish_call(draft, turn, call.id, ToolStatus::Failed, None, refused);
            continue;
        }
        let Some(tool) = draft.policy().tools.get(&call.name) else {
            continue;
        };
        if tool.approval && !draft.env.may_await_approval {
            let error = "too many calls already wait for an approval; some of them have to be decided first".to_owned();
            finish_call(draft, turn, call.id, ToolStatus::Rejected, None, Some(error));
        } else if tool.approval {
            let expires_at = draft.after(draft.limits().approval);
            let ToolCall { id, name, arguments } = call;
            draft.push(
                turn,
                Event::ApprovalRequested {
                    call_id: id,
                    name,
                    arguments,
                    expires_at,
                },
            );
        } else {
            call_tool(draft, turn, call.id, call.name, call.arguments);
        }
    }
    draft.bound_next_step();
}

/// Records a call as called; only then may it run.
pub(super) fn call_tool(draft: &mut Draft<'_>, turn: TurnId, call_id: CallId, name: String, arguments: Value) {
    let Some(tool) = draft.policy().tools.get(&name) else {
        let error = format!("there is no tool named {name:?} any more");
        finish_call(draft, turn, call_id, ToolStatus::Failed, None, Some(error));
        return;
    };
    let settles_at = settles_at(draft.env.now, tool);
    draft.push(
        turn,
        Event::ToolCalled {
            call_id,
            name,
            arguments,
            settles_at,
        },
    );
}

/// Records a call's one result, which was bounded during screening.
pub(super) fn finish_call(
    draft: &mut Draft<'_>,
    turn: TurnId,
    call_id: CallId,
    status: ToolStatus,
    result: Option<Value>,
    error: Option<String>,
) {
    let max = draft.limits().result_bytes;
    let error = error.map(|error| bounded_error(&error, max));
    draft.push(
        turn,
        Event::ToolFinished {
            call_id,
            status,
            result,
            error,
        },
    );
}

/// Records the outcome of a call. If the turn is open, the triggered rules are recorded too.
pub(super) fn replied(
    draft: &mut Draft<'_>,
    turn: TurnId,
    call: CallId,
    status: ToolStatus,
    (result, error): (Option<Value>, Option<String>),
    verdict: &ScreeningResult,
) -> Option<TurnId> {
    let running = draft.book.turn(turn).is_some_and(|open| {
        open.calls()
            .iter()
            .any(|known| known.id == call && matches!(known.stage, Stage::Running { .. }))
    });
    if running {
        match &verdict.forbidden_by {
            Some(rule) => record_triggered_rules(draft, turn, GuardAction::Block, [rule]),
            None => record_triggered_rules(draft, turn, GuardAction::Redact, &verdict.redactions),
        }
        finish_call(draft, turn, call, status, result, error);
        draft.bound_next_step();
        return Some(turn);
    }
    // The call had ended as unknown; its late result is stored for auditing.
    if status != ToolStatus::Unknown && draft.book.unsettled.contains(&(turn, call)) {
        draft.push(
            turn,
            Event::ToolSettled {
                call_id: call,
                status,
                result,
                error,
            },
        );
        return Some(turn);
    }
    None
}
