//! Zendesk's search language, as far as tickets need it.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::model::{Ticket, User};
use super::{Zendesk, paging};
use crate::http::{Content, Reply, Request};

/// Search ends here; `search/export` does not.
const MAX_RESULTS: usize = 1_000;

/// One condition of a query.
#[derive(Debug, PartialEq)]
struct Term {
    field: String,
    operator: Operator,
    value: String,
    negated: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operator {
    Is,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// Answers `GET /search`: numbered pages only, the first thousand results only.
pub(crate) fn search(zendesk: &Zendesk, request: &Request) -> Reply {
    let results = match results(zendesk, request) {
        Ok(results) => results,
        Err(reply) => return reply,
    };
    let (page, size) = paging::numbers(request);
    if page * size > MAX_RESULTS {
        return Reply::json(
            422,
            json!({
                "error": "invalid",
                "description": "Invalid search: requested response size was greater than Search Response Limits",
            }),
        );
    }
    let mut body = paging::numbered_about(request, results.len(), page, size);
    if (page * size) >= MAX_RESULTS {
        body["next_page"] = Value::Null;
    }
    body["facets"] = Value::Null;
    body["results"] = results.into_iter().skip((page - 1) * size).take(size).collect();
    Reply::json(200, body)
}

pub(crate) fn count(zendesk: &Zendesk, request: &Request) -> Reply {
    match results(zendesk, request) {
        Ok(results) => Reply::json(200, json!({"count": results.len()})),
        Err(reply) => reply,
    }
}

/// Answers `GET /search/export`: cursors, one type of result.
pub(crate) fn export(zendesk: &Zendesk, request: &Request) -> Reply {
    let Some(kind) = request.param("filter[type]") else {
        return Reply::json(
            422,
            json!({"error": "invalid", "description": "Missing required parameter filter[type]"}),
        );
    };
    if kind != "ticket" && kind != "user" {
        return Reply::json(
            422,
            json!({"error": "invalid", "description": "filter[type] is not supported"}),
        );
    }
    let mut results = match results(zendesk, request) {
        Ok(results) => results,
        Err(reply) => return reply,
    };
    results.retain(|result| result["result_type"] == kind);
    let mut paged = Request {
        method: request.method.clone(),
        path: request.path.clone(),
        query: request.query.clone(),
        headers: request.headers.clone(),
        body: request.body.clone(),
    };
    if paged.param("page[size]").is_none() {
        paged.query.push(("page[size]".to_owned(), "100".to_owned()));
    }
    let mut reply = paging::page(&paged, "results", results);
    if let Content::Json(body) = &mut reply.body {
        body["facets"] = Value::Null;
    }
    reply
}

fn results(zendesk: &Zendesk, request: &Request) -> Result<Vec<Value>, Reply> {
    let query = request.param("query").ok_or_else(|| {
        Reply::json(
            422,
            json!({"error": "invalid", "description": "Invalid search: query is missing"}),
        )
    })?;
    let terms = parse(query);
    let kind = terms
        .iter()
        .find(|term| term.field == "type")
        .map(|term| term.value.as_str());
    let order = |name: &str| {
        let term = terms.iter().find(|term| term.field == name);
        request.param(name).or(term.map(|term| term.value.as_str()))
    };
    let sort_by = order("sort_by").or(order("order_by")).unwrap_or("relevance").to_owned();
    let ascending = order("sort_order").or(order("sort")) == Some("asc");
    let origin = request.origin();
    let mut results = Vec::new();
    if kind.is_none_or(|kind| kind == "ticket") {
        let fits = |ticket: &&Ticket| terms.iter().all(|term| zendesk.matches(ticket, term));
        let mut tickets: Vec<_> = zendesk.tickets.iter().filter(fits).collect();
        sort(&mut tickets, &sort_by, ascending);
        results.extend(tickets.into_iter().map(|ticket| {
            let mut shown = ticket.to_json(&origin);
            shown["result_type"] = json!("ticket");
            shown
        }));
    }
    if kind.is_none_or(|kind| kind == "user") {
        let fits = |user: &&User| !terms.is_empty() && terms.iter().all(|term| user_matches(user, term));
        results.extend(zendesk.users.iter().filter(fits).map(|user| {
            let mut shown = user.to_json(&origin);
            shown["result_type"] = json!("user");
            shown
        }));
    }
    Ok(results)
}

fn sort(tickets: &mut [&Ticket], by: &str, ascending: bool) {
    match by {
        "updated_at" => tickets.sort_by_key(|ticket| (ticket.updated_at, ticket.id)),
        "priority" => tickets.sort_by_key(|ticket| (priority_rank(ticket.priority.as_deref()), ticket.id)),
        "status" => tickets.sort_by_key(|ticket| (status_rank(&ticket.status), ticket.id)),
        // Also for "relevance": the newest first.
        _ => tickets.sort_by_key(|ticket| (ticket.created_at, ticket.id)),
    }
    if !ascending {
        tickets.reverse();
    }
}

fn status_rank(status: &str) -> Option<usize> {
    ["new", "open", "pending", "hold", "solved", "closed"]
        .iter()
        .position(|known| *known == status)
}

fn priority_rank(priority: Option<&str>) -> Option<usize> {
    ["low", "normal", "high", "urgent"]
        .iter()
        .position(|known| Some(*known) == priority)
}

impl Zendesk {
    fn matches(&self, ticket: &Ticket, term: &Term) -> bool {
        let person = |id: Option<u64>| match term.value.as_str() {
            "none" => id.is_none(),
            value => id.and_then(|id| self.user(id)).is_some_and(|user| {
                user.email == value || user.id.to_string() == value || user.name.to_lowercase().contains(value)
            }),
        };
        let fits = match term.field.as_str() {
            "type" | "sort_by" | "sort_order" | "order_by" | "sort" => return true,
            "status" => compare(status_rank(&ticket.status), status_rank(&term.value), term.operator),
            "priority" if term.value == "none" => ticket.priority.is_none(),
            "priority" => compare(
                priority_rank(ticket.priority.as_deref()),
                priority_rank(Some(&term.value)),
                term.operator,
            ),
            "ticket_type" => ticket.kind.as_deref() == Some(&term.value),
            "requester" => person(Some(ticket.requester_id)),
            "submitter" => person(Some(ticket.submitter_id)),
            "assignee" => person(ticket.assignee_id),
            "commenter" => ticket.comments.iter().any(|comment| person(Some(comment.author_id))),
            "tags" => ticket.tags.contains(&term.value),
            "external_id" => ticket.external_id.as_deref() == Some(&term.value),
            "subject" => ticket.subject.to_lowercase().contains(&term.value),
            "description" => ticket.description().to_lowercase().contains(&term.value),
            "created" => compare_time(ticket.created_at, term),
            "updated" => compare_time(ticket.updated_at, term),
            "id" => ticket.id.to_string() == term.value,
            "" => ticket_contains(ticket, term.value.trim_end_matches('*')),
            // Zendesk treats an unknown field as words.
            _ => ticket_contains(ticket, &term.value),
        };
        fits != term.negated
    }
}

fn ticket_contains(ticket: &Ticket, word: &str) -> bool {
    let word = word.trim_start_matches('#');
    ticket.subject.to_lowercase().contains(word)
        || ticket.id.to_string() == word
        || ticket
            .comments
            .iter()
            .any(|comment| comment.body.to_lowercase().contains(word))
}

fn user_matches(user: &User, term: &Term) -> bool {
    let fits = match term.field.as_str() {
        "type" => return true,
        "role" => user.role == term.value,
        "email" => user.email == term.value,
        "" | "name" => user.name.to_lowercase().contains(&term.value) || user.email == term.value,
        _ => false,
    };
    fits != term.negated
}

fn compare<T: PartialOrd>(own: Option<T>, wanted: Option<T>, operator: Operator) -> bool {
    let (Some(own), Some(wanted)) = (own, wanted) else {
        return false;
    };
    match operator {
        Operator::Is => own == wanted,
        Operator::Less => own < wanted,
        Operator::LessOrEqual => own <= wanted,
        Operator::Greater => own > wanted,
        Operator::GreaterOrEqual => own >= wanted,
    }
}

/// Compares with `2026-01-02` (a whole day) or a full time.
fn compare_time(own: Timestamp, term: &Term) -> bool {
    if let Ok(wanted) = term.value.to_uppercase().parse::<Timestamp>() {
        return compare(Some(own), Some(wanted), term.operator);
    }
    let day = own.to_string()[..10].to_owned();
    compare(Some(day), Some(term.value.clone()), term.operator)
}

/// Splits a query into its terms; comparisons are in lower case.
fn parse(query: &str) -> Vec<Term> {
    words(query)
        .into_iter()
        .map(|word| {
            let (negated, word) = match word.strip_prefix('-') {
                Some(rest) => (true, rest.to_owned()),
                None => (false, word),
            };
            let at = word.find([':', '<', '>']);
            let is_field = |at: &usize| *at > 0 && word[..*at].chars().all(|c| c.is_alphanumeric() || c == '_');
            let Some(at) = at.filter(is_field) else {
                let value = word.replace('"', "").to_lowercase();
                return Term {
                    field: String::new(),
                    operator: Operator::Is,
                    value,
                    negated,
                };
            };
            let rest = &word[at..];
            let (operator, value) = [
                ("<=", Operator::LessOrEqual),
                (">=", Operator::GreaterOrEqual),
                ("<", Operator::Less),
                (">", Operator::Greater),
                (":", Operator::Is),
            ]
            .into_iter()
            .find_map(|(sign, operator)| Some((operator, rest.strip_prefix(sign)?)))
            .unwrap_or((Operator::Is, rest));
            Term {
                field: word[..at].to_lowercase(),
                operator,
                value: value.replace('"', "").to_lowercase(),
                negated,
            }
        })
        .collect()
}

/// Splits at spaces outside quotes.
fn words(query: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quoted = false;
    for character in query.chars() {
        quoted ^= character == '"';
        if character.is_whitespace() && !quoted {
            words.push(String::new());
        } else if let Some(word) = words.last_mut() {
            word.push(character);
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_split() {
        let term = |field: &str, operator, value: &str, negated| Term {
            field: field.into(),
            operator,
            value: value.into(),
            negated,
        };
        assert_eq!(
            parse(r#"type:ticket status<solved -priority:low subject:"broken Printer" refund"#),
            [
                term("type", Operator::Is, "ticket", false),
                term("status", Operator::Less, "solved", false),
                term("priority", Operator::Is, "low", true),
                term("subject", Operator::Is, "broken printer", false),
                term("", Operator::Is, "refund", false),
            ]
        );
    }
}
