//! `slack_send_direct_message`.

use async_trait::async_trait;
use copilotd_actors::ports::{LookUp, ToolError, ToolRequest};
use serde::Deserialize;
use serde_json::{Value, json};

use super::api::{Call, unusable};
use super::{people, posted};
use crate::adapters::tools::{Tool, arguments};

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
        include_str!("../../../schemas/tools/slack_send_direct_message.json")
    }

    async fn call(&self, call: &Call, request: &ToolRequest) -> Result<Value, ToolError> {
        let wanted: Arguments = arguments(request)?;
        let channel = open(call, &wanted.user).await?;
        posted::post(call, request, &channel, None, &wanted.text).await
    }

    async fn look_up(&self, call: &Call, request: &ToolRequest) -> Result<LookUp, ToolError> {
        let wanted: Arguments = arguments(request)?;
        let channel = open(call, &wanted.user).await?;
        posted::find(call, request, &channel, None).await
    }
}

/// Opens the conversation with one person; it is the same one each time.
async fn open(call: &Call, user: &str) -> Result<String, ToolError> {
    let user = people::resolve(call, user).await?;
    let answer = call.open("conversations.open", &json!({ "users": user })).await?;
    answer["channel"]["id"]
        .as_str()
        .map(str::to_owned)
        .ok_or_else(|| unusable(format_args!("a conversation without an id")))
}
