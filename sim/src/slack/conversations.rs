//! `conversations.*`.

use base64::Engine as _;
use serde_json::{Value, json};

use super::arguments::Arguments;
use super::model::{BOT_USER, Channel, read_ts};
use super::{Answer, Slack, done, unchanged};

const DEFAULT_LIMIT: usize = 100;
const MAX_LIMIT: usize = 1_000;

impl Slack {
    /// Finds a channel by its id, or by its name with or without `#`.
    pub(crate) fn find(&self, wanted: &str) -> Option<usize> {
        let name = wanted.trim_start_matches('#');
        let is_it = |channel: &Channel| channel.id == wanted || (channel.with.is_none() && channel.name == name);
        self.channels.iter().position(is_it)
    }

    /// Finds a channel by its id, as all methods except `chat.postMessage` do.
    fn named(&self, arguments: &Arguments) -> Result<&Channel, &'static str> {
        let id = arguments.text("channel").unwrap_or_default();
        let found = self.channels.iter().find(|channel| channel.id == id);
        found.ok_or("channel_not_found")
    }

    pub(crate) fn list_conversations(&self, arguments: &Arguments) -> Answer {
        let types = arguments.text("types").unwrap_or("public_channel");
        let wanted = |kind: &str| types.split(',').any(|name| name.trim() == kind);
        let no_archived = arguments.flag("exclude_archived").unwrap_or(false);
        let fits = |channel: &&Channel| {
            let kind = if channel.with.is_some() { "im" } else { "public_channel" };
            wanted(kind) && !(no_archived && channel.is_archived)
        };
        let channels = self.channels.iter().filter(fits).map(Channel::to_json).collect();
        let (channels, next_cursor) = page(arguments, channels)?;
        unchanged(json!({
            "channels": channels,
            "response_metadata": {"next_cursor": next_cursor},
        }))
    }

    pub(crate) fn conversation_info(&self, arguments: &Arguments) -> Answer {
        unchanged(json!({"channel": self.named(arguments)?.to_json()}))
    }

    pub(crate) fn members(&self, arguments: &Arguments) -> Answer {
        let channel = self.named(arguments)?;
        let members: Vec<Value> = match &channel.with {
            Some(user) => vec![json!(BOT_USER), json!(user)],
            None => {
                let is_in = |id: &&String| channel.is_member || *id != BOT_USER;
                let ids = self.users.iter().map(|user| &user.id).filter(is_in);
                ids.map(|id| json!(id)).collect()
            }
        };
        let (members, next_cursor) = page(arguments, members)?;
        unchanged(json!({"members": members, "response_metadata": {"next_cursor": next_cursor}}))
    }

    pub(crate) fn history(&self, arguments: &Arguments) -> Answer {
        let channel = self.named(arguments)?;
        if !channel.is_member {
            return Err("not_in_channel");
        }
        let range = Range::read(arguments)?;
        let metadata = arguments.flag("include_all_metadata").unwrap_or(false);
        // Replies appear only in their thread, unless they were also sent to the channel.
        let messages = channel.messages.iter().rev().filter(|message| {
            let is_reply = message.thread_ts.as_ref().is_some_and(|thread| *thread != message.ts);
            (!is_reply || message.broadcast) && range.holds(&message.ts)
        });
        let messages = messages.map(|message| channel.in_thread(message, metadata)).collect();
        let (messages, next_cursor) = page(arguments, messages)?;
        let mut answer = json!({
            "messages": messages,
            "has_more": !next_cursor.is_empty(),
            "pin_count": 0,
            "channel_actions_ts": null,
            "channel_actions_count": 0,
        });
        if !next_cursor.is_empty() {
            answer["response_metadata"] = json!({"next_cursor": next_cursor});
        }
        unchanged(answer)
    }

    pub(crate) fn replies(&self, arguments: &Arguments) -> Answer {
        let channel = self.named(arguments)?;
        let asked = arguments.ts("ts").ok_or("thread_not_found")?;
        let message = channel.message(&asked).ok_or("thread_not_found")?;
        let parent = message.thread_ts.clone().unwrap_or(asked);
        let range = Range::read(arguments)?;
        let metadata = arguments.flag("include_all_metadata").unwrap_or(false);
        let in_thread = channel.messages.iter().filter(|message| {
            message.ts == parent || (message.thread_ts.as_ref() == Some(&parent) && range.holds(&message.ts))
        });
        let messages = in_thread.map(|message| channel.in_thread(message, metadata)).collect();
        let (messages, next_cursor) = page(arguments, messages)?;
        let mut answer = json!({"messages": messages, "has_more": !next_cursor.is_empty()});
        if !next_cursor.is_empty() {
            answer["response_metadata"] = json!({"next_cursor": next_cursor});
        }
        unchanged(answer)
    }

    /// Opens a direct message with one person.
    pub(crate) fn open(&mut self, arguments: &Arguments) -> Answer {
        if let Some(id) = arguments.text("channel") {
            let found = self.channels.iter().find(|channel| channel.id == id);
            let channel = found.ok_or("channel_not_found")?;
            return unchanged(json!({"no_op": true, "already_open": true, "channel": {"id": channel.id}}));
        }
        let users = arguments.text("users").ok_or("users_list_not_supplied")?;
        let users: Vec<&str> = users.split(',').map(str::trim).collect();
        let [user] = users.as_slice() else {
            // Group messages are not simulated.
            return Err("too_many_users");
        };
        let already = self
            .channels
            .iter()
            .any(|channel| channel.with.as_deref() == Some(*user));
        let at = self.direct(user)?;
        let channel = &self.channels[at];
        let shown = if arguments.flag("return_im").unwrap_or(false) {
            channel.to_json()
        } else {
            json!({"id": channel.id})
        };
        if already {
            unchanged(json!({"no_op": true, "already_open": true, "channel": shown}))
        } else {
            done(json!({"channel": shown}))
        }
    }

    /// Returns the direct message with a person, opening it if necessary.
    pub(crate) fn direct(&mut self, user: &str) -> Result<usize, &'static str> {
        if !self.users.iter().any(|known| known.id == user) {
            return Err("user_not_found");
        }
        let open = self
            .channels
            .iter()
            .position(|channel| channel.with.as_deref() == Some(user));
        if let Some(at) = open {
            return Ok(at);
        }
        self.channels.push(Channel {
            id: format!("D0SIMDM{:04}", self.next_dm),
            name: String::new(),
            created: 1_700_000_000,
            is_member: true,
            is_archived: false,
            with: Some(user.to_owned()),
            messages: Vec::new(),
        });
        self.next_dm += 1;
        Ok(self.channels.len() - 1)
    }

    pub(crate) fn join(&mut self, arguments: &Arguments) -> Answer {
        let id = self.named(arguments)?.id.clone();
        let found = self.channels.iter_mut().find(|channel| channel.id == id);
        let channel = found.ok_or("channel_not_found")?;
        if channel.is_archived {
            return Err("is_archived");
        }
        channel.is_member = true;
        done(json!({"channel": channel.to_json()}))
    }
}

/// `oldest`, `latest` and `inclusive`.
struct Range {
    oldest: i64,
    latest: i64,
    inclusive: bool,
}

impl Range {
    fn read(arguments: &Arguments) -> Result<Self, &'static str> {
        let read = |name: &str, otherwise: i64, error| match arguments.ts(name) {
            None => Ok(otherwise),
            Some(text) => read_ts(&text).ok_or(error),
        };
        Ok(Self {
            oldest: read("oldest", -1, "invalid_ts_oldest")?,
            latest: read("latest", i64::MAX, "invalid_ts_latest")?,
            inclusive: arguments.flag("inclusive").unwrap_or(false),
        })
    }

    fn holds(&self, ts: &str) -> bool {
        let Some(at) = read_ts(ts) else {
            return false;
        };
        (at > self.oldest && at < self.latest) || (self.inclusive && (at == self.oldest || at == self.latest))
    }
}

/// Returns one page and the cursor of the next one, empty at the end.
pub(crate) fn page(arguments: &Arguments, items: Vec<Value>) -> Result<(Vec<Value>, String), &'static str> {
    let limit = arguments.number("limit").filter(|limit| *limit > 0);
    let limit = limit.unwrap_or(DEFAULT_LIMIT).min(MAX_LIMIT);
    let start = match arguments.text("cursor") {
        None => 0,
        Some(cursor) => read_cursor(cursor).ok_or("invalid_cursor")?,
    };
    let total = items.len();
    let page: Vec<_> = items.into_iter().skip(start).take(limit).collect();
    let end = start + page.len();
    let next = if end < total {
        base64::engine::general_purpose::STANDARD.encode(format!("next:{end}"))
    } else {
        String::new()
    };
    Ok((page, next))
}

fn read_cursor(cursor: &str) -> Option<usize> {
    let decoded = base64::engine::general_purpose::STANDARD.decode(cursor).ok()?;
    String::from_utf8(decoded).ok()?.strip_prefix("next:")?.parse().ok()
}
