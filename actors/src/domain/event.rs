//! The events of a conversation. A record is never edited: a new meaning gets a new event, and old events stay
//! readable.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::content::{Citation, Finish, Input, Metadata, ToolCall, ToolStatus};
use super::context_record::{ContextRecord, RetrievalRecord};
use super::guardrail::Stage;
use super::ids::{CallId, CopilotName, MessageId, Seq, TenantId, TurnId, UserId};
use super::sent_prompt::{SentPrompt, ToolOffer};
use super::tool::client::{self, Claim};
use super::usage::{TotalUsage, Usage};
use super::weight;

/// One entry of a conversation's log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The sequence number; increases by one from record to record.
    pub seq: Seq,
    /// When the event was decided.
    pub at: Timestamp,
    /// The turn that the event belongs to; none for events of the conversation itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub turn: Option<TurnId>,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
}

impl Record {
    /// Returns the length of the record as JSON, which is how every store holds it.
    pub fn bytes(&self) -> u64 {
        let mut length = Length(0);
        // Counting cannot fail; a record that could not be serialised would be rejected by the store.
        let _ = serde_json::to_writer(&mut length, self);
        length.0
    }
}

impl Record {
    /// Returns the cost of writing the record as JSON, in the unit of [`compute`](crate::compute). An estimate that is
    /// itself cheap.
    pub fn weight(&self) -> usize {
        let text = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        let json = |value: &Option<Value>| value.as_ref().map_or(0, weight::of);
        match &self.event {
            Event::ConversationCreated { title, metadata, .. } => text(title) + weight::of_members(metadata),
            Event::ConversationUpdated { title, metadata } => {
                text(title) + metadata.as_ref().map_or(0, weight::of_members)
            }
            Event::ConversationTitled { title, .. } => text(title),
            Event::TurnQueued {
                input,
                metadata,
                response_schema,
                client_tools,
                ..
            } => input.bytes() + weight::of_members(metadata) + json(response_schema) + client::weight(client_tools),
            Event::ContextAssembled {
                retrieved,
                context,
                sent,
                ..
            } => {
                let context = context.as_ref().map_or(0, ContextRecord::weight);
                let sent = sent.as_ref().map_or(0, SentPrompt::weight);
                context + sent + retrieved.iter().map(weight::of).sum::<usize>()
            }
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
            Event::ApprovalRequested { arguments, .. }
            | Event::ClientToolRequested { arguments, .. }
            | Event::ToolCalled { arguments, .. } => weight::of(arguments),
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

/// Counts the bytes written to it.
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

/// Deserialises a value that may be `null`: serde would treat that as absent, but a tool's `null` is a result.
fn present<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

/// The channel of a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Channel {
    /// The HTTP API.
    Api,
    /// The chat widget.
    Widget,
    /// Slack.
    Slack,
}

/// Identifies a request with an `Idempotency-Key`, to tell its copies from other requests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Idempotency {
    /// The key chosen by the client.
    pub key: String,
    /// Hash of the request body (hexadecimal SHA-256).
    pub body_hash: String,
}

/// The outcome of a call's approval.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ApprovalOutcome {
    /// A person approved the call.
    Approved,
    /// The call was rejected by a person, a cancel or an interrupt.
    Rejected,
    /// Nobody decided in time.
    Expired,
}

/// What a guardrail did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GuardAction {
    /// Only recorded it.
    Allow,
    /// Replaced the forbidden part.
    Redact,
    /// Ended the turn or the call, or withheld a tool's result.
    Block,
    /// Asked the model to try again.
    Repair,
}

impl GuardAction {
    /// Returns the name in logs and metrics; events have the same.
    pub fn name(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Redact => "redact",
            Self::Block => "block",
            Self::Repair => "repair",
        }
    }
}

/// Why a turn waits, as clients see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WaitReason {
    /// The provider is rate limiting (429).
    ProviderRateLimit,
    /// The provider is down, overloaded, unreachable, not answering, or breaks off its answers.
    ProviderUnavailable,
    /// A limit of the tenant, the user or the key is reached.
    Limit,
}

impl WaitReason {
    /// Returns the code used in events and in the turn object.
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
    /// The provider was repeatedly unreachable, overloaded, not answering, or cutting off the stream.
    ProviderUnavailable,
    /// The provider rejected the request or the key.
    ProviderRejected,
    /// The provider's content policy rejected the request or the answer.
    ContentPolicy,
    /// The prompt does not fit the model.
    ContextTooLong,
    /// A guardrail rule of this copilot blocked the prompt or the answer.
    GuardrailBlocked,
    /// The model did not produce valid arguments or output within the allowed repairs.
    SchemaFailed,
    /// The limit of model steps was reached.
    LimitSteps,
    /// The limit of tokens or money was reached.
    LimitCost,
    /// The limit of time was reached.
    LimitTime,
    /// The rate limit of the provider or the tenant left no room in time.
    RateLimited,
    /// The tenant's budget is spent.
    BudgetExhausted,
    /// The process died too often while working on the turn.
    AttemptsExhausted,
    /// An internal error of copilotd.
    Internal,
}

/// How a call that was in flight at a crash is resumed, as decided by `doubt::next`; recorded for auditing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RetryMode {
    /// Sent again, or for the first time: it only reads, or it was never sent.
    Repeat,
    /// Looked up at the vendor before anything else is done.
    LookUp,
}

/// How the older part of the memory was compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CompressionMethod {
    /// A small model wrote a summary.
    Summarised,
    /// Older messages were dropped, because no summary could be made.
    Truncated,
}

/// The class of [`Event::ModelFailed`] for a call whose process or actor died. Its usage is an estimate.
pub const LOST_CALL: &str = "lost";

/// An event. Variants marked *internal* are never shown on a stream.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", content = "data")]
#[expect(
    missing_docs,
    reason = "schemas/events/ documents every field, and a test holds the two together"
)]
pub enum Event {
    /// Internal. The first record of every log.
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
    /// Internal. Absent fields did not change.
    #[serde(rename = "conversation.updated")]
    ConversationUpdated {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        title: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        metadata: Option<Metadata>,
    },
    /// The small model was asked for a title. Public if it wrote one that is used.
    #[serde(rename = "conversation.titled")]
    ConversationTitled {
        /// None if it wrote none, or somebody else set one meanwhile.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        title: Option<String>,
        model: String,
        usage: Usage,
    },
    /// The last record of every erased log.
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
        /// Internal. The API key that submitted the turn, as the limiter names it; none for a user token. Every model
        /// call of the turn counts against this key's limits, also after a restart.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        api_key: Option<String>,
        /// Internal. The roles of the user, as the token named them: they decide which documents the turn may read.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        roles: Vec<String>,
        /// Internal. The random part of the delimiters around tool results in this turn.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        nonce: Option<String>,
        /// Whether the turn runs before those already queued (an interrupt).
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        next: bool,
        /// The last turn before it, which it replaces: prompts hold this one instead.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        replaces: Option<TurnId>,
        /// Internal. The tools of the user's page that the model may call in this turn.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        client_tools: Vec<ToolOffer>,
    },
    /// Internal. The turn, which has ended, was replaced by another one. Stands before that one's `turn.queued`.
    #[serde(rename = "turn.replaced")]
    TurnReplaced { by: TurnId },
    #[serde(rename = "turn.started")]
    TurnStarted { attempt: u32, model: String },
    #[serde(rename = "turn.waiting")]
    TurnWaiting { reason: WaitReason, until: Timestamp },
    /// Internal. The turn waits because its tenant's settings have a fault; nothing is started for it until
    /// `turn.resumed`.
    #[serde(rename = "turn.paused")]
    TurnPaused {
        /// Calls that are recorded as called and have certainly not been sent.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        unsent: Vec<CallId>,
        /// Whether the model may have been called for the current step.
        asked: bool,
    },
    /// Internal. The process stopped working on the turn at a clean stop, so that another one resumes it at once. This
    /// counts neither as an attempt of the turn nor as a retry of a call.
    #[serde(rename = "turn.handed_over")]
    TurnHandedOver {
        /// Calls that are recorded as called and have certainly not been sent.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        unsent: Vec<CallId>,
        /// Whether the model may have been called for the current step.
        asked: bool,
    },
    /// Internal. A paused or handed-over turn continues; its time is counted from here.
    #[serde(rename = "turn.resumed")]
    TurnResumed {},
    #[serde(rename = "context.assembled")]
    ContextAssembled {
        prompt_tokens: u64,
        summary_upto_seq: Option<Seq>,
        retrieved: Vec<Value>,
        attempt: u32,
        step: u32,
        /// How the documents were searched; none if they were not, or for an earlier step of the same attempt.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        retrieval: Option<RetrievalRecord>,
        /// Internal. What the prompt was made of; none in older records.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        context: Option<ContextRecord>,
        /// Internal. What the log has nowhere else of the prompt; none in older records.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        sent: Option<SentPrompt>,
    },
    #[serde(rename = "message.completed")]
    MessageCompleted {
        message_id: MessageId,
        text: String,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        citations: Vec<Citation>,
        /// The sentences that no citation supports, as UTF-8 ranges of the text, if the copilot demands citations.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        unsupported: Vec<(u64, u64)>,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        tool_calls: Vec<ToolCall>,
        finish: Finish,
        /// The answer as JSON, if the turn has a `response_schema`.
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
    /// Internal. An answer that violates the schema, stored so that the model can be told.
    #[serde(rename = "output.rejected")]
    OutputRejected {
        text: String,
        error: String,
        model: String,
        usage: Usage,
    },
    /// Internal. The usage of an attempt that produced no message.
    #[serde(rename = "model.failed")]
    ModelFailed {
        class: String,
        model: String,
        usage: Usage,
        /// The provider's error text; for operators, never for a user.
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
    /// A call of a client tool waits for a page to claim it.
    #[serde(rename = "client_tool.requested")]
    ClientToolRequested {
        call_id: CallId,
        name: String,
        arguments: Value,
        expires_at: Timestamp,
    },
    #[serde(rename = "tool.called")]
    ToolCalled {
        call_id: CallId,
        name: String,
        arguments: Value,
        /// Internal. Until when the call's outcome is waited for. It says nothing about what the vendor does.
        settles_at: Timestamp,
        /// Internal. The claim of the page that runs the call; none if a connector runs it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        claim: Option<Claim>,
    },
    /// Internal. Recovery resumes a call that was in flight.
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
        /// Internal. The hash of what a page answered, before guardrails, so that its repetition is recognised.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        answer_hash: Option<String>,
    },
    /// Internal. The late result of a call that had ended as `unknown`.
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
        stage: Stage,
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
    /// Returns the event's name, as in the log and in `schemas/events/`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::ConversationCreated { .. } => "conversation.created",
            Self::ConversationUpdated { .. } => "conversation.updated",
            Self::ConversationTitled { .. } => "conversation.titled",
            Self::ConversationErased { .. } => "conversation.erased",
            Self::TurnQueued { .. } => "turn.queued",
            Self::TurnReplaced { .. } => "turn.replaced",
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
            Self::ClientToolRequested { .. } => "client_tool.requested",
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

    /// Returns whether the event ends its turn.
    pub fn is_terminal(&self) -> bool {
        matches!(
            self,
            Self::TurnCompleted { .. } | Self::TurnFailed { .. } | Self::TurnCancelled { .. }
        )
    }

    /// Returns whether the event is part of the list of messages that clients page through.
    pub fn is_message(&self) -> bool {
        matches!(
            self,
            Self::TurnQueued { .. } | Self::MessageCompleted { .. } | Self::ToolFinished { .. }
        )
    }
}
