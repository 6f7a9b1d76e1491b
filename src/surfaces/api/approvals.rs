//! `/v1/turns/{id}/approvals/{call_id}`

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use copilotd_actors::actors::conversation::Refusal;
use copilotd_actors::domain::content::{Input, Metadata};
use copilotd_actors::domain::conversation::command::{Command, Decision};
use copilotd_actors::domain::conversation::decide::Rejection;
use copilotd_actors::domain::conversation::view::TurnView;
use copilotd_actors::domain::event::{ApprovalOutcome, Event, Record};
use copilotd_actors::domain::ids::{CallId, TurnId};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::turns::turn_response;
use crate::audit::{Action, Entry};
use crate::http::bodies::Json;
use crate::http::credentials::Caller;
use crate::http::extract::{Ids, Reason, ReasonParam, invalid};
use crate::http::problems::{Code, Problem};
use crate::http::request_id::RequestId;
use crate::http::response_memory::PageMemory;
use crate::request_body;
use crate::surfaces::admin::audit;
use crate::surfaces::conversation_access::{Asker, ConversationAccess};
use crate::surfaces::openapi::{AUTH, BODY, FOUND, problems};

/// Body of `POST /v1/turns/{id}/approvals/{call_id}`.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub struct Decide {
    decision: DecisionKind,
    arguments: Option<Value>,
    reason: Option<String>,
}
request_body!(Decide, "decide_approval.json");

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
enum DecisionKind {
    Approve,
    Reject,
}

problems!(
    DecideProblems:
    AUTH,
    FOUND,
    BODY,
    &[Code::NotWaiting, Code::RateLimited, Code::Overloaded],
);

/// Approve or reject a tool call
///
/// Allowed for the conversation's user and the tenant's administrators. Repeating the same decision returns 202; a
/// different or late one returns 409 `not_waiting`. An administrator's decision on another user's turn is recorded in
/// the audit log, and the response omits the turn's content unless `x-copilotd-reason` gives a reason for reading it.
#[utoipa::path(
    post,
    path = "/v1/turns/{id}/approvals/{call_id}",
    operation_id = "decide_approval",
    tag = "turns",
    params(ReasonParam),
    request_body = ref("#/components/schemas/DecideApproval"),
    responses(
        (status = 202, description = "Accepted; the decision is stored", body = ref("#/components/schemas/Turn")),
        DecideProblems,
    ),
    security(("bearer" = ["chat"]), ("bearer" = ["admin"])),
)]
pub async fn decide(
    State(conversations): State<ConversationAccess>,
    caller: Caller,
    Ids((turn, call)): Ids<(TurnId, CallId)>,
    request: RequestId,
    reason: Reason,
    // The response contains the whole turn.
    room: PageMemory,
    Json(body): Json<Decide>,
) -> Result<Response, Problem> {
    let asker = Asker::owner_or_admin(&caller)?;
    let found = conversations.find_turn(asker, turn, &room).await?;
    let known = found.records.iter().any(|record| {
        matches!(&record.event, Event::MessageCompleted { tool_calls, .. } if tool_calls.iter().any(|made| made.id == call))
    });
    if !known {
        return Err(Problem::new(Code::NotFound));
    }
    let decision = match body.decision {
        DecisionKind::Approve => Decision::Approve {
            arguments: body.arguments.clone(),
        },
        DecisionKind::Reject if body.arguments.is_some() => {
            return Err(invalid("/arguments", "must not be given with decision reject"));
        }
        DecisionKind::Reject => Decision::Reject,
    };
    let is_foreign = !asker.is_own(&found.user);
    let reads = is_foreign && reason.is_given();
    if is_foreign {
        let target = format!("{turn}/{call}");
        let entry = audit::entry(&caller, &request, Action::ApprovalDecided, target);
        let reading = reads.then(|| reason.required()).transpose()?;
        conversations.audit.record(caller.scope.tenant(), entry).await?;
        if reading.is_some() {
            let entry = Entry {
                reason: reading,
                ..audit::entry(&caller, &request, Action::TurnRead, turn)
            };
            conversations.audit.record(caller.scope.tenant(), entry).await?;
        }
    }
    let by = caller.user.to_string();
    let command = Command::Decide {
        turn,
        call,
        decision,
        reason: body.reason.clone(),
        by,
    };
    match conversations.execute(asker, found.conversation, command).await {
        Ok(_) => {}
        Err(Refusal::Rejected(Rejection::NotWaiting)) => {
            let now = conversations.find_turn(asker, turn, &room).await?;
            if !repeats(&now.records, call, &body) {
                return Err(Rejection::NotWaiting.into());
            }
        }
        Err(refusal) => return Err(refusal.into()),
    }
    let found = conversations.find_turn(asker, turn, &room).await?;
    let mut turn_response = turn_response(&conversations.directory, &caller, turn, found).await?;
    if is_foreign && !reads {
        withhold_content(&mut turn_response.view);
    }
    turn_response.answer(&caller, StatusCode::ACCEPTED).await
}

/// Removes from another user's turn everything that users, models and tools said.
fn withhold_content(view: &mut TurnView) {
    view.input = Input::Text(String::new());
    view.metadata = Metadata::new();
    view.output = None;
    view.error = None;
    for call in &mut view.tool_calls {
        call.arguments = Value::Null;
        call.result = None;
        call.error = None;
    }
    for guardrail in &mut view.guardrails {
        guardrail.detail = None;
    }
}

/// Whether the same decision was made before.
fn repeats(records: &[Record], wanted: CallId, body: &Decide) -> bool {
    records.iter().any(|record| match &record.event {
        Event::ApprovalDecided {
            call_id,
            decision,
            arguments,
            ..
        } if *call_id == wanted => {
            let same = match decision {
                ApprovalOutcome::Approved => body.decision == DecisionKind::Approve,
                ApprovalOutcome::Rejected => body.decision == DecisionKind::Reject,
                ApprovalOutcome::Expired => false,
            };
            same && *arguments == body.arguments
        }
        _ => false,
    })
}
