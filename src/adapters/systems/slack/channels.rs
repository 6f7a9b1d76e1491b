//! Channels of a workspace, by name and by id.
//!
//! Slack offers no lookup by name: the list is walked page by page, and what was read is kept for a while. A walk that
//! is interrupted, by a 429 or by a call's end, continues from that page with the next call. A walk reads [`PAGES`]
//! pages of 200 channels at most, and as long as its call's timeout allows.
//!
//! Invariant: a name stands for the channel that has it now. What is remembered from an earlier call is verified before
//! it is used, and unless it is still true a new walk begins.

use std::time::Duration;

use copilotd_actors::domain::ids::CallId;
use copilotd_actors::ports::{ToolError, ToolErrorKind};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::api::{Call, is_code};
use crate::adapters::systems::tools::member::{self, Readable, Text, as_flag, as_text, at};
use crate::adapters::systems::tools::refused;
use crate::adapters::systems::tools::text::clip;

/// How long a walk is useful after its last page.
const KEEP: Duration = Duration::from_secs(600);
/// A whole list younger than this is not read again only because a name is not in it.
const FRESH: Duration = Duration::from_secs(30);
/// Limits a walk: 50,000 channels.
const PAGES: usize = 250;
/// Most channels in which one message is looked for.
const MAX_CHANNELS_NAMED: usize = 8;

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Channel {
    #[serde(deserialize_with = "member::own_name")]
    pub id: String,
    #[serde(default, deserialize_with = "member::text")]
    name: Option<String>,
    #[serde(default, deserialize_with = "member::flag")]
    is_private: Option<bool>,
    #[serde(default, deserialize_with = "member::flag")]
    is_member: Option<bool>,
    #[serde(default, deserialize_with = "member::number")]
    num_members: Option<u64>,
    #[serde(default, deserialize_with = "member::object")]
    topic: Topic,
    #[serde(default, deserialize_with = "member::list")]
    previous_names: Readable<Text>,
}

#[derive(Debug, Clone, Default, Deserialize)]
struct Topic {
    #[serde(default, deserialize_with = "member::text")]
    value: Option<String>,
}

impl Channel {
    pub fn name(&self) -> &str {
        self.name.as_deref().unwrap_or_default()
    }

    /// Describes a channel for the model.
    pub fn describe(&self) -> Value {
        json!({
            "id": clip(&self.id, 120),
            "name": clip(self.name(), 120),
            "is_private": self.is_private.unwrap_or_default(),
            "is_member": self.is_member.unwrap_or_default(),
            "members": self.num_members,
            "topic": self.topic.value.as_deref().map(|topic| clip(topic, 200)),
        })
    }

    fn was_called(&self, name: &str) -> bool {
        self.name() == name || self.previous_names.items.iter().any(|Text(previous)| previous == name)
    }
}

/// A walk over the list, as far as it has come.
struct Walk {
    read: Readable<Channel>,
    pages: usize,
    next: Next,
    /// Whether Slack rejected its own cursor once.
    restarted: bool,
    /// When it began, later when its last page came.
    at: Instant,
}

enum Next {
    /// The page at this cursor.
    Page(Option<String>),
    /// None: all were read.
    End,
    /// None, although there may be more.
    Bound,
}

impl Walk {
    fn new() -> Self {
        Self {
            read: Readable::default(),
            pages: 0,
            next: Next::Page(None),
            restarted: false,
            at: Instant::now(),
        }
    }

    /// Reads the next page; false when there is none. Nothing is lost when it fails or is dropped.
    async fn step(&mut self, call: &Call) -> Result<bool, ToolError> {
        let Next::Page(cursor) = &self.next else {
            return Ok(false);
        };
        let query = [
            ("exclude_archived", "true".to_owned()),
            ("types", "public_channel,private_channel".to_owned()),
        ];
        let page = match call
            .page("conversations.list", "channels", &query, cursor.clone())
            .await
        {
            Ok(page) => page,
            Err(error) if is_code(&error, "invalid_cursor") && cursor.is_some() && !self.restarted => {
                *self = Self {
                    restarted: true,
                    ..Self::new()
                };
                return Ok(true);
            }
            Err(error) => return Err(error),
        };
        self.read.extend(page.items);
        self.pages += 1;
        self.at = Instant::now();
        self.next = match page.next {
            None => Next::End,
            // The same page again would repeat for ever.
            Some(next) if Some(&next) == cursor.as_ref() || self.pages >= PAGES => Next::Bound,
            Some(next) => Next::Page(Some(next)),
        };
        Ok(true)
    }

    async fn finish(&mut self, call: &Call) -> Result<(), ToolError> {
        while self.step(call).await? {}
        Ok(())
    }

    fn find(&self, name: &str, from: usize) -> Option<&Channel> {
        self.read.items.iter().skip(from).find(|channel| channel.name() == name)
    }

    fn is_incomplete(&self) -> bool {
        !matches!(self.next, Next::End)
    }
}

/// The last walk. One call at a time continues it; the others then find what that one has read.
#[derive(Default)]
pub(super) struct Channels(Mutex<Option<Walk>>);

/// The current walk, or a new one. It stays in place while it continues: a call that is dropped loses no page.
fn current(kept: &mut Option<Walk>) -> &mut Walk {
    if kept.as_ref().is_some_and(|walk| walk.at.elapsed() >= KEEP) {
        *kept = None;
    }
    kept.get_or_insert_with(Walk::new)
}

/// Returns a channel's id for an id or a name.
pub(super) async fn resolve(call: &Call, channel: &str) -> Result<String, ToolError> {
    if is_id(channel) {
        return Ok(channel.to_owned());
    }
    let name = clean(channel);
    let mut kept = call.api.channels.0.lock().await;
    let walk = current(&mut kept);
    let found = find(call, walk, &name).await?;
    let (incomplete, unreadable) = (walk.is_incomplete(), walk.read.unreadable);
    drop(kept);
    found.ok_or_else(|| {
        let beyond = match incomplete {
            true => ", or the workspace has more channels than are read: give the channel's id",
            false => "",
        };
        let odd = match unreadable {
            0 => String::new(),
            odd => format!("; {odd} channels could not be read"),
        };
        refused(format!(
            "there is no channel #{name} that the bot can see (a private channel has to invite it{beyond}{odd})"
        ))
    })
}

async fn find(call: &Call, walk: &mut Walk, name: &str) -> Result<Option<String>, ToolError> {
    if let Some(remembered) = walk.find(name, 0) {
        let id = remembered.id.clone();
        if has_name(call, &id, name).await? {
            return Ok(Some(id));
        }
        *walk = Walk::new();
    } else if matches!(walk.next, Next::End | Next::Bound) && walk.at.elapsed() >= FRESH {
        *walk = Walk::new();
    }
    loop {
        let from = walk.read.items.len();
        if !walk.step(call).await? {
            return Ok(None);
        }
        if let Some(found) = walk.find(name, from.min(walk.read.items.len())) {
            return Ok(Some(found.id.clone()));
        }
    }
}

/// Returns whether a channel still has a name.
async fn has_name(call: &Call, id: &str, name: &str) -> Result<bool, ToolError> {
    match call.get("conversations.info", &[("channel", id.to_owned())]).await {
        Ok(answer) => {
            let channel = at(&answer, &["channel"]);
            let is_archived = as_flag(at(channel, &["is_archived"])) == Some(true);
            Ok(!is_archived && as_text(at(channel, &["name"])).as_deref() == Some(name))
        }
        Err(error) if error.kind == ToolErrorKind::RateLimited => Err(error),
        // The list says what this did not.
        Err(_) => Ok(false),
    }
}

/// Channels that a search found.
pub(super) struct FoundChannels {
    pub channels: Vec<Channel>,
    /// Whether the workspace has more channels than were read.
    pub incomplete: bool,
    /// Number of unreadable channels.
    pub unreadable: usize,
}

/// Lists the channels that `wanted` accepts.
pub(super) async fn search(call: &Call, wanted: impl Fn(&Channel) -> bool) -> Result<FoundChannels, ToolError> {
    let mut kept = call.api.channels.0.lock().await;
    let walk = current(&mut kept);
    walk.finish(call).await?;
    Ok(FoundChannels {
        channels: walk
            .read
            .items
            .iter()
            .filter(|channel| wanted(channel))
            .cloned()
            .collect(),
        incomplete: walk.is_incomplete(),
        unreadable: walk.read.unreadable,
    })
}

/// Returns the channels that have a name or had it earlier: a message that was posted by it is in one of these.
/// `Refused` means that it may be in yet another one.
async fn channels_named(call: &Call, channel: &str) -> Result<Vec<String>, ToolError> {
    if is_id(channel) {
        return Ok(vec![channel.to_owned()]);
    }
    let name = clean(channel);
    let found = search(call, |channel| channel.was_called(&name)).await?;
    let count = found.channels.len();
    if count == 0 || count > MAX_CHANNELS_NAMED || found.incomplete || found.unreadable > 0 {
        return Err(refused(format!(
            "it is unknown which channel had the name #{name} when the message was to be posted"
        )));
    }
    Ok(found.channels.into_iter().map(|channel| channel.id).collect())
}

/// Returns the channel that a call posts to: the one where messages of it are, or else the one that has the name now.
pub(super) async fn destination(call: &Call, id: CallId, channel: &str) -> Result<String, ToolError> {
    let started = &call.api.started;
    match started.channel(id) {
        Some(channel) if !started.posted(id).is_empty() => Ok(channel),
        _ => resolve(call, channel).await,
    }
}

/// Returns the channels where messages of a call may be.
pub(super) async fn places(call: &Call, id: CallId, channel: &str) -> Result<Vec<String>, ToolError> {
    match call.api.started.channel(id) {
        Some(channel) => Ok(vec![channel]),
        None => channels_named(call, channel).await,
    }
}

/// Names in Slack's form: no #, lower case.
pub(super) fn clean(name: &str) -> String {
    name.trim().trim_start_matches('#').to_lowercase()
}

/// Channel names are lower case in Slack.
fn is_id(text: &str) -> bool {
    text.starts_with(['C', 'G', 'D'])
        && text.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit())
        // People do write names in capitals; ids have nine characters or more and almost always a digit.
        && (text.len() >= 9 || text.bytes().any(|byte| byte.is_ascii_digit()))
}
