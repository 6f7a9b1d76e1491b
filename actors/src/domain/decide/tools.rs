//! Tool calls: from the model's wish to exactly one result.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;

use super::draft::Draft;
use crate::domain::content::{ToolCall, ToolStatus};
use crate::domain::event::{Event, GuardAction, GuardStage};
use crate::domain::guard::{Cleaned, REDACTED};
use crate::domain::ids::{CallId, TurnId};
use crate::domain::policy::{Policy, Repeat, ToolPolicy};
use crate::domain::schema::{describe, too_deep};
use crate::domain::turn::Stage;

/// Beyond a call's own timeout: what the network and the vendor may still do with it.
pub const SETTLE_MARGIN: Duration = Duration::from_secs(10);

/// Whether a call of this tool may have changed something; a tool that is not configured any more may have.
pub(super) fn changes_something(policy: &Policy, tool: &str) -> bool {
    policy
        .tools
        .get(tool)
        .is_none_or(|tool| tool.tool.repeat.changes_something())
}

/// From when on a call that is sent within its time has taken effect or never will.
pub(super) fn settles_at(from: Timestamp, tool: &ToolPolicy) -> Timestamp {
    from.saturating_add(tool.timeout + SETTLE_MARGIN)
        .unwrap_or(Timestamp::MAX)
}

/// A call that the model asks for, and the name of the rule that forbids it.
pub(super) struct Proposal {
    pub(super) call: ToolCall,
    pub(super) forbidden_by: Option<String>,
}

impl Proposal {
    /// Looks at a call before anything of it is written down. One that is forbidden never runs, so its words need not be kept:
    /// readers see none of them.
    pub(super) fn screen(policy: &Policy, mut call: ToolCall) -> Self {
        let rules = &policy.rules;
        let in_name = rules.forbidding_text(&call.name);
        let forbidden_by = in_name.or_else(|| rules.forbidding(&call.arguments));
        if forbidden_by.is_some() {
            call.arguments = REDACTED.into();
        }
        if in_name.is_some() {
            REDACTED.clone_into(&mut call.name);
        }
        let forbidden_by = forbidden_by.map(|rule| rule.name.clone());
        Self { call, forbidden_by }
    }
}

/// Ends a call as a rule says.
pub(super) fn forbid(draft: &mut Draft<'_>, turn: TurnId, call: CallId, rule: &str) {
    let error = format!("the rule {rule:?} does not allow this call");
    finish_call(draft, turn, call, ToolStatus::Rejected, None, Some(error));
}

/// Records that rules did something to a call.
pub(super) fn note_rules<'r>(
    draft: &mut Draft<'_>,
    turn: TurnId,
    action: GuardAction,
    rules: impl IntoIterator<Item = &'r String>,
) {
    for rule in rules {
        let (stage, rule, detail) = (GuardStage::Tool, rule.clone(), None);
        draft.push(
            turn,
            Event::GuardrailTriggered {
                stage,
                rule,
                action,
                detail,
            },
        );
    }
}

/// Gives each call that the model asks for its next record.
pub(super) fn propose(draft: &mut Draft<'_>, turn: TurnId, proposals: Vec<Proposal>) {
    let mut calls = Vec::new();
    for Proposal { call, forbidden_by } in proposals {
        match forbidden_by {
            None => calls.push(call),
            Some(rule) => {
                note_rules(draft, turn, GuardAction::Block, [&rule]);
                forbid(draft, turn, call.id, &rule);
            }
        }
    }
    let mut invalid = Vec::new();
    for (index, call) in calls.iter().enumerate() {
        let refusal = if index >= draft.limits().calls_per_step {
            Some(format!(
                "at most {} calls are allowed at once",
                draft.limits().calls_per_step
            ))
        } else {
            match draft.policy().tools.get(&call.name) {
                None => Some(format!("there is no tool named {:?}", call.name)),
                Some(tool) => tool.tool.parameters.check(&call.arguments).err().map(|violations| {
                    format!(
                        "the arguments do not satisfy the tool's schema: {}",
                        describe(&violations)
                    )
                }),
            }
        };
        if let Some(error) = refusal {
            invalid.push((call.id, error));
        }
    }
    if !invalid.is_empty() {
        // Once per step: parallel slips of one answer are one slip.
        let (stage, rule, action) = (GuardStage::Tool, "tool_arguments".to_owned(), GuardAction::Repair);
        draft.push(
            turn,
            Event::GuardrailTriggered {
                stage,
                rule,
                action,
                detail: None,
            },
        );
    }
    for call in calls {
        if let Some((_, error)) = invalid.iter().find(|(id, _)| *id == call.id) {
            finish_call(draft, turn, call.id, ToolStatus::Failed, None, Some(error.clone()));
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

/// Writes a call down as called; only then may it run.
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

/// Gives a call its one result, bounded in size.
pub(super) fn finish_call(
    draft: &mut Draft<'_>,
    turn: TurnId,
    call_id: CallId,
    status: ToolStatus,
    result: Option<Value>,
    error: Option<String>,
) {
    let (result, error) = bounded(result, error, draft.limits().result_bytes);
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

/// A call's outcome came back.
pub(super) fn replied(
    draft: &mut Draft<'_>,
    turn: TurnId,
    call: CallId,
    status: ToolStatus,
    result: Option<Value>,
    error: Option<String>,
) -> Option<TurnId> {
    let running = draft.book.turn(turn).is_some_and(|open| {
        open.calls()
            .iter()
            .any(|known| known.id == call && matches!(known.stage, Stage::Running { .. }))
    });
    if running {
        let (result, error) = shown(draft, Some(turn), result, error);
        finish_call(draft, turn, call, status, result, error);
        draft.bound_next_step();
        return Some(turn);
    }
    // It had ended as unknown; what it says now is kept for the auditor.
    if status != ToolStatus::Unknown && draft.book.unsettled.contains(&(turn, call)) {
        let (result, error) = shown(draft, None, result, error);
        let (result, error) = bounded(result, error, draft.limits().result_bytes);
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

/// What readers may see of a tool's answer, and with them the model. What a rule blocks is withheld as a whole; the call
/// has taken effect all the same. With an open turn the rules that applied are recorded.
fn shown(
    draft: &mut Draft<'_>,
    turn: Option<TurnId>,
    result: Option<Value>,
    error: Option<String>,
) -> (Option<Value>, Option<String>) {
    let rules = &draft.policy().rules.output;
    if rules.is_empty() {
        return (result, error);
    }
    // Bounded first: what is cut off need not be looked at.
    let (result, error) = bounded(result, error, draft.limits().result_bytes);
    let cleaned = [result, error.map(Value::from)].map(|value| value.map(|value| rules.clean(value)));
    let (mut redactions, mut blocked) = (Vec::new(), None);
    let [result, error] = cleaned.map(|cleaned| {
        let Cleaned {
            value,
            redactions: names,
            blocked: rule,
        } = cleaned?;
        redactions.extend(names);
        blocked = blocked.take().or(rule);
        value
    });
    redactions.sort_unstable();
    redactions.dedup();
    let withheld = blocked
        .as_ref()
        .map(|rule| format!("the rule {rule:?} does not allow what the tool answered to be shown"));
    if let Some(turn) = turn {
        match &blocked {
            Some(rule) => note_rules(draft, turn, GuardAction::Block, [rule]),
            None => note_rules(draft, turn, GuardAction::Redact, &redactions),
        }
    }
    match (withheld, error) {
        (Some(withheld), _) => (None, Some(withheld)),
        (None, Some(Value::String(error))) => (result, Some(error)),
        (None, _) => (result, None),
    }
}

fn bounded(result: Option<Value>, error: Option<String>, max: usize) -> (Option<Value>, Option<String>) {
    let result = result.map(|value| {
        let text = value.to_string();
        if text.len() <= max && !too_deep(&value) {
            return value;
        }
        let truncated =
            |beginning: &str| serde_json::json!({ "truncated": true, "bytes": text.len(), "beginning": beginning });
        let mut left = max.saturating_sub(truncated("").to_string().len());
        let fits = |c: &char| {
            // JSON inside a JSON string: marks and backslashes are escaped once more.
            let size = if matches!(c, '"' | '\\') { 2 } else { c.len_utf8() };
            let fits = size <= left;
            left = left.saturating_sub(size);
            fits
        };
        let end = text.chars().take_while(fits).map(char::len_utf8).sum();
        truncated(&text[..end])
    });
    let error = error.map(|text| text.chars().take(max.min(4096)).collect());
    (result, error)
}

/// What recovery does with a call that was on its way when the process died.
pub(super) fn may_repeat(
    repeat: Repeat,
    called_at: Timestamp,
    now: Timestamp,
) -> Option<crate::domain::event::RetryMode> {
    use crate::domain::event::RetryMode;
    match repeat {
        Repeat::Read => Some(RetryMode::Repeat),
        Repeat::Keyed(window) => {
            // Half the window stays as a margin for clocks and for the call itself.
            (now.duration_since(called_at) < jiff::SignedDuration::try_from(window / 2).unwrap_or_default())
                .then_some(RetryMode::Repeat)
        }
        Repeat::LookUp => Some(RetryMode::LookUp),
        Repeat::Never => None,
    }
}
