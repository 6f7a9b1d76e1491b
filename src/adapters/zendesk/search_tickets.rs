//! `zendesk_search_tickets`.

use async_trait::async_trait;
use copilotd_actors::ports::{ToolError, ToolErrorKind, ToolRequest};
use futures::StreamExt;
use serde::Deserialize;
use serde_json::{Value, json};

use super::api::Call;
use super::list_comments;
use super::unread::{Remark, is_unread};
use super::users::Users;
use super::wire::{self, Comment, Detail, Ticket};
use crate::adapters::tools::member::take_member;
use crate::adapters::tools::{Tool, arguments, refused, text};

/// Tickets whose comments are read to find unread ones.
const CANDIDATES: usize = 50;
/// Requests in flight for one call.
const AT_ONCE: usize = 4;
/// Comments per ticket; the newest ones almost always decide.
const COMMENTS: usize = 30;

pub(super) struct SearchTickets;

#[derive(Debug, Deserialize)]
struct Arguments {
    query: Option<String>,
    status: Option<String>,
    priority: Option<String>,
    requester: Option<String>,
    #[serde(default)]
    unread: bool,
    view_id: Option<u64>,
    limit: Option<usize>,
}

#[async_trait]
impl Tool<Call> for SearchTickets {
    fn name(&self) -> &'static str {
        "zendesk_search_tickets"
    }

    fn definition(&self) -> &'static str {
        include_str!("../../../schemas/tools/zendesk_search_tickets.json")
    }

    async fn call(&self, call: &Call, request: &ToolRequest) -> Result<Value, ToolError> {
        let wanted: Arguments = arguments(request)?;
        let limit = wanted.limit.unwrap_or(20);
        let candidates = if wanted.unread { CANDIDATES } else { limit };
        let found = match wanted.view_id {
            Some(view) => in_view(call, view, &wanted, candidates).await?,
            None => search(call, &wanted, candidates).await?,
        };
        if wanted.unread {
            return unread(call, found, limit).await;
        }
        let requesters = found.tickets.iter().filter_map(|ticket| ticket.requester_id).collect();
        let users = Users::find_if_possible(call, requesters).await;
        Ok(tell(call, &found.tickets, &users, found.total, found.more))
    }
}

struct Found {
    tickets: Vec<Ticket>,
    /// How many match in all, where Zendesk says it.
    total: Option<u64>,
    more: bool,
}

async fn search(call: &Call, wanted: &Arguments, max: usize) -> Result<Found, ToolError> {
    let mut answer = call
        .get(
            "search",
            &[
                ("query", query(wanted)),
                ("sort_by", "updated_at".to_owned()),
                ("sort_order", "desc".to_owned()),
                ("per_page", max.to_string()),
            ],
        )
        .await?;
    let total = answer["count"].as_u64();
    let more = answer["next_page"].is_string();
    let Value::Array(results) = take_member(&mut answer, "results") else {
        return Err(super::api::unusable("an answer without results"));
    };
    // The model's own words may ask for other types of things; they are no tickets.
    let tickets = results
        .into_iter()
        .filter(|result| result["result_type"].as_str().is_none_or(|kind| kind == "ticket"))
        .take(max)
        .map(|result| wire::read(result, "ticket"))
        .collect::<Result<_, _>>()?;
    Ok(Found { tickets, total, more })
}

fn query(wanted: &Arguments) -> String {
    let mut terms = vec!["type:ticket".to_owned()];
    match &wanted.status {
        Some(status) => terms.push(format!("status:{status}")),
        None if wanted.unread => terms.push("status<pending".to_owned()),
        None => {}
    }
    terms.extend(wanted.priority.as_ref().map(|priority| format!("priority:{priority}")));
    // Quoted, so that a name of two words is one value and no value brings its own terms.
    terms.extend(
        wanted
            .requester
            .as_ref()
            .map(|requester| format!("requester:\"{}\"", requester.replace(['"', '\\'], " "))),
    );
    terms.extend(wanted.query.clone());
    terms.join(" ")
}

async fn in_view(call: &Call, view: u64, wanted: &Arguments, max: usize) -> Result<Found, ToolError> {
    if wanted.query.is_some() || wanted.requester.is_some() {
        return Err(refused("view_id cannot be combined with query or requester"));
    }
    let (items, more) = call
        .list(&format!("views/{view}/tickets"), "tickets", &[], CANDIDATES)
        .await?;
    let tickets = items
        .into_iter()
        .map(|item| wire::read::<Ticket>(item, "ticket"))
        .collect::<Result<Vec<_>, _>>()?;
    let same = |wanted: &Option<String>, actual: &Option<String>| wanted.is_none() || wanted == actual;
    let mut tickets: Vec<Ticket> = tickets
        .into_iter()
        .filter(|ticket| same(&wanted.status, &ticket.status) && same(&wanted.priority, &ticket.priority))
        .collect();
    let more = more || tickets.len() > max;
    tickets.truncate(max);
    Ok(Found {
        tickets,
        total: None,
        more,
    })
}

async fn unread(call: &Call, found: Found, limit: usize) -> Result<Value, ToolError> {
    let waiting = found
        .tickets
        .into_iter()
        .filter(|ticket| matches!(ticket.status.as_deref(), Some("new" | "open")));
    let mut read = futures::stream::iter(waiting)
        .map(|ticket| async {
            let comments = list_comments::newest(call, ticket.id, COMMENTS).await;
            (ticket, comments)
        })
        .buffered(AT_ONCE);
    let mut examined: Vec<(Ticket, Vec<Comment>, bool)> = Vec::new();
    let mut not_examined = 0;
    while let Some((ticket, comments)) = read.next().await {
        match comments {
            Ok((comments, more)) => examined.push((ticket, comments, more)),
            // Part of an answer is better than asking for all of it again with the same end.
            Err(error) if error.kind == ToolErrorKind::RateLimited && !examined.is_empty() => not_examined += 1,
            Err(error) => return Err(error),
        }
    }
    drop(read);
    let mut people: Vec<u64> = examined.iter().filter_map(|(ticket, ..)| ticket.requester_id).collect();
    let comments = examined.iter().flat_map(|(_, comments, _)| comments);
    people.extend(comments.filter_map(|comment| comment.author_id));
    // Who is an agent decides here: without it there is no answer.
    let users = Users::find(call, people).await?;
    let mut tickets = Vec::new();
    let mut undecided = 0;
    for (ticket, comments, more) in examined {
        let remarks = comments.iter().map(|comment| Remark {
            requester: comment.author_id.is_some() && comment.author_id == ticket.requester_id,
            agent: comment.author_id.is_some_and(|id| users.is_agent(id)),
            public: comment.public,
        });
        match is_unread(ticket.status.as_deref().unwrap_or_default(), remarks) {
            Some(false) => {}
            None if more => undecided += 1,
            Some(true) | None => tickets.push(ticket),
        }
    }
    let total = tickets.len() as u64;
    let more = tickets.len() > limit;
    tickets.truncate(limit);
    let mut told = tell(
        call,
        &tickets,
        &users,
        (!found.more).then_some(total),
        more || found.more,
    );
    if not_examined + undecided > 0 {
        told["not_examined"] = json!(not_examined + undecided);
    }
    Ok(told)
}

fn tell(call: &Call, tickets: &[Ticket], users: &Users, total: Option<u64>, more: bool) -> Value {
    let mut told = json!({ "tickets": [], "total": total, "more": more });
    let items = tickets
        .iter()
        .map(|ticket| ticket.tell(call, users, Detail::Line))
        .collect();
    let (items, left_out) = text::fit(items, &told);
    told["tickets"] = Value::Array(items);
    if left_out > 0 {
        told["left_out"] = json!(left_out);
        told["more"] = json!(true);
    }
    told
}
