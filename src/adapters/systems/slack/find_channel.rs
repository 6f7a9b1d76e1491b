//! `slack_find_channel`.

use async_trait::async_trait;
use copilotd_actors::ports::{ToolError, ToolRequest};
use serde::Deserialize;
use serde_json::{Value, json};

use super::api::Call;
use super::channels::{self, Channel};
use crate::adapters::systems::tools::member::{add_unreadable_count, set};
use crate::adapters::systems::tools::{Tool, arguments, text};

const CHANNELS: usize = 20;

pub(super) struct FindChannel;

#[derive(Debug, Deserialize)]
struct Arguments {
    name: String,
}

#[async_trait]
impl Tool<Call> for FindChannel {
    fn name(&self) -> &'static str {
        "slack_find_channel"
    }

    fn definition(&self) -> &'static str {
        include_str!("../../../../schemas/tools/slack_find_channel.json")
    }

    async fn call(&self, call: &Call, request: &ToolRequest) -> Result<Value, ToolError> {
        let wanted: Arguments = arguments(request)?;
        let name = channels::clean(&wanted.name);
        let mut found = channels::search(call, |channel| channel.name().contains(&name)).await?;
        found
            .channels
            .sort_by_key(|channel| (channel.name() != name, channel.name().len()));
        let total = found.channels.len();
        let incomplete = found.incomplete || found.unreadable > 0;
        let mut told = json!({ "channels": [], "more": total > CHANNELS, "incomplete": incomplete });
        let items = found.channels.iter().take(CHANNELS).map(Channel::describe).collect();
        let (items, _) = text::fit(items, &told);
        if items.len() < total {
            set(&mut told, "left_out", total - items.len());
        }
        set(&mut told, "channels", items);
        add_unreadable_count(&mut told, "channels", found.unreadable);
        Ok(told)
    }
}
