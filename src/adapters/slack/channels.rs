//! Channels of a workspace, by name and by id. The list is read as a whole and kept for a while: Slack offers no
//! look-up by name.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use copilotd_actors::ports::ToolError;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::api::Call;
use crate::adapters::tools::refused;
use crate::adapters::tools::text::clip;

/// A list of this age is still used.
const KEEP: Duration = Duration::from_secs(600);
/// A list of this age is not read again only because a name is not in it.
const FRESH: Duration = Duration::from_secs(30);
/// Bounds the list: 4,000 channels.
const PAGES: usize = 20;

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Channel {
    pub id: String,
    #[serde(default)]
    pub name: String,
    #[serde(default)]
    pub is_private: bool,
    #[serde(default)]
    pub is_member: bool,
    pub num_members: Option<u64>,
    #[serde(default)]
    pub topic: Value,
}

impl Channel {
    /// Tells a channel.
    pub fn tell(&self) -> Value {
        json!({
            "id": self.id,
            "name": self.name,
            "is_private": self.is_private,
            "is_member": self.is_member,
            "members": self.num_members,
            "topic": self.topic["value"].as_str().map(|topic| clip(topic, 200)),
        })
    }
}

/// All channels that the bot may see.
pub(super) struct List {
    pub channels: Vec<Channel>,
    /// Whether the workspace has more than we read.
    pub incomplete: bool,
    read_at: Instant,
}

/// The list that was read last.
#[derive(Default)]
pub(super) struct Channels(Mutex<Option<Arc<List>>>);

impl Channels {
    fn kept(&self, age: Duration) -> Option<Arc<List>> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.as_ref().filter(|list| list.read_at.elapsed() < age).cloned()
    }

    fn keep(&self, list: &Arc<List>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(list));
    }
}

/// Returns a channel's id for an id or a name.
pub(super) async fn resolve(call: &Call, channel: &str) -> Result<String, ToolError> {
    if is_id(channel) {
        return Ok(channel.to_owned());
    }
    let name = clean(channel);
    let find = |list: &List| {
        let mut named = list.channels.iter().filter(|channel| channel.name == name);
        named.next().map(|channel| channel.id.clone())
    };
    if let Some(id) = list(call, KEEP).await.map(|list| find(&list))? {
        return Ok(id);
    }
    let list = list(call, FRESH).await?;
    find(&list).ok_or_else(|| {
        let unseen = if list.incomplete {
            ", or beyond the channels that were read"
        } else {
            ""
        };
        refused(format!(
            "there is no channel #{name} that the bot can see (a private channel has to invite it{unseen})"
        ))
    })
}

/// Returns the list of channels, at most `age` old.
pub(super) async fn list(call: &Call, age: Duration) -> Result<Arc<List>, ToolError> {
    if let Some(list) = call.api.channels.kept(age) {
        return Ok(list);
    }
    let query = [
        ("exclude_archived", "true".to_owned()),
        ("types", "public_channel,private_channel".to_owned()),
    ];
    let mut channels = Vec::new();
    let mut cursor = None;
    for _ in 0..PAGES {
        let page = call.page("conversations.list", "channels", &query, cursor).await?;
        // One that cannot be read is none that can be posted to.
        channels.extend(
            page.items
                .into_iter()
                .filter_map(|item| serde_json::from_value::<Channel>(item).ok()),
        );
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
    }
    let list = Arc::new(List {
        channels,
        incomplete: cursor.is_some(),
        read_at: Instant::now(),
    });
    call.api.channels.keep(&list);
    Ok(list)
}

/// Names as Slack keeps them: no #, lower case.
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

/// How old a list may be for a search.
pub(super) const SEARCH_AGE: Duration = KEEP;
