//! Channels, people and messages, and their JSON form in Slack.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

pub(crate) const TEAM_ID: &str = "T0SIMULATED";
pub(crate) const BOT_USER: &str = "U0SIMBOT01";
pub(crate) const BOT_ID: &str = "B0SIMBOT01";
pub(crate) const APP_ID: &str = "A0SIMAPP01";

/// Formats microseconds as `1700000000.000001`.
pub(crate) fn ts(microseconds: i64) -> String {
    format!("{:010}.{:06}", microseconds / 1_000_000, microseconds % 1_000_000)
}

/// Parses a timestamp; the fraction may be missing or shorter.
pub(crate) fn read_ts(text: &str) -> Option<i64> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, "0"));
    if fraction.len() > 6 || !fraction.chars().all(|c| c.is_ascii_digit()) {
        return None;
    }
    let fraction: i64 = format!("{fraction:0<6}").parse().ok()?;
    seconds
        .parse::<i64>()
        .ok()?
        .checked_mul(1_000_000)?
        .checked_add(fraction)
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Channel {
    pub(crate) id: String,
    /// Empty for direct messages.
    pub(crate) name: String,
    pub(crate) created: i64,
    pub(crate) is_member: bool,
    pub(crate) is_archived: bool,
    /// The person a direct message is with.
    pub(crate) with: Option<String>,
    pub(crate) messages: Vec<Message>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Message {
    pub(crate) ts: String,
    pub(crate) thread_ts: Option<String>,
    pub(crate) user: String,
    pub(crate) text: String,
    pub(crate) blocks: Option<Value>,
    pub(crate) metadata: Option<Value>,
    pub(crate) broadcast: bool,
    pub(crate) edited: bool,
    pub(crate) streaming: bool,
    /// Emoji, and who added it.
    pub(crate) reactions: Vec<(String, String)>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct User {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) real_name: String,
    pub(crate) email: Option<String>,
    pub(crate) is_bot: bool,
}

impl Channel {
    pub(crate) fn shown_name(&self) -> String {
        match &self.with {
            Some(user) => format!("@{user}"),
            None => format!("#{}", self.name),
        }
    }

    pub(crate) fn message(&self, ts: &str) -> Option<&Message> {
        self.messages.iter().find(|message| message.ts == ts)
    }

    pub(crate) fn to_json(&self) -> Value {
        if let Some(user) = &self.with {
            return json!({
                "id": self.id,
                "created": self.created,
                "is_archived": false,
                "is_im": true,
                "is_org_shared": false,
                "user": user,
                "priority": 0,
            });
        }
        json!({
            "id": self.id,
            "name": self.name,
            "name_normalized": self.name,
            "created": self.created,
            "creator": "U0SIMADA01",
            "is_archived": self.is_archived,
            "is_channel": true,
            "is_general": self.name == "general",
            "is_group": false,
            "is_im": false,
            "is_mpim": false,
            "is_member": self.is_member,
            "is_org_shared": false,
            "is_pending_ext_shared": false,
            "is_ext_shared": false,
            "is_shared": false,
            "is_private": false,
            "unlinked": 0,
            "topic": {"value": "", "creator": "", "last_set": 0},
            "purpose": {"value": "", "creator": "", "last_set": 0},
            "previous_names": [],
            "pending_shared": [],
            "num_members": 4,
        })
    }

    /// Returns a message as in `conversations.replies`: the parent lists its replies.
    pub(crate) fn in_thread(&self, message: &Message, metadata: bool) -> Value {
        let mut shown = message.to_json(metadata);
        let replies: Vec<_> = self
            .messages
            .iter()
            .filter(|reply| reply.thread_ts.as_ref() == Some(&message.ts) && reply.ts != message.ts)
            .collect();
        if let Some(last) = replies.last() {
            let mut users: Vec<&str> = Vec::new();
            for reply in &replies {
                if !users.contains(&reply.user.as_str()) {
                    users.push(&reply.user);
                }
            }
            shown["thread_ts"] = json!(message.ts);
            shown["reply_count"] = json!(replies.len());
            shown["reply_users_count"] = json!(users.len());
            shown["reply_users"] = json!(users);
            shown["latest_reply"] = json!(last.ts);
            shown["subscribed"] = json!(false);
        } else if let Some(parent) = message.thread_ts.as_deref().and_then(|ts| self.message(ts)) {
            shown["parent_user_id"] = json!(parent.user);
        }
        shown
    }
}

impl Message {
    pub(crate) fn to_json(&self, metadata: bool) -> Value {
        let mut shown = json!({
            "type": "message",
            "user": self.user,
            "text": self.text,
            "ts": self.ts,
            "team": TEAM_ID,
        });
        if self.user == BOT_USER {
            shown["bot_id"] = json!(BOT_ID);
            shown["bot_profile"] = json!({
                "id": BOT_ID,
                "app_id": APP_ID,
                "name": "copilot",
                "icons": {
                    "image_36": "https://example.com/36.png",
                    "image_48": "https://example.com/48.png",
                    "image_72": "https://example.com/72.png",
                },
                "deleted": false,
                "updated": 1_700_000_000,
                "team_id": TEAM_ID,
            });
        }
        if let Some(thread) = &self.thread_ts {
            shown["thread_ts"] = json!(thread);
        }
        if self.broadcast {
            shown["subtype"] = json!("thread_broadcast");
        }
        if let Some(blocks) = &self.blocks {
            shown["blocks"] = blocks.clone();
        }
        if let Some(told) = self.metadata.as_ref().filter(|_| metadata) {
            shown["metadata"] = told.clone();
        }
        if !self.reactions.is_empty() {
            let mut names: Vec<&str> = Vec::new();
            for (name, _) in &self.reactions {
                if !names.contains(&name.as_str()) {
                    names.push(name);
                }
            }
            let reactions = names.iter().map(|name| {
                let users = self.reactions.iter().filter(|(given, _)| given == name);
                let users: Vec<_> = users.map(|(_, user)| user).collect();
                json!({"name": name, "count": users.len(), "users": users})
            });
            shown["reactions"] = reactions.collect();
        }
        shown
    }
}

impl User {
    pub(crate) fn to_json(&self) -> Value {
        let mut profile = json!({
            "title": "",
            "phone": "",
            "skype": "",
            "real_name": self.real_name,
            "real_name_normalized": self.real_name,
            "display_name": self.name,
            "display_name_normalized": self.name,
            "fields": {},
            "status_text": "",
            "status_emoji": "",
            "status_expiration": 0,
            "avatar_hash": "g0simulated",
            "first_name": self.real_name.split(' ').next(),
            "last_name": self.real_name.split(' ').next_back(),
            "team": TEAM_ID,
        });
        if let Some(email) = &self.email {
            profile["email"] = json!(email);
        }
        if self.is_bot {
            profile["bot_id"] = json!(BOT_ID);
            profile["api_app_id"] = json!(APP_ID);
        }
        json!({
            "id": self.id,
            "team_id": TEAM_ID,
            "name": self.name,
            "deleted": false,
            "color": "9f69e7",
            "real_name": self.real_name,
            "tz": "Etc/UTC",
            "tz_label": "Coordinated Universal Time",
            "tz_offset": 0,
            "profile": profile,
            "is_admin": false,
            "is_owner": false,
            "is_primary_owner": false,
            "is_restricted": false,
            "is_ultra_restricted": false,
            "is_bot": self.is_bot,
            "is_app_user": false,
            "updated": 1_700_000_000,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_are_read_and_written() {
        assert_eq!(ts(1_700_000_000_000_012), "1700000000.000012");
        assert_eq!(read_ts("1700000000.000012"), Some(1_700_000_000_000_012));
        assert_eq!(read_ts("1700000000"), Some(1_700_000_000_000_000));
        assert_eq!(read_ts("1700000000.5"), Some(1_700_000_000_500_000));
        assert_eq!(read_ts("now"), None);
    }
}
