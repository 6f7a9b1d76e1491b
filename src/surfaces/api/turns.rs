//! `/v1/conversations/{id}/turns` and `/v1/turns/{id}`

use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use copilotd_actors::actors::conversation::Refusal;
use copilotd_actors::actors::conversation::copies::{self, KeyUse};
use copilotd_actors::actors::conversations::Directory;
use copilotd_actors::domain::content::{Input, Metadata};
use copilotd_actors::domain::conversation::command::{Command, StoppedWork, WhenBusy};
use copilotd_actors::domain::conversation::decide::Rejection;
use copilotd_actors::domain::conversation::view::{TurnStatus, TurnView};
use copilotd_actors::domain::event::{Event, Idempotency, Record};
use copilotd_actors::domain::ids::{ConversationId, TurnId};
use copilotd_actors::domain::schema::AcceptedSchema;
use copilotd_actors::domain::sent_prompt::ToolOffer;
use copilotd_actors::domain::tool::client::ClientTools;
use copilotd_actors::ports::{self, SchemaChecker, TurnRecords};
use copilotd_gateway::request::call::Purpose;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::audit::{Action, Entry};
use crate::http::bodies::{Json, KeyedJson};
use crate::http::credentials::{Caller, Chat};
use crate::http::extract::{IdempotencyKeyParam, Ids, Reason, ReasonParam};
use crate::http::json_response;
use crate::http::problems::{Code, Problem};
use crate::http::request_id::RequestId;
use crate::http::response_memory::{LazyPageMemory, PageMemory};
use crate::surfaces::admin::audit;
use crate::surfaces::conversation_access::{Asker, ConversationAccess};
use crate::surfaces::openapi::{AUTH, BODY, FOUND, problems};
use crate::surfaces::state::AppState;
use crate::surfaces::{ensure_accepting_work, openai};
use crate::{request_body, telemetry};

/// Body of `POST /v1/conversations/{id}/turns`.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub struct Submit {
    input: Input,
    #[serde(default)]
    when_busy: WhenBusyParam,
    #[serde(default)]
    metadata: Metadata,
    response_schema: Option<Value>,
    // Left out of the hash of requests without it, so that their copies are known after an upgrade.
    #[serde(skip_serializing_if = "Option::is_none")]
    replaces: Option<TurnId>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    client_tools: Vec<ToolOffer>,
}
request_body!(Submit, "submit_turn.json");

/// What to do when another turn is busy.
#[derive(Debug, Clone, Copy, Default, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
enum WhenBusyParam {
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
        Code::Conflict,
        Code::TurnRunning,
        Code::IdempotencyKeyReused,
        Code::QueueFull,
        Code::BudgetExhausted,
        Code::QuotaExceeded,
        Code::Overloaded,
    ],
);

/// Submit a turn
///
/// A 202 is a promise: the turn is in durable storage, survives a crash at any moment and reaches a terminal state.
#[utoipa::path(
    post,
    path = "/v1/conversations/{id}/turns",
    operation_id = "submit_turn",
    tag = "turns",
    params(IdempotencyKeyParam),
    request_body = ref("#/components/schemas/SubmitTurn"),
    responses(
        (status = 202, description = "Accepted; the turn is stored", body = ref("#/components/schemas/Turn"), headers(("location" = String, description = "URL of the turn"))),
        SubmitProblems,
    ),
    security(("bearer" = ["chat"])),
)]
pub async fn submit(
    State(state): State<AppState>,
    Chat(caller): Chat,
    Ids((conversation,)): Ids<(ConversationId,)>,
    room: LazyPageMemory,
    KeyedJson { body, idempotency }: KeyedJson<Submit>,
) -> Result<Response, Problem> {
    ensure_accepting_work(&state.shutdown)?;
    let payer = openai::caller(&caller, Purpose::Turn);
    state.gateway.admit(&payer).await?;
    let response_schema = match body.response_schema {
        Some(schema) => Some(accepted(state.shared.ports.schemas.as_ref(), &caller, schema).await?),
        None => None,
    };
    let client_tools = accepted_tools(state.shared.ports.schemas.as_ref(), &caller, body.client_tools).await?;
    let conversations = state.conversations();
    if body.input.files().next().is_some() {
        conversations.find(Asker::owner(&caller), conversation).await?;
        // A copy of an earlier request is answered whatever became of its files.
        if let Some(turn) = earlier(&state, &caller, conversation, idempotency.as_ref()).await? {
            let turn_response = view(&conversations, &caller, turn, &room.page().await?).await?;
            return accepted_turn(&caller, turn, turn_response).await;
        }
    }
    let (input, marked) = state.files.referenced(&caller, conversation, body.input).await?;
    let command = Command::Submit {
        turn: TurnId::new(state.shared.ports.ids.uuid()),
        input,
        metadata: body.metadata,
        response_schema,
        when_busy: match body.when_busy {
            WhenBusyParam::Enqueue => WhenBusy::Enqueue,
            WhenBusyParam::Reject => WhenBusy::Reject,
            WhenBusyParam::Interrupt => WhenBusy::Interrupt,
        },
        idempotency,
        trace: telemetry::traceparent(),
        api_key: payer.api_key,
        roles: caller.roles.to_vec(),
        nonce: Some(state.shared.ports.ids.nonce()),
        replaces: body.replaces,
        client_tools,
        stop: StoppedWork::default(),
    };
    let accepted = conversations
        .execute(Asker::owner(&caller), conversation, command)
        .await
        .map_err(Problem::from);
    // After a server error the turn may have been stored.
    if accepted
        .as_ref()
        .is_err_and(|problem| problem.code().status().is_client_error())
    {
        state.files.release(&caller.scope, &marked).await;
    }
    let accepted = accepted?;
    let turn = accepted.turn.ok_or_else(|| Problem::new(Code::Internal))?;
    let of_turn: Vec<Record> = accepted
        .records
        .into_iter()
        .filter(|record| record.turn == Some(turn))
        .collect();
    let turn_response = match fold_turn(&caller, conversation, of_turn, accepted.position).await? {
        Some(turn_response) => turn_response,
        // A repeat of an earlier request: return the turn's current state.
        None => view(&conversations, &caller, turn, &room.page().await?).await?,
    };
    accepted_turn(&caller, turn, turn_response).await
}

async fn accepted_turn(caller: &Caller, turn: TurnId, shown: TurnResponse) -> Result<Response, Problem> {
    let mut answer = shown.answer(caller, StatusCode::ACCEPTED).await?;
    let location = HeaderValue::from_str(&format!("/v1/turns/{turn}")).map_err(|_| Problem::new(Code::Internal))?;
    answer.headers_mut().insert(header::LOCATION, location);
    Ok(answer)
}

/// Returns the turn of an earlier request with this key and body.
async fn earlier(
    state: &AppState,
    caller: &Caller,
    conversation: ConversationId,
    asked: Option<&Idempotency>,
) -> Result<Option<TurnId>, Problem> {
    let Some(asked) = asked else { return Ok(None) };
    let ports = &state.shared.ports;
    let found = copies::find(
        ports.log.as_ref(),
        &caller.scope,
        conversation,
        asked,
        ports.clock.now(),
    )
    .await?;
    Ok(match found {
        KeyUse::Copy(turn) => Some(turn),
        KeyUse::Free(_) | KeyUse::Taken => None,
    })
}

/// Accepts a turn's response schema if validation against it is affordable.
async fn accepted(checker: &dyn SchemaChecker, caller: &Caller, schema: Value) -> Result<AcceptedSchema, Problem> {
    Ok(ports::accept(checker, &caller.scope, schema).await?)
}

/// Accepts a turn's client tools if validation of their calls is affordable.
async fn accepted_tools(
    checker: &dyn SchemaChecker,
    caller: &Caller,
    tools: Vec<ToolOffer>,
) -> Result<ClientTools, Problem> {
    Ok(ports::accept_client_tools(checker, &caller.scope, tools).await?)
}

problems!(GetProblems: AUTH, FOUND);

/// Get a turn
///
/// An administrator may read another user's turn. That requires `x-copilotd-reason`, which is recorded in the audit log
/// before the response is sent.
#[utoipa::path(
    get,
    path = "/v1/turns/{id}",
    operation_id = "get_turn",
    tag = "turns",
    params(ReasonParam),
    responses(
        (status = 200, description = "The turn", body = ref("#/components/schemas/Turn")),
        GetProblems,
    ),
    security(("bearer" = ["chat"]), ("bearer" = ["admin"])),
)]
pub async fn get(
    State(conversations): State<ConversationAccess>,
    caller: Caller,
    Ids((turn,)): Ids<(TurnId,)>,
    request: RequestId,
    reason: Reason,
    room: PageMemory,
) -> Result<Response, Problem> {
    let asker = Asker::owner_or_admin(&caller)?;
    let found = conversations.find_turn(asker, turn, &room).await?;
    if !asker.is_own(&found.user) {
        let entry = Entry {
            reason: Some(reason.required()?),
            ..audit::entry(&caller, &request, Action::TurnRead, turn)
        };
        // Recorded before the content is sent: what cannot be recorded is not disclosed.
        conversations.audit.record(caller.scope.tenant(), entry).await?;
    }
    turn_response(&conversations.directory, &caller, turn, found)
        .await?
        .answer(&caller, StatusCode::OK)
        .await
}

/// Reads the current state of a turn of the caller.
async fn view(
    conversations: &ConversationAccess,
    caller: &Caller,
    turn: TurnId,
    room: &PageMemory,
) -> Result<TurnResponse, Problem> {
    let found = conversations.find_turn(Asker::owner(caller), turn, room).await?;
    turn_response(&conversations.directory, caller, turn, found).await
}

/// A turn as clients see it.
pub(crate) struct TurnResponse {
    pub(crate) view: TurnView,
    /// Approximate size in bytes.
    weight: usize,
}

impl TurnResponse {
    /// Builds the response.
    pub(crate) async fn answer(self, caller: &Caller, status: StatusCode) -> Result<Response, Problem> {
        json_response::json(caller.scope.tenant(), self.weight, status, self.view).await
    }
}

/// Folds a turn's records into what clients see; `None` without records.
async fn fold_turn(
    caller: &Caller,
    conversation: ConversationId,
    records: Vec<Record>,
    position: Option<usize>,
) -> Result<Option<TurnResponse>, Problem> {
    let weight = records.iter().map(Record::weight).sum();
    let fold = move || TurnView::fold(conversation, &records, position);
    let view = json_response::work(caller.scope.tenant(), weight, fold).await?;
    Ok(view.map(|view| TurnResponse { view, weight }))
}

/// Builds the view of a turn from its records. Another user's turn is protected content: see [`get`].
pub(crate) async fn turn_response(
    directory: &Directory,
    caller: &Caller,
    turn: TurnId,
    found: TurnRecords,
) -> Result<TurnResponse, Problem> {
    let conversation = found.conversation;
    let turn_response = fold_turn(caller, conversation, found.records, None).await?;
    let mut turn_response = turn_response.ok_or_else(|| Problem::new(Code::Internal))?;
    if turn_response.view.status == TurnStatus::Queued {
        turn_response.view.queue_position = directory.position(&caller.scope, conversation, turn).await;
    }
    Ok(turn_response)
}

/// Cancel a turn
///
/// Stops the turn's model call. A turn that has already ended stays unchanged.
#[utoipa::path(
    post,
    path = "/v1/turns/{id}/cancel",
    operation_id = "cancel_turn",
    tag = "turns",
    responses(
        (status = 202, description = "The turn, which has ended", body = ref("#/components/schemas/Turn")),
        GetProblems,
    ),
    security(("bearer" = ["chat"])),
)]
pub async fn cancel(
    State(conversations): State<ConversationAccess>,
    Chat(caller): Chat,
    Ids((turn,)): Ids<(TurnId,)>,
    // The response contains the whole turn.
    room: PageMemory,
) -> Result<Response, Problem> {
    let found = conversations.find_turn(Asker::owner(&caller), turn, &room).await?;
    let ended = found.records.iter().any(|record| record.event.is_terminal());
    if !ended {
        let command = Command::Cancel {
            turn,
            stop: StoppedWork::default(),
        };
        match conversations
            .execute(Asker::owner(&caller), found.conversation, command)
            .await
        {
            Ok(_) | Err(Refusal::Rejected(Rejection::TurnEnded)) => {}
            Err(refusal) => return Err(refusal.into()),
        }
    }
    let turn_response = view(&conversations, &caller, turn, &room).await?;
    turn_response.answer(&caller, StatusCode::ACCEPTED).await
}

/// Body of `POST /v1/turns/{id}/feedback`.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub struct Feedback {
    rating: i8,
    comment: Option<String>,
}
request_body!(Feedback, "give_feedback.json");

problems!(FeedbackProblems: AUTH, FOUND, BODY, &[Code::Conflict, Code::QuotaExceeded]);

/// Submit feedback on an answer
///
/// The latest feedback counts. It can be changed 20 times; after that the request is refused with 409 `conflict`.
#[utoipa::path(
    post,
    path = "/v1/turns/{id}/feedback",
    operation_id = "give_feedback",
    tag = "turns",
    request_body = ref("#/components/schemas/GiveFeedback"),
    responses(
        (status = 204, description = "Stored"),
        FeedbackProblems,
    ),
    security(("bearer" = ["chat"])),
)]
pub async fn feedback(
    State(conversations): State<ConversationAccess>,
    Chat(caller): Chat,
    Ids((turn,)): Ids<(TurnId,)>,
    // The whole turn is read.
    room: PageMemory,
    Json(body): Json<Feedback>,
) -> Result<StatusCode, Problem> {
    let found = conversations.find_turn(Asker::owner(&caller), turn, &room).await?;
    let by = caller.user.to_string();
    let mut given = found.records.iter().filter_map(|record| match &record.event {
        Event::FeedbackGiven { rating, comment, by } => Some((rating, comment, by)),
        _ => None,
    });
    let earlier = u32::try_from(given.clone().count()).unwrap_or(u32::MAX);
    if given.next_back() == Some((&body.rating, &body.comment, &by)) {
        return Ok(StatusCode::NO_CONTENT);
    }
    let command = Command::GiveFeedback {
        turn,
        rating: body.rating,
        comment: body.comment,
        by,
        earlier,
    };
    conversations
        .execute(Asker::owner(&caller), found.conversation, command)
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The caller's feedback on a turn.
#[derive(Debug, Clone, Serialize)]
pub struct GivenFeedback {
    rating: i8,
    comment: Option<String>,
    at: Timestamp,
}

/// Get the caller's feedback on an answer
///
/// The latest feedback; 404 `not_found` if the caller gave none.
#[utoipa::path(
    get,
    path = "/v1/turns/{id}/feedback",
    operation_id = "get_feedback",
    tag = "turns",
    responses(
        (status = 200, description = "The latest feedback", body = ref("#/components/schemas/Feedback")),
        GetProblems,
    ),
    security(("bearer" = ["chat"])),
)]
pub async fn given_feedback(
    State(conversations): State<ConversationAccess>,
    Chat(caller): Chat,
    Ids((turn,)): Ids<(TurnId,)>,
    // The whole turn is read.
    room: PageMemory,
) -> Result<axum::Json<GivenFeedback>, Problem> {
    let found = conversations.find_turn(Asker::owner(&caller), turn, &room).await?;
    let by_caller = |record: Record| match record.event {
        Event::FeedbackGiven { rating, comment, by } if by == caller.user.as_str() => Some(GivenFeedback {
            rating,
            comment,
            at: record.at,
        }),
        _ => None,
    };
    let given = found.records.into_iter().rev().find_map(by_caller);
    let none = || Problem::new(Code::NotFound).detail("the caller gave no feedback on this turn");
    given.map(axum::Json).ok_or_else(none)
}
