//! Lets registered detectors inspect an answer. They know it only at its end, so it is held back until then; what they
//! find ends it, since a part of it has no replacement that its caller could use.

use std::collections::BTreeMap;

use copilotd_actors::compute;
use copilotd_actors::domain::event::GuardAction;
use copilotd_actors::domain::guardrail::{COST_PER_BYTE, ContentKind, Rules};
use copilotd_actors::ports::{Content, ModelEvent};
use futures::{StreamExt, stream};
use serde_json::Value;

use super::calls::CallTexts;
use super::choice::MOST_HELD;
use super::texts::TextsByPath;
use super::{Guard, Object, Triggered, blocked, unchecked, unreadable};
use crate::answer::{Answer, AnswerStream};
use crate::error::GatewayError;
use crate::provider::Piece;

/// Whether an answer has to be inspected.
pub(super) fn is_wanted(guard: &Guard) -> bool {
    let kinds = [ContentKind::Answer, ContentKind::ToolCall];
    kinds.into_iter().any(|kind| guard.guardrails.looks_at(kind))
}

/// Lets detectors inspect an answer to which the rules have been applied.
pub(super) async fn inspected(guard: Guard, answer: Answer) -> Result<Answer, GatewayError> {
    Ok(match answer {
        Answer::Whole(bytes) => {
            inspect(&guard, vec![bytes.clone()]).await?;
            Answer::Whole(bytes)
        }
        Answer::Stream(pieces) => {
            let held = stream::once(hold(guard, pieces));
            Answer::Stream(held.flat_map(stream::iter).boxed())
        }
    })
}

/// Holds a stream back until its end. If it may not pass, only what was used is passed on, then the error.
async fn hold(guard: Guard, mut pieces: AnswerStream) -> Vec<Result<Piece, GatewayError>> {
    let (mut held, mut bytes) = (Vec::new(), 0);
    let mut failed = None;
    while let Some(piece) = pieces.next().await {
        match piece {
            Ok(piece) => {
                bytes += piece.chunk.as_ref().map_or(0, bytes::Bytes::len);
                held.push(piece);
            }
            Err(error) => failed = Some(error),
        }
        if bytes > MOST_HELD {
            failed = Some(unreadable());
        }
        if failed.is_some() {
            break;
        }
    }
    drop(pieces);
    if failed.is_none() {
        let chunks = held.iter().filter_map(|piece| piece.chunk.clone()).collect();
        failed = inspect(&guard, chunks).await.err();
    }
    let Some(error) = failed else {
        return held.into_iter().map(Ok).collect();
    };
    let mut events = held.into_iter().flat_map(|piece| piece.events);
    let used = events.rfind(|event| matches!(event, ModelEvent::Usage(_)));
    let used = used.map(|event| Piece {
        events: vec![event],
        ..Piece::default()
    });
    used.into_iter().map(Ok).chain([Err(error)]).collect()
}

async fn inspect(guard: &Guard, documents: Vec<bytes::Bytes>) -> Result<(), GatewayError> {
    let tenant = guard.scope.tenant();
    let cost = documents.iter().map(bytes::Bytes::len).sum();
    let contents = compute::run(Some(tenant), cost, move || contents(&documents)).await;
    let contents = contents.ok().flatten().ok_or_else(unreadable)?;
    // The tenant's own have been applied.
    let rules = Rules::default();
    let inspected = guard.guardrails.inspect(&guard.scope, &rules, &contents).await;
    let findings = inspected.map_err(unchecked)?;
    for (content, findings) in contents.iter().zip(findings) {
        if let Some(finding) = findings.into_iter().next() {
            let (stage, action) = (content.stage(), GuardAction::Block);
            let rule = finding.rule;
            let error = blocked("answer", &rule);
            guard.report([Triggered { stage, action, rule }]);
            return Err(error);
        }
    }
    Ok(())
}

/// Returns the contents of a document or of all chunks of a stream: the texts of each choice, and each call. `None` if
/// they cannot be read.
fn contents(documents: &[bytes::Bytes]) -> Option<Vec<Content>> {
    let mut messages: BTreeMap<u64, Vec<Object>> = BTreeMap::new();
    let mut contents = Vec::new();
    for document in documents {
        let mut document: Object = serde_json::from_slice(document).ok()?;
        let Some(Value::Array(choices)) = document.remove("choices") else {
            continue;
        };
        for choice in choices {
            let Value::Object(mut choice) = choice else { return None };
            let index = choice.get("index").and_then(Value::as_u64).unwrap_or(0);
            let said = choice.remove("message").or_else(|| choice.remove("delta"));
            let Some(Value::Object(mut said)) = said else { continue };
            let calls = said.remove("tool_calls");
            let calls = calls.and_then(|calls| match calls {
                Value::Array(calls) => Some(calls),
                _ => None,
            });
            let function = said.remove("function_call").map(|function| {
                let call = Object::from_iter([("function".to_owned(), function)]);
                Value::Object(call)
            });
            for call in calls.into_iter().flatten().chain(function) {
                let Value::Object(call) = call else { continue };
                let cost = Value::Object(call.clone()).to_string().len() * COST_PER_BYTE;
                contents.push(Content::new(ContentKind::ToolCall, CallTexts(call), cost));
            }
            messages.entry(index).or_default().push(said);
        }
    }
    for said in messages.values() {
        let texts = TextsByPath::of(said).into_texts();
        let cost = texts.bytes() * COST_PER_BYTE;
        contents.push(Content::new(ContentKind::Answer, texts, cost));
    }
    Some(contents)
}
