//! Documents as stored in the database.

use copilotd_actors::domain::conversation::header::Header;
use copilotd_actors::domain::event::Channel;
use copilotd_actors::domain::ids::{ConversationId, Seq, TenantId, TurnId};
use copilotd_actors::ports::{Append, LogError};
use copilotd_actors::tenancy::TenantScope;
use jiff::Timestamp;
use mongodb::bson::{Binary, Bson, DateTime, Document, Uuid, doc};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::adapters::store::text::{self, unreadable};

/// One conversation of one tenant.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) tenant: TenantId,
    pub(super) conversation: ConversationId,
}

impl Key {
    pub(super) fn new(scope: &TenantScope, conversation: ConversationId) -> Self {
        Self {
            tenant: scope.tenant().clone(),
            conversation,
        }
    }

    /// Filter of every query about one log.
    pub(super) fn filter(&self) -> Document {
        doc! { "tenant": self.tenant.as_str(), "conversation": uuid(self.conversation.uuid()) }
    }

    /// `_id` where there is one document per conversation. Neither part can contain the slash.
    pub(super) fn id(&self) -> String {
        format!("{}/{}", self.tenant, self.conversation)
    }
}

/// One append: stored as a whole or not at all.
///
/// Records are JSON text, not BSON: BSON has no unsigned 64-bit numbers, treats `$ref` and dots in keys specially, and
/// would return other bytes than those the model saw and an auditor compares. No query looks inside them.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct AppendDocument {
    #[serde(rename = "_id")]
    pub(super) append_id: Uuid,
    pub(super) tenant: String,
    pub(super) conversation: Uuid,
    pub(super) user: String,
    pub(super) first_seq: i64,
    pub(super) last_seq: i64,
    /// Increases from append to append of a process; tells the next process what may not be projected yet.
    pub(super) stamp: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) turns: Option<Vec<Uuid>>,
    pub(super) messages: i32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) tombstone: Option<i64>,
    /// Only with a tombstone: the header, which cannot be folded any more once the rest is erased.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) header: Option<String>,
    pub(super) records: Vec<String>,
    pub(super) at: DateTime,
}

impl AppendDocument {
    pub(super) fn new(scope: &TenantScope, append: &Append, stamp: i64) -> Result<Self, LogError> {
        let turns: Vec<Uuid> = text::turns(&append.records).into_iter().map(turn_key).collect();
        Ok(Self {
            append_id: uuid(append.append_id),
            tenant: scope.tenant().to_string(),
            conversation: uuid(append.conversation.uuid()),
            user: append.user.to_string(),
            first_seq: number(append.first_seq())?,
            last_seq: number(append.last_seq())?,
            stamp,
            turns: (!turns.is_empty()).then_some(turns),
            messages: i32::try_from(text::messages(&append.records)).unwrap_or(i32::MAX),
            tombstone: append.tombstone().map(number).transpose()?,
            header: append.tombstone().map(|_| json(&append.header)).transpose()?,
            records: text::encode_each(append)?,
            at: DateTime::from_millis(append.header.updated_at.as_millisecond()),
        })
    }

    pub(super) fn key(&self) -> Result<Key, LogError> {
        key(&self.tenant, self.conversation)
    }
}

/// Larger sequence numbers are damage: no log grows so long.
const MAX_SEQ: i64 = 1 << 53;

/// More records in one append are damage: its size is limited.
const MAX_RECORDS: i64 = 1 << 20;

/// The end of a log, without its text.
#[derive(Debug, Clone, Copy)]
pub(super) struct Head {
    pub(super) append_id: Uuid,
    pub(super) first_seq: i64,
    pub(super) last_seq: i64,
    pub(super) tombstone: Option<i64>,
}

impl Head {
    /// Fields to fetch.
    pub(super) fn projection() -> Document {
        doc! { "first_seq": 1, "last_seq": 1, "tombstone": 1 }
    }

    /// Filter for sequence numbers that a log may have. Others, and values of other types, are damage.
    pub(super) fn plausible() -> Document {
        doc! { "$gte": 1_i64, "$lte": MAX_SEQ }
    }

    /// Reads what is readable of a document whose first number is plausible.
    pub(super) fn read(document: &Document) -> Result<Self, LogError> {
        let number = |name: &str| match document.get(name) {
            Some(Bson::Int64(number)) => Some(*number),
            Some(Bson::Int32(number)) => Some(i64::from(*number)),
            _ => None,
        };
        let first_seq = number("first_seq").ok_or_else(|| corrupt("a number"))?;
        let is_plausible = |last_seq: &i64| (first_seq..first_seq.saturating_add(MAX_RECORDS)).contains(last_seq);
        let id = document.get("_id").cloned().unwrap_or(Bson::Null);
        Ok(Self {
            append_id: mongodb::bson::deserialize_from_bson(id).map_err(|_| corrupt("an append's id"))?,
            first_seq,
            last_seq: number("last_seq").filter(is_plausible).unwrap_or(first_seq),
            tombstone: number("tombstone"),
        })
    }

    pub(super) fn of(document: &AppendDocument) -> Self {
        Self {
            append_id: document.append_id,
            first_seq: document.first_seq,
            last_seq: document.last_seq,
            tombstone: document.tombstone,
        }
    }
}

/// A header as it is projected, and up to which record.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct HeaderDocument {
    tenant: String,
    conversation: Uuid,
    user: String,
    copilot: String,
    channel: Channel,
    title: Option<String>,
    metadata: String,
    idempotency: Option<String>,
    erased: bool,
    tombstone: Option<i64>,
    due: bool,
    created_at: i64,
    updated_at: i64,
    turn_count: i64,
    open_turns: i64,
    usage: String,
    #[serde(default)]
    log_bytes: i64,
    applied_seq: i64,
}

/// A header with what the reconciler needs.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Projected {
    pub(super) header: Header,
    pub(super) tombstone: Option<Seq>,
    pub(super) cleaned: bool,
}

impl Projected {
    fn is_due(&self) -> bool {
        match self.tombstone {
            Some(_) => !self.cleaned,
            None => self.header.open_turns > 0,
        }
    }

    /// The fields that nearly every append changes.
    pub(super) fn counters(&self) -> Result<Document, LogError> {
        Ok(doc! {
            "updated_at": nanos(self.header.updated_at)?,
            "turn_count": number(self.header.turn_count)?,
            "open_turns": i64::from(self.header.open_turns),
            "due": self.is_due(),
            "usage": json(&self.header.usage)?,
            "log_bytes": number(self.header.log_bytes)?,
            "applied_seq": number(self.header.last_seq)?,
        })
    }

    /// The whole header. Absent values are written as null, so that they replace older ones.
    pub(super) fn everything(&self) -> Result<Document, LogError> {
        let header = &self.header;
        let mut document = self.counters()?;
        document.extend(doc! {
            "tenant": header.tenant.as_str(),
            "conversation": uuid(header.id.uuid()),
            "user": header.user.as_str(),
            "copilot": header.copilot.as_str(),
            "channel": channel(header.channel)?,
            "title": header.title.clone(),
            "metadata": json(&header.metadata)?,
            "idempotency": header.idempotency.as_ref().map(json).transpose()?,
            "erased": header.erased,
            "tombstone": self.tombstone.map(number).transpose()?,
            "created_at": nanos(header.created_at)?,
        });
        Ok(document)
    }
}

impl TryFrom<HeaderDocument> for Projected {
    type Error = LogError;

    fn try_from(document: HeaderDocument) -> Result<Self, LogError> {
        let tombstone = document.tombstone.map(seq).transpose()?;
        Ok(Self {
            cleaned: tombstone.is_some() && !document.due,
            tombstone,
            header: Header {
                id: ConversationId::new(uuid::Uuid::from_bytes(document.conversation.bytes())),
                tenant: name(&document.tenant)?,
                user: name(&document.user)?,
                copilot: name(&document.copilot)?,
                channel: document.channel,
                title: document.title,
                metadata: from_json(&document.metadata)?,
                erased: document.erased,
                created_at: time(document.created_at)?,
                updated_at: time(document.updated_at)?,
                turn_count: seq(document.turn_count)?,
                open_turns: u32::try_from(document.open_turns).map_err(|_| corrupt("a count"))?,
                last_seq: seq(document.applied_seq)?,
                usage: from_json(&document.usage)?,
                log_bytes: seq(document.log_bytes)?,
                idempotency: document.idempotency.as_deref().map(from_json).transpose()?,
            },
        })
    }
}

/// A conversation that is due, without its header.
#[derive(Debug, Deserialize)]
pub(super) struct DueDocument {
    pub(super) tenant: String,
    pub(super) conversation: Uuid,
    pub(super) tombstone: Option<i64>,
    pub(super) updated_at: i64,
    #[serde(default)]
    pub(super) applied_seq: Bson,
}

/// A snapshot; expires unless it is renewed.
#[derive(Debug, Deserialize)]
pub(super) struct SnapshotDocument {
    pub(super) seq: i64,
    pub(super) version: i64,
    pub(super) state: Binary,
}

pub(super) fn key(tenant: &str, conversation: Uuid) -> Result<Key, LogError> {
    Ok(Key {
        tenant: name(tenant)?,
        conversation: ConversationId::new(uuid::Uuid::from_bytes(conversation.bytes())),
    })
}

pub(super) fn uuid(uuid: uuid::Uuid) -> Uuid {
    Uuid::from_bytes(uuid.into_bytes())
}

pub(super) fn turn_key(turn: TurnId) -> Uuid {
    uuid(turn.uuid())
}

/// A count or number as BSON has it. Sequence numbers stay far below the limit.
pub(super) fn number(value: u64) -> Result<i64, LogError> {
    i64::try_from(value).map_err(|_| LogError::Refused(format!("{value} is more than the store can count")))
}

pub(super) fn seq(value: i64) -> Result<Seq, LogError> {
    u64::try_from(value).map_err(|_| corrupt("a count"))
}

/// A time as a number, sortable and without loss; BSON's own dates end at milliseconds.
pub(super) fn nanos(time: Timestamp) -> Result<i64, LogError> {
    i64::try_from(time.as_nanosecond())
        .map_err(|_| LogError::Refused(format!("time {time} is not between the years 1678 and 2262")))
}

pub(super) fn time(nanos: i64) -> Result<Timestamp, LogError> {
    Timestamp::from_nanosecond(i128::from(nanos)).map_err(|_| corrupt("a time"))
}

pub(super) fn json<T: Serialize>(value: &T) -> Result<String, LogError> {
    serde_json::to_string(value).map_err(|error| LogError::Refused(format!("a header: {error}")))
}

pub(super) fn from_json<T: DeserializeOwned>(text: &str) -> Result<T, LogError> {
    serde_json::from_str(text).map_err(|error| unreadable("a header", &error))
}

pub(super) fn channel(channel: Channel) -> Result<String, LogError> {
    json(&channel).map(|text| text.trim_matches('"').to_owned())
}

fn name<T: std::str::FromStr<Err: std::fmt::Display>>(text: &str) -> Result<T, LogError> {
    text.parse()
        .map_err(|error| LogError::Corrupt(format!("a name: {error}")))
}

fn corrupt(what: &str) -> LogError {
    LogError::Corrupt(format!("{what} is out of range"))
}
