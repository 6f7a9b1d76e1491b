//! The guardrails of the endpoint: the tenant's deny rules, and the registered detectors.
//!
//! What a finding does is decided where it is decided for conversations
//! ([`copilotd_actors::domain::guardrail::stage`]); here are the texts of requests and answers in the protocol's form.
//!
//! Invariants: everything sent to the caller has been checked, a cached answer like a fresh one, a document like a
//! stream; what cannot be checked is not sent. No part of a forbidden text is sent, however it is split into pieces.

mod calls;
mod choice;
mod detect;
mod prompt;
mod stream;
mod strip;
mod texts;

use std::slice;
use std::sync::Arc;

use bytes::Bytes;
use copilotd_actors::domain::event::GuardAction;
use copilotd_actors::domain::guardrail::{COST_PER_BYTE, ContentKind, Rules, Stage, blocked_by, find};
use copilotd_actors::guardrails::{self, Entrance, Guardrails, Unchecked, report};
use copilotd_actors::ports::{Content, DetectorError};
use copilotd_actors::tenancy::TenantScope;
use serde_json::{Map, Value};

use self::choice::Choice;
use self::prompt::PromptTexts;
use super::error::{GatewayError, GatewayErrorKind};
use crate::access::TenantPolicy;
use crate::answer::Answer;
use crate::request::body::ChatBody;

/// OpenAI's finish reason for an answer that a content filter ended.
const FILTERED: &str = "content_filter";

/// A JSON object.
type Object = Map<String, Value>;

/// The guardrails of one call.
#[derive(Debug, Clone)]
pub(crate) struct Guard {
    /// Detectors beside the rules.
    pub guardrails: Guardrails,
    /// Whose call it is.
    pub scope: TenantScope,
    /// Has the rules.
    pub policy: Arc<TenantPolicy>,
}

/// A rule that did something to an answer.
#[derive(Debug, PartialEq, Eq)]
struct Triggered {
    stage: Stage,
    action: GuardAction,
    rule: String,
}

impl Guard {
    /// Refuses a request that a rule or a detector blocks; see [`prompt`] for what is not checked.
    pub(crate) async fn admit(&self, body: &Arc<ChatBody>) -> Result<(), GatewayError> {
        let (kind, cost) = (ContentKind::Prompt, body.size() * COST_PER_BYTE);
        let content = Content::new(kind, PromptTexts(Arc::clone(body)), cost);
        let inspected = self
            .guardrails
            .inspect(&self.scope, &self.policy.rules, slice::from_ref(&content))
            .await;
        let findings = inspected.map_err(unchecked)?;
        let Some(rule) = findings.first().and_then(|findings| blocked_by(kind, findings)) else {
            return Ok(());
        };
        let (stage, action) = (kind.stage(), GuardAction::Block);
        let rule = rule.to_owned();
        let error = blocked("prompt", &rule);
        self.report([Triggered { stage, action, rule }]);
        Err(error)
    }

    /// Applies the guardrails to an answer to `body`.
    pub(crate) async fn guarded(self, body: &ChatBody, answer: Answer) -> Result<Answer, GatewayError> {
        let is_inspected = detect::is_wanted(&self);
        if !is_inspected && ContentKind::ToolCall.rules(&self.policy.rules).next().is_none() {
            return Ok(answer);
        }
        let answer = match answer {
            Answer::Whole(bytes) => {
                let (is_json, cost) = (body.is_json(), bytes.len() * COST_PER_BYTE);
                let policy = Arc::clone(&self.policy);
                let look = move |_: &mut ()| document(&policy.rules, is_json, &bytes);
                let looked = guardrails::output::guarding(self.scope.tenant(), cost, (), look).await;
                let ((), checked) = looked.map_err(|error| unchecked_because(&error))?;
                let (checked, triggered) = checked?;
                self.report(triggered);
                Answer::Whole(checked)
            }
            Answer::Stream(pieces) => Answer::Stream(stream::guarded(self.clone(), body, pieces)),
        };
        if is_inspected {
            return detect::inspected(self, answer).await;
        }
        Ok(answer)
    }

    /// Withholds an error text that a rule matches: a provider's error may quote its model. Where a detector would have
    /// to look at it first, it is withheld in any case.
    pub(crate) fn withhold_matching(&self, mut error: GatewayError) -> GatewayError {
        let kind = ContentKind::ProviderError;
        let refusal = error.refusal.as_deref();
        let said = refusal
            .into_iter()
            .flat_map(|refusal| [&refusal.code, &refusal.param])
            .flatten();
        let findings = said.chain([&error.message]).map(|text| {
            let found = find(&self.policy.rules, kind, text);
            found.unwrap_or_default()
        });
        let findings: Vec<_> = findings.flatten().collect();
        let rule = blocked_by(kind, &findings).map(str::to_owned);
        if rule.is_some() || self.guardrails.looks_at(kind) {
            error.message = "the provider refused the request; a guardrail rule withholds its message".to_owned();
            error.refusal = None;
        }
        let (stage, action) = (kind.stage(), GuardAction::Redact);
        self.report(rule.map(|rule| Triggered { stage, action, rule }));
        error
    }

    /// Logs and counts what was triggered.
    fn report(&self, triggered: impl IntoIterator<Item = Triggered>) {
        for Triggered { stage, action, rule } in triggered {
            report(Entrance::Endpoint, self.scope.tenant(), stage, action, &rule);
        }
    }
}

/// The error for what a rule does not let pass.
fn blocked(what: &str, rule: &str) -> GatewayError {
    let message = format!("guardrail rule {rule:?} blocks this {what}");
    GatewayError::new(GatewayErrorKind::ContentPolicy, message)
}

/// The error for what could not be checked.
fn unchecked(error: Unchecked) -> GatewayError {
    if !matches!(error.cause, DetectorError::Unreadable(_) | DetectorError::Busy) {
        tracing::warn!(%error, "content could not be checked by the guardrails; not letting it pass");
    }
    unchecked_because(&error.cause)
}

fn unchecked_because(error: &DetectorError) -> GatewayError {
    let kind = match error {
        DetectorError::Unreadable(_) => GatewayErrorKind::Invalid,
        DetectorError::Busy => GatewayErrorKind::RateLimited,
        DetectorError::TimedOut(_) | DetectorError::Unavailable(_) => GatewayErrorKind::Unavailable,
    };
    let message = match error {
        DetectorError::Unreadable(what) => return GatewayError::new(kind, what.to_string()),
        DetectorError::Busy => "too many large prompts and answers of this tenant are waiting to be checked",
        DetectorError::TimedOut(_) | DetectorError::Unavailable(_) => {
            "the prompt or its answer could not be checked against the guardrail rules"
        }
    };
    GatewayError::new(kind, message)
}

fn document(rules: &Rules, is_json: bool, bytes: &[u8]) -> Result<(Bytes, Vec<Triggered>), GatewayError> {
    let mut body: Object = serde_json::from_slice(bytes).map_err(|_| unreadable())?;
    strip::strip_top(rules, &mut body);
    let choices = body.get_mut("choices").and_then(Value::as_array_mut);
    let mut triggered = Vec::new();
    for choice in choices.into_iter().flatten() {
        let choice = choice.as_object_mut().ok_or_else(unreadable)?;
        strip::strip(rules, choice, "message");
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
        triggered.extend(guard.triggered());
        if let Some(stopped) = stopped {
            triggered.push(stopped.triggered());
            choice.insert("finish_reason".to_owned(), FILTERED.into());
        }
    }
    Ok((text(&body, bytes.len()), triggered))
}

/// Writes an object as JSON of about this many bytes. `Display` would go through the formatter, piece by piece.
fn text(object: &Object, bytes: usize) -> Bytes {
    let mut text = Vec::with_capacity(bytes);
    serde_json::to_writer(&mut text, object).expect("a JSON object can be written to memory");
    text.into()
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

/// The error for an answer that cannot be checked and is therefore not passed on.
fn unreadable() -> GatewayError {
    GatewayError::new(
        GatewayErrorKind::Cut,
        "the answer could not be checked against the guardrail rules",
    )
}

#[cfg(test)]
mod linear;
#[cfg(test)]
mod tests;
