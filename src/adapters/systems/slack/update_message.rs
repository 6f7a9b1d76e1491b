//! `slack_update_message`. The same text at the same place twice is one effect, but a repetition after a later update
//! would undo that one; so each update leaves its mark on the message and is looked up by it.

use async_trait::async_trait;
use copilotd_actors::ports::{LookUp, ToolError, ToolRequest};
use serde::Deserialize;
use serde_json::{Value, json};

use super::api::Call;
use super::{channels, message};
use crate::adapters::systems::tools::member::{as_text, at, set};
use crate::adapters::systems::tools::{Tool, arguments, refused};

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
        include_str!("../../../../schemas/tools/slack_update_message.json")
    }

    async fn call(&self, call: &Call, request: &ToolRequest) -> Result<Value, ToolError> {
        let wanted: Arguments = arguments(request)?;
        // Before any request: a text that is too long has nothing to do with channels.
        let parts = message::from_markdown(&wanted.text)?.len();
        if parts > 1 {
            return Err(refused(format!(
                "nothing was updated: the text would need {parts} messages in Slack, and an update is one; shorten it"
            )));
        }
        let channel = channels::resolve(call, &wanted.channel).await?;
        call.api.started.is_for(request.call, &channel);
        let mut body = message::bodies(&channel, &wanted.text, request.call)?
            .into_iter()
            .next()
            .unwrap_or_default();
        set(&mut body, "ts", wanted.ts.as_str());
        let answer = call.change("chat.update", &body).await?;
        call.api.started.done(request.call);
        Ok(describe(&channel, &answer))
    }

    async fn look_up(&self, call: &Call, request: &ToolRequest) -> Result<LookUp, ToolError> {
        let wanted: Arguments = arguments(request)?;
        for channel in channels::places(call, request.call, &wanted.channel).await? {
            // For a single ts this returns the message itself, whether it is in the channel or in a thread.
            let query = [
                ("channel", channel.clone()),
                ("ts", wanted.ts.clone()),
                ("oldest", wanted.ts.clone()),
                ("latest", wanted.ts.clone()),
                ("inclusive", "true".to_owned()),
                ("include_all_metadata", "true".to_owned()),
            ];
            let page = call.page("conversations.replies", "messages", &query, None).await?;
            let is_it = |item: &&Value| as_text(at(item, &["ts"])).as_deref() == Some(&wanted.ts);
            match page.items.iter().find(is_it) {
                Some(found) if message::mark(found, request.call).is_some() => {
                    return Ok(LookUp::Found(describe(&channel, found)));
                }
                Some(_) => return Ok(LookUp::NotFound),
                None => {}
            }
        }
        Err(refused("the message that was to be updated cannot be found"))
    }
}

fn describe(channel: &str, message: &Value) -> Value {
    json!({ "channel": channel, "ts": as_text(at(message, &["ts"])) })
}
