//! `slack_send_direct_message`.

use async_trait::async_trait;
use copilotd_actors::ports::{LookUp, ToolError, ToolRequest};
use serde::Deserialize;
use serde_json::{Value, json};

use super::api::{Call, unusable};
use super::{people, posted};
use crate::adapters::systems::tools::member::{as_text, at};
use crate::adapters::systems::tools::{Tool, arguments};

pub(super) struct SendDirectMessage;

#[derive(Debug, Deserialize)]
struct Arguments {
    user: String,
    text: String,
}

#[async_trait]
impl Tool<Call> for SendDirectMessage {
    fn name(&self) -> &'static str {
        "slack_send_direct_message"
    }

    fn definition(&self) -> &'static str {
        include_str!("../../../../schemas/tools/slack_send_direct_message.json")
    }

    async fn call(&self, call: &Call, request: &ToolRequest) -> Result<Value, ToolError> {
        let wanted: Arguments = arguments(request)?;
        let channel = match call.api.started.channel(request.call) {
            Some(channel) if !call.api.started.posted(request.call).is_empty() => channel,
            _ => open(call, &wanted.user).await?,
        };
        posted::post(call, request, &channel, None, &wanted.text).await
    }

    async fn look_up(&self, call: &Call, request: &ToolRequest) -> Result<LookUp, ToolError> {
        let wanted: Arguments = arguments(request)?;
        let channel = match call.api.started.channel(request.call) {
            Some(channel) => channel,
            None => open(call, &wanted.user).await?,
        };
        posted::find(call, request, &[channel], None, &wanted.text).await
    }
}

/// Opens the conversation with one person; it is the same one each time.
async fn open(call: &Call, user: &str) -> Result<String, ToolError> {
    let user = people::resolve(call, user).await?;
    let answer = call.open("conversations.open", &json!({ "users": user })).await?;
    as_text(at(&answer, &["channel", "id"]))
        .filter(|id| !id.is_empty())
        .ok_or_else(|| unusable(format_args!("a conversation without an id")))
}
