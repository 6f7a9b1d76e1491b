//! `/v1/conversations/{id}/turns` and `/v1/turns/{id}`

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use copilotd_actors::conversation::Refusal;
use copilotd_actors::domain::command::{Command, Halt, WhenBusy};
use copilotd_actors::domain::content::{Input, Metadata};
use copilotd_actors::domain::decide::Rejection;
use copilotd_actors::domain::event::Record;
use copilotd_actors::domain::ids::{ConversationId, TurnId};
use copilotd_actors::domain::view::TurnView;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{asker, openai, taking_work, turn_records};
use crate::gateway::call::Purpose;
use crate::http::account::PageRoom;
use crate::http::auth::{Caller, Chat};
use crate::http::body::Json;
use crate::http::extract::{IdempotencyKey, Idempotent, Ids};
use crate::http::problem::{Code, Problem};
use crate::http::state::AppState;
use crate::openapi::{AUTH, BODY, FOUND, problems};
use crate::{request_body, telemetry};

/// Body of `POST /v1/conversations/{id}/turns`.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub struct Submit {
    input: Input,
    #[serde(default)]
    when_busy: When,
    #[serde(default)]
    metadata: Metadata,
    response_schema: Option<Value>,
}
request_body!(Submit, "submit_turn.json");

/// What the turn does to one that is busy.
#[derive(Debug, Clone, Copy, Default, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
enum When {
    #[default]
    Enqueue,
    Reject,
    Interrupt,
}

problems!(
    SubmitProblems:
    AUTH,
    FOUND,
    BODY,
    &[
        Code::TurnRunning,
        Code::IdempotencyKeyReused,
        Code::QueueFull,
        Code::BudgetExhausted,
        Code::Overloaded,
    ],
);

/// Asks the copilot
///
/// A 202 is a promise: the turn is in durable storage, survives a crash at any moment and reaches a terminal state.
#[utoipa::path(
    post,
    path = "/v1/conversations/{id}/turns",
    operation_id = "submit_turn",
    tag = "turns",
    params(Idempotent),
    request_body = ref("#/components/schemas/SubmitTurn"),
    responses(
        (status = 202, description = "It is stored", body = ref("#/components/schemas/Turn"), headers(("location" = String, description = "The turn's address"))),
        SubmitProblems,
    ),
    security(("bearer" = ["chat"])),
)]
pub async fn submit(
    State(state): State<AppState>,
    Chat(caller): Chat,
    Ids((conversation,)): Ids<(ConversationId,)>,
    key: IdempotencyKey,
    Json(body): Json<Submit>,
) -> Result<Response, Problem> {
    taking_work(&state)?;
    state.gateway.admit(&openai::caller(&caller, Purpose::Turn)).await?;
    let idempotency = key.with_body(&body);
    let command = Command::Submit {
        turn: TurnId::new(state.shared.ports.ids.uuid()),
        input: body.input,
        metadata: body.metadata,
        response_schema: body.response_schema,
        when_busy: match body.when_busy {
            When::Enqueue => WhenBusy::Enqueue,
            When::Reject => WhenBusy::Reject,
            When::Interrupt => WhenBusy::Interrupt,
        },
        idempotency,
        trace: telemetry::traceparent(),
        halt: Halt::default(),
    };
    let accepted = state
        .directory
        .ask(&caller.scope, conversation, &asker(&caller), command)
        .await?;
    let turn = accepted.turn.ok_or_else(|| Problem::new(Code::Internal))?;
    let of_turn: Vec<Record> = accepted
        .records
        .into_iter()
        .filter(|record| record.turn == Some(turn))
        .collect();
    let view = match TurnView::fold(conversation, &of_turn, accepted.position) {
        Some(view) => view,
        // The copy of an earlier request: the turn as it is now.
        None => view(&state, &caller, turn).await?,
    };
    let location = [(header::LOCATION, format!("/v1/turns/{turn}"))];
    Ok((StatusCode::ACCEPTED, location, axum::Json(view)).into_response())
}

problems!(GetProblems: AUTH, FOUND);

/// Returns a turn
#[utoipa::path(
    get,
    path = "/v1/turns/{id}",
    operation_id = "get_turn",
    tag = "turns",
    responses(
        (status = 200, description = "As it is now", body = ref("#/components/schemas/Turn")),
        GetProblems,
    ),
    security(("bearer" = ["chat"])),
)]
pub async fn get(
    State(state): State<AppState>,
    Chat(caller): Chat,
    Ids((turn,)): Ids<(TurnId,)>,
    _room: PageRoom,
) -> Result<axum::Json<TurnView>, Problem> {
    Ok(axum::Json(view(&state, &caller, turn).await?))
}

/// Reads a turn as it is now.
pub(super) async fn view(state: &AppState, caller: &Caller, turn: TurnId) -> Result<TurnView, Problem> {
    let found = turn_records(state, caller, turn, true).await?;
    let mut view =
        TurnView::fold(found.conversation, &found.records, None).ok_or_else(|| Problem::new(Code::Internal))?;
    if view.status == "queued" {
        view.queue_position = state.directory.position(&caller.scope, found.conversation, turn).await;
    }
    Ok(view)
}

/// Cancels a turn; one that has ended stays as it is
#[utoipa::path(
    post,
    path = "/v1/turns/{id}/cancel",
    operation_id = "cancel_turn",
    tag = "turns",
    responses(
        (status = 202, description = "It has ended", body = ref("#/components/schemas/Turn")),
        GetProblems,
    ),
    security(("bearer" = ["chat"])),
)]
pub async fn cancel(
    State(state): State<AppState>,
    Chat(caller): Chat,
    Ids((turn,)): Ids<(TurnId,)>,
) -> Result<Response, Problem> {
    let found = turn_records(&state, &caller, turn, false).await?;
    let ended = found.records.iter().any(|record| record.event.is_terminal());
    if !ended {
        let command = Command::Cancel {
            turn,
            halt: Halt::default(),
        };
        match state
            .directory
            .ask(&caller.scope, found.conversation, &asker(&caller), command)
            .await
        {
            Ok(_) | Err(Refusal::Rejected(Rejection::Ended)) => {}
            Err(refusal) => return Err(refusal.into()),
        }
    }
    let view = view(&state, &caller, turn).await?;
    Ok((StatusCode::ACCEPTED, axum::Json(view)).into_response())
}

/// Body of `POST /v1/turns/{id}/feedback`.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub struct Feedback {
    rating: i8,
    comment: Option<String>,
}
request_body!(Feedback, "give_feedback.json");

problems!(FeedbackProblems: AUTH, FOUND, BODY);

/// Keeps what the user thinks of an answer
#[utoipa::path(
    post,
    path = "/v1/turns/{id}/feedback",
    operation_id = "give_feedback",
    tag = "turns",
    request_body = ref("#/components/schemas/GiveFeedback"),
    responses(
        (status = 204, description = "It is stored"),
        FeedbackProblems,
    ),
    security(("bearer" = ["chat"])),
)]
pub async fn feedback(
    State(state): State<AppState>,
    Chat(caller): Chat,
    Ids((turn,)): Ids<(TurnId,)>,
    Json(body): Json<Feedback>,
) -> Result<StatusCode, Problem> {
    let found = turn_records(&state, &caller, turn, false).await?;
    let command = Command::GiveFeedback {
        turn,
        rating: body.rating,
        comment: body.comment,
        by: caller.user.to_string(),
    };
    state
        .directory
        .ask(&caller.scope, found.conversation, &asker(&caller), command)
        .await?;
    Ok(StatusCode::NO_CONTENT)
}
