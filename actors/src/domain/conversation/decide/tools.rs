//! Tool calls: from the model's request to exactly one result.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;

use super::client_tool;
use super::draft::Draft;
use crate::domain::content::{ToolCall, ToolStatus};
use crate::domain::conversation::screen::{Arguments, CallVerdict, ScreeningResult, bounded_error};
use crate::domain::conversation::turn::Stage;
use crate::domain::event::{Event, GuardAction};
use crate::domain::guardrail;
use crate::domain::ids::{CallId, TurnId};
use crate::domain::policy::{Policy, ToolPolicy};
use crate::domain::tool::client;

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
    let of_page = draft
        .book
        .turn(turn)
        .map(|turn| turn.client_tools.clone())
        .unwrap_or_default();
    let is_of_page = |name: &String| client::callable(policy, &of_page).any(|tool| tool.name == *name);
    let refusal = |index: usize, call: &ToolCall, arguments: Arguments| {
        if index >= most {
            return Some(format!("at most {most} calls are allowed at once"));
        }
        match arguments {
            Arguments::Valid if policy.tools.contains_key(&call.name) => None,
            Arguments::ValidForPage if is_of_page(&call.name) => None,
            Arguments::Invalid(why) => Some(format!("the arguments do not satisfy the tool's schema: {why}")),
            // Also for a tool that was configured or removed while the model was answering.
            Arguments::Valid | Arguments::ValidForPage | Arguments::NoTool => {
                Some(format!("there is no tool named {:?}", call.name))
            }
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
        // A call that is neither refused nor one of the copilot's tools is one of the page's.
        let tool = draft.policy().tools.get(&call.name);
        let awaits_user = tool.is_none_or(|tool| tool.approval);
        if awaits_user && !draft.env.may_await_approval {
            let error = "too many calls already wait for users; some of them have to end first".to_owned();
            finish_call(draft, turn, call.id, ToolStatus::Rejected, None, Some(error));
        } else if tool.is_none() {
            client_tool::offer(draft, turn, call);
        } else if awaits_user {
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
            claim: None,
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
    finish_answered_call(draft, turn, call_id, status, (result, error), None);
}

/// Records the one result of a call that a page answered.
pub(super) fn finish_answered_call(
    draft: &mut Draft<'_>,
    turn: TurnId,
    call_id: CallId,
    status: ToolStatus,
    (result, error): (Option<Value>, Option<String>),
    answer_hash: Option<String>,
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
            answer_hash,
        },
    );
}

/// Records which rules withheld or redacted what a tool answered.
pub(super) fn record_screened_answer(draft: &mut Draft<'_>, turn: TurnId, verdict: &ScreeningResult) {
    match &verdict.forbidden_by {
        Some(rule) => record_triggered_rules(draft, turn, GuardAction::Block, [rule]),
        None => record_triggered_rules(draft, turn, GuardAction::Redact, &verdict.redactions),
    }
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
        record_screened_answer(draft, turn, verdict);
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
