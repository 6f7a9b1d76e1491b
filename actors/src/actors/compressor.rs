//! Runs a compression plan: asks the small model for a summary. Runs beside the conversation; a failure here never
//! fails a turn.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures::{FutureExt as _, StreamExt as _};
use metrics::counter;

use super::agent::count_entries;
use super::shared::Shared;
use crate::compute::{self, ComputeError};
use crate::crash;
use crate::domain::context::compression::{self, CompressionPlan, INSTRUCTIONS};
use crate::domain::context::memory::Memory;
use crate::domain::context::prompt::PromptMessage;
use crate::domain::context::tokens;
use crate::domain::conversation::command::Command;
use crate::domain::event::CompressionMethod;
use crate::domain::guardrail as guard;
use crate::domain::ids::{ConversationId, UserId};
use crate::domain::policy::{MemoryPolicy, Policy};
use crate::domain::usage::Usage;
use crate::ports::{ModelEvent, ModelRequest};
use crate::tenancy::TenantScope;

/// Consecutive failed compressions after which the window is truncated instead.
const MAX_FAILURES: u32 = 3;

/// Input of one compression.
#[expect(missing_docs, reason = "the types of the fields describe them")]
pub struct Work {
    pub shared: Arc<Shared>,
    pub scope: TenantScope,
    pub conversation: ConversationId,
    pub user: UserId,
    pub api_key: Option<String>,
    pub memory: Memory,
    pub policy: Arc<Policy>,
    /// Compressions that failed in a row before this one.
    pub failures: u32,
    pub effort: Effort,
}

/// How far a compression goes to shrink the memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effort {
    /// As the policy says.
    Usual,
    /// The prompt does not fit: everything but the running turn leaves the window. Truncates if no summary can be had.
    OversizedPrompt,
    /// Like `OversizedPrompt`, but truncates without asking for a summary.
    Truncate,
}

impl Work {
    /// Memory figures that the plan uses for this effort.
    fn figures(&self) -> MemoryPolicy {
        let figures = self.policy.memory.clone();
        match self.effort {
            Effort::Usual => figures,
            Effort::OversizedPrompt | Effort::Truncate => MemoryPolicy {
                trigger_tokens: 0,
                keep_tokens: 0,
                ..figures
            },
        }
    }
}

/// The outcome of a compression.
#[derive(Debug)]
pub enum CompressionOutcome {
    /// The memory is small enough.
    NotNeeded,
    /// The memory is too large, but no summary could be had.
    Failed,
    /// Compressed; this command records it.
    Compressed(Box<Command>),
}

/// Compresses the memory if necessary.
pub async fn compress(work: Work) -> CompressionOutcome {
    // Most windows are so short that counting is unnecessary.
    if work.memory.tokens_at_most() <= work.figures().trigger_tokens {
        return CompressionOutcome::NotNeeded;
    }
    let plan = match plan(&work).await {
        Ok(Some(plan)) => Arc::new(plan),
        Ok(None) => return CompressionOutcome::NotNeeded,
        Err(error) => {
            tracing::warn!(tenant = %work.scope.tenant(), conversation = %work.conversation, %error, "compression of the conversation's history could not be planned; keeping it uncompressed");
            return CompressionOutcome::Failed;
        }
    };
    let mut usage = Usage::default();
    let mut model = String::new();
    let mut summarised = None;
    if work.effort != Effort::Truncate {
        crash::point("effect.before:summary_request");
        // A panicking adapter counts as a failure like any other.
        summarised = AssertUnwindSafe(summarise(&work, &plan, &mut usage, &mut model))
            .catch_unwind()
            .await
            .unwrap_or(None);
        crash::point("effect.after:summary_request");
    }
    let truncates = plan.urgent || work.effort != Effort::Usual || work.failures + 1 >= MAX_FAILURES;
    let (summary, tokens_after, method) = match settle(&work, &plan, summarised, truncates).await {
        Some(settled) => settled,
        None => {
            counter!("copilotd_compressions_total", "method" => "failed").increment(1);
            tracing::warn!(tenant = %work.scope.tenant(), conversation = %work.conversation, "compression of the conversation's history failed: no usable summary; keeping it uncompressed");
            return CompressionOutcome::Failed;
        }
    };
    let label = if method == CompressionMethod::Summarised {
        "summarised"
    } else {
        "truncated"
    };
    counter!("copilotd_compressions_total", "method" => label).increment(1);
    let (upto_seq, tokens_before) = (plan.upto_seq, plan.tokens_before);
    CompressionOutcome::Compressed(Box::new(Command::Compressed {
        upto_seq,
        tokens_before,
        tokens_after,
        summary,
        method,
        model,
        usage,
    }))
}

/// Decides whether and what to compress.
async fn plan(work: &Work) -> Result<Option<CompressionPlan>, ComputeError> {
    let tenant = work.scope.tenant();
    count_entries(tenant, &work.memory).await?;
    let (memory, figures) = (work.memory.clone(), work.figures());
    // The part to be compressed is counted again, to split it into passes.
    let cost = usize::try_from(memory.tokens_at_most()).unwrap_or(usize::MAX);
    let plan = move || compression::plan(&memory, &figures);
    compute::run(Some(tenant), cost.saturating_mul(tokens::COST_PER_BYTE), plan).await
}

/// Returns what replaces the older part: the summary if it is acceptable, else a truncation if the window must shrink.
async fn settle(
    work: &Work,
    plan: &Arc<CompressionPlan>,
    summarised: Option<String>,
    truncates: bool,
) -> Option<(String, u64, CompressionMethod)> {
    let bytes = summarised.as_ref().map_or(0, String::len) + plan.previous.as_ref().map_or(0, String::len);
    let (plan, policy) = (Arc::clone(plan), Arc::clone(&work.policy));
    let settle = move || {
        let accepted = summarised.and_then(|text| compression::accept(&plan, &text, &policy.memory));
        if let Some((text, tokens)) = accepted {
            return Some((text, tokens, CompressionMethod::Summarised));
        }
        truncates.then(|| {
            let text = compression::truncated(&plan, &policy.memory);
            let tokens = tokens::count(&text);
            (text, tokens, CompressionMethod::Truncated)
        })
    };
    compute::run(Some(work.scope.tenant()), bytes * tokens::COST_PER_BYTE, settle)
        .await
        .unwrap_or(None)
}

/// Summarises pass by pass; each call includes the summary so far.
async fn summarise(work: &Work, plan: &CompressionPlan, usage: &mut Usage, model: &mut String) -> Option<String> {
    let mut summary = plan.previous.clone();
    for pass in &plan.passes {
        let text = request_text(work, summary.take(), pass.clone()).await?;
        let request = ModelRequest {
            scope: work.scope.clone(),
            route: work.policy.small_route.clone(),
            conversation: work.conversation,
            turn: None,
            user: work.user.clone(),
            api_key: work.api_key.clone(),
            copilot: work.policy.copilot.clone(),
            messages: Arc::new(vec![
                PromptMessage::System {
                    text: INSTRUCTIONS.to_owned(),
                },
                PromptMessage::User { text },
            ]),
            tools: Arc::default(),
            response_schema: None,
            max_tokens: Some(work.policy.memory.summary_tokens),
        };
        let call = collect(work, request, usage, model);
        let text = tokio::time::timeout(work.policy.memory.timeout, call).await.ok()??;
        summary = Some(without_loop(work, text).await?);
    }
    summary
}

/// Returns a summary unless it is a loop, which says nothing and would stay in the memory.
async fn without_loop(work: &Work, text: String) -> Option<String> {
    let cost = text.len();
    let check = move || (!compression::is_loop(&text)).then_some(text);
    compute::run(Some(work.scope.tenant()), cost, check).await.ok()?
}

/// Builds the request that extends the previous summary by `pass`.
async fn request_text(work: &Work, summary: Option<String>, pass: String) -> Option<String> {
    let cost = summary.as_ref().map_or(0, String::len) * guard::COST_PER_BYTE + pass.len();
    let write = move || {
        let previous = guard::neutral(summary.as_deref().unwrap_or("(none)"));
        format!("Previous summary:\n{previous}\n\nTranscript:\n{pass}")
    };
    compute::run(Some(work.scope.tenant()), cost, write).await.ok()
}

async fn collect(work: &Work, request: ModelRequest, usage: &mut Usage, model: &mut String) -> Option<String> {
    let mut stream = work.shared.ports.model.stream(request).await.ok()?;
    let (mut text, mut finished) = (String::new(), false);
    while let Some(event) = stream.next().await {
        match event.ok()? {
            ModelEvent::Text(piece) => text.push_str(&piece),
            ModelEvent::Model(name) => *model = name,
            ModelEvent::Usage(used) => *usage += used,
            ModelEvent::Finished(_) => finished = true,
            ModelEvent::ToolCall { .. } | ModelEvent::Fallback { .. } => {}
        }
        if text.len() > work.policy.limits.answer_bytes {
            return None;
        }
    }
    finished.then_some(text)
}
