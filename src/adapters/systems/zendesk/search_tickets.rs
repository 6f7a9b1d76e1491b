//! `zendesk_search_tickets`.

use async_trait::async_trait;
use copilotd_actors::ports::{ToolError, ToolRequest};
use futures::StreamExt;
use serde::Deserialize;
use serde_json::{Value, json};

use super::api::{Call, is_gone, unusable};
use super::list_comments::{self, Newest};
use super::unread::{Remark, is_unread};
use super::users::Users;
use super::wire::{Detail, Ticket};
use crate::adapters::systems::tools::member::{Readable, add_unreadable_count, as_number, at, set, take_member};
use crate::adapters::systems::tools::{Tool, arguments, refused, text};

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
        include_str!("../../../../schemas/tools/zendesk_search_tickets.json")
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
        let mut told = describe(call, &found.tickets, &users, found.total, found.more);
        add_unreadable_count(&mut told, "tickets", found.unreadable);
        Ok(told)
    }
}

struct Found {
    tickets: Vec<Ticket>,
    /// How many match in all, if Zendesk says so.
    total: Option<u64>,
    more: bool,
    /// Number of unreadable ones.
    unreadable: usize,
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
    let total = as_number(at(&answer, &["count"]));
    let more = at(&answer, &["next_page"]).is_string();
    let Value::Array(results) = take_member(&mut answer, "results") else {
        return Err(unusable("an answer without a list of results"));
    };
    // The model's query may ask for other types of objects; they are not tickets.
    let is_ticket = |result: &Value| {
        at(result, &["result_type"])
            .as_str()
            .is_none_or(|kind| kind == "ticket")
    };
    let results: Vec<Value> = results.into_iter().filter(is_ticket).collect();
    let more = more || results.len() > max;
    let tickets = Readable::<Ticket>::read(results.into_iter().take(max).collect());
    Ok(Found {
        tickets: tickets.items,
        total,
        more,
        unreadable: tickets.unreadable,
    })
}

fn query(wanted: &Arguments) -> String {
    let mut terms = vec!["type:ticket".to_owned()];
    match &wanted.status {
        Some(status) => terms.push(format!("status:{status}")),
        None if wanted.unread => terms.push("status<pending".to_owned()),
        None => {}
    }
    terms.extend(wanted.priority.as_ref().map(|priority| format!("priority:{priority}")));
    // Quoted, so that a name of two words is one value and no value adds terms of its own.
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
    let read = Readable::<Ticket>::read(items);
    let same = |wanted: &Option<String>, actual: &Option<String>| wanted.is_none() || wanted == actual;
    let mut tickets: Vec<Ticket> = read
        .items
        .into_iter()
        .filter(|ticket| same(&wanted.status, &ticket.status) && same(&wanted.priority, &ticket.priority))
        .collect();
    let more = more || tickets.len() > max;
    tickets.truncate(max);
    Ok(Found {
        tickets,
        total: None,
        more,
        unreadable: read.unreadable,
    })
}

async fn unread(call: &Call, found: Found, limit: usize) -> Result<Value, ToolError> {
    // A ticket with an unreadable status may wait for an answer too.
    let mut not_examined = found.tickets.iter().filter(|ticket| ticket.status.is_none()).count();
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
    let mut examined: Vec<(Ticket, Newest)> = Vec::new();
    let (mut deleted, mut failure) = (0, None);
    while let Some((ticket, comments)) = read.next().await {
        match comments {
            Ok(newest) => examined.push((ticket, newest)),
            // Deleted since it was found: nobody waits for an answer there.
            Err(error) if is_gone(&error) => deleted += 1,
            Err(error) => {
                not_examined += 1;
                failure.get_or_insert(error);
            }
        }
    }
    drop(read);
    // A partial answer is better than requesting all of it again with the same result.
    if let Some(error) = failure
        && examined.is_empty()
    {
        return Err(error);
    }
    let mut people: Vec<u64> = examined.iter().filter_map(|(ticket, _)| ticket.requester_id).collect();
    let comments = examined.iter().flat_map(|(_, newest)| &newest.comments);
    people.extend(comments.filter_map(|comment| comment.author_id));
    // This decides who is an agent: without it there is no answer.
    let users = Users::find(call, people).await?;
    let (mut tickets, mut odd_comments, mut undecided) = (Vec::new(), 0, 0);
    for (ticket, newest) in examined {
        odd_comments += newest.unreadable;
        let remarks = newest.comments.iter().map(|comment| Remark {
            requester: comment.author_id.is_some() && comment.author_id == ticket.requester_id,
            agent: comment.author_id.is_some_and(|id| users.is_agent(id)),
            public: comment.public == Some(true),
        });
        match is_unread(ticket.status.as_deref().unwrap_or_default(), remarks) {
            Some(false) => {}
            None if newest.more => undecided += 1,
            Some(true) | None => tickets.push(ticket),
        }
    }
    let total = tickets.len() as u64;
    let is_whole = !found.more && not_examined + found.unreadable + odd_comments + users.unreadable == 0;
    let more = tickets.len() > limit;
    tickets.truncate(limit);
    let mut told = describe(call, &tickets, &users, is_whole.then_some(total), more || found.more);
    for (name, count) in [
        ("not_examined", not_examined + undecided),
        ("deleted_meanwhile", deleted),
    ] {
        if count > 0 {
            set(&mut told, name, count);
        }
    }
    add_unreadable_count(&mut told, "tickets", found.unreadable);
    add_unreadable_count(&mut told, "comments", odd_comments);
    add_unreadable_count(&mut told, "users", users.unreadable);
    Ok(told)
}

fn describe(call: &Call, tickets: &[Ticket], users: &Users, total: Option<u64>, more: bool) -> Value {
    let mut told = json!({ "tickets": [], "total": total, "more": more });
    let items = tickets
        .iter()
        .map(|ticket| ticket.describe(call, users, Detail::Line))
        .collect();
    let (items, left_out) = text::fit(items, &told);
    set(&mut told, "tickets", items);
    if left_out > 0 {
        set(&mut told, "left_out", left_out);
        set(&mut told, "more", true);
    }
    told
}
