//! `chat.*` and `reactions.add`.

use serde_json::{Value, json};

use super::arguments::Arguments;
use super::model::{BOT_USER, Message, read_ts};
use super::{Answer, Slack, done, unchanged};

const MAX_TEXT: usize = 40_000;
const MAX_BLOCKS: usize = 50;
/// Slack publishes no such limit; clients have measured about this many characters of JSON.
const MAX_BLOCKS_JSON: usize = 13_200;
const MAX_SECTION: usize = 3_000;

impl Slack {
    /// Finds the channel to post to: a channel's id or name, or a person's id for a direct message.
    pub(crate) fn destination(&mut self, arguments: &Arguments) -> Result<usize, &'static str> {
        let wanted = arguments.text("channel").ok_or("channel_not_found")?.to_owned();
        let at = match self.find(&wanted) {
            Some(at) => at,
            None => self.direct(&wanted).map_err(|_| "channel_not_found")?,
        };
        let channel = &self.channels[at];
        if channel.is_archived {
            return Err("is_archived");
        }
        if !channel.is_member {
            return Err("not_in_channel");
        }
        Ok(at)
    }

    /// Finds one of the app's own messages.
    pub(crate) fn own_message(
        &mut self,
        arguments: &Arguments,
        not_own: &'static str,
    ) -> Result<(String, &mut Message), &'static str> {
        let id = arguments.text("channel").unwrap_or_default().to_owned();
        let ts = arguments.ts("ts").unwrap_or_default();
        let found = self.channels.iter_mut().find(|channel| channel.id == id);
        let channel = found.ok_or("channel_not_found")?;
        let message = channel.messages.iter_mut().find(|message| message.ts == ts);
        let message = message.ok_or("message_not_found")?;
        if message.user != BOT_USER {
            return Err(not_own);
        }
        Ok((id, message))
    }

    pub(crate) fn post_message(&mut self, arguments: &Arguments) -> Answer {
        let at = self.destination(arguments)?;
        let blocks = blocks(arguments)?;
        let text = arguments.text("text").unwrap_or_default();
        // `markdown_text` is the newer form and excludes the other two.
        let markdown = arguments.text("markdown_text");
        if markdown.is_some() && (blocks.is_some() || !text.is_empty()) {
            return Err("markdown_text_conflict");
        }
        let text = markdown.unwrap_or(text);
        let attachments = arguments.structure("attachments", "invalid_attachments")?;
        if text.is_empty() && blocks.is_none() && attachments.is_none() {
            return Err("no_text");
        }
        let limit = if markdown.is_some() {
            super::streams::MAX_MARKDOWN
        } else {
            MAX_TEXT
        };
        if text.chars().count() > limit {
            return Err("msg_too_long");
        }
        let thread_ts = match arguments.ts("thread_ts") {
            Some(thread) if read_ts(&thread).is_none() => return Err("invalid_thread_ts"),
            thread => thread,
        };
        let message = Message {
            ts: self.new_ts(),
            broadcast: thread_ts.is_some() && arguments.flag("reply_broadcast").unwrap_or(false),
            thread_ts,
            user: BOT_USER.to_owned(),
            text: text.to_owned(),
            blocks,
            metadata: metadata(arguments)?,
            edited: false,
            streaming: false,
            reactions: Vec::new(),
        };
        let channel = &mut self.channels[at];
        let answer = json!({
            "channel": channel.id,
            "ts": message.ts,
            "message": message.to_json(true),
        });
        channel.messages.push(message);
        done(answer)
    }

    pub(crate) fn update_message(&mut self, arguments: &Arguments) -> Answer {
        let blocks = blocks(arguments)?;
        let metadata = metadata(arguments)?;
        let text = arguments.text("text").or(arguments.text("markdown_text"));
        if text.is_none() && blocks.is_none() {
            return Err("no_text");
        }
        if text.is_some_and(|text| text.chars().count() > MAX_TEXT) {
            return Err("msg_too_long");
        }
        let (channel, message) = self.own_message(arguments, "cant_update_message")?;
        if message.streaming {
            return Err("streaming_state_conflict");
        }
        if let Some(text) = text {
            message.text = text.to_owned();
        }
        message.blocks = blocks.or(message.blocks.take());
        message.metadata = metadata.or(message.metadata.take());
        message.edited = true;
        let shown = json!({
            "type": "message",
            "user": message.user,
            "text": message.text,
        });
        done(json!({"channel": channel, "ts": message.ts, "text": message.text, "message": shown}))
    }

    pub(crate) fn delete_message(&mut self, arguments: &Arguments) -> Answer {
        let (id, message) = self.own_message(arguments, "cant_delete_message")?;
        let ts = message.ts.clone();
        if let Some(channel) = self.channels.iter_mut().find(|channel| channel.id == id) {
            channel.messages.retain(|message| message.ts != ts);
        }
        done(json!({"channel": id, "ts": ts}))
    }

    pub(crate) fn permalink(&mut self, arguments: &Arguments) -> Answer {
        let id = arguments.text("channel").unwrap_or_default();
        let ts = arguments.ts("message_ts").unwrap_or_default();
        let found = self.channels.iter().find(|channel| channel.id == id);
        let message = found.ok_or("channel_not_found")?.message(&ts);
        let message = message.ok_or("message_not_found")?;
        let permalink = format!(
            "https://simulated.slack.com/archives/{id}/p{}",
            message.ts.replace('.', "")
        );
        unchanged(json!({"channel": id, "permalink": permalink}))
    }

    pub(crate) fn add_reaction(&mut self, arguments: &Arguments) -> Answer {
        let id = arguments.text("channel").unwrap_or_default();
        let ts = arguments.ts("timestamp").ok_or("no_item_specified")?;
        let name = arguments.text("name").ok_or("invalid_name")?.trim_matches(':');
        read_ts(&ts).ok_or("bad_timestamp")?;
        let found = self.channels.iter_mut().find(|channel| channel.id == id);
        let channel = found.ok_or("channel_not_found")?;
        let message = channel.messages.iter_mut().find(|message| message.ts == ts);
        let message = message.ok_or("message_not_found")?;
        let reaction = (name.to_owned(), BOT_USER.to_owned());
        if message.reactions.contains(&reaction) {
            return Err("already_reacted");
        }
        message.reactions.push(reaction);
        done(json!({}))
    }
}

/// Reads and checks `blocks`.
pub(crate) fn blocks(arguments: &Arguments) -> Result<Option<Value>, &'static str> {
    let Some(blocks) = arguments.structure("blocks", "invalid_blocks_format")? else {
        return Ok(None);
    };
    let list = blocks.as_array().ok_or("invalid_blocks_format")?;
    if list.len() > MAX_BLOCKS || !list.iter().all(|block| block["type"].is_string()) {
        return Err("invalid_blocks");
    }
    let text = |block: &Value| {
        block["text"]["text"]
            .as_str()
            .map_or(0, |text| text.encode_utf16().count())
    };
    if list
        .iter()
        .any(|block| block["type"] == "section" && text(block) > MAX_SECTION)
    {
        return Err("invalid_blocks");
    }
    if blocks.to_string().encode_utf16().count() > MAX_BLOCKS_JSON {
        return Err("msg_blocks_too_long");
    }
    Ok((!list.is_empty()).then_some(blocks))
}

/// Reads and checks `metadata`.
pub(crate) fn metadata(arguments: &Arguments) -> Result<Option<Value>, &'static str> {
    let Some(metadata) = arguments.structure("metadata", "invalid_metadata_format")? else {
        return Ok(None);
    };
    if !metadata["event_type"].is_string() || !metadata["event_payload"].is_object() {
        return Err("invalid_metadata_format");
    }
    Ok(Some(metadata))
}
