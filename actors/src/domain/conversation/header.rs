//! The header of a conversation, for lists and `GET /v1/conversations/{id}`: small, and independent of its length.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::quota::StoredAmount;
use crate::domain::content::Metadata;
use crate::domain::event::{Channel, Event, Idempotency, Record};
use crate::domain::ids::{ConversationId, CopilotName, Seq, TenantId, UserId};
use crate::domain::usage::TotalUsage;

/// The header of a conversation, folded from its log record by record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "fields are those of API.md's conversation object")]
pub struct Header {
    pub id: ConversationId,
    pub tenant: TenantId,
    pub user: UserId,
    pub copilot: CopilotName,
    pub channel: Channel,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    #[serde(default, skip_serializing_if = "Metadata::is_empty")]
    pub metadata: Metadata,
    pub erased: bool,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    pub turn_count: u64,
    /// Number of turns that have not ended.
    pub open_turns: u32,
    pub last_seq: Seq,
    pub usage: TotalUsage,
    /// Total length of all records as JSON, as counted by quotas.
    #[serde(default)]
    pub log_bytes: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency: Option<Idempotency>,
}

impl Header {
    /// Returns what the conversation counts for in the quotas of its tenant and its user.
    pub fn stored(&self) -> StoredAmount {
        if self.erased {
            return StoredAmount::default();
        }
        StoredAmount {
            conversations: 1,
            bytes: self.log_bytes,
        }
    }

    /// Creates a header from a log's first record; none if a log cannot begin with it.
    pub fn open(id: ConversationId, record: &Record) -> Option<Self> {
        let Event::ConversationCreated {
            tenant,
            user,
            copilot,
            channel,
            title,
            metadata,
            idempotency,
        } = &record.event
        else {
            return None;
        };
        Some(Self {
            id,
            tenant: tenant.clone(),
            user: user.clone(),
            copilot: copilot.clone(),
            channel: *channel,
            title: title.clone(),
            metadata: metadata.clone(),
            erased: false,
            created_at: record.at,
            updated_at: record.at,
            turn_count: 0,
            open_turns: 0,
            last_seq: record.seq,
            usage: TotalUsage::default(),
            log_bytes: record.bytes(),
            idempotency: idempotency.clone(),
        })
    }

    /// Applies one later record.
    pub fn apply(&mut self, record: &Record) {
        self.last_seq = record.seq;
        self.updated_at = record.at;
        self.log_bytes = self.log_bytes.saturating_add(record.bytes());
        match &record.event {
            Event::ConversationUpdated { title, metadata } => {
                if let Some(title) = title {
                    self.title = Some(title.clone());
                }
                if let Some(metadata) = metadata {
                    self.metadata = metadata.clone();
                }
            }
            Event::ConversationTitled { title, model, usage } => {
                if let Some(title) = title {
                    self.title = Some(title.clone());
                }
                self.usage.add(model, *usage);
            }
            Event::ConversationErased { .. } => {
                self.erased = true;
                self.title = None;
                self.metadata = Metadata::new();
                self.idempotency = None;
            }
            Event::TurnQueued { .. } => {
                self.turn_count += 1;
                self.open_turns += 1;
            }
            Event::TurnCompleted { usage, .. } | Event::TurnFailed { usage, .. } | Event::TurnCancelled { usage } => {
                self.open_turns = self.open_turns.saturating_sub(1);
                self.usage.merge(usage);
            }
            Event::MemoryCompressed { model, usage, .. } => self.usage.add(model, *usage),
            _ => {}
        }
    }
}
