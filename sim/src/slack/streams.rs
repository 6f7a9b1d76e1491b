//! Messages that grow: `chat.startStream`, `appendStream`, `stopStream`, and the status of a thread.

use serde_json::{Value, json};

use super::arguments::Arguments;
use super::chat;
use super::model::{BOT_USER, Message, read_ts};
use super::{Answer, Slack, done};

pub(crate) const MAX_MARKDOWN: usize = 12_000;

impl Slack {
    pub(crate) fn start_stream(&mut self, arguments: &Arguments) -> Answer {
        let at = self.destination(arguments)?;
        let piece = piece(arguments)?;
        let thread_ts = arguments.ts("thread_ts");
        if thread_ts.as_deref().is_some_and(|thread| read_ts(thread).is_none()) {
            return Err("invalid_thread_ts");
        }
        if self.channels[at].with.is_some() {
            // Only in a channel may a stream be outside a thread.
            thread_ts.as_ref().ok_or("invalid_thread_ts")?;
        } else {
            for (name, error) in [
                ("recipient_team_id", "missing_recipient_team_id"),
                ("recipient_user_id", "missing_recipient_user_id"),
            ] {
                arguments.text(name).ok_or(error)?;
            }
        }
        let message = Message {
            ts: self.new_ts(),
            thread_ts,
            user: BOT_USER.to_owned(),
            text: piece.text,
            blocks: piece.blocks,
            metadata: None,
            broadcast: false,
            edited: false,
            streaming: true,
            reactions: Vec::new(),
        };
        let channel = &mut self.channels[at];
        let answer = json!({"channel": channel.id, "ts": message.ts});
        channel.messages.push(message);
        done(answer)
    }

    pub(crate) fn append_stream(&mut self, arguments: &Arguments) -> Answer {
        let piece = piece(arguments)?;
        if piece.text.is_empty() && piece.blocks.is_none() && !piece.tasks {
            return Err("no_text");
        }
        let (channel, message) = self.streaming(arguments)?;
        piece.add_to(message);
        done(json!({"channel": channel, "ts": message.ts}))
    }

    pub(crate) fn stop_stream(&mut self, arguments: &Arguments) -> Answer {
        let piece = piece(arguments)?;
        let blocks = chat::blocks(arguments)?;
        let metadata = chat::metadata(arguments)?;
        let (channel, message) = self.streaming(arguments)?;
        piece.add_to(message);
        if let Some(blocks) = blocks {
            add_blocks(&mut message.blocks, blocks);
        }
        message.metadata = metadata.or(message.metadata.take());
        message.streaming = false;
        done(json!({"channel": channel, "ts": message.ts, "message": message.to_json(true)}))
    }

    fn streaming(&mut self, arguments: &Arguments) -> Result<(String, &mut Message), &'static str> {
        let (channel, message) = self.own_message(arguments, "message_not_owned_by_app")?;
        if !message.streaming {
            return Err("message_not_in_streaming_state");
        }
        Ok((channel, message))
    }

    /// Sets the status; an empty one removes the current status.
    pub(crate) fn set_status(&mut self, arguments: &Arguments) -> Answer {
        let channel = arguments.text("channel_id").unwrap_or_default().to_owned();
        if !self.channels.iter().any(|known| known.id == channel) {
            return Err("channel_not_found");
        }
        let thread = arguments.ts("thread_ts").ok_or("invalid_thread_ts")?;
        self.statuses.retain(|(c, t, _)| (c, t) != (&channel, &thread));
        if let Some(status) = arguments.text("status") {
            self.statuses.push((channel, thread, status.to_owned()));
        }
        done(json!({}))
    }
}

/// What one request adds to a message.
struct Piece {
    text: String,
    blocks: Option<Value>,
    /// Whether it contained tasks or a plan, which the simulator accepts but does not show.
    tasks: bool,
}

impl Piece {
    fn add_to(self, message: &mut Message) {
        message.text.push_str(&self.text);
        if let Some(blocks) = self.blocks {
            add_blocks(&mut message.blocks, blocks);
        }
    }
}

/// Reads `markdown_text` or `chunks`.
fn piece(arguments: &Arguments) -> Result<Piece, &'static str> {
    let mut piece = Piece {
        text: arguments.text("markdown_text").unwrap_or_default().to_owned(),
        blocks: None,
        tasks: false,
    };
    let chunks = arguments.structure("chunks", "invalid_chunks")?;
    if chunks.is_some() && !piece.text.is_empty() {
        return Err("cannot_provide_both_markdown_text_and_chunks");
    }
    for chunk in chunks.as_ref().and_then(Value::as_array).into_iter().flatten() {
        match chunk["type"].as_str() {
            Some("markdown_text") => {
                piece.text.push_str(chunk["text"].as_str().ok_or("invalid_chunks")?);
            }
            Some("task_update" | "plan_update") => piece.tasks = true,
            Some("blocks") => add_blocks(&mut piece.blocks, chunk["blocks"].clone()),
            _ => return Err("invalid_chunks"),
        }
    }
    if piece.text.chars().count() > MAX_MARKDOWN {
        return Err("msg_too_long");
    }
    Ok(piece)
}

fn add_blocks(blocks: &mut Option<Value>, more: Value) {
    match (blocks.as_mut(), more) {
        (Some(Value::Array(known)), Value::Array(more)) => known.extend(more),
        (_, more) => *blocks = Some(more),
    }
}
