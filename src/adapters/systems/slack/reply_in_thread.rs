//! `slack_reply_in_thread`.

use async_trait::async_trait;
use copilotd_actors::ports::{LookUp, ToolError, ToolRequest};
use serde::Deserialize;
use serde_json::Value;

use super::api::Call;
use super::{channels, posted};
use crate::adapters::systems::tools::{Tool, arguments};

pub(super) struct ReplyInThread;

#[derive(Debug, Deserialize)]
struct Arguments {
    channel: String,
    thread_ts: String,
    text: String,
}

#[async_trait]
impl Tool<Call> for ReplyInThread {
    fn name(&self) -> &'static str {
        "slack_reply_in_thread"
    }

    fn definition(&self) -> &'static str {
        include_str!("../../../../schemas/tools/slack_reply_in_thread.json")
    }

    async fn call(&self, call: &Call, request: &ToolRequest) -> Result<Value, ToolError> {
        let wanted: Arguments = arguments(request)?;
        let channel = channels::destination(call, request.call, &wanted.channel).await?;
        posted::post(call, request, &channel, Some(&wanted.thread_ts), &wanted.text).await
    }

    async fn look_up(&self, call: &Call, request: &ToolRequest) -> Result<LookUp, ToolError> {
        let wanted: Arguments = arguments(request)?;
        let channels = channels::places(call, request.call, &wanted.channel).await?;
        posted::find(call, request, &channels, Some(&wanted.thread_ts), &wanted.text).await
    }
}
