//! `zendesk_find_users`.

use async_trait::async_trait;
use copilotd_actors::ports::{ToolError, ToolRequest};
use serde::Deserialize;
use serde_json::{Value, json};

use super::api::Call;
use super::users::User;
use super::wire;
use crate::adapters::systems::tools::member::{add_unreadable_count, as_number, at, set};
use crate::adapters::systems::tools::{Tool, arguments, text};

const USERS: usize = 20;

pub(super) struct FindUsers;

#[derive(Debug, Deserialize)]
struct Arguments {
    query: String,
}

#[async_trait]
impl Tool<Call> for FindUsers {
    fn name(&self) -> &'static str {
        "zendesk_find_users"
    }

    fn definition(&self) -> &'static str {
        include_str!("../../../../schemas/tools/zendesk_find_users.json")
    }

    async fn call(&self, call: &Call, request: &ToolRequest) -> Result<Value, ToolError> {
        let wanted: Arguments = arguments(request)?;
        let mut answer = call
            .get(
                "users/search",
                &[("query", wanted.query), ("per_page", USERS.to_string())],
            )
            .await?;
        let total = as_number(at(&answer, &["count"]));
        let users = wire::take_list::<User>(&mut answer, "users")?;
        let mut told = json!({ "users": [], "total": total });
        let shown = users.items.iter().take(USERS).map(User::describe).collect();
        let (items, left_out) = text::fit(shown, &told);
        set(&mut told, "users", items);
        let left_out = left_out + users.items.len().saturating_sub(USERS);
        if left_out > 0 {
            set(&mut told, "left_out", left_out);
        }
        add_unreadable_count(&mut told, "users", users.unreadable);
        Ok(told)
    }
}
