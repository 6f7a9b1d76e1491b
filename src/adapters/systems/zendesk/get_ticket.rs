//! `zendesk_get_ticket`.

use async_trait::async_trait;
use copilotd_actors::ports::{ToolError, ToolRequest};
use serde::Deserialize;
use serde_json::{Value, json};

use super::api::Call;
use super::list_comments;
use super::users::Users;
use super::wire::{self, Detail, Ticket};
use crate::adapters::systems::tools::{Tool, arguments};

const COMMENTS: usize = 20;

pub(super) struct GetTicket;

#[derive(Debug, Deserialize)]
struct Arguments {
    ticket_id: u64,
    #[serde(default)]
    comments: bool,
}

#[async_trait]
impl Tool<Call> for GetTicket {
    fn name(&self) -> &'static str {
        "zendesk_get_ticket"
    }

    fn definition(&self) -> &'static str {
        include_str!("../../../../schemas/tools/zendesk_get_ticket.json")
    }

    async fn call(&self, call: &Call, request: &ToolRequest) -> Result<Value, ToolError> {
        let wanted: Arguments = arguments(request)?;
        let comments = async {
            if wanted.comments {
                list_comments::newest(call, wanted.ticket_id, COMMENTS).await.map(Some)
            } else {
                Ok(None)
            }
        };
        let (ticket, comments) = futures::try_join!(read(call, wanted.ticket_id), comments)?;
        let authors = comments
            .iter()
            .flat_map(|newest| newest.comments.iter().filter_map(|comment| comment.author_id));
        let people = authors.chain(ticket.requester_id).chain(ticket.assignee_id).collect();
        let users = Users::find_if_possible(call, people).await;
        let mut told = json!({ "ticket": ticket.describe(call, &users, Detail::Full) });
        if let Some(newest) = comments {
            list_comments::describe(&mut told, &newest, &users);
        }
        Ok(told)
    }
}

/// Reads one ticket.
pub(super) async fn read(call: &Call, id: u64) -> Result<Ticket, ToolError> {
    wire::take(call.get(&format!("tickets/{id}"), &[]).await?, "ticket")
}
