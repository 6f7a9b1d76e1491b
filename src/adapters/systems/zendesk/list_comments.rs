//! `zendesk_list_comments`.

use async_trait::async_trait;
use copilotd_actors::ports::{ToolError, ToolRequest};
use serde::Deserialize;
use serde_json::{Value, json};

use super::api::Call;
use super::users::Users;
use super::wire::Comment;
use crate::adapters::systems::tools::member::{Readable, add_unreadable_count, set};
use crate::adapters::systems::tools::{Tool, arguments, text};

pub(super) struct ListComments;

#[derive(Debug, Deserialize)]
struct Arguments {
    ticket_id: u64,
    limit: Option<usize>,
}

#[async_trait]
impl Tool<Call> for ListComments {
    fn name(&self) -> &'static str {
        "zendesk_list_comments"
    }

    fn definition(&self) -> &'static str {
        include_str!("../../../../schemas/tools/zendesk_list_comments.json")
    }

    async fn call(&self, call: &Call, request: &ToolRequest) -> Result<Value, ToolError> {
        let wanted: Arguments = arguments(request)?;
        let newest = newest(call, wanted.ticket_id, wanted.limit.unwrap_or(20)).await?;
        let authors = newest.comments.iter().filter_map(|comment| comment.author_id).collect();
        let users = Users::find_if_possible(call, authors).await;
        let mut told = json!({ "ticket_id": wanted.ticket_id });
        describe(&mut told, &newest, &users);
        Ok(told)
    }
}

/// The newest comments of a ticket.
pub(super) struct Newest {
    /// Newest first.
    pub comments: Vec<Comment>,
    /// Whether there are older ones.
    pub more: bool,
    /// Number of unreadable ones among these.
    pub unreadable: usize,
}

/// Reads the newest `max` comments of a ticket.
pub(super) async fn newest(call: &Call, ticket: u64, max: usize) -> Result<Newest, ToolError> {
    let (items, more) = call
        .list(
            &format!("tickets/{ticket}/comments"),
            "comments",
            &[("sort", "-created_at".to_owned())],
            max,
        )
        .await?;
    let Readable {
        items: mut comments,
        unreadable,
    } = Readable::<Comment>::read(items);
    // Zendesk does not define the order of two comments of one second; ids increase.
    comments.sort_by(|a, b| (&b.created_at, b.id).cmp(&(&a.created_at, a.id)));
    Ok(Newest {
        comments,
        more,
        unreadable,
    })
}

/// Adds comments to a result, oldest first as people read them. If they do not all fit, the oldest are left out.
pub(super) fn describe(told: &mut Value, newest: &Newest, users: &Users) {
    let items = newest.comments.iter().map(|comment| comment.describe(users)).collect();
    let (mut items, left_out) = text::fit(items, told);
    items.reverse();
    set(told, "comments", items);
    set(told, "older_comments", newest.more || left_out > 0);
    if left_out > 0 {
        set(told, "comments_left_out", left_out);
    }
    add_unreadable_count(told, "comments", newest.unreadable);
}
