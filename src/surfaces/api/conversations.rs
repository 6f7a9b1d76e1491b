//! `/v1/conversations`

use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use copilotd_actors::actors::shared::Shared;
use copilotd_actors::domain::content::Metadata;
use copilotd_actors::domain::conversation::KEY_LIFETIME;
use copilotd_actors::domain::conversation::command::{Command, StoppedWork};
use copilotd_actors::domain::conversation::header::Header;
use copilotd_actors::domain::conversation::view::ConversationView;
use copilotd_actors::domain::event::{Channel, Idempotency};
use copilotd_actors::domain::ids::{ConversationId, CopilotName};
use copilotd_actors::domain::search_words::{MAX_WORDS, SearchWords};
use copilotd_actors::domain::weight;
use copilotd_actors::ports::{ListQuery, Ports};
use copilotd_actors::search::{SearchBounds, SearchError, SearchPage, SearchPosition, SearchQuery, search};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::IntoParams;

use crate::audit::Action;
use crate::http::bodies::{Json, KeyedJson};
use crate::http::credentials::{Caller, Chat};
use crate::http::extract::{IdempotencyKeyParam, Ids, Query, invalid};
use crate::http::json_response;
use crate::http::page::{self, Limit, Page};
use crate::http::problems::{Code, Problem};
use crate::http::request_id::RequestId;
use crate::http::response_memory::PageMemory;
use crate::request_body;
use crate::surfaces::admin::audit;
use crate::surfaces::conversation_access::{Asker, ConversationAccess};
use crate::surfaces::ensure_accepting_work;
use crate::surfaces::openapi::{AUTH, BODY, FOUND, problems};
use crate::surfaces::state::Shutdown;

/// Maximum number of days on which one idempotency key can be used.
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

/// Create a conversation
///
/// Repeated with the same `Idempotency-Key`, it returns the conversation in its current state; one that has been erased
/// since has the status `erased`.
#[utoipa::path(
    post,
    path = "/v1/conversations",
    operation_id = "create_conversation",
    tag = "conversations",
    params(IdempotencyKeyParam),
    request_body = ref("#/components/schemas/CreateConversation"),
    responses(
        (status = 201, description = "Created", body = ref("#/components/schemas/Conversation"), headers(("location" = String, description = "URL of the conversation"))),
        CreateProblems,
    ),
    security(("bearer" = ["chat"])),
)]
pub async fn create(
    State(conversations): State<ConversationAccess>,
    State(shared): State<Arc<Shared>>,
    State(shutdown): State<Shutdown>,
    Chat(caller): Chat,
    KeyedJson { body, idempotency }: KeyedJson<Create>,
) -> Result<Response, Problem> {
    ensure_accepting_work(&shutdown)?;
    let unknown = || invalid("/copilot", "unknown copilot: it is not configured for this tenant");
    let copilot: Option<CopilotName> = match &body.copilot {
        Some(name) => Some(name.parse().map_err(|_| unknown())?),
        None => None,
    };
    let policy = shared
        .ports
        .policies
        .policy(&caller.scope, copilot.as_ref())
        .ok_or_else(unknown)?;
    let (id, known) = id_for(&shared.ports, &caller, idempotency.as_ref()).await?;
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
    let asker = Asker::owner(&caller);
    let answer = if keyed {
        conversations.execute(asker, id, command).await
    } else {
        conversations.create(asker, id, command).await
    };
    match answer {
        Ok(accepted) => Ok(created(&accepted.header)),
        Err(refusal) if keyed => {
            // It may have been erased between the lookup and the command.
            let known = conversations.log.header(&caller.scope, id).await?;
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

/// Returns the id for a new conversation, with the header of the one that an earlier copy of the request created. With
/// a key, all copies of a request get the same id, and the log's fence decides between them. A key last used more than
/// a day ago is free again and gets the id of its next round.
///
/// If the conversation was erased, every copy gets it in its current state: the first body's hash is erased too, so a
/// different body cannot be told from the same one.
async fn id_for(
    ports: &Ports,
    caller: &Caller,
    idempotency: Option<&Idempotency>,
) -> Result<(ConversationId, Option<Header>), Problem> {
    let Some(idempotency) = idempotency else {
        return Ok((ConversationId::new(ports.ids.uuid()), None));
    };
    for round in 0..MAX_ROUNDS {
        let id = ConversationId::derived(caller.scope.tenant(), &caller.user, &idempotency.key, round);
        let header = ports.log.header(&caller.scope, id).await?;
        let stale = |created_at| ports.clock.now().duration_since(created_at) >= KEY_LIFETIME;
        if header.as_ref().is_none_or(|header| !stale(header.created_at)) {
            return Ok((id, header));
        }
    }
    Err(Problem::new(Code::IdempotencyKeyReused)
        .detail("this Idempotency-Key was used on too many days; use a new one"))
}

/// Longest search, in characters.
const MAX_SEARCH: usize = 200;

/// Query of the list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct List {
    /// Maximum number of entries per page
    #[serde(default)]
    #[param(value_type = u8, minimum = 1, maximum = 100, default = 20)]
    limit: Limit,
    /// The `next_cursor` of the previous page, which must have the same `q`
    cursor: Option<String>,
    /// Only conversations whose title, or one of whose messages, has all these words (at most 16), in any order. Case and accents do
    /// not matter; the last word may be the beginning of one. A page may have fewer entries than `limit`, even none: go on
    /// while there is a `next_cursor`
    #[param(min_length = 1, max_length = 200)]
    q: Option<String>,
}

problems!(ListProblems: AUTH);

/// List the caller's conversations, newest first
#[utoipa::path(
    get,
    path = "/v1/conversations",
    operation_id = "list_conversations",
    tag = "conversations",
    params(List),
    responses(
        (status = 200, description = "A page of conversations", body = ref("#/components/schemas/ConversationPage")),
        ListProblems,
    ),
    security(("bearer" = ["chat"])),
)]
pub async fn list(
    State(conversations): State<ConversationAccess>,
    Chat(caller): Chat,
    Query(query): Query<List>,
    _room: PageMemory,
) -> Result<Response, Problem> {
    if let Some(text) = &query.q {
        return found(&conversations, &caller, &query, text).await;
    }
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
    let mut headers = conversations.log.list(&caller.scope, &wanted).await?;
    let more = headers.len() > limit;
    headers.truncate(limit);
    let weight: usize = headers.iter().map(|header| weight::of_members(&header.metadata)).sum();
    let positions: Vec<_> = headers.iter().map(|header| (header.created_at, header.id)).collect();
    let shown = move || {
        let mut data: Vec<ConversationView> = headers.iter().map(ConversationView::from).collect();
        let more = page::cut(&mut data) || more;
        (data, more)
    };
    let (data, more) = json_response::work(caller.scope.tenant(), weight, shown).await?;
    let last = positions[..data.len()].last().filter(|_| more);
    let next_cursor = last.map(|last| page::cursor(&name, last));
    json_response::json(
        caller.scope.tenant(),
        weight,
        StatusCode::OK,
        Page { data, next_cursor },
    )
    .await
}

/// Returns a page of the conversations in which a text occurs.
async fn found(
    conversations: &ConversationAccess,
    caller: &Caller,
    query: &List,
    text: &str,
) -> Result<Response, Problem> {
    let words = SearchWords::parse(text).filter(|_| text.chars().count() <= MAX_SEARCH);
    let words = words.ok_or_else(|| {
        invalid(
            "/q",
            format!("must have 1 to {MAX_WORDS} words, and at most {MAX_SEARCH} characters"),
        )
    })?;
    let name = format!("search/{}/{}/{text}", caller.scope.tenant(), caller.user);
    let from = match &query.cursor {
        Some(cursor) => Some(page::position(&name, cursor)?),
        None => None,
    };
    let wanted = SearchQuery {
        user: caller.user.clone(),
        words,
        from,
        limit: query.limit.get(),
    };
    let log = conversations.log.as_ref();
    let found = search(log, &caller.scope, &wanted, SearchBounds::default()).await;
    let SearchPage { mut found, mut next } = found.map_err(|error| match error {
        SearchError::Log(error) => Problem::from(error),
        SearchError::Compute(error) => {
            tracing::warn!(tenant = %caller.scope.tenant(), %error, "a search over conversations was refused with 503");
            Problem::new(Code::Overloaded).detail("too much is being searched at once")
        }
    })?;
    let weight: usize = found.iter().map(|header| weight::of_members(&header.metadata)).sum();
    let fitting = json_response::work(caller.scope.tenant(), weight, {
        let mut data: Vec<ConversationView> = found.iter().map(ConversationView::from).collect();
        move || {
            let is_cut = page::cut(&mut data);
            (data, is_cut)
        }
    });
    let (data, is_cut) = fitting.await?;
    if is_cut {
        found.truncate(data.len());
        next = found.last().map(|last| SearchPosition {
            created_at: last.created_at,
            conversation: last.id,
            before: None,
        });
    }
    let next_cursor = next.map(|next| page::cursor(&name, &next));
    json_response::json(
        caller.scope.tenant(),
        weight,
        StatusCode::OK,
        Page { data, next_cursor },
    )
    .await
}

problems!(GetProblems: AUTH, FOUND);

/// Get a conversation
#[utoipa::path(
    get,
    path = "/v1/conversations/{id}",
    operation_id = "get_conversation",
    tag = "conversations",
    responses(
        (status = 200, description = "The conversation", body = ref("#/components/schemas/Conversation")),
        GetProblems,
    ),
    security(("bearer" = ["chat"])),
)]
pub async fn get(
    State(conversations): State<ConversationAccess>,
    Chat(caller): Chat,
    Ids((id,)): Ids<(ConversationId,)>,
) -> Result<axum::Json<ConversationView>, Problem> {
    let header = conversations.find(Asker::owner(&caller), id).await?;
    Ok(axum::Json(ConversationView::from(&header)))
}

problems!(UpdateProblems: AUTH, FOUND, BODY, &[Code::QuotaExceeded]);

/// Update a conversation's title and metadata
#[utoipa::path(
    patch,
    path = "/v1/conversations/{id}",
    operation_id = "update_conversation",
    tag = "conversations",
    request_body = ref("#/components/schemas/UpdateConversation"),
    responses(
        (status = 200, description = "The updated conversation", body = ref("#/components/schemas/Conversation")),
        UpdateProblems,
    ),
    security(("bearer" = ["chat"])),
)]
pub async fn update(
    State(conversations): State<ConversationAccess>,
    Chat(caller): Chat,
    Ids((id,)): Ids<(ConversationId,)>,
    Json(body): Json<Update>,
) -> Result<axum::Json<ConversationView>, Problem> {
    conversations.find(Asker::owner(&caller), id).await?;
    let command = Command::Update {
        title: body.title,
        metadata: body.metadata,
    };
    let accepted = conversations.execute(Asker::owner(&caller), id, command).await?;
    Ok(axum::Json(ConversationView::from(&accepted.header)))
}

/// Erase a conversation
///
/// Erases its content from every store; a tombstone and an audit entry stay.
#[utoipa::path(
    delete,
    path = "/v1/conversations/{id}",
    operation_id = "delete_conversation",
    tag = "conversations",
    responses(
        (status = 204, description = "Erased"),
        GetProblems,
    ),
    security(("bearer" = ["chat"])),
)]
pub async fn delete(
    State(conversations): State<ConversationAccess>,
    Chat(caller): Chat,
    Ids((id,)): Ids<(ConversationId,)>,
    request: RequestId,
) -> Result<StatusCode, Problem> {
    conversations.find(Asker::owner(&caller), id).await?;
    let entry = audit::entry(&caller, &request, Action::ConversationErased, id);
    conversations.audit.record(caller.scope.tenant(), entry).await?;
    let command = Command::Erase {
        by: caller.user.to_string(),
        stop: StoppedWork::default(),
    };
    conversations.execute(Asker::owner(&caller), id, command).await?;
    Ok(StatusCode::NO_CONTENT)
}
