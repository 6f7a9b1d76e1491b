//! Traits for what the actors need from the outside world. Adapters implement them; tests use `fakes`.

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
use crate::domain::usage::{LostUsage, Usage};
use crate::tenancy::TenantScope;
pub use schema::{SchemaChecker, SchemaError, SchemaVerdict, accept};

/// The current time from two clocks: wall clock and monotonic. Tests use paused clocks and can let the two diverge.
pub trait Clock: Send + Sync + fmt::Debug {
    /// Returns the wall-clock time, which an administrator or NTP may set forward or back. Used for the times of
    /// records, the expiry of credentials and the days of budgets.
    fn now(&self) -> Timestamp;

    /// Returns the monotonic time since an arbitrary moment before the first call; it never goes back and is never
    /// corrected. Used to measure durations: rates, circuit breakers, pauses.
    fn elapsed(&self) -> Duration;
}

/// Looks up copilots' configurations; they can be reloaded behind this trait.
pub trait Policies: Send + Sync {
    /// Returns the policy of `copilot`, or of the tenant's first copilot if no name is given.
    fn policy(&self, scope: &TenantScope, copilot: Option<&CopilotName>) -> Option<Arc<Policy>>;

    /// Returns the storage quotas of the tenant and of each of its users.
    fn quotas(&self, scope: &TenantScope) -> Quotas;

    /// Returns whether the tenant is currently served.
    fn standing(&self, scope: &TenantScope) -> Standing;
}

/// Whether a tenant is served. Ordered by how much is refused.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// Served normally.
    #[default]
    Served,
    /// Left out because its settings have a fault. No model call, tool call or schema check is started; running ones
    /// may end, and open turns wait until the settings are fixed.
    LeftOut,
    /// Suspended by an operator. Nothing more is sent, and open turns are cancelled.
    Suspended,
}

// ---------------------------------------------------------------------------------------------------- event log

/// One atomic append to a log: either all its records are written or none.
#[derive(Debug, Clone)]
pub struct Append {
    /// The conversation whose log is appended to.
    pub conversation: ConversationId,
    /// The owner of the conversation; reads by id are filtered by it.
    pub user: UserId,
    /// Distinguishes this append from another one at the same sequence number.
    pub append_id: Uuid,
    /// The records, numbered without gaps; the `seq` of the first is the expected next number. Never empty.
    pub records: Arc<[Record]>,
    /// The conversation's header after these records, for the projection.
    pub header: Header,
}

impl Append {
    /// Returns the cost of writing its records as JSON; see [`Record::weight`].
    pub fn weight(&self) -> usize {
        self.records.iter().map(Record::weight).sum()
    }

    /// Returns the sequence number of the first record.
    pub fn first_seq(&self) -> Seq {
        self.records.first().map_or(0, |record| record.seq)
    }

    /// Returns the sequence number of the last record.
    pub fn last_seq(&self) -> Seq {
        self.records.last().map_or(0, |record| record.seq)
    }

    /// Returns the sequence number of the tombstone if this append erases the conversation.
    pub fn tombstone(&self) -> Option<Seq> {
        let last = self.records.last()?;
        matches!(last.event, Event::ConversationErased { .. }).then_some(last.seq)
    }

    /// Rejects an append that no store may accept: empty, with gaps, or with a header that does not belong to it. Every
    /// implementation calls this first, so that a bug in the core is never persisted.
    pub fn check(&self, scope: &TenantScope) -> Result<(), LogError> {
        let numbered = self
            .records
            .iter()
            .zip(self.first_seq()..)
            .all(|(record, seq)| record.seq == seq);
        let refusal = if self.first_seq() == 0 || !numbered {
            "the sequence numbers have a gap or start at 0"
        } else if self.header.id != self.conversation || self.header.user != self.user {
            "the header belongs to another conversation or user"
        } else if self.header.tenant != *scope.tenant() {
            "the header belongs to another tenant"
        } else if self.header.last_seq != self.last_seq() || (self.tombstone().is_some() && !self.header.erased) {
            "the header does not include the last record"
        } else {
            return Ok(());
        };
        Err(LogError::Refused(format!(
            "invalid append to {}: {refusal}",
            self.conversation
        )))
    }
}

/// Why an append or a read failed.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// Another append already wrote this sequence number: the writer's state is out of date.
    #[error("record {0} was already written by another append")]
    Conflict(Seq),
    /// The conversation was erased; its tombstone rejects every append.
    #[error("the conversation was erased")]
    Erased,
    /// The store did not answer, or not in time; the outcome is unknown. Retrying is safe.
    #[error("the store is unavailable: {0}")]
    Unavailable(String),
    /// The store rejects the request permanently: disk full, read-only, record too large. Nothing was written.
    #[error("the store rejected the request: {0}")]
    Refused(String),
    /// The stored data cannot be read.
    #[error("the stored data cannot be read: {0}")]
    Corrupt(String),
}

/// The text of [`LogError::Refused`] when no disk space is left.
pub const DISK_FULL: &str = "disk full";

impl LogError {
    /// Returns whether the store rejected the request because no disk space is left.
    pub fn is_disk_full(&self) -> bool {
        matches!(self, Self::Refused(reason) if reason == DISK_FULL)
    }
}

/// A cached fold of a log up to `seq`. It may be lost, and is ignored if its version differs from the reader's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// The last record that is folded in.
    pub seq: Seq,
    /// The version of the format.
    pub version: u32,
    /// The state as serialised by the domain; it refers to messages by `seq`.
    pub state: Vec<u8>,
}

/// What an erasure deleted, store by store.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErasureReceipt {
    /// The name of each store and the number of items deleted there.
    pub stores: Vec<(String, u64)>,
}

/// The append-only logs and their projections.
///
/// Contract (one test suite checks every implementation): an append is atomic, and durable when it returns; of two
/// appends at the same sequence number, one gets [`LogError::Conflict`]; repeating an append with the same `append_id`
/// succeeds; once an append has returned, every later read sees it, also after a restart; data of one tenant is never
/// returned in the scope of another. `append` retries an unknown outcome by itself until its deadline (30 s).
#[async_trait]
pub trait EventLog: Send + Sync {
    /// Appends records.
    async fn append(&self, scope: &TenantScope, append: &Append) -> Result<(), LogError>;

    /// Reads records with `seq > after`, in order, at most `limit`. Empty at the end and for an unknown log.
    async fn read(
        &self,
        scope: &TenantScope,
        conversation: ConversationId,
        after: Seq,
        limit: usize,
    ) -> Result<Vec<Record>, LogError>;

    /// Reads all records of one turn, with its conversation.
    async fn read_turn(&self, scope: &TenantScope, turn: TurnId) -> Result<Option<TurnRecords>, LogError>;

    /// Reads the records of one conversation that are messages (`Event::is_message`), in either order, starting after
    /// `cursor` (exclusive), at most `limit`.
    async fn read_messages(
        &self,
        scope: &TenantScope,
        conversation: ConversationId,
        cursor: Option<Seq>,
        order: Order,
        limit: usize,
    ) -> Result<Vec<Record>, LogError>;

    /// Returns the header of one conversation, with its owner, as of its last append (read-your-writes); also for
    /// erased conversations.
    async fn header(&self, scope: &TenantScope, conversation: ConversationId) -> Result<Option<Header>, LogError>;

    /// Returns the sequence number of a log's last record, even if records are missing or unreadable; 0 for an unknown
    /// log. An append at the next number is valid.
    async fn end(&self, scope: &TenantScope, conversation: ConversationId) -> Result<Seq, LogError> {
        let header = self.header(scope, conversation).await?;
        Ok(header.map_or(0, |header| header.last_seq))
    }

    /// Lists the conversations of one user (or of all, for admins), newest first; may lag by a second. Includes erased
    /// ones only if `erased` is set.
    async fn list(&self, scope: &TenantScope, query: &ListQuery) -> Result<Vec<Header>, LogError>;

    /// Returns the newest snapshot.
    async fn snapshot(&self, scope: &TenantScope, conversation: ConversationId) -> Result<Option<Snapshot>, LogError>;

    /// Stores a snapshot, replacing an older one.
    async fn save_snapshot(
        &self,
        scope: &TenantScope,
        conversation: ConversationId,
        snapshot: &Snapshot,
    ) -> Result<(), LogError>;

    /// Lists the conversations of all tenants that the reconciler has to check: those with open turns, and erased ones
    /// that are not cleaned yet; after `cursor`, at most `limit`, ordered by (tenant, conversation).
    async fn pending(&self, cursor: Option<&Pending>, limit: usize) -> Result<Vec<Pending>, LogError>;

    /// Deletes everything before the tombstone of an erased conversation, in every store, whether readable or not;
    /// idempotent. The tombstone stays.
    async fn erase(
        &self,
        scope: &TenantScope,
        conversation: ConversationId,
        tombstone: Seq,
    ) -> Result<ErasureReceipt, LogError>;

    /// Returns how much a tenant and one of its users have stored, from counters that every append and erasure updates;
    /// no log is read. May lag by a second.
    async fn stored(&self, scope: &TenantScope, user: &UserId) -> Result<StoredTotals, LogError>;

    /// Rebuilds every projection from the log; returns the number of conversations.
    async fn rebuild(&self) -> Result<u64, LogError>;

    /// Checks whether the store answers (`/readyz`).
    async fn ready(&self) -> Result<(), LogError>;

    /// Checks whether the store accepts ordinary writes, by a trial write that replaces the previous one. Called every
    /// few seconds.
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
    /// The conversation of the turn.
    pub conversation: ConversationId,
    /// The owner of the conversation.
    pub user: UserId,
    /// The records, in order.
    pub records: Vec<Record>,
}

/// The order of a page.
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
    /// Only conversations of this owner.
    pub user: Option<UserId>,
    /// Only conversations of this channel.
    pub channel: Option<Channel>,
    /// Whether to include erased conversations.
    pub erased: bool,
    /// Only conversations older than this position (creation time and id of the last one on the previous page).
    pub before: Option<(Timestamp, ConversationId)>,
    /// The maximum number of conversations.
    pub limit: usize,
}

/// A conversation that the reconciler has to check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pending {
    /// The tenant, as stored by a verified request.
    pub scope: TenantScope,
    /// The conversation's id.
    pub conversation: ConversationId,
    /// Sequence number of the tombstone if the conversation is erased and not cleaned yet; otherwise it has open turns.
    pub tombstone: Option<Seq>,
    /// The time of the last append.
    pub updated_at: Timestamp,
    /// Sequence number of the last record; may lag by a second.
    pub last_seq: Seq,
}

// -------------------------------------------------------------------------------------------------------- models

/// A request to a model.
#[derive(Debug, Clone)]
pub struct ModelRequest {
    /// The tenant on whose behalf the model is called.
    pub scope: TenantScope,
    /// The route of the tenant's configuration.
    pub route: String,
    /// The conversation, for accounting and the provider's prompt cache.
    pub conversation: ConversationId,
    /// The turn that makes the call; none for a summary.
    pub turn: Option<TurnId>,
    /// The user for whom the call is made.
    pub user: UserId,
    /// The API key that submitted the turn, as the limiter names it: its limits apply to this call too.
    pub api_key: Option<String>,
    /// The copilot, for accounting.
    pub copilot: CopilotName,
    /// The messages; they satisfy the pairing rules of OpenAI and Anthropic.
    pub messages: Arc<Vec<PromptMessage>>,
    /// The tools that the model may call.
    pub tools: Arc<Vec<ToolOffer>>,
    /// The schema that the answer has to satisfy.
    pub response_schema: Option<Value>,
    /// The maximum length of the answer, in tokens.
    pub max_tokens: Option<u64>,
}

/// A tool as described to the model.
#[derive(Debug, Clone, PartialEq)]
pub struct ToolOffer {
    /// The name of the tool.
    pub name: String,
    /// What the tool does.
    pub description: String,
    /// The JSON Schema of its arguments.
    pub parameters: Value,
}

/// One event of a streamed answer.
#[derive(Debug, Clone, PartialEq)]
pub enum ModelEvent {
    /// Another target answers in place of one that failed; at most once, first.
    Fallback {
        /// The target that failed.
        from: String,
        /// The target that answers.
        to: String,
        /// How the first target failed.
        reason: String,
    },
    /// The model that answers, as the provider names it; at most once, before all content.
    Model(String),
    /// A piece of text.
    Text(String),
    /// A piece of a tool call. Pieces with the same `index` belong together; any of them carries the name, and without
    /// a name there is no call.
    ToolCall {
        /// The position of the call in this step.
        index: usize,
        /// The name of the tool.
        name: Option<String>,
        /// A piece of the arguments' JSON.
        arguments: String,
    },
    /// The usage, including cost.
    Usage(Usage),
    /// The provider reported that the answer is complete. Always comes before a successful end of the stream.
    Finished(Finish),
}

/// A failed model call; [`FailureClass`] decides what happens next.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct ModelError {
    /// The class of the failure.
    pub class: FailureClass,
    /// What was tried and what came back; contains no secrets and may be shown to the tenant.
    pub message: String,
    /// How long the provider asks to wait before a retry.
    pub retry_after: Option<Duration>,
    /// The provider's description of an invalid request; none if the request is not at fault.
    pub refusal: Option<Box<Refusal>>,
}

/// A provider's description of an invalid request: identifiers only.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Refusal {
    /// The HTTP status.
    pub status: u16,
    /// The provider's error code or type.
    pub code: Option<String>,
    /// The request field that the provider names.
    pub param: Option<String>,
    /// Whether the request is certainly at fault, so that every other provider would reject it too.
    pub is_certain: bool,
}

/// A streamed answer. Dropping it closes the upstream connection at once.
pub type ModelStream = BoxStream<'static, Result<ModelEvent, ModelError>>;

/// Language models, by route.
#[async_trait]
pub trait Model: Send + Sync {
    /// Opens a stream. A stream that ends without [`ModelEvent::Finished`] yields a [`FailureClass::Cut`] error first.
    async fn stream(&self, request: ModelRequest) -> Result<ModelStream, ModelError>;

    /// Returns the usage of a step's lost model calls: those that nobody will report because their process or actor
    /// died. Records those that are not in the ledger yet. May be called more than once for the same step: each call is
    /// recorded once. An error means that the ledger could not be read; retry then.
    async fn lost(&self, call: LostCall) -> Result<Vec<LostUsage>, LogError> {
        let _ = call;
        Ok(Vec::new())
    }
}

/// A run step whose model calls were lost.
#[derive(Debug, Clone, PartialEq)]
pub struct LostCall {
    /// The tenant that made the calls.
    pub scope: TenantScope,
    /// The route of the tenant's configuration.
    pub route: String,
    /// The user for whom the calls were made.
    pub user: UserId,
    /// The API key that submitted the turn, as the limiter names it.
    pub api_key: Option<String>,
    /// The copilot that made the calls.
    pub copilot: CopilotName,
    /// The conversation of the turn.
    pub conversation: ConversationId,
    /// The turn that was interrupted.
    pub turn: TurnId,
    /// The attempt of the turn that was interrupted.
    pub attempt: u32,
    /// The step of that attempt.
    pub step: u32,
    /// When that attempt began: none of its calls is older.
    pub began_at: Timestamp,
    /// The prompt assembled for the step; none if it is not in the log, in which case the model may not have been
    /// called.
    pub prompt: Option<LostPrompt>,
    /// The target named last in the log, as `provider/model`, if the route fell back to another one.
    pub target: Option<String>,
    /// Whether only an actor of this process died: dropping its stream settled the call in the ledger.
    pub is_settled: bool,
    /// Whether an earlier process handed the turn over: it settled its calls in the ledger first, so nothing has to be
    /// estimated.
    pub is_handed_over: bool,
}

/// A prompt whose answer was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LostPrompt {
    /// When the prompt was assembled.
    pub at: Timestamp,
    /// The number of its tokens, as we counted them.
    pub tokens: u64,
}

// --------------------------------------------------------------------------------------------------------- tools

/// One tool call, validated and allowed.
#[derive(Debug, Clone)]
pub struct ToolRequest {
    /// The tenant that pays and whose credentials are used.
    pub scope: TenantScope,
    /// The name of the tool.
    pub tool: String,
    /// The id of the call, also used as the vendor's idempotency key.
    pub call: CallId,
    /// The arguments, which satisfy the tool's schema.
    pub arguments: Value,
    /// The time limit for the whole call.
    pub timeout: Duration,
}

/// The answer of an external system.
#[derive(Debug, Clone, Default)]
pub struct ToolReply {
    /// The result of the call.
    pub result: Value,
    /// What the vendor reported about its rate limits.
    pub rate: RateHint,
}

/// A failed tool call.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct ToolError {
    /// What is known about the call's effect.
    pub kind: ToolErrorKind,
    /// What was tried and what came back; may be shown to the model and the user.
    pub message: String,
    /// How long the vendor asks to wait before a retry.
    pub retry_after: Option<Duration>,
    /// What the vendor reported about its rate limits.
    pub rate: RateHint,
    /// Whether the vendor answered like a healthy system, even if the answer cannot be read. The circuit breaker does
    /// not count such a failure.
    pub answered: bool,
}

/// What is known about the effect of a failed call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ToolErrorKind {
    /// The vendor rejected the call permanently: nothing was changed.
    Refused,
    /// The vendor is rate limiting (429): nothing was changed, retry later.
    RateLimited,
    /// The vendor was never reached (no connection): nothing was changed, retry.
    Unreachable,
    /// The vendor failed (5xx), timed out or cut off its answer: the call may have taken effect.
    InDoubt,
}

/// What the look-up of an earlier call found.
#[derive(Debug, Clone)]
pub enum LookUp {
    /// The call took effect; this is its result.
    Found(Value),
    /// Nothing was found. That proves nothing: the call may still be on its way.
    NotFound,
    /// Only part of the effect was found; the text says which part and may be shown to the model and the user.
    Partly(String),
}

/// One external system of one tenant. Its connector applies rate limits, a circuit breaker and retries around it.
#[async_trait]
pub trait ToolBox: Send + Sync {
    /// Runs the call.
    async fn call(&self, request: &ToolRequest) -> Result<ToolReply, ToolError>;

    /// Looks up whether an earlier call with the same id took effect.
    async fn look_up(&self, request: &ToolRequest) -> Result<LookUp, ToolError>;
}

/// Finds the external systems of tenants.
pub trait Systems: Send + Sync {
    /// Returns the tenant's `system`, if it is configured.
    fn system(&self, scope: &TenantScope, system: &str) -> Option<Arc<dyn ToolBox>>;
}

/// Generates ids; tests use predictable ones.
pub trait Ids: Send + Sync {
    /// Returns a new UUID; version 7 in production.
    fn uuid(&self) -> Uuid;

    /// Returns 16 unguessable hexadecimal digits; predictable in tests.
    fn nonce(&self) -> String;
}

/// Continues a trace across a stored record: takes the request's `traceparent` and returns a span with that parent.
pub trait Traces: Send + Sync {
    /// Opens the span of a turn's work as a child of the request that submitted it.
    fn resume(&self, traceparent: Option<&str>) -> tracing::Span;
}

/// All ports of the actors, passed down once.
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

/// A tenant and one of its external systems.
pub type SystemKey = (TenantId, String);
