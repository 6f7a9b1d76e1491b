//! Messages in Slack's format, converted from Markdown.

use copilotd_actors::domain::ids::CallId;
use copilotd_actors::ports::ToolError;
use serde_json::{Value, json};

use super::{blocks, markdown};
use crate::adapters::systems::tools::member::{as_number, at, set};
use crate::adapters::systems::tools::refused;

/// Slack refuses an update with a longer `text`, and truncates that of a post; the blocks carry the whole message.
const FALLBACK: usize = 4000;
/// Most messages that one text may become. 40,000 characters of prose are five.
const MESSAGES: usize = 30;

/// Name of our metadata on every message.
pub const METADATA: &str = "copilotd_call";

/// A message in both forms that Slack requires.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// Block Kit.
    pub blocks: Vec<Value>,
    /// For notifications and for clients without blocks.
    pub text: String,
}

/// Converts Markdown into as many messages as Slack's limits require. Nothing in it can notify anybody or become Slack
/// markup.
pub fn from_markdown(text: &str) -> Result<Vec<Message>, ToolError> {
    let packed = blocks::pack(&markdown::pieces(text));
    // A message of dividers alone has blocks, but says nothing.
    if packed.iter().all(|message| message.plain.trim().is_empty()) {
        return Err(refused("the message has no text"));
    }
    if packed.len() > MESSAGES {
        let needed = packed.len();
        return Err(refused(format!(
            "nothing was posted: the text would become {needed} messages in Slack, and the most is {MESSAGES}; shorten it, \
             or post it in several calls"
        )));
    }
    let message = |packed: blocks::Packed| Message {
        text: match packed.plain.trim() {
            "" => "…".to_owned(),
            _ => blocks::shorten(&packed.plain, FALLBACK),
        },
        blocks: packed.blocks,
    };
    Ok(packed.into_iter().map(message).collect())
}

/// Our second mark on every message. Unlike metadata, a block's id can be read without a scope of its own
/// (`metadata.message:read`), so a forgotten scope does not make a posted message look absent.
fn block_id(call: CallId, part: usize) -> String {
    match part {
        0 => format!("{METADATA}:{call}"),
        _ => format!("{METADATA}:{call}:{part}"),
    }
}

/// Content of a mark on a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mark {
    /// Which of the call's messages it is, from zero.
    pub part: usize,
    /// How many the call has, if the mark says it.
    pub parts: Option<usize>,
}

/// Reads the mark of `call` on a message.
pub(super) fn mark(message: &Value, call: CallId) -> Option<Mark> {
    let payload = at(message, &["metadata", "event_payload"]);
    let is_ours = at(message, &["metadata", "event_type"]) == METADATA;
    if is_ours && at(payload, &["call_id"]) == call.to_string().as_str() {
        let number = |name| as_number(at(payload, &[name])).and_then(|number| usize::try_from(number).ok());
        let part = number("part").unwrap_or(0);
        return Some(Mark {
            part,
            parts: number("parts").or((part == 0).then_some(1)),
        });
    }
    let whole = block_id(call, 0);
    let blocks = at(message, &["blocks"]).as_array().into_iter().flatten();
    let mut ids = blocks.filter_map(|block| at(block, &["block_id"]).as_str());
    let part = ids.find_map(|id| match id.strip_prefix(&whole)? {
        "" => Some(0),
        rest => rest.strip_prefix(':')?.parse().ok(),
    })?;
    Some(Mark { part, parts: None })
}

/// The fields of each message that a text becomes. `parse` prevents Slack from turning plain names into mentions.
pub(super) fn bodies(channel: &str, markdown: &str, call: CallId) -> Result<Vec<Value>, ToolError> {
    let messages = from_markdown(markdown)?;
    let parts = messages.len();
    let body = |(part, mut message): (usize, Message)| {
        if let Some(first) = message.blocks.first_mut() {
            set(first, "block_id", block_id(call, part));
        }
        let mut payload = json!({ "call_id": call.to_string() });
        if parts > 1 {
            set(&mut payload, "part", part);
            set(&mut payload, "parts", parts);
        }
        json!({
            "channel": channel,
            "text": message.text,
            "blocks": message.blocks,
            "parse": "none",
            "metadata": { "event_type": METADATA, "event_payload": payload },
        })
    };
    Ok(messages.into_iter().enumerate().map(body).collect())
}
