//! The spans of the turn that a conversation works on, as they appear in the trace of its request:
//!
//! request (maybe of an earlier process) → `turn` → `invoke_agent` (one per attempt) → `chat`, `execute_tool`,
//! `append`.
//!
//! Names and fields follow OpenTelemetry's semantic conventions for generative AI. They contain nothing that a user, a
//! model or a tool said.

use tracing::{Span, field};

use crate::domain::conversation::turn::Turn;
use crate::domain::event::{Event, FailureCode, Record};
use crate::domain::ids::{ConversationId, TurnId};
use crate::domain::policy::Policy;
use crate::ports::Traces;
use crate::tenancy::TenantScope;

/// Open spans of one turn, ended on drop.
#[derive(Debug)]
pub struct TurnSpans {
    turn: TurnId,
    whole: Span,
    /// The current attempt and its span.
    agent: Option<(u32, Span)>,
}

impl TurnSpans {
    /// Opens the span of `turn` in the trace of its request.
    pub fn resume(turn: &Turn, traces: &dyn Traces, scope: &TenantScope, conversation: ConversationId) -> Self {
        let whole = traces.resume(turn.trace.as_deref());
        whole.record("copilotd.tenant", field::display(scope.tenant()));
        whole.record("copilotd.turn.id", field::display(turn.id));
        whole.record("gen_ai.conversation.id", field::display(conversation));
        Self {
            turn: turn.id,
            whole,
            agent: None,
        }
    }

    /// Returns the agent's span, a new one for each attempt.
    pub fn agent(&mut self, turn: &Turn, scope: &TenantScope, conversation: ConversationId, policy: &Policy) -> Span {
        match &self.agent {
            Some((attempt, span)) if *attempt == turn.attempt => span.clone(),
            _ => {
                let span = agent(&self.whole, turn, scope, conversation, policy);
                if let Some((_, before)) = self.agent.replace((turn.attempt, span.clone())) {
                    before.in_scope(|| {});
                }
                span
            }
        }
    }

    /// Returns the span of the whole turn.
    pub fn whole(&self) -> &Span {
        &self.whole
    }

    /// Returns the turn's id.
    pub fn turn(&self) -> TurnId {
        self.turn
    }

    /// Records how the turn ended, if `record` ends it.
    pub fn note(&self, record: &Record) {
        if record.turn != Some(self.turn) {
            return;
        }
        let Some((_, agent)) = &self.agent else { return };
        let usage = match &record.event {
            Event::TurnCompleted { usage, .. } => usage,
            Event::TurnFailed { usage, code, .. } => {
                agent.record("error.type", word(code).as_str());
                agent.record("otel.status_code", "ERROR");
                usage
            }
            Event::TurnCancelled { usage } => {
                // Cancelled on request: no error status.
                agent.record("error.type", "cancelled");
                usage
            }
            _ => return,
        };
        agent.record("gen_ai.usage.input_tokens", usage.sum.prompt_tokens);
        agent.record("gen_ai.usage.cache_read.input_tokens", usage.sum.cached_tokens);
        agent.record("gen_ai.usage.output_tokens", usage.sum.completion_tokens);
    }
}

impl Drop for TurnSpans {
    fn drop(&mut self) {
        // An exported span ends when it was left last, because the work of a turn continues outside of its spans.
        if let Some((_, agent)) = &self.agent {
            agent.in_scope(|| {});
        }
        self.whole.in_scope(|| {});
    }
}

/// Returns the code as written in the log.
fn word(code: &FailureCode) -> String {
    let value = serde_json::to_value(code).unwrap_or_default();
    value.as_str().unwrap_or_default().to_owned()
}

fn agent(whole: &Span, turn: &Turn, scope: &TenantScope, conversation: ConversationId, policy: &Policy) -> Span {
    tracing::info_span!(
        parent: whole,
        "invoke_agent",
        otel.name = %format_args!("invoke_agent {}", policy.copilot),
        otel.status_code = field::Empty,
        gen_ai.operation.name = "invoke_agent",
        gen_ai.provider.name = "copilotd",
        gen_ai.agent.name = %policy.copilot,
        gen_ai.request.model = policy.model,
        gen_ai.conversation.id = %conversation,
        gen_ai.usage.input_tokens = field::Empty,
        gen_ai.usage.cache_read.input_tokens = field::Empty,
        gen_ai.usage.output_tokens = field::Empty,
        copilotd.tenant = %scope.tenant(),
        copilotd.turn.id = %turn.id,
        copilotd.turn.attempt = turn.attempt,
        error.type = field::Empty,
    )
}
