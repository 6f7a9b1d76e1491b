//! `/v1/conversations/{id}/messages`

use axum::extract::State;
use copilotd_actors::domain::ids::{ConversationId, Seq};
use copilotd_actors::domain::view::{MessageView, message};
use copilotd_actors::ports::Order;
use serde::{Deserialize, Serialize};

use super::own_conversation;
use crate::http::auth::Chat;
use crate::http::extract::{Ids, Query};
use crate::http::page::{self, Limit, Page};
use crate::http::problem::Problem;
use crate::http::state::AppState;

/// Query of the list.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct List {
    #[serde(default)]
    limit: Limit,
    cursor: Option<String>,
    #[serde(default)]
    order: Order,
}

/// A page of messages, and where a client opens the stream without a gap.
#[derive(Debug, Serialize)]
pub struct Messages {
    #[serde(flatten)]
    page: Page<MessageView>,
    last_seq: Seq,
}

/// Lists a conversation's messages.
pub async fn list(
    State(state): State<AppState>,
    Chat(caller): Chat,
    Ids((id,)): Ids<(ConversationId,)>,
    Query(query): Query<List>,
) -> Result<axum::Json<Messages>, Problem> {
    // Read first: a stream opened behind this number misses nothing that the page does not show.
    let last_seq = own_conversation(&state, &caller, id).await?.last_seq;
    let direction = if query.order == Order::Asc { "asc" } else { "desc" };
    let name = format!("messages/{}/{id}/{direction}", caller.scope.tenant());
    let after = match &query.cursor {
        Some(cursor) => Some(page::position::<Seq>(&name, cursor)?),
        None => None,
    };
    let limit = query.limit.get();
    let records = state
        .log()
        .read_messages(&caller.scope, id, after, query.order, limit + 1)
        .await?;
    let more = records.len() > limit;
    let data: Vec<MessageView> = records.iter().take(limit).filter_map(message).collect();
    let last = data.last().filter(|_| more);
    let next_cursor = last.map(|message| page::cursor(&name, &message.seq));
    Ok(axum::Json(Messages {
        page: Page { data, next_cursor },
        last_seq,
    }))
}
