//! `zendesk_list_comments`.

use async_trait::async_trait;
use copilotd_actors::ports::{ToolError, ToolRequest};
use serde::Deserialize;
use serde_json::{Value, json};

use super::api::Call;
use super::users::Users;
use super::wire::{self, Comment};
use crate::adapters::tools::{Tool, arguments, text};

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
        include_str!("../../../schemas/tools/zendesk_list_comments.json")
    }

    async fn call(&self, call: &Call, request: &ToolRequest) -> Result<Value, ToolError> {
        let wanted: Arguments = arguments(request)?;
        let (comments, more) = newest(call, wanted.ticket_id, wanted.limit.unwrap_or(20)).await?;
        let authors = comments.iter().filter_map(|comment| comment.author_id).collect();
        let users = Users::find_if_possible(call, authors).await;
        let mut told = json!({ "ticket_id": wanted.ticket_id });
        tell(&mut told, &comments, more, &users);
        Ok(told)
    }
}

/// Reads the newest `max` comments of a ticket, newest first; tells whether there are older ones.
pub(super) async fn newest(call: &Call, ticket: u64, max: usize) -> Result<(Vec<Comment>, bool), ToolError> {
    let (items, more) = call
        .list(
            &format!("tickets/{ticket}/comments"),
            "comments",
            &[("sort", "-created_at".to_owned())],
            max,
        )
        .await?;
    let mut comments = items
        .into_iter()
        .map(|item| wire::read::<Comment>(item, "comment"))
        .collect::<Result<Vec<_>, _>>()?;
    // Two comments of one second have no promised order; ids rise.
    comments.sort_by(|a, b| (&b.created_at, b.id).cmp(&(&a.created_at, a.id)));
    Ok((comments, more))
}

/// Adds comments to a result, oldest first as people read them. When they do not all fit, the oldest are left out.
pub(super) fn tell(told: &mut Value, newest_first: &[Comment], more: bool, users: &Users) {
    let items = newest_first.iter().map(|comment| comment.tell(users)).collect();
    let (mut items, left_out) = text::fit(items, told);
    items.reverse();
    told["comments"] = Value::Array(items);
    told["older_comments"] = json!(more || left_out > 0);
    if left_out > 0 {
        told["comments_left_out"] = json!(left_out);
    }
}
