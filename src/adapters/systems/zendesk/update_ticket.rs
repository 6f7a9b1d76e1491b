//! `zendesk_update_ticket`. Repeating it could undo what a person changed in between, so it is looked up by its mark.

use async_trait::async_trait;
use copilotd_actors::ports::{LookUp, ToolError, ToolRequest};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::api::Call;
use super::audits::{self, Outcome};
use super::get_ticket;
use super::users::Users;
use super::wire::{self, Detail, Ticket};
use crate::adapters::systems::tools::{Tool, arguments, refused};

pub(super) struct UpdateTicket;

#[derive(Debug, Deserialize)]
struct Arguments {
    ticket_id: u64,
    status: Option<String>,
    priority: Option<String>,
    tags: Option<Vec<String>>,
    assignee_id: Option<u64>,
    expected_updated_at: Option<String>,
}

#[async_trait]
impl Tool<Call> for UpdateTicket {
    fn name(&self) -> &'static str {
        "zendesk_update_ticket"
    }

    fn definition(&self) -> &'static str {
        include_str!("../../../../schemas/tools/zendesk_update_ticket.json")
    }

    async fn call(&self, call: &Call, request: &ToolRequest) -> Result<Value, ToolError> {
        let wanted: Arguments = arguments(request)?;
        let fields: Map<String, Value> = [
            ("status", wanted.status.map(Value::from)),
            ("priority", wanted.priority.map(Value::from)),
            ("tags", wanted.tags.map(Value::from)),
            ("assignee_id", wanted.assignee_id.map(Value::from)),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((name.to_owned(), value?)))
        .collect();
        if fields.is_empty() {
            return Err(refused(
                "there is nothing to change: give status, priority, tags or assignee_id",
            ));
        }
        let expected = wanted.expected_updated_at.as_deref();
        match audits::change(call, request.call, wanted.ticket_id, fields, expected).await? {
            Outcome::Changed(answer) => match wire::take(answer, "ticket") {
                Ok(ticket) => Ok(describe(call, &ticket)),
                Err(_) => Ok(as_it_is(call, wanted.ticket_id).await),
            },
            Outcome::ChangedBefore(_) => Ok(as_it_is(call, wanted.ticket_id).await),
        }
    }

    async fn look_up(&self, call: &Call, request: &ToolRequest) -> Result<LookUp, ToolError> {
        let wanted: Arguments = arguments(request)?;
        Ok(match audits::find(call, request.call, wanted.ticket_id).await? {
            Some(_) => LookUp::Found(as_it_is(call, wanted.ticket_id).await),
            None => LookUp::NotFound,
        })
    }
}

fn describe(call: &Call, ticket: &Ticket) -> Value {
    json!({ "ticket": ticket.describe(call, &Users::default(), Detail::Line) })
}

/// The change is known to have been made; a failure to read the ticket afterwards must not hide it.
async fn as_it_is(call: &Call, id: u64) -> Value {
    match get_ticket::read(call, id).await {
        Ok(ticket) => describe(call, &ticket),
        Err(_) => json!({ "ticket": { "id": id, "url": call.ticket_url(id) } }),
    }
}
