//! API.md's message object.

use jiff::Timestamp;
use serde::Serialize;

use super::event::tool_text;
use crate::domain::content::{Citation, Part};
use crate::domain::event::{Event, Record};
use crate::domain::file::MediaType;
use crate::domain::ids::{FileId, MessageId, Seq, TurnId};

/// The author of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the roles of API.md")]
pub enum Role {
    User,
    Assistant,
    Tool,
}

/// A part of a message as clients see it.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum PartView {
    /// Text.
    Text {
        /// The text.
        text: String,
    },
    /// A file that the user attached; it may have been deleted since.
    File {
        /// The id under which it was uploaded.
        file_id: FileId,
        /// Its name, for people.
        name: String,
        /// Its type, by content.
        media_type: MediaType,
        /// Its length in bytes.
        bytes: u64,
    },
}

impl PartView {
    /// Returns a part; none for a file of which nothing is known, which no accepted prompt has.
    fn of(part: Part) -> Option<Self> {
        match part {
            Part::Text { text } => Some(Self::Text { text }),
            Part::File { file_id, info } => info.map(|info| Self::File {
                file_id,
                name: info.name,
                media_type: info.media_type,
                bytes: info.bytes,
            }),
        }
    }
}

/// A message as clients see it.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[expect(missing_docs, reason = "fields are those of API.md's message object")]
pub struct MessageView {
    pub id: MessageId,
    pub turn_id: TurnId,
    pub role: Role,
    pub content: Vec<PartView>,
    /// What an answer cites; omitted if it cites nothing.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub citations: Vec<Citation>,
    pub created_at: Timestamp,
    pub seq: Seq,
}

/// Converts a record to a message, if it is one.
pub fn message(record: &Record) -> Option<MessageView> {
    let turn_id = record.turn?;
    let (id, role, content) = match &record.event {
        Event::TurnQueued { input, .. } => {
            let parts = input.parts().into_iter().filter_map(PartView::of);
            (MessageId::of_input(turn_id), Role::User, parts.collect())
        }
        Event::MessageCompleted { message_id, text, .. } => {
            let content = if text.is_empty() {
                Vec::new()
            } else {
                vec![PartView::Text { text: text.clone() }]
            };
            (*message_id, Role::Assistant, content)
        }
        Event::ToolFinished {
            call_id, result, error, ..
        } => {
            let text = tool_text(result.as_ref(), error.as_deref());
            (
                MessageId::of_result(*call_id),
                Role::Tool,
                vec![PartView::Text { text }],
            )
        }
        _ => return None,
    };
    Some(MessageView {
        id,
        turn_id,
        role,
        content,
        citations: match &record.event {
            Event::MessageCompleted { citations, .. } => citations.clone(),
            _ => Vec::new(),
        },
        created_at: record.at,
        seq: record.seq,
    })
}
