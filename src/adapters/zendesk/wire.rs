//! What of Zendesk's answers is read, and how it is told to a model.

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use super::api::{Call, unusable};
use super::users::Users;
use crate::adapters::tools::member::take_member;
use crate::adapters::tools::text::clip;
use copilotd_actors::ports::ToolError;

const SUBJECT_BYTES: usize = 300;
const COMMENT_BYTES: usize = 1500;
const MAX_TAGS: usize = 20;
const TAG_BYTES: usize = 80;

/// How much of the description is told.
#[derive(Clone, Copy)]
pub(super) enum Detail {
    /// One of many.
    Line,
    /// The one that was asked for.
    Full,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Ticket {
    pub id: u64,
    pub subject: Option<String>,
    pub description: Option<String>,
    pub status: Option<String>,
    pub priority: Option<String>,
    pub requester_id: Option<u64>,
    pub assignee_id: Option<u64>,
    #[serde(default)]
    pub tags: Vec<String>,
    pub created_at: Option<String>,
    pub updated_at: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Comment {
    pub id: u64,
    pub author_id: Option<u64>,
    pub body: Option<String>,
    pub plain_body: Option<String>,
    #[serde(default)]
    pub public: bool,
    pub created_at: Option<String>,
    #[serde(default)]
    pub attachments: Vec<Attachment>,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Attachment {
    pub file_name: Option<String>,
}

/// Takes `value[key]` apart.
pub(super) fn take<T: DeserializeOwned>(mut value: Value, key: &str) -> Result<T, ToolError> {
    read(take_member(&mut value, key), key)
}

/// Reads one object.
pub(super) fn read<T: DeserializeOwned>(value: Value, what: &str) -> Result<T, ToolError> {
    serde_json::from_value(value).map_err(|_| unusable(format_args!("an unusable {what}")))
}

impl Ticket {
    /// Tells a ticket; people are named where `users` knows them.
    pub fn tell(&self, call: &Call, users: &Users, detail: Detail) -> Value {
        let description = match detail {
            Detail::Line => 300,
            Detail::Full => 4000,
        };
        let mut told = Map::new();
        told.insert("id".into(), json!(self.id));
        told.insert(
            "subject".into(),
            json!(clip(self.subject.as_deref().unwrap_or_default(), SUBJECT_BYTES)),
        );
        told.insert("status".into(), json!(self.status));
        told.insert("priority".into(), json!(self.priority));
        told.insert("requester".into(), json!(self.requester_id.map(|id| users.tell(id))));
        if let Some(assignee) = self.assignee_id {
            told.insert("assignee".into(), users.tell(assignee));
        }
        let tags: Vec<String> = self
            .tags
            .iter()
            .take(MAX_TAGS)
            .map(|tag| clip(tag, TAG_BYTES))
            .collect();
        told.insert("tags".into(), json!(tags));
        if self.tags.len() > MAX_TAGS {
            told.insert("tags_left_out".into(), json!(self.tags.len() - MAX_TAGS));
        }
        told.insert("created_at".into(), json!(self.created_at));
        told.insert("updated_at".into(), json!(self.updated_at));
        told.insert(
            "description".into(),
            json!(clip(self.description.as_deref().unwrap_or_default(), description)),
        );
        told.insert("url".into(), json!(call.ticket_url(self.id)));
        Value::Object(told)
    }
}

impl Comment {
    /// Tells a comment.
    pub fn tell(&self, users: &Users) -> Value {
        let body = self.plain_body.as_deref().or(self.body.as_deref()).unwrap_or_default();
        let mut told = json!({
            "id": self.id,
            "author": self.author_id.map(|id| users.tell(id)),
            "role": self.author_id.map_or("unknown", |id| users.role(id)),
            "public": self.public,
            "body": clip(body, COMMENT_BYTES),
            "at": self.created_at,
        });
        let files: Vec<String> = self
            .attachments
            .iter()
            .filter_map(|file| file.file_name.as_deref())
            .take(5)
            .map(|name| clip(name, 100))
            .collect();
        if !files.is_empty() {
            told["attachments"] = json!(files);
        }
        told
    }
}
