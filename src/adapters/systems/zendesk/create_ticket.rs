//! `zendesk_create_ticket`. Zendesk stores an `Idempotency-Key` for two hours and answers a repeated request with the
//! ticket of the first one; that window is the tool's `keyed_s`. The ticket also carries the call's id as its
//! `external_id`, by which a later process finds it however long ago it was created.

use async_trait::async_trait;
use copilotd_actors::ports::{LookUp, ToolError, ToolErrorKind, ToolRequest};
use reqwest::Method;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::api::{Call, Change, is_conflict};
use super::users::Users;
use super::wire::{self, Detail, Ticket};
use crate::adapters::systems::tools::member::{as_text, at};
use crate::adapters::systems::tools::{Tool, arguments, refused};

pub(super) struct CreateTicket;

#[derive(Debug, Deserialize)]
struct Arguments {
    subject: String,
    body: String,
    priority: Option<String>,
    tags: Option<Vec<String>>,
    requester_email: Option<String>,
    requester_name: Option<String>,
}

#[async_trait]
impl Tool<Call> for CreateTicket {
    fn name(&self) -> &'static str {
        "zendesk_create_ticket"
    }

    fn definition(&self) -> &'static str {
        include_str!("../../../../schemas/tools/zendesk_create_ticket.json")
    }

    async fn call(&self, call: &Call, request: &ToolRequest) -> Result<Value, ToolError> {
        let wanted: Arguments = arguments(request)?;
        let mut ticket = Map::new();
        ticket.insert("external_id".into(), json!(request.call.to_string()));
        ticket.insert("subject".into(), json!(wanted.subject));
        ticket.insert("comment".into(), json!({ "body": wanted.body }));
        if let Some(priority) = wanted.priority {
            ticket.insert("priority".into(), json!(priority));
        }
        if let Some(tags) = wanted.tags {
            ticket.insert("tags".into(), json!(tags));
        }
        match (wanted.requester_email, wanted.requester_name) {
            (Some(email), name) => {
                // Zendesk requires a name for somebody unknown; for a known person it keeps the existing one.
                let name = name.unwrap_or_else(|| email.split('@').next().unwrap_or_default().to_owned());
                ticket.insert("requester".into(), json!({ "name": name, "email": email }));
            }
            (None, Some(_)) => return Err(refused("requester_name needs requester_email")),
            (None, None) => {}
        }
        let answer = call
            .change(Change {
                method: Method::POST,
                path: "tickets",
                body: json!({ "ticket": ticket }),
                idempotency_key: Some(request.call.to_string()),
            })
            .await
            .map_err(with_unknown_outcome)?;
        Ok(describe(call, &wire::take(answer, "ticket")?))
    }

    async fn look_up(&self, call: &Call, request: &ToolRequest) -> Result<LookUp, ToolError> {
        let mark = request.call.to_string();
        let query = [("external_id", mark.clone())];
        let (tickets, _) = call.list("tickets", "tickets", &query, MAX_FOUND).await?;
        // The filter is not relied on: a ticket without the mark is not ours.
        let is_ours = |ticket: &Value| as_text(at(ticket, &["external_id"])).as_deref() == Some(&mark);
        let odd = tickets.iter().filter(|ticket| !ticket.is_object()).count();
        match tickets.into_iter().find(is_ours) {
            Some(found) => Ok(LookUp::Found(describe(
                call,
                &wire::take(json!({ "ticket": found }), "ticket")?,
            ))),
            None if odd > 0 => Err(refused(format!(
                "{odd} tickets could not be read: whether this one is among them is unknown"
            ))),
            None => Ok(LookUp::NotFound),
        }
    }
}

/// Tickets that are checked; Zendesk answers only those with the requested `external_id`.
const MAX_FOUND: usize = 100;

fn describe(call: &Call, ticket: &Ticket) -> Value {
    json!({ "ticket": ticket.describe(call, &Users::default(), Detail::Line) })
}

/// A refusal because of the key means that an earlier request with it reached Zendesk: its outcome is unknown, and
/// "nothing was changed" would be a guess.
fn with_unknown_outcome(mut error: ToolError) -> ToolError {
    if is_conflict(&error) || error.message.contains("IdempotentRequestError") {
        error.kind = ToolErrorKind::OutcomeUnknown;
    }
    error
}
