//! The incremental export of tickets by cursor, and what it alone shows: deleted tickets.
//!
//! The published description of the API does not contain it. Its source is the vendor's documentation at
//! developer.zendesk.com (read in November 2026): "Incremental Exports" in the Ticketing API reference, and "Using the
//! Incremental Exports API". What follows from it:
//! - The first request has `start_time`, at least a minute in the past, later ones `cursor`. An answer has at most
//!   `per_page` tickets (1,000 unless less is asked for) in the order of their changes, `after_cursor` and
//!   `end_of_stream`.
//! - A deleted ticket is in it with the status `deleted`, and in no other list.
//! - 10 requests per minute (30 with the High Volume add-on), for all incremental exports of an account together.
//!
//! Simplified: changes of the present second are left to a later request; Zendesk leaves those of the last minute. Had a
//! cursor passed them, a later change in the same second would be missed.

use base64::Engine as _;
use serde_json::{Value, json};

use super::model::{Ticket, now};
use super::{Zendesk, not_found};
use crate::http::{Reply, Request};
use crate::knobs::Knobs;

/// Most tickets of a page.
const PAGE: usize = 1000;
/// Requests per minute of a plan without add-on.
pub(crate) const PER_MINUTE: u64 = 10;

/// Whether a path is that of an incremental export.
pub(crate) fn is_export(path: &str) -> bool {
    path.starts_with("/api/v2/incremental/") || path.starts_with("/api/v2/help_center/incremental/")
}

/// Answers `GET /incremental/tickets/cursor`.
pub(crate) fn tickets(zendesk: &Zendesk, request: &Request, knobs: &Knobs) -> Reply {
    let refused = |description: &str| Reply::json(400, json!({"error": "InvalidValue", "description": description}));
    let after = match (request.param("cursor"), request.param("start_time")) {
        (Some(cursor), _) => match read_cursor(cursor) {
            Some(after) => after,
            None => return refused("cursor is invalid"),
        },
        (None, Some(start)) => match start.parse::<i64>() {
            // Everything of that second comes after it.
            Ok(start) if start <= now().as_second() - 60 => (start - 1, u64::MAX),
            Ok(_) => return refused("Too recent start_time. Use a start_time older than 60 seconds"),
            Err(_) => return refused("start_time is invalid"),
        },
        (None, None) => return refused("start_time is required"),
    };
    let asked = request.param("per_page").and_then(|text| text.parse::<usize>().ok());
    let size = asked
        .unwrap_or(PAGE)
        .min(knobs.export_page.unwrap_or(PAGE))
        .clamp(1, PAGE);
    let place = |ticket: &Ticket| (ticket.updated_at.as_second(), ticket.id);
    let mut tickets: Vec<&Ticket> = zendesk.tickets.iter().chain(&zendesk.deleted).collect();
    let present = now().as_second();
    tickets.retain(|ticket| place(ticket) > after && ticket.updated_at.as_second() < present);
    tickets.sort_by_key(|ticket| place(ticket));
    let is_end = tickets.len() <= size;
    tickets.truncate(size);
    let cursor = write_cursor(tickets.last().map_or(after, |ticket| place(ticket)));
    let origin = request.origin();
    let shown: Vec<Value> = tickets.iter().map(|ticket| ticket.to_json(&origin)).collect();
    Reply::json(
        200,
        json!({
            "tickets": shown,
            "after_url": format!("{origin}/api/v2/incremental/tickets/cursor.json?cursor={cursor}"),
            "before_url": null,
            "after_cursor": cursor,
            "before_cursor": null,
            "end_of_stream": is_end,
        }),
    )
}

/// Deletes a ticket, as an agent does.
pub(crate) fn delete(zendesk: &mut Zendesk, id: Option<u64>) -> Reply {
    let Some(at) = id.and_then(|id| zendesk.tickets.iter().position(|ticket| ticket.id == id)) else {
        return not_found();
    };
    let mut ticket = zendesk.tickets.remove(at);
    "deleted".clone_into(&mut ticket.status);
    ticket.touch();
    zendesk.deleted.push(ticket);
    zendesk.version += 1;
    Reply::text(204, "").changed()
}

fn write_cursor((second, id): (i64, u64)) -> String {
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(format!("{second}||{id}"))
}

fn read_cursor(cursor: &str) -> Option<(i64, u64)> {
    let decoded = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(cursor).ok()?;
    let (second, id) = std::str::from_utf8(&decoded).ok()?.split_once("||")?;
    Some((second.parse().ok()?, id.parse().ok()?))
}
