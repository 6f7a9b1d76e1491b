//! `/v1/conversations`

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use copilotd_actors::domain::content::Metadata;
use copilotd_actors::domain::conversation::KEY_LIFE;
use copilotd_actors::domain::conversation::command::{Command, Halt};
use copilotd_actors::domain::conversation::header::Header;
use copilotd_actors::domain::conversation::view::ConversationView;
use copilotd_actors::domain::event::{Channel, Idempotency};
use copilotd_actors::domain::ids::{ConversationId, CopilotName};
use copilotd_actors::domain::weight;
use copilotd_actors::ports::ListQuery;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{asker, audit, own_conversation, taking_work};
use crate::audit::Action;
use crate::http::auth::{Caller, Chat};
use crate::http::body::{Json, KeyedJson};
use crate::http::extract::{Idempotent, Ids, Query, invalid};
use crate::http::page::{self, Page, Wanted};
use crate::http::problem::{Code, Problem};
use crate::http::request_id::RequestId;
use crate::http::room::PageRoom;
use crate::http::state::AppState;
use crate::http::written;
use crate::openapi::{AUTH, BODY, FOUND, problems};
use crate::request_body;

/// Uses of one key on different days that are told apart; beyond that the client has to choose another key.
const MAX_ROUNDS: u32 = 64;

/// Body of `POST /v1/conversations`.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub struct Create {
    copilot: Option<String>,
    title: Option<String>,
    #[serde(default)]
    metadata: Metadata,
}
request_body!(Create, "create_conversation.json");

/// Body of `PATCH /v1/conversations/{id}`.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub struct Update {
    title: Option<String>,
    metadata: Option<Metadata>,
}
request_body!(Update, "update_conversation.json");

problems!(
    CreateProblems:
    AUTH,
    BODY,
    &[Code::Conflict, Code::IdempotencyKeyReused, Code::QuotaExceeded],
);

/// Opens a conversation
///
/// Repeated with its `Idempotency-Key`, it answers with the conversation as it is now: one that was erased since has the status `erased`.
#[utoipa::path(
    post,
    path = "/v1/conversations",
    operation_id = "create_conversation",
    tag = "conversations",
    params(Idempotent),
    request_body = ref("#/components/schemas/CreateConversation"),
    responses(
        (status = 201, description = "It is stored", body = ref("#/components/schemas/Conversation"), headers(("location" = String, description = "Its address"))),
        CreateProblems,
    ),
    security(("bearer" = ["chat"])),
)]
pub async fn create(
    State(state): State<AppState>,
    Chat(caller): Chat,
    KeyedJson { body, idempotency }: KeyedJson<Create>,
) -> Result<Response, Problem> {
    taking_work(&state)?;
    let unknown = || invalid("/copilot", "there is no such copilot");
    let copilot: Option<CopilotName> = match &body.copilot {
        Some(name) => Some(name.parse().map_err(|_| unknown())?),
        None => None,
    };
    let policy = state
        .shared
        .ports
        .policies
        .policy(&caller.scope, copilot.as_ref())
        .ok_or_else(unknown)?;
    let (id, known) = id_for(&state, &caller, idempotency.as_ref()).await?;
    if let Some(erased) = known.filter(|header| header.erased) {
        return Ok(created(&erased));
    }
    let keyed = idempotency.is_some();
    let command = Command::Create {
        tenant: caller.scope.tenant().clone(),
        user: caller.user.clone(),
        copilot: policy.copilot.clone(),
        channel: Channel::Api,
        title: body.title,
        metadata: body.metadata,
        idempotency,
    };
    match state.directory.ask(&caller.scope, id, &asker(&caller), command).await {
        Ok(accepted) => Ok(created(&accepted.header)),
        Err(refusal) if keyed => {
            // It may have been erased between the look and the request.
            let known = state.log().header(&caller.scope, id).await?;
            let erased = known.filter(|header| header.erased);
            erased.map(|erased| created(&erased)).ok_or_else(|| refusal.into())
        }
        Err(refusal) => Err(refusal.into()),
    }
}

fn created(header: &Header) -> Response {
    let location = [(header::LOCATION, format!("/v1/conversations/{}", header.id))];
    (
        StatusCode::CREATED,
        location,
        axum::Json(ConversationView::from(header)),
    )
        .into_response()
}

/// With a key, copies of one request get one id, and the log's fence decides between them. A key that was used more
/// than a day ago is free again: it gets the id of its next round. Returned with what is known of the conversation that an earlier copy made.
///
/// One that was erased answers every copy as it is now: what the first body said is erased too, its hash included, so that another body
/// cannot be told from the same one.
async fn id_for(
    state: &AppState,
    caller: &Caller,
    idempotency: Option<&Idempotency>,
) -> Result<(ConversationId, Option<Header>), Problem> {
    let Some(idempotency) = idempotency else {
        return Ok((ConversationId::new(state.shared.ports.ids.uuid()), None));
    };
    for round in 0..MAX_ROUNDS {
        let id = ConversationId::derived(caller.scope.tenant(), &caller.user, &idempotency.key, round);
        let header = state.log().header(&caller.scope, id).await?;
        let stale = |created_at| state.clock().now().duration_since(created_at) >= KEY_LIFE;
        if header.as_ref().is_none_or(|header| !stale(header.created_at)) {
            return Ok((id, header));
        }
    }
    Err(Problem::new(Code::IdempotencyKeyReused).detail("the key was used on too many days"))
}

problems!(ListProblems: AUTH);

/// Lists the caller's conversations, newest first
#[utoipa::path(
    get,
    path = "/v1/conversations",
    operation_id = "list_conversations",
    tag = "conversations",
    params(Wanted),
    responses(
        (status = 200, description = "A page of them", body = ref("#/components/schemas/ConversationPage")),
        ListProblems,
    ),
    security(("bearer" = ["chat"])),
)]
pub async fn list(
    State(state): State<AppState>,
    Chat(caller): Chat,
    Query(query): Query<Wanted>,
    _room: PageRoom,
) -> Result<Response, Problem> {
    let name = format!("conversations/{}/{}", caller.scope.tenant(), caller.user);
    let before = match &query.cursor {
        Some(cursor) => Some(page::position::<(Timestamp, ConversationId)>(&name, cursor)?),
        None => None,
    };
    let limit = query.limit.get();
    let wanted = ListQuery {
        user: Some(caller.user.clone()),
        before,
        limit: limit + 1,
        ..ListQuery::default()
    };
    let mut headers = state.log().list(&caller.scope, &wanted).await?;
    let more = headers.len() > limit;
    headers.truncate(limit);
    let weight: usize = headers.iter().map(|header| weight::of_members(&header.metadata)).sum();
    let positions: Vec<_> = headers.iter().map(|header| (header.created_at, header.id)).collect();
    let shown = move || {
        let mut data: Vec<ConversationView> = headers.iter().map(ConversationView::from).collect();
        let more = page::cut(&mut data) || more;
        (data, more)
    };
    let (data, more) = written::work(caller.scope.tenant(), weight, shown).await?;
    let last = positions[..data.len()].last().filter(|_| more);
    let next_cursor = last.map(|last| page::cursor(&name, last));
    written::json(
        caller.scope.tenant(),
        weight,
        StatusCode::OK,
        Page { data, next_cursor },
    )
    .await
}

problems!(GetProblems: AUTH, FOUND);

/// Returns a conversation
#[utoipa::path(
    get,
    path = "/v1/conversations/{id}",
    operation_id = "get_conversation",
    tag = "conversations",
    responses(
        (status = 200, description = "As it is now", body = ref("#/components/schemas/Conversation")),
        GetProblems,
    ),
    security(("bearer" = ["chat"])),
)]
pub async fn get(
    State(state): State<AppState>,
    Chat(caller): Chat,
    Ids((id,)): Ids<(ConversationId,)>,
) -> Result<axum::Json<ConversationView>, Problem> {
    let header = own_conversation(&state, &caller, id).await?;
    Ok(axum::Json(ConversationView::from(&header)))
}

problems!(UpdateProblems: AUTH, FOUND, BODY, &[Code::QuotaExceeded]);

/// Changes title and metadata
#[utoipa::path(
    patch,
    path = "/v1/conversations/{id}",
    operation_id = "update_conversation",
    tag = "conversations",
    request_body = ref("#/components/schemas/UpdateConversation"),
    responses(
        (status = 200, description = "It is stored", body = ref("#/components/schemas/Conversation")),
        UpdateProblems,
    ),
    security(("bearer" = ["chat"])),
)]
pub async fn update(
    State(state): State<AppState>,
    Chat(caller): Chat,
    Ids((id,)): Ids<(ConversationId,)>,
    Json(body): Json<Update>,
) -> Result<axum::Json<ConversationView>, Problem> {
    own_conversation(&state, &caller, id).await?;
    let command = Command::Update {
        title: body.title,
        metadata: body.metadata,
    };
    let accepted = state.directory.ask(&caller.scope, id, &asker(&caller), command).await?;
    Ok(axum::Json(ConversationView::from(&accepted.header)))
}

/// Erases a conversation: its content goes everywhere, its tombstone stays
#[utoipa::path(
    delete,
    path = "/v1/conversations/{id}",
    operation_id = "delete_conversation",
    tag = "conversations",
    responses(
        (status = 204, description = "It is erased"),
        GetProblems,
    ),
    security(("bearer" = ["chat"])),
)]
pub async fn delete(
    State(state): State<AppState>,
    Chat(caller): Chat,
    Ids((id,)): Ids<(ConversationId,)>,
    request: RequestId,
) -> Result<StatusCode, Problem> {
    own_conversation(&state, &caller, id).await?;
    let entry = audit::entry(&caller, &request, Action::ConversationErased, id);
    state.audit.record(caller.scope.tenant(), entry).await?;
    let command = Command::Erase {
        by: caller.user.to_string(),
        halt: Halt::default(),
    };
    state.directory.ask(&caller.scope, id, &asker(&caller), command).await?;
    Ok(StatusCode::NO_CONTENT)
}
