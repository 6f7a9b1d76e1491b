//! `slack_find_channel`.

use async_trait::async_trait;
use copilotd_actors::ports::{ToolError, ToolRequest};
use serde::Deserialize;
use serde_json::{Value, json};

use super::api::Call;
use super::channels::{self, Channel, SEARCH_AGE};
use crate::adapters::tools::{Tool, arguments, text};

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
        include_str!("../../../schemas/tools/slack_find_channel.json")
    }

    async fn call(&self, call: &Call, request: &ToolRequest) -> Result<Value, ToolError> {
        let wanted: Arguments = arguments(request)?;
        let name = channels::clean(&wanted.name);
        let list = channels::list(call, SEARCH_AGE).await?;
        let mut found: Vec<&Channel> = list
            .channels
            .iter()
            .filter(|channel| channel.name.contains(&name))
            .collect();
        found.sort_by_key(|channel| (channel.name != name, channel.name.len()));
        let total = found.len();
        let mut told = json!({ "channels": [], "more": total > CHANNELS, "incomplete": list.incomplete });
        let items = found.into_iter().take(CHANNELS).map(Channel::tell).collect();
        let (items, _) = text::fit(items, &told);
        if items.len() < total {
            told["left_out"] = json!(total - items.len());
        }
        told["channels"] = Value::Array(items);
        Ok(told)
    }
}
