//! A message as Slack takes it, made from Markdown.

use copilotd_actors::domain::ids::CallId;
use copilotd_actors::ports::ToolError;
use serde_json::{Value, json};

use super::{blocks, markdown};
use crate::adapters::tools::refused;

/// Slack refuses an update with a longer `text`, and cuts that of a post; the blocks carry the whole message.
const FALLBACK: usize = 4000;

/// Name of our metadata on every message.
pub const METADATA: &str = "copilotd_call";

/// A message in both forms that Slack wants.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// Block Kit.
    pub blocks: Vec<Value>,
    /// For notifications and for clients without blocks.
    pub text: String,
}

/// Converts Markdown. Nothing in it can notify anybody or become markup of Slack's own.
pub fn from_markdown(text: &str) -> Result<Message, ToolError> {
    let pieces = markdown::pieces(text);
    let blocks = blocks::pack(&pieces);
    let text = blocks::shorten(&markdown::fallback(&pieces), FALLBACK);
    // A message of lines across only has blocks, but says nothing.
    if blocks.is_empty() || text.trim().is_empty() {
        return Err(refused("the message has no text"));
    }
    Ok(Message { blocks, text })
}

/// Our second mark on every message. Unlike metadata, a block's id can be read without a scope of its own
/// (`metadata.message:read`), so a forgotten scope does not make a posted message look absent.
fn block_id(call: CallId) -> String {
    format!("{METADATA}:{call}")
}

/// Whether a message bears a mark of `call`.
pub(super) fn bears(message: &Value, call: CallId) -> bool {
    let metadata = &message["metadata"];
    let by_metadata =
        metadata["event_type"] == METADATA && metadata["event_payload"]["call_id"] == call.to_string().as_str();
    let id = block_id(call);
    let mut blocks = message["blocks"].as_array().into_iter().flatten();
    by_metadata || blocks.any(|block| block["block_id"] == id.as_str())
}

/// The fields that all our messages share. `parse` keeps Slack from making mentions out of plain names.
pub(super) fn body(channel: &str, markdown: &str, call: CallId) -> Result<Value, ToolError> {
    let mut message = from_markdown(markdown)?;
    message.blocks[0]["block_id"] = json!(block_id(call));
    Ok(json!({
        "channel": channel,
        "text": message.text,
        "blocks": message.blocks,
        "parse": "none",
        "metadata": { "event_type": METADATA, "event_payload": { "call_id": call.to_string() } },
    }))
}
