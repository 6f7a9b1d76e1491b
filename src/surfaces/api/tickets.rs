//! `/v1/stream-tickets`

use std::sync::Arc;

use axum::extract::State;
use copilotd_actors::domain::ids::ConversationId;
use copilotd_actors::ports::Clock;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::http::bodies::Json;
use crate::http::credentials::{Authenticator, Chat};
use crate::http::problems::{Code, Problem};
use crate::request_body;
use crate::surfaces::conversation_access::{Asker, ConversationAccess};
use crate::surfaces::openapi::{AUTH, BODY, FOUND, problems};

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
    State(conversations): State<ConversationAccess>,
    State(auth): State<Arc<Authenticator>>,
    State(clock): State<Arc<dyn Clock>>,
    Chat(caller): Chat,
    Json(body): Json<Create>,
) -> Result<axum::Json<Ticket>, Problem> {
    let id: ConversationId = body.conversation_id.parse().map_err(|_| Problem::new(Code::NotFound))?;
    conversations.find(Asker::owner(&caller), id).await?;
    let issued = auth.tickets.issue(id, &caller, clock.now());
    Ok(axum::Json(Ticket {
        ticket: issued.ticket,
        expires_at: issued.open_until,
    }))
}
