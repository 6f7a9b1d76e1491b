//! What a person writes in Slack's own app: `POST /_sim/messages`. Slack's Web API has nothing for it, because an app
//! only posts as itself.

use serde::Deserialize;
use serde_json::{Value, json};

use super::Slack;
use super::model::Message;
use crate::service::NotWritten;

/// Longest message that a person writes.
const MAX_CHARACTERS: usize = 12_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    /// A channel's id or name.
    channel: String,
    /// A person's id or name.
    user: String,
    text: String,
    /// The message that this one replies to.
    thread_ts: Option<String>,
}

impl Slack {
    pub(super) fn write_as_person(&mut self, message: &Value) -> Result<Value, NotWritten> {
        let Written {
            channel,
            user,
            text,
            thread_ts,
        } = Written::deserialize(message).map_err(|error| NotWritten::Invalid(error.to_string()))?;
        let at = self
            .find(&channel)
            .ok_or_else(|| NotWritten::NotFound(format!("no channel {channel:?}")))?;
        let author = self
            .users
            .iter()
            .find(|known| !known.is_bot && (known.id == user || known.name == user))
            .ok_or_else(|| NotWritten::NotFound(format!("no person {user:?}")))?;
        let author = author.id.clone();
        if self.channels[at].is_archived {
            return Err(NotWritten::Invalid(format!("the channel {channel:?} is archived")));
        }
        if text.trim().is_empty() {
            return Err(NotWritten::Invalid("the text is empty".to_owned()));
        }
        if text.chars().count() > MAX_CHARACTERS {
            let error = format!("the text is longer than {MAX_CHARACTERS} characters");
            return Err(NotWritten::Invalid(error));
        }
        // As in Slack, a reply to a reply belongs to the thread.
        let thread_ts = match thread_ts {
            Some(ts) => {
                let parent = self.channels[at].message(&ts);
                let parent = parent.ok_or_else(|| NotWritten::NotFound(format!("no message {ts:?} in {channel:?}")))?;
                Some(parent.thread_ts.clone().unwrap_or(ts))
            }
            None => None,
        };
        let ts = self.new_ts();
        let channel = &mut self.channels[at];
        let posted = json!({"channel": channel.id, "ts": ts, "thread_ts": thread_ts});
        channel.messages.push(Message {
            ts,
            thread_ts,
            user: author,
            text,
            blocks: None,
            metadata: None,
            broadcast: false,
            edited: false,
            streaming: false,
            reactions: Vec::new(),
        });
        self.version += 1;
        Ok(posted)
    }
}
