//! The parts of Zendesk's answers that are read, and how they are described for a model.

use copilotd_actors::ports::ToolError;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use super::api::{Call, unusable};
use super::users::Users;
use crate::adapters::systems::tools::member::{
    self, Readable, Text, add_unreadable_count, as_object, set, take_member,
};
use crate::adapters::systems::tools::text::clip;

const SUBJECT_BYTES: usize = 300;
const COMMENT_BYTES: usize = 1500;
const MAX_TAGS: usize = 20;
const TAG_BYTES: usize = 80;
/// Words such as a status or a date.
const WORD_BYTES: usize = 80;

/// How much of the description is shown.
#[derive(Clone, Copy)]
pub(super) enum Detail {
    /// One of many.
    Line,
    /// The one that was requested.
    Full,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Ticket {
    #[serde(deserialize_with = "member::own_id")]
    pub id: u64,
    #[serde(default, deserialize_with = "member::text")]
    pub subject: Option<String>,
    #[serde(default, deserialize_with = "member::text")]
    pub description: Option<String>,
    #[serde(default, deserialize_with = "member::text")]
    pub status: Option<String>,
    #[serde(default, deserialize_with = "member::text")]
    pub priority: Option<String>,
    #[serde(default, deserialize_with = "member::id")]
    pub requester_id: Option<u64>,
    #[serde(default, deserialize_with = "member::id")]
    pub assignee_id: Option<u64>,
    #[serde(default, deserialize_with = "member::list")]
    pub tags: Readable<Text>,
    #[serde(default, deserialize_with = "member::text")]
    pub created_at: Option<String>,
    #[serde(default, deserialize_with = "member::text")]
    pub updated_at: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Comment {
    #[serde(default, deserialize_with = "member::id")]
    pub id: Option<u64>,
    #[serde(default, deserialize_with = "member::id")]
    pub author_id: Option<u64>,
    #[serde(default, deserialize_with = "member::text")]
    pub body: Option<String>,
    #[serde(default, deserialize_with = "member::text")]
    pub plain_body: Option<String>,
    #[serde(default, deserialize_with = "member::flag")]
    pub public: Option<bool>,
    #[serde(default, deserialize_with = "member::text")]
    pub created_at: Option<String>,
    #[serde(default, deserialize_with = "member::list")]
    pub attachments: Readable<Attachment>,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Attachment {
    #[serde(default, deserialize_with = "member::text")]
    pub file_name: Option<String>,
}

/// Reads the member `key` of an answer, which was requested.
pub(super) fn take<T: DeserializeOwned>(mut value: Value, key: &str) -> Result<T, ToolError> {
    as_object(take_member(&mut value, key)).ok_or_else(|| unusable(format_args!("an unusable {key}")))
}

/// Reads the list `key` of an answer.
pub(super) fn take_list<T: DeserializeOwned>(value: &mut Value, key: &str) -> Result<Readable<T>, ToolError> {
    match take_member(value, key) {
        Value::Array(items) => Ok(Readable::read(items)),
        _ => Err(unusable(format_args!("an answer without a list of {key}"))),
    }
}

/// Formats a word such as a status or a date.
pub(super) fn word(word: Option<&str>) -> Value {
    json!(word.map(|word| clip(word, WORD_BYTES)))
}

impl Ticket {
    /// Describes a ticket; people are named if `users` knows them.
    pub fn describe(&self, call: &Call, users: &Users, detail: Detail) -> Value {
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
        told.insert("status".into(), word(self.status.as_deref()));
        told.insert("priority".into(), word(self.priority.as_deref()));
        told.insert(
            "requester".into(),
            json!(self.requester_id.map(|id| users.describe(id))),
        );
        if let Some(assignee) = self.assignee_id {
            told.insert("assignee".into(), users.describe(assignee));
        }
        let tags = &self.tags.items;
        let shown: Vec<String> = tags
            .iter()
            .take(MAX_TAGS)
            .map(|Text(tag)| clip(tag, TAG_BYTES))
            .collect();
        told.insert("tags".into(), json!(shown));
        if tags.len() > MAX_TAGS {
            told.insert("tags_left_out".into(), json!(tags.len() - MAX_TAGS));
        }
        told.insert("created_at".into(), word(self.created_at.as_deref()));
        told.insert("updated_at".into(), word(self.updated_at.as_deref()));
        told.insert(
            "description".into(),
            json!(clip(self.description.as_deref().unwrap_or_default(), description)),
        );
        told.insert("url".into(), json!(call.ticket_url(self.id)));
        let mut told = Value::Object(told);
        add_unreadable_count(&mut told, "tags", self.tags.unreadable);
        told
    }
}

impl Comment {
    /// Describes a comment.
    pub fn describe(&self, users: &Users) -> Value {
        let body = self.plain_body.as_deref().or(self.body.as_deref()).unwrap_or_default();
        let mut told = json!({
            "id": self.id,
            "author": self.author_id.map(|id| users.describe(id)),
            "role": self.author_id.map_or("unknown", |id| users.role(id)),
            "public": self.public,
            "body": clip(body, COMMENT_BYTES),
            "at": word(self.created_at.as_deref()),
        });
        let files: Vec<String> = self
            .attachments
            .items
            .iter()
            .filter_map(|file| file.file_name.as_deref())
            .take(5)
            .map(|name| clip(name, 100))
            .collect();
        if !files.is_empty() {
            set(&mut told, "attachments", files);
        }
        add_unreadable_count(&mut told, "attachments", self.attachments.unreadable);
        told
    }
}
