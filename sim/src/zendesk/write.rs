//! Creating and changing tickets.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::model::{Comment, Ticket, User, now};
use super::{Zendesk, not_found};
use crate::http::{Reply, Request};

/// Maximum length of an `Idempotency-Key`, and how long one is remembered.
const MAX_KEY: usize = 255;
const KEY_LIFETIME: SignedDuration = SignedDuration::from_hours(2);

const STATUSES: [&str; 6] = ["new", "open", "pending", "hold", "solved", "closed"];
const PRIORITIES: [&str; 4] = ["urgent", "high", "normal", "low"];
const KINDS: [&str; 4] = ["problem", "incident", "question", "task"];

impl Zendesk {
    /// Creates a ticket; a repeated `Idempotency-Key` gets the answer of the first request.
    pub(crate) fn create(&mut self, request: &Request, caller: u64) -> Reply {
        let key = request.header("idempotency-key").map(str::to_owned);
        if key.as_ref().is_some_and(|key| key.len() > MAX_KEY) {
            let description = "The idempotency key is longer than 255 characters";
            return idempotency_error(description);
        }
        self.idempotency
            .retain(|_, first| now().duration_since(first.at) < KEY_LIFETIME);
        if let Some(first) = key.as_ref().and_then(|key| self.idempotency.get(key)) {
            if first.request[..] != request.body[..] {
                return idempotency_error("Request parameters don't match the given idempotency key");
            }
            // The answer as it was then, even if the ticket has changed since.
            return created(first.answer.clone()).with_header("x-idempotency-lookup", "hit");
        }
        let wanted = match read_ticket(request) {
            Ok(wanted) => wanted,
            Err(refusal) => return refusal,
        };
        let body = comment_body(&wanted["comment"]).or_else(|| text(&wanted["description"]));
        let Some(body) = body else {
            return invalid("base", "Description: cannot be blank", "BlankValue");
        };
        let requester_id = match self.requester(&wanted, caller) {
            Ok(requester) => requester,
            Err(refusal) => return refusal,
        };
        let id = self.new_id();
        let at = now();
        let subject = text(&wanted["subject"]).unwrap_or_else(|| body.chars().take(80).collect());
        let mut ticket = Ticket {
            id,
            subject,
            status: "new".to_owned(),
            priority: None,
            kind: None,
            requester_id,
            submitter_id: caller,
            assignee_id: None,
            tags: Vec::new(),
            external_id: None,
            custom_fields: json!([]),
            created_at: at,
            updated_at: at,
            comments: Vec::new(),
            audits: Vec::new(),
        };
        set_fields(&mut ticket, &wanted);
        // The first comment is the requester's, whoever created the ticket.
        let author = wanted["comment"]["author_id"].as_u64().unwrap_or(requester_id);
        let public = wanted["comment"]["public"].as_bool().unwrap_or(true);
        let comment = self.comment(author, body, public, at);
        ticket.comments.push(comment);
        let audit_id = self.new_id();
        let audit = audit(audit_id, &ticket, caller, None, &wanted);
        ticket.audits.push(audit.clone());
        let answer = json!({"ticket": ticket.to_json(&request.origin()), "audit": audit});
        let reply = created(answer.clone()).changed();
        self.tickets.push(ticket);
        self.version += 1;
        match key {
            Some(key) => {
                let request = request.body.to_vec();
                self.idempotency.insert(key, FirstUse { at, request, answer });
                reply.with_header("x-idempotency-lookup", "miss")
            }
            None => reply,
        }
    }

    /// Changes a ticket's fields and adds a comment.
    pub(crate) fn update(&mut self, request: &Request, id: Option<u64>, caller: u64) -> Reply {
        let Some(at) = id.and_then(|id| self.tickets.iter().position(|ticket| ticket.id == id)) else {
            return not_found();
        };
        let wanted = match read_ticket(request) {
            Ok(wanted) => wanted,
            Err(refusal) => return refusal,
        };
        if self.tickets[at].status == "closed" {
            return invalid("status", "Status: closed prevents ticket update", "InvalidValue");
        }
        if wanted["safe_update"] == true {
            let stamp = wanted["updated_stamp"]
                .as_str()
                .and_then(|stamp| stamp.parse::<Timestamp>().ok());
            if stamp != Some(self.tickets[at].updated_at) {
                return Reply::json(
                    409,
                    json!({
                        "error": "UpdateConflict",
                        "description": "Safe Update prevented the update due to outdated ticket data. Please fetch the latest ticket data and try again.",
                    }),
                );
            }
        }
        let new_comment = match &wanted["comment"] {
            Value::Null => None,
            comment => match comment_body(comment) {
                Some(body) => {
                    let author = comment["author_id"].as_u64().unwrap_or(caller);
                    let public = comment["public"].as_bool().unwrap_or(true);
                    Some(self.comment(author, body, public, now()))
                }
                None => return invalid("comment", "Comment: cannot be blank", "BlankValue"),
            },
        };
        let audit_id = self.new_id();
        let ticket = &mut self.tickets[at];
        let before = (ticket.status.clone(), ticket.priority.clone());
        set_fields(ticket, &wanted);
        if let Some(subject) = text(&wanted["subject"]) {
            ticket.subject = subject;
        }
        if let Some(comment) = new_comment {
            // A public agent comment opens a new ticket.
            if ticket.status == "new" && comment.author_is_agent && wanted["status"].is_null() {
                ticket.status = "open".to_owned();
            }
            ticket.comments.push(comment);
        }
        ticket.touch();
        let audit = audit(audit_id, ticket, caller, Some(&before), &wanted);
        ticket.audits.push(audit.clone());
        let reply = Reply::json(
            200,
            json!({"ticket": ticket.to_json(&request.origin()), "audit": audit}),
        );
        self.version += 1;
        reply.changed()
    }

    fn comment(&mut self, author_id: u64, body: String, public: bool, at: Timestamp) -> Comment {
        Comment {
            id: self.new_id(),
            author_id,
            author_is_agent: self.user(author_id).is_some_and(User::is_agent),
            body,
            public,
            created_at: at,
        }
    }

    /// Returns the requester; creates one from a name and an address, as Zendesk does.
    fn requester(&mut self, wanted: &Value, caller: u64) -> Result<u64, Reply> {
        if let Some(id) = wanted["requester_id"].as_u64() {
            return match self.user(id) {
                Some(_) => Ok(id),
                None => Err(invalid("requester", "Requester: is invalid", "InvalidValue")),
            };
        }
        let Some(email) = text(&wanted["requester"]["email"]) else {
            return Ok(caller);
        };
        if let Some(user) = self.users.iter().find(|user| user.email == email) {
            return Ok(user.id);
        }
        let id = self.new_id();
        let name = text(&wanted["requester"]["name"]);
        self.users.push(User {
            id,
            name: name.unwrap_or_else(|| email.split('@').next().unwrap_or_default().to_owned()),
            email,
            role: "end-user".into(),
            external_id: None,
            created_at: now(),
        });
        Ok(id)
    }
}

/// The request for which an `Idempotency-Key` was first used.
#[derive(Serialize, Deserialize)]
pub(crate) struct FirstUse {
    at: Timestamp,
    request: Vec<u8>,
    answer: Value,
}

fn created(answer: Value) -> Reply {
    let location = answer["ticket"]["url"].as_str().unwrap_or_default().to_owned();
    Reply::json(201, answer).with_header("location", location)
}

fn idempotency_error(description: &str) -> Reply {
    Reply::json(
        400,
        json!({"error": "IdempotentRequestError", "description": description}),
    )
}

/// Reads and checks the `ticket` of a request.
fn read_ticket(request: &Request) -> Result<Value, Reply> {
    let body: Value = serde_json::from_slice(&request.body).map_err(|_| {
        Reply::json(
            400,
            json!({"error": "Unprocessable Entity", "message": "Server could not parse JSON"}),
        )
    })?;
    let ticket = body["ticket"].clone();
    if !ticket.is_object() {
        return Err(Reply::json(
            400,
            json!({
                "error": {"title": "Invalid attribute", "message": "You passed an invalid value for the ticket attribute. Invalid parameter: ticket must be an object"},
            }),
        ));
    }
    for (name, allowed) in [("status", &STATUSES[..]), ("priority", &PRIORITIES), ("type", &KINDS)] {
        let value = &ticket[name];
        if !value.is_null() && !value.as_str().is_some_and(|value| allowed.contains(&value)) {
            let description = format!("{}: {value} is not valid", capitalised(name));
            return Err(invalid(name, &description, "InvalidValue"));
        }
    }
    if let Some(body) = comment_body(&ticket["comment"]).filter(|body| body.len() > 65_536) {
        let description = format!("Comment: is too long ({} bytes, the limit is 65536)", body.len());
        return Err(invalid("comment", &description, "ValueTooLong"));
    }
    Ok(ticket)
}

fn set_fields(ticket: &mut Ticket, wanted: &Value) {
    if let Some(status) = text(&wanted["status"]) {
        ticket.status = status;
    }
    if !wanted["priority"].is_null() {
        ticket.priority = text(&wanted["priority"]);
    }
    if !wanted["type"].is_null() {
        ticket.kind = text(&wanted["type"]);
    }
    if let Some(assignee) = wanted["assignee_id"].as_u64() {
        ticket.assignee_id = Some(assignee);
    }
    if !wanted["external_id"].is_null() {
        ticket.external_id = text(&wanted["external_id"]);
    }
    if wanted["custom_fields"].is_array() {
        ticket.custom_fields = wanted["custom_fields"].clone();
    }
    let tags = |name: &str| -> Vec<String> {
        let tags = wanted[name].as_array().into_iter().flatten();
        tags.filter_map(text)
            .map(|tag| tag.to_lowercase().replace(' ', "_"))
            .collect()
    };
    if wanted["tags"].is_array() {
        ticket.tags = tags("tags");
    }
    for tag in tags("additional_tags") {
        if !ticket.tags.contains(&tag) {
            ticket.tags.push(tag);
        }
    }
    let removed = tags("remove_tags");
    ticket.tags.retain(|tag| !removed.contains(tag));
}

/// Describes what a change did; without `before` the ticket is new. The request's `metadata` becomes the audit's
/// `custom`.
fn audit(id: u64, ticket: &Ticket, caller: u64, before: Option<&(String, Option<String>)>, wanted: &Value) -> Value {
    let commented = before.is_none() || !wanted["comment"].is_null();
    let custom = wanted["metadata"].as_object().cloned().unwrap_or_default();
    let mut events = Vec::new();
    if let Some(comment) = ticket.comments.last().filter(|_| commented) {
        events.push(json!({
            "id": comment.id,
            "type": "Comment",
            "author_id": comment.author_id,
            "body": comment.body,
            "html_body": comment.body,
            "public": comment.public,
            "attachments": [],
        }));
    }
    let fields = [
        ("status", before.map(|before| &before.0), Some(&ticket.status)),
        (
            "priority",
            before.and_then(|before| before.1.as_ref()),
            ticket.priority.as_ref(),
        ),
    ];
    for (number, (field, old, new)) in fields.into_iter().enumerate() {
        if old != new {
            let mut event = json!({
                "id": id * 10 + number as u64,
                "type": "Create",
                "field_name": field,
                "value": new,
            });
            if before.is_some() {
                event["type"] = json!("Change");
                event["previous_value"] = json!(old);
            }
            events.push(event);
        }
    }
    json!({
        "id": id,
        "ticket_id": ticket.id,
        "created_at": ticket.updated_at.to_string(),
        "author_id": caller,
        "metadata": {"system": {}, "custom": custom},
        "events": events,
        "via": {"channel": "api", "source": {"from": {}, "to": {}, "rel": null}},
    })
}

fn comment_body(comment: &Value) -> Option<String> {
    text(comment)
        .or_else(|| text(&comment["body"]))
        .or_else(|| text(&comment["html_body"]))
        .filter(|body| !body.trim().is_empty())
}

fn text(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

fn capitalised(name: &str) -> String {
    let mut characters = name.chars();
    let first = characters.next().map(|first| first.to_ascii_uppercase());
    first.into_iter().chain(characters).collect()
}

/// Returns Zendesk's error for an invalid value.
fn invalid(field: &str, description: &str, error: &str) -> Reply {
    Reply::json(
        422,
        json!({
            "error": "RecordInvalid",
            "description": "Record validation errors",
            "details": {field: [{"description": description, "error": error}]},
        }),
    )
}
