//! Changes of a ticket that carry our mark. Zendesk writes an audit for each change and stores in it the metadata of
//! the request; by it a change whose outcome is unknown is found again instead of being made twice.

use copilotd_actors::domain::ids::CallId;
use copilotd_actors::ports::ToolError;
use reqwest::Method;
use serde_json::{Map, Value, json};

use super::api::{Call, Change, is_conflict};
use super::get_ticket;
use crate::adapters::systems::tools::member::at;
use crate::adapters::systems::tools::refused;

/// Key of our mark in an audit's `metadata.custom`.
const MARK: &str = "copilotd_call";
/// Audits that are read before the outcome is reported as unknown.
const MAX_AUDITS: usize = 2000;

/// The result of a change.
pub(super) enum Outcome {
    /// It was made now; Zendesk's answer.
    Changed(Value),
    /// It had been made before by the same call; its audit.
    ChangedBefore(Value),
}

/// Changes a ticket. With `expected`, only if nobody changed it since; a conflict caused by an earlier try of this very
/// call is its success.
pub(super) async fn change(
    call: &Call,
    id: CallId,
    ticket: u64,
    mut fields: Map<String, Value>,
    expected: Option<&str>,
) -> Result<Outcome, ToolError> {
    fields.insert("metadata".into(), json!({ MARK: id.to_string() }));
    if let Some(expected) = expected {
        fields.insert("safe_update".into(), json!(true));
        fields.insert("updated_stamp".into(), json!(expected));
    }
    let made = call
        .change(Change {
            method: Method::PUT,
            path: &format!("tickets/{ticket}"),
            body: json!({ "ticket": fields }),
            idempotency_key: None,
        })
        .await;
    let conflict = match made {
        Ok(answer) => return Ok(Outcome::Changed(answer)),
        Err(error) if is_conflict(&error) && expected.is_some() => error,
        Err(error) => return Err(error),
    };
    if let Ok(Some(audit)) = find(call, id, ticket).await {
        return Ok(Outcome::ChangedBefore(audit));
    }
    let now = match get_ticket::read(call, ticket).await {
        Ok(ticket) => ticket.updated_at,
        Err(_) => return Err(conflict),
    };
    Err(refused(format!(
        "nothing was changed: somebody changed ticket {ticket} in the meantime (its updated_at is now {}); read it \
         again before trying once more",
        now.as_deref().unwrap_or("unknown")
    )))
}

/// Finds the audit of the change that `id` made.
pub(super) async fn find(call: &Call, id: CallId, ticket: u64) -> Result<Option<Value>, ToolError> {
    let (audits, more) = call
        .list(&format!("tickets/{ticket}/audits"), "audits", &[], MAX_AUDITS)
        .await?;
    let mark = id.to_string();
    let odd = audits.iter().filter(|audit| !audit.is_object()).count();
    match audits.into_iter().find(|audit| has_mark(audit, &mark)) {
        None if odd > 0 => Err(refused(format!(
            "{odd} changes of ticket {ticket} could not be read: whether this one is among them is unknown"
        ))),
        None if more => Err(refused(format!(
            "ticket {ticket} has more than {MAX_AUDITS} changes: whether this one is among them is unknown"
        ))),
        found => Ok(found),
    }
}

/// Returns the comment which an audit records.
pub(super) fn comment(audit: &Value) -> Option<&Value> {
    let events = at(audit, &["events"]).as_array()?;
    events.iter().find(|event| at(event, &["type"]) == "Comment")
}

fn has_mark(audit: &Value, mark: &str) -> bool {
    let custom = at(audit, &["metadata", "custom"]);
    // The request's metadata becomes `custom`; an account that keeps the request's own wrapping is supported too.
    at(custom, &[MARK]) == mark || at(custom, &["custom", MARK]) == mark
}
