//! The tenant's guardrail rules for the endpoint's prompts and answers.
//!
//! Invariants: everything sent to the caller has been checked, a cached answer like a fresh one, a document like a
//! stream; what cannot be checked is not sent. No part of a forbidden text is sent, however it is split into pieces.

mod choice;
mod prompt;
mod stream;

use std::sync::Arc;

use bytes::Bytes;
use copilotd_actors::compute::{self, ComputeError};
use copilotd_actors::domain::guardrail::{COST_PER_BYTE, RuleSet};
use copilotd_actors::domain::ids::TenantId;
use serde_json::Value;

use self::choice::{Choice, Object};
use self::prompt::PromptRefusal;
use super::error::{GatewayError, GatewayErrorKind};
use crate::access::TenantPolicy;
use crate::answer::Answer;
use crate::request::body::ChatBody;

/// OpenAI's finish reason for an answer that a content filter ended.
const FILTERED: &str = "content_filter";

/// Refuses a request that a rule blocks; see [`prompt`] for what is not checked.
pub(crate) async fn admit(tenant: &TenantId, policy: &TenantPolicy, body: &Arc<ChatBody>) -> Result<(), GatewayError> {
    let rules = &policy.rules.input;
    if rules.is_empty() {
        return Ok(());
    }
    let (rules, body) = (rules.clone(), Arc::clone(body));
    let cost = body.size() * COST_PER_BYTE;
    let checked = compute::run(Some(tenant), cost, move || check(&rules, &body)).await;
    checked.map_err(unchecked)?
}

fn check(rules: &RuleSet, body: &ChatBody) -> Result<(), GatewayError> {
    prompt::check(rules, body).map_err(|refused| match refused {
        PromptRefusal::Forbidden(rule) => {
            note("input", "block", &rule.name);
            let message = format!("guardrail rule {:?} blocks this prompt", rule.name);
            GatewayError::new(GatewayErrorKind::ContentPolicy, message)
        }
        PromptRefusal::Unreadable(message) => GatewayError::new(GatewayErrorKind::Invalid, message),
    })
}

/// Applies the tenant's rules to an answer to `body`.
pub(crate) async fn guarded(
    tenant: &TenantId,
    policy: Arc<TenantPolicy>,
    body: &ChatBody,
    answer: Answer,
) -> Result<Answer, GatewayError> {
    if policy.rules.output.is_empty() {
        return Ok(answer);
    }
    Ok(match answer {
        Answer::Whole(bytes) => {
            let (is_json, cost) = (body.is_json(), bytes.len() * COST_PER_BYTE);
            let look = move || document(&policy.rules.output, is_json, &bytes);
            let looked = compute::run(Some(tenant), cost, look).await;
            Answer::Whole(looked.map_err(unchecked)??)
        }
        Answer::Stream(pieces) => Answer::Stream(stream::guarded(tenant.clone(), policy, body, pieces)),
    })
}

/// The error for what could not be checked because the compute pool is full or failed.
fn unchecked(error: ComputeError) -> GatewayError {
    let message = match error {
        ComputeError::Full => "too many large prompts and answers of this tenant are waiting to be checked",
        ComputeError::Panicked => "the prompt or its answer could not be checked against the guardrail rules",
    };
    GatewayError::new(GatewayErrorKind::RateLimited, message)
}

fn document(rules: &RuleSet, is_json: bool, bytes: &[u8]) -> Result<Bytes, GatewayError> {
    let mut body: Object = serde_json::from_slice(bytes).map_err(|_| unreadable())?;
    choice::strip_top(&mut body);
    let choices = body.get_mut("choices").and_then(Value::as_array_mut);
    for choice in choices.into_iter().flatten() {
        let choice = choice.as_object_mut().ok_or_else(unreadable)?;
        choice::strip(choice, "message");
        let Some(Value::Object(message)) = choice.get_mut("message") else {
            choice.remove("message");
            continue;
        };
        let mut guard = Choice::new(true, is_json);
        let stopped = match guard.take(rules, message) {
            Err(stopped) => Some(stopped),
            Ok(()) => {
                let (held, stopped) = guard.finish(rules);
                held.into_iter().for_each(|held| join(message, held));
                stopped
            }
        };
        if let Some(stopped) = stopped {
            stopped.note();
            choice.insert("finish_reason".to_owned(), FILTERED.into());
        }
    }
    Ok(Value::Object(body).to_string().into())
}

/// Appends what was held back to what is there already.
fn join(message: &mut Object, held: Object) {
    for (name, value) in held {
        match (message.get_mut(&name), value) {
            (Some(Value::String(text)), Value::String(more)) => text.push_str(&more),
            (_, value) => _ = message.insert(name, value),
        }
    }
}

/// Withholds an error text that a rule matches: a provider's error may quote its model.
pub(crate) fn withhold_matching(policy: &TenantPolicy, mut error: GatewayError) -> GatewayError {
    let rules = &policy.rules.output;
    let refusal = error.refusal.as_deref();
    let said = refusal
        .into_iter()
        .flat_map(|refusal| [&refusal.code, &refusal.param])
        .flatten();
    let hit = said.chain([&error.message]).find_map(|text| rules.matching(text));
    if let Some(rule) = hit {
        note("output", "redact", &rule.name);
        error.message = "the provider refused the request; a guardrail rule withholds its message".to_owned();
        error.refusal = None;
    }
    error
}

/// The error for an answer that cannot be checked and is therefore not passed on.
fn unreadable() -> GatewayError {
    GatewayError::new(
        GatewayErrorKind::Cut,
        "the answer could not be checked against the guardrail rules",
    )
}

/// Logs and counts a triggered rule, by its name alone.
fn note(stage: &'static str, action: &'static str, rule: &str) {
    metrics::counter!("copilotd_gateway_guardrails_total", "stage" => stage, "action" => action).increment(1);
    tracing::info!(stage, action, rule, "guardrail triggered");
}

#[cfg(test)]
mod linear;
#[cfg(test)]
mod tests;
