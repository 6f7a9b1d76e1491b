//! Zendesk's two kinds of paging: cursors (`page[size]`, `page[after]`) and numbered pages.

use base64::Engine as _;
use serde_json::{Value, json};

use super::Zendesk;
use super::model::{Ticket, User};
use crate::http::{Content, Reply, Request, percent_encode};

const MAX_PAGE: usize = 100;
/// Numbered pages end here.
const MAX_OFFSET: usize = 10_000;

/// Answers with tickets, and with their people if requested.
pub(crate) fn tickets(zendesk: &Zendesk, request: &Request, mut tickets: Vec<&Ticket>) -> Reply {
    if let Some(external) = request.param("external_id") {
        tickets.retain(|ticket| ticket.external_id.as_deref() == Some(external));
    }
    let origin = request.origin();
    let shown = tickets.iter().map(|ticket| ticket.to_json(&origin)).collect();
    let mut reply = page(request, "tickets", shown);
    if let Content::Json(body) = &mut reply.body {
        let on_page: Vec<_> = body["tickets"].as_array().into_iter().flatten().collect();
        let on_page: Vec<_> = on_page.iter().filter_map(|ticket| ticket["id"].as_u64()).collect();
        tickets.retain(|ticket| on_page.contains(&ticket.id));
        zendesk.sideload(request, body, &tickets);
    }
    reply
}

/// Answers with people.
pub(crate) fn users(request: &Request, users: Vec<&User>) -> Reply {
    let role = request.param("role").or(request.param("role[]"));
    let users = users
        .into_iter()
        .filter(|user| role.is_none_or(|role| user.role == role));
    let origin = request.origin();
    page(request, "users", users.map(|user| user.to_json(&origin)).collect())
}

/// Answers with one page of `items` under `name`.
pub(crate) fn page(request: &Request, name: &str, items: Vec<Value>) -> Reply {
    let by_cursor = request.query.iter().any(|(key, _)| key.starts_with("page["));
    let result = if by_cursor {
        cursor_page(request, items)
    } else {
        numbered_page(request, items)
    };
    match result {
        Ok((items, mut about)) => {
            about[name] = Value::Array(items);
            Reply::json(200, about)
        }
        Err(reply) => reply,
    }
}

fn cursor_page(request: &Request, items: Vec<Value>) -> Result<(Vec<Value>, Value), Reply> {
    let size = match request.param("page[size]") {
        None => MAX_PAGE,
        Some(size) => size
            .parse()
            .ok()
            .filter(|size| *size >= 1)
            .map(|size: usize| size.min(MAX_PAGE))
            .ok_or_else(|| invalid_page("page[size] must be a positive integer"))?,
    };
    let position = |name: &str| -> Result<Option<usize>, Reply> {
        let read = |cursor| read_cursor(cursor).ok_or_else(|| invalid_page("The cursor is invalid"));
        request.param(name).map(read).transpose()
    };
    let start = match (position("page[after]")?, position("page[before]")?) {
        (Some(after), _) => after,
        (None, Some(before)) => before.saturating_sub(size),
        (None, None) => 0,
    };
    let total = items.len();
    let page: Vec<_> = items.into_iter().skip(start).take(size).collect();
    let end = start + page.len();
    let has_more = end < total;
    let link = |kind: &str, at: usize| {
        let cursor = percent_encode(&write_cursor(at));
        link_with(request, &[("page%5Bsize%5D", &size.to_string()), (kind, &cursor)])
    };
    let cursors = !page.is_empty();
    let about = json!({
        "meta": {
            "has_more": has_more,
            "after_cursor": cursors.then(|| write_cursor(end)),
            "before_cursor": cursors.then(|| write_cursor(start)),
        },
        "links": {
            "next": has_more.then(|| link("page%5Bafter%5D", end)),
            "prev": (start > 0).then(|| link("page%5Bbefore%5D", start)),
        },
    });
    Ok((page, about))
}

fn numbered_page(request: &Request, items: Vec<Value>) -> Result<(Vec<Value>, Value), Reply> {
    let (page, size) = numbers(request);
    if page * size > MAX_OFFSET {
        return Err(Reply::json(
            400,
            json!({"error": "InvalidPaginationDepth", "description": "The page parameter is too large; use cursor pagination."}),
        ));
    }
    let total = items.len();
    let shown: Vec<_> = items.into_iter().skip((page - 1) * size).take(size).collect();
    Ok((shown, numbered_about(request, total, page, size)))
}

/// Reads `page` and `per_page`.
pub(crate) fn numbers(request: &Request) -> (usize, usize) {
    let read = |name: &str| request.param(name).and_then(|text| text.parse::<usize>().ok());
    let page = read("page").unwrap_or(1).max(1);
    let size = read("per_page").unwrap_or(MAX_PAGE).clamp(1, MAX_PAGE);
    (page, size)
}

/// Returns the count and the links of a numbered page.
pub(crate) fn numbered_about(request: &Request, total: usize, page: usize, size: usize) -> Value {
    let link = |page: usize| link_with(request, &[("page", &page.to_string()), ("per_page", &size.to_string())]);
    json!({
        "count": total,
        "next_page": (page * size < total).then(|| link(page + 1)),
        "previous_page": (page > 1).then(|| link(page - 1)),
    })
}

/// Returns the request's address with other paging; names in `paging` are already encoded.
fn link_with(request: &Request, paging: &[(&str, &str)]) -> String {
    let kept = request
        .query
        .iter()
        .filter(|(name, _)| !name.starts_with("page") && name != "per_page")
        .map(|(name, value)| format!("{}={}", percent_encode(name), percent_encode(value)));
    let changed = paging.iter().map(|(name, value)| format!("{name}={value}"));
    let query: Vec<_> = kept.chain(changed).collect();
    format!("{}{}?{}", request.origin(), request.path, query.join("&"))
}

fn write_cursor(at: usize) -> String {
    base64::engine::general_purpose::STANDARD.encode(format!("{{\"o\":\"nice_id\",\"v\":{at}}}"))
}

fn read_cursor(cursor: &str) -> Option<usize> {
    let decoded = base64::engine::general_purpose::STANDARD.decode(cursor).ok()?;
    let value: Value = serde_json::from_slice(&decoded).ok()?;
    usize::try_from(value["v"].as_u64()?).ok()
}

fn invalid_page(description: &str) -> Reply {
    Reply::json(
        400,
        json!({"error": "InvalidPaginationParameter", "description": description}),
    )
}
