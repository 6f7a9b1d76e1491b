//! API.md's turn object.

use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;

use super::usd;
use crate::domain::content::{Citation, Input, Metadata, ToolCall, ToolStatus};
use crate::domain::context_record::{RetrievalRecord, RetrievalStatus, RetrievalTime};
use crate::domain::event::{Event, FailureCode, GuardAction, Record, WaitReason};
use crate::domain::guardrail;
use crate::domain::ids::{CallId, ConversationId, TurnId};
use crate::domain::usage::TotalUsage;

/// The state of a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the states are those of API.md's turn object")]
pub enum TurnStatus {
    Queued,
    Running,
    AwaitingApproval,
    Completed,
    Failed,
    Cancelled,
}

/// The state of a tool call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the states are those of API.md's turn object")]
pub enum ToolCallStatus {
    Proposed,
    AwaitingApproval,
    Running,
    Succeeded,
    Failed,
    Rejected,
    Cancelled,
    Unknown,
}

/// A turn as clients see it.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[expect(missing_docs, reason = "fields are those of API.md's turn object")]
pub struct TurnView {
    pub id: TurnId,
    pub conversation_id: ConversationId,
    pub status: TurnStatus,
    pub attempt: u32,
    pub queue_position: Option<usize>,
    pub waiting: Option<WaitingView>,
    pub input: Input,
    pub metadata: Metadata,
    pub output: Option<OutputView>,
    pub tool_calls: Vec<ToolCallView>,
    pub guardrails: Vec<GuardrailView>,
    /// The last search of the turn's documents; omitted if there was none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retrieval: Option<RetrievalView>,
    pub usage: UsageView,
    pub error: Option<TurnError>,
    pub created_at: Timestamp,
    pub started_at: Option<Timestamp>,
    pub finished_at: Option<Timestamp>,
    pub first_token_ms: Option<u64>,
    /// The turn that replaced it; omitted if none did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replaced_by: Option<TurnId>,
}

/// What a turn waits for.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[expect(missing_docs, reason = "fields are those of API.md")]
pub struct WaitingView {
    pub reason: WaitReason,
    pub until: Timestamp,
}

/// A turn's answer.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[expect(missing_docs, reason = "fields are those of API.md")]
pub struct OutputView {
    pub text: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub structured: Option<Value>,
    pub citations: Vec<Citation>,
    /// Omitted unless the copilot demands citations and a sentence has none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unsupported: Vec<(u64, u64)>,
}

/// How a turn's documents were searched.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[expect(
    missing_docs,
    reason = "fields are those of the retrieval object of context.assembled"
)]
pub struct RetrievalView {
    pub status: RetrievalStatus,
    pub is_semantic: bool,
    pub steps: Vec<RetrievalTime>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rewrite_cost_usd: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rerank_cost_usd: Option<f64>,
}

impl From<&RetrievalRecord> for RetrievalView {
    fn from(record: &RetrievalRecord) -> Self {
        Self {
            status: record.status,
            is_semantic: record.is_semantic,
            steps: record.steps.clone(),
            rewrite_cost_usd: record.rewrite.as_ref().map(|rewrite| usd(rewrite.usage.cost)),
            rerank_cost_usd: record.rerank.as_ref().map(|rerank| usd(rerank.usage.cost)),
        }
    }
}

/// A tool call of a turn.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[expect(missing_docs, reason = "fields are those of API.md")]
pub struct ToolCallView {
    pub id: CallId,
    pub name: String,
    pub arguments: Value,
    pub status: ToolCallStatus,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
}

/// What a guardrail did in a turn.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[expect(missing_docs, reason = "fields are those of API.md")]
pub struct GuardrailView {
    pub stage: guardrail::Stage,
    pub rule: String,
    pub action: GuardAction,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// Tokens and money.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[expect(missing_docs, reason = "fields are those of API.md")]
pub struct UsageView {
    pub prompt_tokens: u64,
    pub completion_tokens: u64,
    pub cached_tokens: u64,
    pub cost_usd: f64,
    /// Omitted unless part of the usage is our own estimate.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub estimated: bool,
    pub models: Vec<String>,
}

/// A turn without its prompt and its answer, for lists that contain these as messages.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[expect(missing_docs, reason = "fields are those of API.md's turn object")]
pub struct TurnSummary {
    pub id: TurnId,
    pub status: TurnStatus,
    pub attempt: u32,
    pub waiting: Option<WaitingView>,
    pub metadata: Metadata,
    pub tool_calls: Vec<ToolCallView>,
    pub guardrails: Vec<GuardrailView>,
    pub usage: UsageView,
    pub feedback: Option<FeedbackView>,
    pub error: Option<TurnError>,
    pub first_token_ms: Option<u64>,
    pub finished_at: Option<Timestamp>,
    /// The turn that replaced it; omitted if none did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replaced_by: Option<TurnId>,
}

/// A user's feedback on an answer.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[expect(missing_docs, reason = "fields are those of API.md")]
pub struct FeedbackView {
    pub rating: i8,
    pub comment: Option<String>,
}

/// Why a turn failed.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[expect(missing_docs, reason = "fields are those of API.md")]
pub struct TurnError {
    pub code: FailureCode,
    pub message: String,
}

impl From<&TotalUsage> for UsageView {
    fn from(usage: &TotalUsage) -> Self {
        Self {
            prompt_tokens: usage.sum.prompt_tokens,
            completion_tokens: usage.sum.completion_tokens,
            cached_tokens: usage.sum.cached_tokens,
            cost_usd: usd(usage.sum.cost),
            estimated: usage.sum.estimated,
            models: usage.models.clone(),
        }
    }
}

impl TurnView {
    /// Folds a turn from its records; none if they do not begin with its first one.
    pub fn fold(conversation: ConversationId, records: &[Record], queue_position: Option<usize>) -> Option<Self> {
        let (first, rest) = records.split_first()?;
        let (Some(id), Event::TurnQueued { input, metadata, .. }) = (first.turn, &first.event) else {
            return None;
        };
        let mut view = Self {
            id,
            conversation_id: conversation,
            status: TurnStatus::Queued,
            attempt: 0,
            queue_position: None,
            waiting: None,
            input: input.as_given(),
            metadata: metadata.clone(),
            output: None,
            tool_calls: Vec::new(),
            guardrails: Vec::new(),
            retrieval: None,
            usage: UsageView::default(),
            error: None,
            created_at: first.at,
            started_at: None,
            finished_at: None,
            first_token_ms: None,
            replaced_by: None,
        };
        let mut usage = TotalUsage::default();
        for record in rest.iter().filter(|record| record.turn == first.turn) {
            view.add(record, &mut usage);
        }
        view.usage = UsageView::from(&usage);
        let is_waiting = |call: &ToolCallView| call.status == ToolCallStatus::AwaitingApproval;
        if view.status == TurnStatus::Running && view.tool_calls.iter().any(is_waiting) {
            view.status = TurnStatus::AwaitingApproval;
        }
        view.queue_position = queue_position.filter(|_| view.status == TurnStatus::Queued);
        Some(view)
    }

    fn add(&mut self, record: &Record, usage: &mut TotalUsage) {
        match &record.event {
            Event::TurnStarted { attempt, .. } => {
                self.status = TurnStatus::Running;
                self.attempt = *attempt;
                self.started_at = self.started_at.or(Some(record.at));
                self.waiting = None;
            }
            Event::TurnWaiting { reason, until } => {
                self.waiting = Some(WaitingView {
                    reason: *reason,
                    until: *until,
                });
            }
            Event::ContextAssembled { retrieval, .. } => {
                self.waiting = None;
                for cost in retrieval.iter().flat_map(RetrievalRecord::costs) {
                    usage.add(&cost.model, cost.usage);
                }
                self.retrieval = retrieval.as_ref().map(RetrievalView::from).or(self.retrieval.take());
            }
            Event::MessageCompleted {
                text,
                citations,
                unsupported,
                tool_calls,
                structured,
                model,
                usage: used,
                first_token_ms,
                ..
            } => {
                usage.add(model, *used);
                self.first_token_ms = self.first_token_ms.or(*first_token_ms);
                let (text, citations) = (text.clone(), citations.clone());
                self.output = Some(OutputView {
                    text,
                    structured: structured.clone(),
                    citations,
                    unsupported: unsupported.clone(),
                });
                self.tool_calls.extend(tool_calls.iter().map(ToolCallView::proposed));
            }
            Event::OutputRejected { model, usage: used, .. } | Event::ModelFailed { model, usage: used, .. } => {
                usage.add(model, *used);
            }
            Event::GuardrailTriggered {
                stage,
                rule,
                action,
                detail,
            } => self.guardrails.push(GuardrailView {
                stage: *stage,
                rule: rule.clone(),
                action: *action,
                // Older records quote the rejected answer, which no reader may see.
                detail: detail.clone().filter(|_| *action != GuardAction::Repair),
            }),
            Event::ApprovalRequested {
                call_id, expires_at, ..
            } => self.call(*call_id, |call| {
                call.status = ToolCallStatus::AwaitingApproval;
                call.expires_at = Some(*expires_at);
            }),
            // Still proposed: nothing runs it until a page claims it.
            Event::ClientToolRequested {
                call_id, expires_at, ..
            } => self.call(*call_id, |call| call.expires_at = Some(*expires_at)),
            Event::ToolCalled {
                call_id,
                arguments,
                settles_at,
                claim,
                ..
            } => self.call(*call_id, |call| {
                call.status = ToolCallStatus::Running;
                call.arguments = arguments.clone();
                call.expires_at = claim.as_ref().map(|_| *settles_at);
            }),
            Event::ToolFinished {
                call_id,
                status,
                result,
                error,
                ..
            } => self.call(*call_id, |call| {
                call.status = (*status).into();
                call.result = result.clone();
                call.error = error.clone();
                call.expires_at = None;
            }),
            Event::TurnReplaced { by } => self.replaced_by = Some(*by),
            Event::TurnCompleted { .. } => self.end(TurnStatus::Completed, record.at),
            Event::TurnCancelled { .. } => self.end(TurnStatus::Cancelled, record.at),
            Event::TurnFailed { code, message, .. } => {
                self.end(TurnStatus::Failed, record.at);
                self.error = Some(TurnError {
                    code: *code,
                    message: message.clone(),
                });
            }
            _ => {}
        }
    }

    fn call(&mut self, id: CallId, change: impl FnOnce(&mut ToolCallView)) {
        if let Some(call) = self.tool_calls.iter_mut().find(|call| call.id == id) {
            change(call);
        }
    }

    fn end(&mut self, status: TurnStatus, at: Timestamp) {
        self.status = status;
        self.finished_at = Some(at);
        self.waiting = None;
    }

    /// Returns whether the turn has ended.
    pub fn is_terminal(&self) -> bool {
        self.finished_at.is_some()
    }
}

impl TurnSummary {
    /// Folds a turn from its records; none if they do not begin with its first one.
    pub fn fold(conversation: ConversationId, records: &[Record]) -> Option<Self> {
        let view = TurnView::fold(conversation, records, None)?;
        let of_turn = records.iter().rev().filter(|record| record.turn == Some(view.id));
        let feedback = of_turn.map(|record| &record.event).find_map(|event| match event {
            Event::FeedbackGiven { rating, comment, .. } => Some(FeedbackView {
                rating: *rating,
                comment: comment.clone(),
            }),
            _ => None,
        });
        Some(Self {
            id: view.id,
            status: view.status,
            attempt: view.attempt,
            waiting: view.waiting,
            metadata: view.metadata,
            tool_calls: view.tool_calls,
            guardrails: view.guardrails,
            usage: view.usage,
            feedback,
            error: view.error,
            first_token_ms: view.first_token_ms,
            finished_at: view.finished_at,
            replaced_by: view.replaced_by,
        })
    }
}

impl ToolCallView {
    fn proposed(call: &ToolCall) -> Self {
        Self {
            id: call.id,
            name: call.name.clone(),
            arguments: call.arguments.clone(),
            status: ToolCallStatus::Proposed,
            result: None,
            error: None,
            expires_at: None,
        }
    }
}

impl From<ToolStatus> for ToolCallStatus {
    fn from(status: ToolStatus) -> Self {
        match status {
            ToolStatus::Succeeded => Self::Succeeded,
            ToolStatus::Failed => Self::Failed,
            ToolStatus::Rejected => Self::Rejected,
            ToolStatus::Cancelled => Self::Cancelled,
            ToolStatus::Unknown => Self::Unknown,
        }
    }
}
