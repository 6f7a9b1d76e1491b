//! `/v1/turns/{id}/client-tools/{call_id}`

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use copilotd_actors::actors::conversation::Refusal;
use copilotd_actors::domain::conversation::command::Command;
use copilotd_actors::domain::conversation::decide::Rejection;
use copilotd_actors::domain::event::{Event, Record};
use copilotd_actors::domain::ids::{CallId, TurnId};
use copilotd_actors::domain::tool::client::Claim;
use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use super::turns::turn_response;
use crate::http::bodies::KeyedJson;
use crate::http::credentials::{Caller, Chat};
use crate::http::extract::{IdempotencyKeyParam, Ids, hash_of_body, invalid};
use crate::http::json_response;
use crate::http::problems::{Code, Problem};
use crate::http::response_memory::PageMemory;
use crate::request_body;
use crate::surfaces::conversation_access::{Asker, ConversationAccess};
use crate::surfaces::openapi::{AUTH, BODY, FOUND, problems};
use crate::surfaces::state::AppState;

/// Body of `POST /v1/turns/{id}/client-tools/{call_id}`.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub struct RunClientTool {
    claim: ClaimParam,
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    result: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}
request_body!(RunClientTool, "run_client_tool.json");

/// Whether the page asks for the call, or the token that it got when it did.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(untagged)]
enum ClaimParam {
    Wanted(bool),
    Held(String),
}

/// A `null` result is a result.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

/// A call that the caller has claimed.
#[derive(Debug, Serialize)]
struct ClaimedCall {
    call_id: CallId,
    name: String,
    arguments: Value,
    expires_at: Timestamp,
    claim: String,
}

problems!(
    RunProblems:
    AUTH,
    FOUND,
    BODY,
    &[Code::NotWaiting, Code::RateLimited, Code::Overloaded],
);

/// Claim or answer a call of a client tool
///
/// `{"claim": true}` gives the call to the caller, and to nobody else, with a token; every later claim is refused with
/// 409 `not_waiting`. The same claim again with the same `Idempotency-Key` gets the same answer while the call waits for
/// its result. Then `{"claim": "<token>", "result": …}` or `{"claim": "<token>", "error": "…"}` ends the call; the same
/// answer again is accepted again, any other or a late one is refused with 409 `not_waiting`. Only the conversation's
/// user may call this.
#[utoipa::path(
    post,
    path = "/v1/turns/{id}/client-tools/{call_id}",
    operation_id = "run_client_tool",
    tag = "turns",
    params(IdempotencyKeyParam),
    request_body = ref("#/components/schemas/RunClientTool"),
    responses(
        (status = 200, description = "The call now belongs to the caller, who runs it", body = ref("#/components/schemas/ClaimedCall")),
        (status = 202, description = "Accepted; the call's result is stored", body = ref("#/components/schemas/Turn")),
        RunProblems,
    ),
    security(("bearer" = ["chat"])),
)]
pub async fn run(
    State(state): State<AppState>,
    Chat(caller): Chat,
    Ids((turn, call)): Ids<(TurnId, CallId)>,
    // The whole turn is read.
    room: PageMemory,
    KeyedJson { body, idempotency }: KeyedJson<RunClientTool>,
) -> Result<Response, Problem> {
    let conversations = state.conversations();
    let call = CallPath { turn, call };
    match &body.claim {
        ClaimParam::Wanted(true) if body.result.is_none() && body.error.is_none() => {
            let claim = Claim {
                token: state.shared.ports.ids.nonce(),
                key: idempotency.map(|known| known.key),
            };
            call.claim(&conversations, &caller, claim, &room).await
        }
        ClaimParam::Wanted(true) => Err(invalid(
            "/claim",
            "must be the token of the claim when a result or an error is sent",
        )),
        ClaimParam::Wanted(false) => Err(invalid("/claim", "must be true, or the token of a claim")),
        ClaimParam::Held(token) => {
            let token = token.clone();
            call.answer(&conversations, &caller, token, body, &room).await
        }
    }
}

/// Which call a request is about.
struct CallPath {
    turn: TurnId,
    call: CallId,
}

impl CallPath {
    async fn claim(
        &self,
        conversations: &ConversationAccess,
        caller: &Caller,
        claim: Claim,
        room: &PageMemory,
    ) -> Result<Response, Problem> {
        let asker = Asker::owner(caller);
        let found = conversations.find_turn(asker, self.turn, room).await?;
        self.must_exist(&found.records)?;
        let command = Command::ClaimClientTool {
            turn: self.turn,
            call: self.call,
            claim,
        };
        let accepted = conversations.execute(asker, found.conversation, command).await?;
        let claimed = match self.claimed(&accepted.records) {
            Some(claimed) => Some(claimed),
            // A repetition: the claim was made before.
            None => self.claimed(&conversations.find_turn(asker, self.turn, room).await?.records),
        };
        let claimed = claimed.ok_or_else(|| Problem::new(Code::Internal))?;
        let weight = copilotd_actors::domain::weight::of(&claimed.arguments);
        Ok(
            json_response::json(caller.scope.tenant(), weight, StatusCode::OK, claimed)
                .await?
                .into_response(),
        )
    }

    async fn answer(
        &self,
        conversations: &ConversationAccess,
        caller: &Caller,
        token: String,
        body: RunClientTool,
        room: &PageMemory,
    ) -> Result<Response, Problem> {
        let asker = Asker::owner(caller);
        let found = conversations.find_turn(asker, self.turn, room).await?;
        self.must_exist(&found.records)?;
        let result = body.result.as_ref().map_or(0, copilotd_actors::domain::weight::of);
        let weight = result + body.error.as_ref().map_or(0, String::len);
        let hashed = move || (hash_of_body(&body), body);
        let (answer_hash, body) = json_response::work(caller.scope.tenant(), weight, hashed).await?;
        let command = Command::AnswerClientTool {
            turn: self.turn,
            call: self.call,
            token,
            failed: body.error.is_some(),
            result: body.result,
            error: body.error,
            answer_hash: answer_hash.clone(),
        };
        match conversations.execute(asker, found.conversation, command).await {
            Ok(_) => {}
            Err(Refusal::Rejected(Rejection::NotClaimable)) => {
                let now = conversations.find_turn(asker, self.turn, room).await?;
                if !self.was_answered(&now.records, &answer_hash) {
                    return Err(Rejection::NotClaimable.into());
                }
            }
            Err(refusal) => return Err(refusal.into()),
        }
        let found = conversations.find_turn(asker, self.turn, room).await?;
        let turn_response = turn_response(&conversations.directory, caller, self.turn, found).await?;
        turn_response.answer(caller, StatusCode::ACCEPTED).await
    }

    /// Refuses a call that no message of the turn has.
    fn must_exist(&self, records: &[Record]) -> Result<(), Problem> {
        let has_call = |record: &Record| match &record.event {
            Event::MessageCompleted { tool_calls, .. } => tool_calls.iter().any(|made| made.id == self.call),
            _ => false,
        };
        let exists = records.iter().any(has_call);
        exists.then_some(()).ok_or_else(|| Problem::new(Code::NotFound))
    }

    /// Finds the claim of the call.
    fn claimed(&self, records: &[Record]) -> Option<ClaimedCall> {
        records.iter().find_map(|record| match &record.event {
            Event::ToolCalled {
                call_id,
                name,
                arguments,
                settles_at,
                claim: Some(claim),
            } if *call_id == self.call => Some(ClaimedCall {
                call_id: *call_id,
                name: name.clone(),
                arguments: arguments.clone(),
                expires_at: *settles_at,
                claim: claim.token.clone(),
            }),
            _ => None,
        })
    }

    /// Whether the call ended with this very answer. The hash covers the token of the claim.
    fn was_answered(&self, records: &[Record], hash: &str) -> bool {
        records.iter().any(|record| match &record.event {
            Event::ToolFinished {
                call_id,
                answer_hash: Some(known),
                ..
            } => *call_id == self.call && known == hash,
            _ => false,
        })
    }
}
