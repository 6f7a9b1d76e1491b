//! `/v1/stream-tickets`

use axum::extract::State;
use copilotd_actors::domain::ids::ConversationId;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::http::bodies::Json;
use crate::http::credentials::Chat;
use crate::http::problems::{Code, Problem};
use crate::request_body;
use crate::surfaces::openapi::{AUTH, BODY, FOUND, problems};
use crate::surfaces::own_conversation;
use crate::surfaces::state::AppState;

/// Body of `POST /v1/stream-tickets`.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub struct Create {
    conversation_id: String,
}
request_body!(Create, "create_stream_ticket.json");

/// A ticket.
#[derive(Debug, Serialize)]
pub struct Ticket {
    ticket: String,
    expires_at: Timestamp,
}

problems!(CreateProblems: AUTH, FOUND, BODY);

/// Create a stream ticket
///
/// Lets a browser's `EventSource`, which cannot send headers, open the streams of a conversation and its turns.
#[utoipa::path(
    post,
    path = "/v1/stream-tickets",
    operation_id = "create_stream_ticket",
    tag = "streams",
    request_body = ref("#/components/schemas/CreateStreamTicket"),
    responses(
        (status = 200, description = "The ticket", body = ref("#/components/schemas/StreamTicket")),
        CreateProblems,
    ),
    security(("bearer" = ["chat"])),
)]
pub async fn create(
    State(state): State<AppState>,
    Chat(caller): Chat,
    Json(body): Json<Create>,
) -> Result<axum::Json<Ticket>, Problem> {
    let id: ConversationId = body.conversation_id.parse().map_err(|_| Problem::new(Code::NotFound))?;
    own_conversation(&state, &caller, id).await?;
    let issued = state.auth.tickets.issue(id, &caller, state.clock().now());
    Ok(axum::Json(Ticket {
        ticket: issued.ticket,
        expires_at: issued.open_until,
    }))
}
