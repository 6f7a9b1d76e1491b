//! API.md's conversation object.

use jiff::Timestamp;
use serde::Serialize;

use super::turn::UsageView;
use crate::domain::content::Metadata;
use crate::domain::conversation::header::Header;
use crate::domain::event::Channel;
use crate::domain::ids::{ConversationId, CopilotName, Seq, UserId};

/// The state of a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ConversationStatus {
    /// It can be read and continued.
    Active,
    /// Its content is gone.
    Erased,
}

/// A conversation as clients see it.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[expect(missing_docs, reason = "fields are those of API.md's conversation object")]
pub struct ConversationView {
    pub id: ConversationId,
    pub copilot: CopilotName,
    pub channel: Channel,
    pub title: Option<String>,
    pub user: UserId,
    pub metadata: Metadata,
    pub status: ConversationStatus,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    pub turn_count: u64,
    pub last_seq: Seq,
    pub usage: UsageView,
}

impl From<&Header> for ConversationView {
    fn from(header: &Header) -> Self {
        Self {
            id: header.id,
            copilot: header.copilot.clone(),
            channel: header.channel,
            title: header.title.clone(),
            user: header.user.clone(),
            metadata: header.metadata.clone(),
            status: match header.erased {
                true => ConversationStatus::Erased,
                false => ConversationStatus::Active,
            },
            created_at: header.created_at,
            updated_at: header.updated_at,
            turn_count: header.turn_count,
            last_seq: header.last_seq,
            usage: UsageView::from(&header.usage),
        }
    }
}
