//! Records as shown on the stream: API.md's events. Internal records and fields are left out here.

use serde_json::{Map, Value, json};

use super::turn::RetrievalView;
use super::usd;
use crate::domain::event::{Event, Record};
use crate::domain::ids::TurnId;
use crate::domain::usage::TotalUsage;

/// An event of the stream.
#[derive(Debug, Clone, PartialEq)]
pub struct PublicEvent {
    /// The name for the `event:` line.
    pub name: &'static str,
    /// The content of the `data:` line.
    pub data: Value,
}

/// Returns the public event of a record, unless it is internal.
pub fn public_event(record: &Record) -> Option<PublicEvent> {
    let (name, fields) = fields(&record.event)?;
    let mut data = Map::new();
    data.insert("seq".into(), record.seq.into());
    data.insert("turn_id".into(), turn_id(record.turn));
    data.insert("at".into(), json!(record.at));
    if let Value::Object(fields) = fields {
        data.extend(fields);
    }
    Some(PublicEvent {
        name,
        data: Value::Object(data),
    })
}

fn turn_id(turn: Option<TurnId>) -> Value {
    turn.map_or(Value::Null, |turn| Value::String(turn.to_string()))
}

/// Returns usage as JSON, with cost in dollars.
pub(super) fn usage_json(usage: &TotalUsage) -> Value {
    let sum = &usage.sum;
    let mut written = json!({
        "prompt_tokens": sum.prompt_tokens,
        "completion_tokens": sum.completion_tokens,
        "cached_tokens": sum.cached_tokens,
        "cost_usd": usd(sum.cost),
        "models": usage.models,
    });
    if sum.estimated {
        written["estimated"] = json!(true);
    }
    written
}

/// Returns the text of a tool's result.
pub(super) fn tool_text(result: Option<&Value>, error: Option<&str>) -> String {
    match (result, error) {
        (Some(Value::String(text)), _) => text.clone(),
        (Some(value), _) => value.to_string(),
        (None, Some(error)) => error.to_owned(),
        (None, None) => String::new(),
    }
}

/// Adds a field unless it is absent.
fn with<T: serde::Serialize>(mut fields: Value, name: &str, value: Option<&T>) -> Value {
    if let (Value::Object(map), Some(value)) = (&mut fields, value) {
        map.insert(name.to_owned(), json!(value));
    }
    fields
}

fn fields(event: &Event) -> Option<(&'static str, Value)> {
    Some(match event {
        Event::ConversationTitled { title: Some(title), .. } => ("conversation.titled", json!({ "title": title })),
        Event::ConversationErased { .. } => ("conversation.erased", json!({})),
        Event::TurnQueued {
            input,
            metadata,
            replaces,
            ..
        } => {
            let fields = json!({ "input": input.as_given(), "metadata": metadata });
            ("turn.queued", with(fields, "replaces", replaces.as_ref()))
        }
        Event::TurnStarted { attempt, model } => ("turn.started", json!({ "attempt": attempt, "model": model })),
        Event::TurnWaiting { reason, until } => ("turn.waiting", json!({ "reason": reason, "until": until })),
        Event::ContextAssembled {
            prompt_tokens,
            summary_upto_seq,
            retrieved,
            retrieval,
            ..
        } => {
            let fields =
                json!({ "prompt_tokens": prompt_tokens, "summary_upto_seq": summary_upto_seq, "retrieved": retrieved });
            let retrieval = retrieval.as_ref().map(RetrievalView::from);
            ("context.assembled", with(fields, "retrieval", retrieval.as_ref()))
        }
        Event::MessageCompleted {
            message_id,
            text,
            citations,
            unsupported,
            tool_calls,
            finish,
            ..
        } => {
            let fields = json!({
                "message_id": message_id,
                "text": text,
                "citations": citations,
                "tool_calls": tool_calls,
                "finish": finish,
            });
            let unsupported = (!unsupported.is_empty()).then_some(unsupported);
            ("message.completed", with(fields, "unsupported", unsupported))
        }
        Event::MessageReset { message_id, reason } => {
            ("message.reset", json!({ "message_id": message_id, "reason": reason }))
        }
        Event::ApprovalRequested {
            call_id,
            name,
            arguments,
            expires_at,
        } => (
            "approval.requested",
            json!({ "call_id": call_id, "name": name, "arguments": arguments, "expires_at": expires_at }),
        ),
        Event::ApprovalDecided {
            call_id,
            decision,
            arguments,
            reason,
            by,
        } => {
            let fields = json!({ "call_id": call_id, "decision": decision, "by": by });
            (
                "approval.decided",
                with(with(fields, "arguments", arguments.as_ref()), "reason", reason.as_ref()),
            )
        }
        Event::ClientToolRequested {
            call_id,
            name,
            arguments,
            expires_at,
        } => (
            "client_tool.requested",
            json!({ "call_id": call_id, "name": name, "arguments": arguments, "expires_at": expires_at }),
        ),
        Event::ToolCalled {
            call_id,
            name,
            arguments,
            settles_at,
            claim,
        } => {
            let fields = json!({ "call_id": call_id, "name": name, "arguments": arguments });
            let expires_at = claim.as_ref().map(|_| settles_at);
            ("tool.called", with(fields, "expires_at", expires_at))
        }
        Event::ToolFinished {
            call_id,
            status,
            result,
            error,
            ..
        } => {
            let fields = json!({ "call_id": call_id, "status": status });
            (
                "tool.finished",
                with(with(fields, "result", result.as_ref()), "error", error.as_ref()),
            )
        }
        Event::GuardrailTriggered {
            stage, rule, action, ..
        } => (
            "guardrail.triggered",
            json!({ "stage": stage, "rule": rule, "action": action }),
        ),
        Event::ModelFallback { from, to, reason } => {
            ("model.fallback", json!({ "from": from, "to": to, "reason": reason }))
        }
        Event::MemoryCompressed {
            upto_seq,
            tokens_before,
            tokens_after,
            ..
        } => (
            "memory.compressed",
            json!({ "upto_seq": upto_seq, "tokens_before": tokens_before, "tokens_after": tokens_after }),
        ),
        Event::TurnCompleted { usage, first_token_ms } => (
            "turn.completed",
            json!({ "usage": usage_json(usage), "first_token_ms": first_token_ms }),
        ),
        Event::TurnFailed {
            code,
            message,
            retryable,
            ..
        } => (
            "turn.failed",
            json!({ "code": code, "message": message, "retryable": retryable }),
        ),
        Event::TurnCancelled { usage } => ("turn.cancelled", json!({ "usage": usage_json(usage) })),
        Event::ConversationCreated { .. }
        | Event::ConversationUpdated { .. }
        | Event::ConversationTitled { .. }
        | Event::TurnReplaced { .. }
        | Event::TurnPaused { .. }
        | Event::TurnHandedOver { .. }
        | Event::TurnResumed {}
        | Event::OutputRejected { .. }
        | Event::ModelFailed { .. }
        | Event::ToolRetried { .. }
        | Event::ToolSettled { .. }
        | Event::FeedbackGiven { .. } => return None,
    })
}
