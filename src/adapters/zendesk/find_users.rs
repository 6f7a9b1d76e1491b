//! `zendesk_find_users`.

use async_trait::async_trait;
use copilotd_actors::ports::{ToolError, ToolRequest};
use serde::Deserialize;
use serde_json::{Value, json};

use super::api::Call;
use super::users::User;
use super::wire;
use crate::adapters::tools::{Tool, arguments, text};

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
        include_str!("../../../schemas/tools/zendesk_find_users.json")
    }

    async fn call(&self, call: &Call, request: &ToolRequest) -> Result<Value, ToolError> {
        let wanted: Arguments = arguments(request)?;
        let answer = call
            .get(
                "users/search",
                &[("query", wanted.query), ("per_page", USERS.to_string())],
            )
            .await?;
        let total = answer["count"].as_u64();
        let users: Vec<User> = wire::take(answer, "users")?;
        let mut told = json!({ "users": [], "total": total });
        let (items, left_out) = text::fit(users.iter().take(USERS).map(User::tell).collect(), &told);
        told["users"] = Value::Array(items);
        if left_out > 0 || users.len() > USERS {
            told["left_out"] = json!(left_out + users.len().saturating_sub(USERS));
        }
        Ok(told)
    }
}
