//! The facts of a conversation. A record is never edited: a new meaning gets a new event, and old ones stay readable.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::content::{Citation, Finish, Input, Metadata, ToolCall, ToolStatus};
use super::ids::{CallId, CopilotName, MessageId, Seq, TenantId, TurnId, UserId};
use super::usage::{TotalUsage, Usage};
use super::weight;

/// One entry of a conversation's log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Its number; rises by one from record to record.
    pub seq: Seq,
    /// When it was decided.
    pub at: Timestamp,
    /// The turn it belongs to; none for facts about the conversation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub turn: Option<TurnId>,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
}

impl Record {
    /// Its length as JSON, which is how it stands in every store.
    pub fn bytes(&self) -> u64 {
        let mut length = Length(0);
        // Counting cannot fail; a record that could not be written would be refused by the store.
        let _ = serde_json::to_writer(&mut length, self);
        length.0
    }
}

impl Record {
    /// Returns what writing it as JSON costs, in the unit of [`compute`](crate::compute). An estimate that takes little time itself.
    pub fn weight(&self) -> usize {
        let text = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        let json = |value: &Option<Value>| value.as_ref().map_or(0, weight::of);
        match &self.event {
            Event::ConversationCreated { title, metadata, .. } => text(title) + weight::of_members(metadata),
            Event::ConversationUpdated { title, metadata } => {
                text(title) + metadata.as_ref().map_or(0, weight::of_members)
            }
            Event::TurnQueued {
                input,
                metadata,
                response_schema,
                ..
            } => input.bytes() + weight::of_members(metadata) + json(response_schema),
            Event::ContextAssembled { retrieved, .. } => retrieved.iter().map(weight::of).sum(),
            Event::MessageCompleted {
                text,
                citations,
                tool_calls,
                structured,
                ..
            } => {
                let quotes = citations.iter().map(|citation| citation.quote.len());
                let calls = tool_calls
                    .iter()
                    .map(|call| call.name.len() + weight::of(&call.arguments));
                text.len() + quotes.sum::<usize>() + calls.sum::<usize>() + json(structured)
            }
            Event::OutputRejected { text, error, .. } => text.len() + error.len(),
            Event::ModelFailed { detail, .. } | Event::GuardrailTriggered { detail, .. } => text(detail),
            Event::ApprovalRequested { arguments, .. } | Event::ToolCalled { arguments, .. } => weight::of(arguments),
            Event::ApprovalDecided { arguments, reason, .. } => json(arguments) + text(reason),
            Event::ToolFinished { result, error, .. } | Event::ToolSettled { result, error, .. } => {
                json(result) + text(error)
            }
            Event::MemoryCompressed { summary, .. } => summary.len(),
            Event::FeedbackGiven { comment, .. } => text(comment),
            _ => 0,
        }
    }
}

/// Counts what is written to it.
struct Length(u64);

impl std::io::Write for Length {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Reads a value that may be `null`: serde would take that for an absent one, and a tool's `null` is a result.
fn present<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

/// Where a conversation is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Channel {
    /// The HTTP interface.
    Api,
    /// The chat widget.
    Widget,
    /// Slack.
    Slack,
}

/// What a request with an `Idempotency-Key` was, so that its copies can be told from other requests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Idempotency {
    /// The key, as the client chose it.
    pub key: String,
    /// Hash of the request's body (hexadecimal SHA-256).
    pub body_hash: String,
}

/// What happened to a call that waited for a person.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ApprovalOutcome {
    /// A person allowed it.
    Approved,
    /// A person, a cancel or an interrupt refused it.
    Rejected,
    /// Nobody decided in time.
    Expired,
}

/// Where a guardrail looked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GuardStage {
    /// The user's prompt.
    Input,
    /// Passages found for the prompt.
    Retrieval,
    /// Arguments or results of a tool.
    Tool,
    /// The model's answer.
    Output,
}

/// What a guardrail did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GuardAction {
    /// Nothing but a note.
    Allow,
    /// The forbidden part was replaced.
    Redact,
    /// The turn or the call was ended, or a tool's result was withheld.
    Block,
    /// The model was asked to try again.
    Repair,
}

/// Why a turn waits, as clients see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WaitReason {
    /// The provider asks for patience (429).
    ProviderRateLimit,
    /// The provider is down, overloaded, unreachable, silent, or breaks its answers off.
    ProviderUnavailable,
    /// A limit of the tenant, the user or the key is reached.
    Limit,
}

impl WaitReason {
    /// The word for it in events and in the turn.
    pub fn code(self) -> &'static str {
        match self {
            Self::ProviderRateLimit => "provider_rate_limit",
            Self::ProviderUnavailable => "provider_unavailable",
            Self::Limit => "limit",
        }
    }
}

/// Why a turn failed, as clients see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureCode {
    /// The provider could not be reached, was overloaded, went silent or cut the stream, and kept doing so.
    ProviderUnavailable,
    /// The provider refused the request or the key.
    ProviderRejected,
    /// The provider's content policy stopped it.
    ContentPolicy,
    /// The prompt does not fit the model.
    ContextTooLong,
    /// A rule of this copilot stopped it.
    GuardrailBlocked,
    /// The model did not produce valid arguments or output within the allowed repairs.
    SchemaFailed,
    /// The limit of model steps was reached.
    LimitSteps,
    /// The limit of tokens or money was reached.
    LimitCost,
    /// The limit of time was reached.
    LimitTime,
    /// The provider's or the tenant's rate limit did not yield in time.
    RateLimited,
    /// The tenant's budget is spent.
    BudgetExhausted,
    /// The process died too often while working on it.
    AttemptsExhausted,
    /// Our own fault.
    Internal,
}

/// How a call that was in flight at a crash is taken up again, as `doubt::next` decided; kept for the auditor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RetryMode {
    /// Sent again, or for the first time: it reads only, or it never left.
    Repeat,
    /// Looked for at the vendor before anything else is done.
    LookUp,
}

/// How the older part of the memory was made smaller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CompressionMethod {
    /// A small model wrote a summary.
    Summarised,
    /// Older messages were left out, because no summary could be had.
    Truncated,
}

/// A fact. Variants marked *internal* are never shown on a stream.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", content = "data")]
#[expect(
    missing_docs,
    reason = "schemas/events/ documents every field, and a test holds the two together"
)]
pub enum Event {
    /// Internal. First record of every log.
    #[serde(rename = "conversation.created")]
    ConversationCreated {
        tenant: TenantId,
        user: UserId,
        copilot: CopilotName,
        channel: Channel,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        title: Option<String>,
        #[serde(default, skip_serializing_if = "Metadata::is_empty")]
        metadata: Metadata,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        idempotency: Option<Idempotency>,
    },
    /// Internal. Fields that are absent did not change.
    #[serde(rename = "conversation.updated")]
    ConversationUpdated {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        title: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        metadata: Option<Metadata>,
    },
    /// Last record of every erased log.
    #[serde(rename = "conversation.erased")]
    ConversationErased { by: String },

    #[serde(rename = "turn.queued")]
    TurnQueued {
        input: Input,
        #[serde(default, skip_serializing_if = "Metadata::is_empty")]
        metadata: Metadata,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        response_schema: Option<Value>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        idempotency: Option<Idempotency>,
        /// W3C `traceparent` of the request, so that work after a restart stays in its trace.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        trace: Option<String>,
        /// Internal. The API key that submitted it, as the limiter names it; none for a user token. Every model call made
        /// for the turn counts against this key's limits, after a restart too.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        api_key: Option<String>,
        /// Internal. The random part of the marks around what tools say in this turn.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        nonce: Option<String>,
        /// Whether it goes before the turns that already wait (an interrupt).
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        next: bool,
    },
    #[serde(rename = "turn.started")]
    TurnStarted { attempt: u32, model: String },
    #[serde(rename = "turn.waiting")]
    TurnWaiting { reason: WaitReason, until: Timestamp },
    /// Internal. The turn waits because its tenant's settings have a fault; nothing is begun for it until `turn.resumed`.
    #[serde(rename = "turn.paused")]
    TurnPaused {
        /// Calls that are written down as called and have certainly not been sent.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        unsent: Vec<CallId>,
        /// Whether the present model step may have been asked.
        asked: bool,
    },
    /// Internal. The process stopped working on the turn in an orderly way, for another one to take it up at once. Neither an attempt
    /// nor a try of a call is counted for it.
    #[serde(rename = "turn.handed_over")]
    TurnHandedOver {
        /// Calls that are written down as called and have certainly not been sent.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        unsent: Vec<CallId>,
        /// Whether the present model step may have been asked.
        asked: bool,
    },
    /// Internal. A turn that was paused or handed over goes on, and its time is counted from here.
    #[serde(rename = "turn.resumed")]
    TurnResumed {},
    #[serde(rename = "context.assembled")]
    ContextAssembled {
        prompt_tokens: u64,
        summary_upto_seq: Option<Seq>,
        retrieved: Vec<Value>,
        attempt: u32,
        step: u32,
    },
    #[serde(rename = "message.completed")]
    MessageCompleted {
        message_id: MessageId,
        text: String,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        citations: Vec<Citation>,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        tool_calls: Vec<ToolCall>,
        finish: Finish,
        /// The answer as JSON, when the turn asked for a schema.
        #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
        structured: Option<Value>,
        step: u32,
        model: String,
        usage: Usage,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        first_token_ms: Option<u64>,
    },
    #[serde(rename = "message.reset")]
    MessageReset { message_id: MessageId, reason: String },
    /// Internal. An answer that broke the schema, kept so that the model can be told.
    #[serde(rename = "output.rejected")]
    OutputRejected {
        text: String,
        error: String,
        model: String,
        usage: Usage,
    },
    /// Internal. What an attempt used that produced no message.
    #[serde(rename = "model.failed")]
    ModelFailed {
        class: String,
        model: String,
        usage: Usage,
        /// What the provider said; for those who run the server, never for a user.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        detail: Option<String>,
    },

    #[serde(rename = "approval.requested")]
    ApprovalRequested {
        call_id: CallId,
        name: String,
        arguments: Value,
        expires_at: Timestamp,
    },
    #[serde(rename = "approval.decided")]
    ApprovalDecided {
        call_id: CallId,
        decision: ApprovalOutcome,
        #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
        arguments: Option<Value>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
        by: String,
    },
    #[serde(rename = "tool.called")]
    ToolCalled {
        call_id: CallId,
        name: String,
        arguments: Value,
        /// Internal. Until then this process waits for the call's outcome. It says nothing about what the vendor does.
        settles_at: Timestamp,
    },
    /// Internal. Recovery's claim on a call that was in flight.
    #[serde(rename = "tool.retried")]
    ToolRetried {
        call_id: CallId,
        retry: u32,
        mode: RetryMode,
        settles_at: Timestamp,
    },
    #[serde(rename = "tool.finished")]
    ToolFinished {
        call_id: CallId,
        status: ToolStatus,
        #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
        result: Option<Value>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        error: Option<String>,
    },
    /// Internal. The late result of a call that had ended `unknown`.
    #[serde(rename = "tool.settled")]
    ToolSettled {
        call_id: CallId,
        status: ToolStatus,
        #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
        result: Option<Value>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        error: Option<String>,
    },
    #[serde(rename = "guardrail.triggered")]
    GuardrailTriggered {
        stage: GuardStage,
        rule: String,
        action: GuardAction,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        detail: Option<String>,
    },
    #[serde(rename = "model.fallback")]
    ModelFallback { from: String, to: String, reason: String },
    #[serde(rename = "memory.compressed")]
    MemoryCompressed {
        upto_seq: Seq,
        tokens_before: u64,
        tokens_after: u64,
        summary: String,
        method: CompressionMethod,
        model: String,
        usage: Usage,
    },
    /// Internal.
    #[serde(rename = "turn.feedback")]
    FeedbackGiven {
        rating: i8,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        comment: Option<String>,
        by: String,
    },
    #[serde(rename = "turn.completed")]
    TurnCompleted {
        usage: TotalUsage,
        first_token_ms: Option<u64>,
    },
    #[serde(rename = "turn.failed")]
    TurnFailed {
        code: FailureCode,
        message: String,
        retryable: bool,
        usage: TotalUsage,
    },
    #[serde(rename = "turn.cancelled")]
    TurnCancelled { usage: TotalUsage },
}

impl Event {
    /// Its name, as in the log and in `schemas/events/`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::ConversationCreated { .. } => "conversation.created",
            Self::ConversationUpdated { .. } => "conversation.updated",
            Self::ConversationErased { .. } => "conversation.erased",
            Self::TurnQueued { .. } => "turn.queued",
            Self::TurnStarted { .. } => "turn.started",
            Self::TurnWaiting { .. } => "turn.waiting",
            Self::TurnPaused { .. } => "turn.paused",
            Self::TurnHandedOver { .. } => "turn.handed_over",
            Self::TurnResumed {} => "turn.resumed",
            Self::ContextAssembled { .. } => "context.assembled",
            Self::MessageCompleted { .. } => "message.completed",
            Self::MessageReset { .. } => "message.reset",
            Self::OutputRejected { .. } => "output.rejected",
            Self::ModelFailed { .. } => "model.failed",
            Self::ApprovalRequested { .. } => "approval.requested",
            Self::ApprovalDecided { .. } => "approval.decided",
            Self::ToolCalled { .. } => "tool.called",
            Self::ToolRetried { .. } => "tool.retried",
            Self::ToolFinished { .. } => "tool.finished",
            Self::ToolSettled { .. } => "tool.settled",
            Self::GuardrailTriggered { .. } => "guardrail.triggered",
            Self::ModelFallback { .. } => "model.fallback",
            Self::MemoryCompressed { .. } => "memory.compressed",
            Self::FeedbackGiven { .. } => "turn.feedback",
            Self::TurnCompleted { .. } => "turn.completed",
            Self::TurnFailed { .. } => "turn.failed",
            Self::TurnCancelled { .. } => "turn.cancelled",
        }
    }

    /// Whether a turn ends with this event.
    pub fn is_terminal(&self) -> bool {
        matches!(
            self,
            Self::TurnCompleted { .. } | Self::TurnFailed { .. } | Self::TurnCancelled { .. }
        )
    }

    /// Whether the event adds to the list of messages that clients page through.
    pub fn is_message(&self) -> bool {
        matches!(
            self,
            Self::TurnQueued { .. } | Self::MessageCompleted { .. } | Self::ToolFinished { .. }
        )
    }
}
