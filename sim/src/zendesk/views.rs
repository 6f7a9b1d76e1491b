//! The default views of an account.

use serde_json::{Value, json};

use super::model::Ticket;
use super::{Zendesk, not_found, paging};
use crate::http::{Reply, Request};

const VIEWS: [(u64, &str); 5] = [
    (25, "Your unsolved tickets"),
    (26, "Unassigned tickets"),
    (27, "All unsolved tickets"),
    (28, "New tickets"),
    (29, "Recently solved tickets"),
];

/// Answers everything under `/views`.
pub(crate) fn route(zendesk: &Zendesk, request: &Request, path: &[&str], caller: u64) -> Reply {
    let view = |id: &str| VIEWS.iter().find(|(known, _)| known.to_string() == id);
    match path {
        [] | ["active" | "compact"] => {
            let all = VIEWS.iter().map(|view| to_json(view, request)).collect();
            paging::page(request, "views", all)
        }
        [id] => match view(id) {
            Some(view) => Reply::json(200, json!({"view": to_json(view, request)})),
            None => not_found(),
        },
        [id, part @ ("tickets" | "execute" | "count")] => {
            let Some(view) = view(id) else {
                return not_found();
            };
            let fits = |ticket: &&Ticket| contains(view.0, ticket, caller);
            let tickets: Vec<_> = zendesk.tickets.iter().filter(fits).collect();
            match *part {
                "tickets" => paging::tickets(zendesk, request, tickets),
                "count" => Reply::json(
                    200,
                    json!({"view_count": {
                        "view_id": view.0,
                        "value": tickets.len(),
                        "pretty": tickets.len().to_string(),
                        "fresh": true,
                    }}),
                ),
                _ => execute(view, request, &tickets),
            }
        }
        _ => not_found(),
    }
}

fn contains(view: u64, ticket: &Ticket, caller: u64) -> bool {
    let solved = ["solved", "closed"].contains(&ticket.status.as_str());
    match view {
        25 => !solved && ticket.assignee_id == Some(caller),
        26 => !solved && ticket.assignee_id.is_none(),
        27 => !solved,
        28 => ticket.status == "new",
        _ => solved,
    }
}

fn execute(view: &(u64, &str), request: &Request, tickets: &[&Ticket]) -> Reply {
    let rows = tickets.iter().map(|ticket| {
        json!({
            "ticket": {
                "id": ticket.id,
                "subject": ticket.subject,
                "description": ticket.description(),
                "status": ticket.status,
                "priority": ticket.priority,
                "type": ticket.kind,
                "url": format!("{}/api/v2/tickets/{}.json", request.origin(), ticket.id),
                "last_comment": ticket.comments.last().map(super::model::Comment::to_json),
            },
            "subject": ticket.subject,
            "status": ticket.status,
            "requester_id": ticket.requester_id,
            "created": ticket.created_at.to_string(),
        })
    });
    let rows: Vec<Value> = rows.collect();
    let mut reply = paging::page(request, "rows", rows);
    if let crate::http::Content::Json(body) = &mut reply.body {
        body["columns"] = json!([
            {"id": "subject", "title": "Subject"},
            {"id": "status", "title": "Status"},
            {"id": "requester", "title": "Requester"},
            {"id": "created", "title": "Requested"},
        ]);
        body["view"] = json!({"id": view.0, "url": format!("{}/api/v2/views/{}.json", request.origin(), view.0)});
    }
    reply
}

fn to_json(view: &(u64, &str), request: &Request) -> Value {
    json!({
        "url": format!("{}/api/v2/views/{}.json", request.origin(), view.0),
        "id": view.0,
        "title": view.1,
        "active": true,
        "updated_at": "2026-01-05T09:00:00Z",
        "created_at": "2026-01-05T09:00:00Z",
        "default": false,
        "position": view.0,
        "description": "",
        "execution": {"group_by": "status", "group_order": "asc", "sort_by": "created", "sort_order": "desc", "columns": [], "fields": [], "custom_fields": []},
        "conditions": {"all": [], "any": []},
        "restriction": null,
        "raw_title": view.1,
    })
}
