//! `slack_post_message`.

use async_trait::async_trait;
use copilotd_actors::ports::{LookUp, ToolError, ToolRequest};
use serde::Deserialize;
use serde_json::Value;

use super::api::Call;
use super::{channels, posted};
use crate::adapters::systems::tools::{Tool, arguments};

pub(super) struct PostMessage;

#[derive(Debug, Deserialize)]
struct Arguments {
    channel: String,
    text: String,
}

#[async_trait]
impl Tool<Call> for PostMessage {
    fn name(&self) -> &'static str {
        "slack_post_message"
    }

    fn definition(&self) -> &'static str {
        include_str!("../../../../schemas/tools/slack_post_message.json")
    }

    async fn call(&self, call: &Call, request: &ToolRequest) -> Result<Value, ToolError> {
        let wanted: Arguments = arguments(request)?;
        let channel = channels::destination(call, request.call, &wanted.channel).await?;
        posted::post(call, request, &channel, None, &wanted.text).await
    }

    async fn look_up(&self, call: &Call, request: &ToolRequest) -> Result<LookUp, ToolError> {
        let wanted: Arguments = arguments(request)?;
        let channels = channels::places(call, request.call, &wanted.channel).await?;
        posted::find(call, request, &channels, None, &wanted.text).await
    }
}
