//! What the actors need from the outside world, as traits. Adapters implement them; tests use `fakes`.

mod schema;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use crate::domain::command::FailureClass;
use crate::domain::content::Finish;
use crate::domain::event::{Channel, Event, Record};
use crate::domain::header::Header;
use crate::domain::ids::{CallId, ConversationId, CopilotName, Seq, TenantId, TurnId, UserId};
use crate::domain::policy::Policy;
use crate::domain::prompt::PromptMessage;
use crate::domain::quota::{Quotas, StoredTotals};
pub use crate::domain::rate::RateHint;
use crate::domain::usage::Usage;
use crate::tenancy::TenantScope;
pub use schema::{SchemaChecker, SchemaError, SchemaVerdict, accept};

/// The present time, by two clocks. Tests put paused ones here, and can set them apart.
pub trait Clock: Send + Sync + fmt::Debug {
    /// Returns the time of the calendar, which an administrator or NTP may set forward or back: for times of records, ends of
    /// credentials, days of budgets.
    fn now(&self) -> Timestamp;

    /// Returns the time since a moment before the first call; it never goes back and follows no correction: for everything
    /// that measures how long something takes, such as rates, breakers and pauses.
    fn elapsed(&self) -> Duration;
}

/// Where copilots' configurations are looked up; hot-reloadable behind the trait.
pub trait Policies: Send + Sync {
    /// Returns the policy of `copilot`, or of the tenant's first copilot when none is named.
    fn policy(&self, scope: &TenantScope, copilot: Option<&CopilotName>) -> Option<Arc<Policy>>;

    /// Returns how much the tenant and each of its users may keep.
    fn quotas(&self, scope: &TenantScope) -> Quotas;

    /// Tells whether work is done for the tenant now.
    fn standing(&self, scope: &TenantScope) -> Standing;
}

/// Whether work is done for a tenant; in the order of how much is refused.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// It is.
    #[default]
    Served,
    /// Its settings have a fault. No model call, tool call or schema check is begun; what is under way may end, and open turns wait
    /// until the settings are fixed.
    LeftOut,
    /// An operator has suspended it. Nothing is sent any more, and open turns are cancelled.
    Suspended,
}

// ---------------------------------------------------------------------------------------------------- event log

/// One atomic addition to a log: all its records or none.
#[derive(Debug, Clone)]
pub struct Append {
    /// The log.
    pub conversation: ConversationId,
    /// Owner of the conversation; reads by id are filtered by it.
    pub user: UserId,
    /// Tells this append from another one at the same number.
    pub append_id: Uuid,
    /// The records, without gaps; the first one's `seq` is the expected next number. Never empty.
    pub records: Arc<[Record]>,
    /// The conversation's header after these records, for the projection.
    pub header: Header,
}

impl Append {
    /// Returns what writing its records as JSON costs; see [`Record::weight`].
    pub fn weight(&self) -> usize {
        self.records.iter().map(Record::weight).sum()
    }

    /// Number of the first record.
    pub fn first_seq(&self) -> Seq {
        self.records.first().map_or(0, |record| record.seq)
    }

    /// Number of the last record.
    pub fn last_seq(&self) -> Seq {
        self.records.last().map_or(0, |record| record.seq)
    }

    /// Number of the tombstone, when this append erases the conversation.
    pub fn tombstone(&self) -> Option<Seq> {
        let last = self.records.last()?;
        matches!(last.event, Event::ConversationErased { .. }).then_some(last.seq)
    }

    /// Refuses an append that no store may take: empty, with gaps, or with the header of something else. Every
    /// implementation asks this first, so that a slip in the core cannot become a fact.
    pub fn check(&self, scope: &TenantScope) -> Result<(), LogError> {
        let numbered = self
            .records
            .iter()
            .zip(self.first_seq()..)
            .all(|(record, seq)| record.seq == seq);
        let refusal = if self.first_seq() == 0 || !numbered {
            "its records are not numbered without gaps from 1 on"
        } else if self.header.id != self.conversation || self.header.user != self.user {
            "its header is another conversation's"
        } else if self.header.tenant != *scope.tenant() {
            "its header is another tenant's"
        } else if self.header.last_seq != self.last_seq() || (self.tombstone().is_some() && !self.header.erased) {
            "its header was not folded up to its last record"
        } else {
            return Ok(());
        };
        Err(LogError::Refused(format!(
            "an append to {}: {refusal}",
            self.conversation
        )))
    }
}

/// Why an append or a read did not happen.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// Another append stands at this number: the writer's memory is out of date.
    #[error("another append stands at record {0}")]
    Conflict(Seq),
    /// The conversation was erased; its tombstone refuses every append.
    #[error("the conversation is erased")]
    Erased,
    /// The store did not answer in time or not at all; the outcome is unknown. Asking again is safe.
    #[error("the store is unavailable: {0}")]
    Unavailable(String),
    /// The store will not take it, ever: disk full, read-only, record too large. Nothing was written.
    #[error("the store refused: {0}")]
    Refused(String),
    /// What is stored cannot be read.
    #[error("the store holds something unreadable: {0}")]
    Corrupt(String),
}

/// Text of [`LogError::Refused`] where there is no space left.
pub const DISK_FULL: &str = "disk full";

impl LogError {
    /// Whether the store refused because there is no space left.
    pub fn is_disk_full(&self) -> bool {
        matches!(self, Self::Refused(reason) if reason == DISK_FULL)
    }
}

/// A cached fold of a log up to `seq`. May be lost, or ignored when its version is not the reader's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Last record that is folded in.
    pub seq: Seq,
    /// Version of the format.
    pub version: u32,
    /// The state, as the domain serialised it; refers to messages by `seq`.
    pub state: Vec<u8>,
}

/// What an erasure removed, per store.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErasureReceipt {
    /// Name of each store and the number of things deleted there.
    pub stores: Vec<(String, u64)>,
}

/// The append-only logs and what is derived from them.
///
/// Contract (one suite checks every implementation): an append is atomic and durable when it returns; of two appends
/// at one number one gets [`LogError::Conflict`]; repeating an append with the same `append_id` is success; what a
/// returned append wrote is seen by every later read, also after a restart; nothing of one tenant is ever returned
/// in the scope of another. `append` asks again by itself on an unknown outcome, until its deadline (30 s).
#[async_trait]
pub trait EventLog: Send + Sync {
    /// Adds records.
    async fn append(&self, scope: &TenantScope, append: &Append) -> Result<(), LogError>;

    /// Reads records with `seq > after`, in order, at most `limit` of them. Empty at the end, and for an unknown log.
    async fn read(
        &self,
        scope: &TenantScope,
        conversation: ConversationId,
        after: Seq,
        limit: usize,
    ) -> Result<Vec<Record>, LogError>;

    /// Reads all records of one turn and the conversation it belongs to.
    async fn read_turn(&self, scope: &TenantScope, turn: TurnId) -> Result<Option<TurnRecords>, LogError>;

    /// Reads the records of one conversation that are messages (`Event::is_message`), from `cursor` on (exclusive),
    /// upwards or downwards, at most `limit`.
    async fn read_messages(
        &self,
        scope: &TenantScope,
        conversation: ConversationId,
        cursor: Option<Seq>,
        order: Order,
        limit: usize,
    ) -> Result<Vec<Record>, LogError>;

    /// Returns the header of one conversation as of its last append (read-your-writes), with its owner; also erased ones.
    async fn header(&self, scope: &TenantScope, conversation: ConversationId) -> Result<Option<Header>, LogError>;

    /// Returns the number of a log's last record, also where records are missing or cannot be read; 0 for an unknown log.
    /// An append at the number behind it is in order.
    async fn end(&self, scope: &TenantScope, conversation: ConversationId) -> Result<Seq, LogError> {
        let header = self.header(scope, conversation).await?;
        Ok(header.map_or(0, |header| header.last_seq))
    }

    /// Lists conversations of one user (or of all, for admins), newest first; may lag by a second. Erased ones only
    /// when `erased` says so.
    async fn list(&self, scope: &TenantScope, query: &ListQuery) -> Result<Vec<Header>, LogError>;

    /// Returns the newest snapshot.
    async fn snapshot(&self, scope: &TenantScope, conversation: ConversationId) -> Result<Option<Snapshot>, LogError>;

    /// Stores a snapshot in place of an older one.
    async fn save_snapshot(
        &self,
        scope: &TenantScope,
        conversation: ConversationId,
        snapshot: &Snapshot,
    ) -> Result<(), LogError>;

    /// Lists conversations that the reconciler has to look at, over all tenants: with open turns, or erased and not yet
    /// cleaned; after `cursor`, at most `limit`, ordered by (tenant, conversation).
    async fn pending(&self, cursor: Option<&Pending>, limit: usize) -> Result<Vec<Pending>, LogError>;

    /// Deletes what an erased conversation still has before its tombstone, everywhere, whether it can be read or not; idempotent.
    /// The tombstone stays.
    async fn erase(
        &self,
        scope: &TenantScope,
        conversation: ConversationId,
        tombstone: Seq,
    ) -> Result<ErasureReceipt, LogError>;

    /// Returns what a tenant and one of its users keep, from counters that each append and erasure moves: no log is read
    /// for it. May lag by a second.
    async fn stored(&self, scope: &TenantScope, user: &UserId) -> Result<StoredTotals, LogError>;

    /// Rebuilds every projection from the log; returns the number of conversations.
    async fn rebuild(&self) -> Result<u64, LogError>;

    /// Tells whether the store answers (`/readyz`).
    async fn ready(&self) -> Result<(), LogError>;

    /// Tells whether the store takes ordinary writes, by making one that replaces the one before. Asked every few seconds.
    async fn probe(&self) -> Result<(), LogError> {
        self.ready().await
    }

    /// Returns how many acknowledged commits were found missing when the store was opened, as far as it can tell.
    fn missing_commits(&self) -> u64 {
        0
    }
}

/// The records of one turn.
#[derive(Debug, Clone, PartialEq)]
pub struct TurnRecords {
    /// Its conversation.
    pub conversation: ConversationId,
    /// The conversation's owner.
    pub user: UserId,
    /// Its records, in order.
    pub records: Vec<Record>,
}

/// Direction of a page.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Order {
    /// Oldest first.
    #[default]
    Asc,
    /// Newest first.
    Desc,
}

/// Which conversations to list.
#[derive(Debug, Clone, Default)]
pub struct ListQuery {
    /// Only this owner's.
    pub user: Option<UserId>,
    /// Only of this channel.
    pub channel: Option<Channel>,
    /// Whether erased ones are wanted too.
    pub erased: bool,
    /// Only older than this position (creation time and id of the last one on the page before).
    pub before: Option<(Timestamp, ConversationId)>,
    /// At most so many.
    pub limit: usize,
}

/// A conversation that the reconciler has to look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pending {
    /// Its tenant, as stored by a verified request.
    pub scope: TenantScope,
    /// The conversation.
    pub conversation: ConversationId,
    /// Number of its tombstone, when it is erased and not yet cleaned; otherwise it has open turns.
    pub tombstone: Option<Seq>,
    /// Its last append.
    pub updated_at: Timestamp,
    /// Number of its last record; may lag by a second.
    pub last_seq: Seq,
}

// -------------------------------------------------------------------------------------------------------- models

/// A prompt for a model.
#[derive(Debug, Clone)]
pub struct ModelRequest {
    /// Who asks.
    pub scope: TenantScope,
    /// Route of the tenant's configuration.
    pub route: String,
    /// For accounting and the provider's prompt cache.
    pub conversation: ConversationId,
    /// The turn that asks; none for a summary.
    pub turn: Option<TurnId>,
    /// The user behind it.
    pub user: UserId,
    /// The API key that submitted the turn, as the limiter names it: its limits hold for this call too.
    pub api_key: Option<String>,
    /// The copilot, for accounting.
    pub copilot: CopilotName,
    /// The messages; keeps OpenAI's and Anthropic's pairing rules.
    pub messages: Arc<Vec<PromptMessage>>,
    /// Tools on offer.
    pub tools: Arc<Vec<ToolOffer>>,
    /// Schema that the answer has to satisfy.
    pub response_schema: Option<Value>,
    /// Longest answer, in tokens.
    pub max_tokens: Option<u64>,
}

/// A tool as the model is told about it.
#[derive(Debug, Clone, PartialEq)]
pub struct ToolOffer {
    /// Its name.
    pub name: String,
    /// What it does.
    pub description: String,
    /// JSON Schema of its arguments.
    pub parameters: Value,
}

/// A piece of an answer.
#[derive(Debug, Clone, PartialEq)]
pub enum ModelEvent {
    /// Another target answers than the one that failed before; at most once, first.
    Fallback {
        /// The target that failed.
        from: String,
        /// The one that answers.
        to: String,
        /// How the first one failed.
        reason: String,
    },
    /// The model that answers, as the provider names it; at most once, before all content.
    Model(String),
    /// A piece of text.
    Text(String),
    /// A piece of a call. Pieces of one `index` belong together; any of them bears the name, and without one there is no call.
    ToolCall {
        /// Which call of this step.
        index: usize,
        /// Its name.
        name: Option<String>,
        /// A piece of its arguments' JSON.
        arguments: String,
    },
    /// What was used; cost included.
    Usage(Usage),
    /// The provider said that it is done. Always comes before a good end of the stream.
    Finished(Finish),
}

/// A model call failed; see [`FailureClass`] for what follows.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct ModelError {
    /// What kind of failure.
    pub class: FailureClass,
    /// What was tried and what came back; without secrets, fit for the tenant's eyes.
    pub message: String,
    /// When the provider wants to be asked again.
    pub retry_after: Option<Duration>,
    /// How the provider named a fault of the request; none when the fault is not the request's.
    pub refusal: Option<Box<Refusal>>,
}

/// A provider's words for a fault of the request: identifiers only.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Refusal {
    /// HTTP status.
    pub status: u16,
    /// Its code or type.
    pub code: Option<String>,
    /// The field of the request that it names.
    pub param: Option<String>,
    /// Whether the fault is surely the request's: no other provider would take it either.
    pub is_certain: bool,
}

/// An answer while it is being written. Dropping it closes the upstream connection at once.
pub type ModelStream = BoxStream<'static, Result<ModelEvent, ModelError>>;

/// Language models, by route.
#[async_trait]
pub trait Model: Send + Sync {
    /// Opens a stream. A stream that ends without [`ModelEvent::Finished`] yields a [`FailureClass::Cut`] error first.
    async fn stream(&self, request: ModelRequest) -> Result<ModelStream, ModelError>;

    /// Takes note of a call that an earlier process had under way when it died: its provider was asked, and nobody will ever
    /// know what it used. May be told more than once. Must not wait.
    fn lost(&self, call: LostCall) {
        let _ = call;
    }
}

/// A step of a turn whose process died while the model was asked.
#[derive(Debug, Clone, PartialEq)]
pub struct LostCall {
    /// Who asked.
    pub scope: TenantScope,
    /// Route of the tenant's configuration.
    pub route: String,
    /// The user behind it.
    pub user: UserId,
    /// The API key that submitted the turn, as the limiter names it.
    pub api_key: Option<String>,
    /// The copilot.
    pub copilot: CopilotName,
    /// The conversation.
    pub conversation: ConversationId,
    /// The turn.
    pub turn: TurnId,
    /// Attempt of the turn that died.
    pub attempt: u32,
    /// Its step.
    pub step: u32,
    /// Tokens of the prompt, as we counted them.
    pub prompt_tokens: u64,
}

// --------------------------------------------------------------------------------------------------------- tools

/// One call of a tool, validated and allowed.
#[derive(Debug, Clone)]
pub struct ToolRequest {
    /// Who pays and whose credentials are used.
    pub scope: TenantScope,
    /// Name of the tool.
    pub tool: String,
    /// Id of the call and the vendor's idempotency key.
    pub call: CallId,
    /// Arguments that satisfy the tool's schema.
    pub arguments: Value,
    /// Longest time for the whole call.
    pub timeout: Duration,
}

/// What an external system answered.
#[derive(Debug, Clone, Default)]
pub struct ToolReply {
    /// The result.
    pub result: Value,
    /// What the vendor said about its rate limits.
    pub rate: RateHint,
}

/// A call of a tool failed.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct ToolError {
    /// What is known about its effect.
    pub kind: ToolErrorKind,
    /// What was tried and what came back, fit for the model and the user.
    pub message: String,
    /// When the vendor wants to be asked again.
    pub retry_after: Option<Duration>,
    /// What the vendor said about its rate limits.
    pub rate: RateHint,
    /// Whether the vendor answered like a system that is well, be it in a way that cannot be read. No breaker counts such a failure.
    pub answered: bool,
}

/// What is known after a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ToolErrorKind {
    /// The vendor refused for good: nothing was changed.
    Refused,
    /// The vendor asks for patience (429): nothing was changed, try again later.
    RateLimited,
    /// It never reached the vendor (no connection): nothing was changed, try again.
    Unreachable,
    /// The vendor broke (5xx), went silent or cut the answer: it may have taken effect.
    InDoubt,
}

/// What a look-up of an earlier call found.
#[derive(Debug, Clone)]
pub enum LookUp {
    /// The call took effect; this is its result.
    Found(Value),
    /// Nothing was found. That proves nothing: it may still be on its way.
    NotFound,
    /// Only a part of it was found; this says which, fit for the model and the user.
    Partly(String),
}

/// One external system of one tenant. Its connector limits, breaks and retries around it.
#[async_trait]
pub trait ToolBox: Send + Sync {
    /// Does it.
    async fn call(&self, request: &ToolRequest) -> Result<ToolReply, ToolError>;

    /// Looks whether an earlier call with the same id took effect.
    async fn look_up(&self, request: &ToolRequest) -> Result<LookUp, ToolError>;
}

/// Finds the external systems of tenants.
pub trait Systems: Send + Sync {
    /// Returns the tenant's `system`, if it is configured.
    fn system(&self, scope: &TenantScope, system: &str) -> Option<Arc<dyn ToolBox>>;
}

/// Makes new ids; tests make predictable ones.
pub trait Ids: Send + Sync {
    /// Returns a fresh UUID, version 7 in the product.
    fn uuid(&self) -> Uuid;

    /// Returns 16 hexadecimal digits that nobody can guess; not so in tests.
    fn nonce(&self) -> String;
}

/// Carries a trace over a stored record: the request's `traceparent` goes in, a span with that parent comes out.
pub trait Traces: Send + Sync {
    /// Opens the span of a turn's work below the request that brought it.
    fn resume(&self, traceparent: Option<&str>) -> tracing::Span;
}

/// Everything the actors need, handed down once.
#[derive(Clone)]
#[expect(missing_docs, reason = "each field is the port of its name")]
pub struct Ports {
    pub log: Arc<dyn EventLog>,
    pub model: Arc<dyn Model>,
    pub systems: Arc<dyn Systems>,
    pub policies: Arc<dyn Policies>,
    pub schemas: Arc<dyn SchemaChecker>,
    pub clock: Arc<dyn Clock>,
    pub ids: Arc<dyn Ids>,
    pub traces: Arc<dyn Traces>,
}

/// Names a tenant and one of its external systems.
pub type SystemKey = (TenantId, String);
