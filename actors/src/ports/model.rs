//! Language models.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;
use jiff::Timestamp;
use serde_json::Value;

use super::LogError;
use crate::domain::content::Finish;
use crate::domain::context::prompt::PromptMessage;
use crate::domain::failure::FailureClass;
use crate::domain::ids::{ConversationId, CopilotName, TurnId, UserId};
use crate::domain::sent_prompt::ToolOffer;
use crate::domain::usage::{LostUsage, Usage};
use crate::tenancy::TenantScope;

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
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Who refused.
    pub by: RefusedBy,
    /// The provider's error code or type.
    pub code: Option<String>,
    /// The request field that the provider names.
    pub param: Option<String>,
    /// Whether the request is certainly at fault, so that every other provider would reject it too.
    pub is_certain: bool,
}

/// Who refused a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusedBy {
    /// The provider, with this HTTP status.
    Provider(u16),
    /// The adapter: the request is valid, but this provider's protocol cannot express it. Another target may.
    Adapter,
}

impl Refusal {
    /// A refusal that names nothing and may concern the provider itself.
    pub fn new(by: RefusedBy) -> Self {
        Self {
            by,
            code: None,
            param: None,
            is_certain: false,
        }
    }
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
