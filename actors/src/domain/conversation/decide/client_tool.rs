//! Client tools: calls that a page of the user runs.

use std::sync::Arc;

use serde_json::Value;

use super::Rejection;
use super::draft::Draft;
use super::tools::{finish_answered_call, finish_call, record_screened_answer};
use crate::domain::content::{ToolCall, ToolStatus};
use crate::domain::conversation::screen::ScreeningResult;
use crate::domain::conversation::turn::Stage;
use crate::domain::event::Event;
use crate::domain::ids::{CallId, TurnId};
use crate::domain::tool::client::{CLAIM_TIME, Claim, RUN_TIME};

/// What a page reports about a call.
pub(super) struct Answer {
    pub(super) token: String,
    pub(super) result: Option<Value>,
    pub(super) error: Option<String>,
    pub(super) failed: bool,
    pub(super) hash: String,
}

/// Offers a call to the pages of the user.
pub(super) fn offer(draft: &mut Draft<'_>, turn: TurnId, call: ToolCall) {
    let expires_at = draft.after(CLAIM_TIME);
    let ToolCall { id, name, arguments } = call;
    draft.push(
        turn,
        Event::ClientToolRequested {
            call_id: id,
            name,
            arguments,
            expires_at,
        },
    );
}

/// Gives a call to the first page that claims it. The same request again changes nothing.
pub(super) fn claim(
    draft: &mut Draft<'_>,
    turn: TurnId,
    call: CallId,
    claim: Claim,
) -> Result<Option<TurnId>, Rejection> {
    let known = draft.call(turn, call).ok_or(Rejection::NotClaimable)?;
    match known.stage {
        Stage::Offered(until) if draft.env.now < until => {}
        Stage::Claimed { claim: held, until } if draft.env.now < until && held.is_repeated_by(claim.key.as_deref()) => {
            return Ok(Some(turn));
        }
        _ => return Err(Rejection::NotClaimable),
    }
    let settles_at = draft.after(RUN_TIME);
    draft.push(
        turn,
        Event::ToolCalled {
            call_id: call,
            name: known.name,
            arguments: Arc::unwrap_or_clone(known.arguments),
            settles_at,
            claim: Some(claim),
        },
    );
    Ok(Some(turn))
}

/// Records what the page that holds the claim reports.
pub(super) fn answered(
    draft: &mut Draft<'_>,
    turn: TurnId,
    call: CallId,
    answer: Answer,
    verdict: &ScreeningResult,
) -> Result<Option<TurnId>, Rejection> {
    let is_awaited = draft.call(turn, call).is_some_and(|known| match known.stage {
        Stage::Claimed { claim, until } => claim.token == answer.token && draft.env.now < until,
        _ => false,
    });
    if !is_awaited {
        return Err(Rejection::NotClaimable);
    }
    if let Some(fault) = &verdict.fault {
        return Err(fault.clone());
    }
    record_screened_answer(draft, turn, verdict);
    let status = if answer.failed {
        ToolStatus::Failed
    } else {
        ToolStatus::Succeeded
    };
    let said = (answer.result, answer.error);
    finish_answered_call(draft, turn, call, status, said, Some(answer.hash));
    draft.bound_next_step();
    Ok(Some(turn))
}

/// Ends a call that no page claimed, or whose page did not answer in time.
pub(super) fn expire(draft: &mut Draft<'_>, turn: TurnId, call: CallId) -> Option<TurnId> {
    let (status, error) = match draft.call(turn, call)?.stage {
        Stage::Offered(until) if draft.env.now >= until => {
            let seconds = CLAIM_TIME.as_secs();
            let error = format!("no page of the user took this call within {seconds} s; it was not run");
            (ToolStatus::Failed, error)
        }
        Stage::Claimed { until, .. } if draft.env.now >= until => {
            let seconds = RUN_TIME.as_secs();
            let error = format!(
                "the user's page took this call and did not answer within {seconds} s; whether it took effect is not \
                 known"
            );
            (ToolStatus::Unknown, error)
        }
        _ => return None,
    };
    finish_call(draft, turn, call, status, None, Some(error));
    draft.bound_next_step();
    Some(turn)
}
