//! `slack_find_user`.

use async_trait::async_trait;
use copilotd_actors::ports::{ToolError, ToolRequest};
use serde::Deserialize;
use serde_json::{Value, json};

use super::api::Call;
use super::people::{self, Person};
use crate::adapters::systems::tools::member::{Readable, add_unreadable_count, set};
use crate::adapters::systems::tools::{Tool, arguments, refused, text};

const PEOPLE: usize = 20;

pub(super) struct FindUser;

#[derive(Debug, Deserialize)]
struct Arguments {
    email: Option<String>,
    name: Option<String>,
}

#[async_trait]
impl Tool<Call> for FindUser {
    fn name(&self) -> &'static str {
        "slack_find_user"
    }

    fn definition(&self) -> &'static str {
        include_str!("../../../../schemas/tools/slack_find_user.json")
    }

    async fn call(&self, call: &Call, request: &ToolRequest) -> Result<Value, ToolError> {
        let wanted: Arguments = arguments(request)?;
        let (people, more) = match (wanted.email, wanted.name) {
            (Some(email), _) => {
                let items = people::by_email(call, &email).await?.into_iter().collect();
                (Readable { items, unreadable: 0 }, false)
            }
            (None, Some(name)) => people::by_name(call, &name, PEOPLE).await?,
            (None, None) => return Err(refused("give an e-mail address or a name")),
        };
        let mut told = json!({ "users": [], "more": more });
        let (items, left_out) = text::fit(people.items.iter().map(Person::describe).collect(), &told);
        set(&mut told, "users", items);
        if left_out > 0 {
            set(&mut told, "left_out", left_out);
        }
        add_unreadable_count(&mut told, "users", people.unreadable);
        Ok(told)
    }
}
