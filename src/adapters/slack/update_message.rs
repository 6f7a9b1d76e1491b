//! `slack_update_message`. The same text at the same place twice is one effect, but a repetition after a later update
//! would undo that one; so each update leaves its mark on the message and is looked up by it.

use async_trait::async_trait;
use copilotd_actors::ports::{LookUp, ToolError, ToolRequest};
use serde::Deserialize;
use serde_json::{Value, json};

use super::api::Call;
use super::{channels, message, posted};
use crate::adapters::tools::{Tool, arguments, refused};

pub(super) struct UpdateMessage;

#[derive(Debug, Deserialize)]
struct Arguments {
    channel: String,
    ts: String,
    text: String,
}

#[async_trait]
impl Tool<Call> for UpdateMessage {
    fn name(&self) -> &'static str {
        "slack_update_message"
    }

    fn definition(&self) -> &'static str {
        include_str!("../../../schemas/tools/slack_update_message.json")
    }

    async fn call(&self, call: &Call, request: &ToolRequest) -> Result<Value, ToolError> {
        let wanted: Arguments = arguments(request)?;
        let channel = channels::resolve(call, &wanted.channel).await?;
        let mut body = message::body(&channel, &wanted.text, request.call)?;
        body["ts"] = json!(wanted.ts);
        let answer = call.change("chat.update", &body).await?;
        Ok(posted::tell(&channel, &answer["ts"], None))
    }

    async fn look_up(&self, call: &Call, request: &ToolRequest) -> Result<LookUp, ToolError> {
        let wanted: Arguments = arguments(request)?;
        let channel = channels::resolve(call, &wanted.channel).await?;
        // Of one ts, this answers the message itself, whether it stands in the channel or in a thread.
        let query = [
            ("channel", channel.clone()),
            ("ts", wanted.ts.clone()),
            ("oldest", wanted.ts.clone()),
            ("latest", wanted.ts.clone()),
            ("inclusive", "true".to_owned()),
            ("include_all_metadata", "true".to_owned()),
        ];
        let page = call.page("conversations.replies", "messages", &query, None).await?;
        match page.items.iter().find(|item| item["ts"] == wanted.ts.as_str()) {
            Some(found) if message::bears(found, request.call) => {
                Ok(LookUp::Found(posted::tell(&channel, &found["ts"], None)))
            }
            Some(_) => Ok(LookUp::NotFound),
            None => Err(refused("the message that was to be updated cannot be found")),
        }
    }
}
