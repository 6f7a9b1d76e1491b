//! Handles reports of model steps.

use super::draft::Draft;
use super::tools::{Proposal, propose};
use crate::domain::content::{Finish, ToolCall};
use crate::domain::conversation::command::{ModelFailure, ModelReply, OutputCheck, Step};
use crate::domain::conversation::outage::AfterFailure;
use crate::domain::conversation::screen::CallVerdict;
use crate::domain::event::{Event, FailureCode, GuardAction};
use crate::domain::failure::FailureClass;
use crate::domain::guardrail::Stage;
use crate::domain::ids::{CallId, MessageId, TurnId};
use crate::domain::sent_prompt::{Fixed, SentPrompt};
use crate::domain::usage::Usage;

pub(super) fn context_assembled(
    draft: &mut Draft<'_>,
    at: Step,
    assembled: Event,
    guardrails: Vec<(Stage, String, GuardAction)>,
) -> Option<TurnId> {
    draft.thinking_at(at)?;
    for (stage, rule, action) in guardrails {
        draft.trigger(at.turn, stage, rule, action);
    }
    draft.push(at.turn, assembled);
    Some(at.turn)
}

/// Leaves out what earlier records of the conversation have.
pub(super) fn unless_known(draft: &Draft<'_>, at: Step, mut sent: SentPrompt) -> SentPrompt {
    if let (Fixed::Parts(parts), Some(known)) = (&sent.fixed, &draft.book.fixed_prompt)
        && known.hash == parts.hash
    {
        sent.fixed = Fixed::At(known.seq);
    }
    if let Some(turn) = draft.book.turn(at.turn) {
        for passage in &mut sent.passages {
            if turn.passages.contains(&passage.id) {
                passage.text = None;
            }
        }
    }
    sent
}

pub(super) fn fell_back(draft: &mut Draft<'_>, at: Step, from: String, to: String, reason: String) -> Option<TurnId> {
    draft.thinking_at(at)?;
    draft.push(at.turn, Event::ModelFallback { from, to, reason });
    Some(at.turn)
}

pub(super) fn replied(
    draft: &mut Draft<'_>,
    at: Step,
    reply: ModelReply,
    verdicts: Vec<CallVerdict>,
) -> Option<TurnId> {
    let turn = draft.thinking_at(at)?;
    let (id, wants_json, first_token_ms) = (turn.id, turn.response_schema.is_some(), turn.first_token_ms);
    for (stage, rule, action) in reply.guardrails {
        draft.trigger(id, stage, rule, action);
    }
    // Invariant: no call of a step that reached its length limit runs: it is incomplete, however complete it looks.
    let calls = if reply.finish == Finish::Length {
        Vec::new()
    } else {
        reply.calls
    };
    let proposals: Vec<Proposal> = calls
        .into_iter()
        .zip(verdicts)
        .enumerate()
        .map(|(index, ((name, arguments), verdict))| {
            let id = CallId::of_step(id, at.attempt, at.step, index);
            let call = ToolCall { id, name, arguments };
            Proposal { call, verdict }
        })
        .collect();
    let tool_calls: Vec<ToolCall> = proposals.iter().map(|proposal| proposal.call.clone()).collect();
    let structured = match reply.output {
        _ if !wants_json || !tool_calls.is_empty() => None,
        OutputCheck::Valid(value) => Some(value),
        OutputCheck::Invalid(error) => {
            reject(draft, at, reply.text, error, reply.model, reply.usage);
            return Some(id);
        }
        OutputCheck::TooExpensive => {
            let message = "checking the answer against response_schema took too much time or memory; use a simpler \
                           schema";
            return Some(unchecked(
                draft,
                at,
                FailureCode::SchemaFailed,
                message,
                reply.model,
                reply.usage,
            ));
        }
        // An unchecked answer is never presented as satisfying the schema.
        OutputCheck::Unavailable | OutputCheck::NotNeeded => {
            let message = "the answer could not be checked against response_schema";
            return Some(unchecked(
                draft,
                at,
                FailureCode::Internal,
                message,
                reply.model,
                reply.usage,
            ));
        }
    };
    let answered = tool_calls.is_empty();
    let finish = match reply.finish {
        Finish::Length => Finish::Length,
        _ if answered => Finish::Stop,
        _ => Finish::ToolCalls,
    };
    draft.push(
        id,
        Event::MessageCompleted {
            message_id: MessageId::of_step(id, at.attempt, at.step),
            text: reply.text,
            citations: reply.citations,
            unsupported: reply.unsupported,
            tool_calls,
            finish,
            structured,
            step: at.step,
            model: reply.model,
            usage: reply.usage,
            first_token_ms: reply.first_token_ms,
        },
    );
    if answered {
        let usage = draft.book.turn(id).map(|turn| turn.usage.clone()).unwrap_or_default();
        let first_token_ms = first_token_ms.or(reply.first_token_ms);
        draft.push(id, Event::TurnCompleted { usage, first_token_ms });
        draft.start_next();
    } else {
        propose(draft, id, proposals);
    }
    Some(id)
}

/// Ends a turn whose answer could not be checked. The check is not repeated: it would have the same result.
fn unchecked(draft: &mut Draft<'_>, at: Step, code: FailureCode, message: &str, model: String, usage: Usage) -> TurnId {
    let message_id = MessageId::of_step(at.turn, at.attempt, at.step);
    let reason = "response_schema".to_owned();
    draft.push(at.turn, Event::MessageReset { message_id, reason });
    draft.push(
        at.turn,
        Event::ModelFailed {
            class: "response_schema".into(),
            model,
            usage,
            detail: Some(message.to_owned()),
        },
    );
    draft.fail(at.turn, code, message);
    draft.start_next();
    at.turn
}

/// Rejects an answer that violates the schema: it never becomes a message but is reset, and the model receives the
/// reason.
fn reject(draft: &mut Draft<'_>, at: Step, text: String, error: String, model: String, usage: Usage) {
    // Without the validator's detail: it quotes the answer, which is not shown.
    draft.trigger(
        at.turn,
        Stage::Output,
        "response_schema".to_owned(),
        GuardAction::Repair,
    );
    let message_id = MessageId::of_step(at.turn, at.attempt, at.step);
    draft.push(
        at.turn,
        Event::MessageReset {
            message_id,
            reason: "response_schema".into(),
        },
    );
    draft.push(
        at.turn,
        Event::OutputRejected {
            text,
            error,
            model,
            usage,
        },
    );
    draft.bound_next_step();
}

pub(super) fn blocked(draft: &mut Draft<'_>, at: Step, rule: String, model: String, usage: Usage) -> Option<TurnId> {
    draft.thinking_at(at)?;
    draft.trigger(at.turn, Stage::Output, rule, GuardAction::Block);
    let message_id = MessageId::of_step(at.turn, at.attempt, at.step);
    draft.push(
        at.turn,
        Event::MessageReset {
            message_id,
            reason: "guardrail".into(),
        },
    );
    draft.push(
        at.turn,
        Event::ModelFailed {
            class: "blocked".into(),
            model,
            usage,
            detail: None,
        },
    );
    draft.fail(
        at.turn,
        FailureCode::GuardrailBlocked,
        "the answer was blocked by a guardrail of this copilot",
    );
    draft.start_next();
    Some(at.turn)
}

/// Records a failed step. `withheld_by` is the rule that withholds the provider's text.
pub(super) fn failed(
    draft: &mut Draft<'_>,
    at: Step,
    failure: ModelFailure,
    withheld_by: Option<String>,
) -> Option<TurnId> {
    let attempt = draft.thinking_at(at)?.attempt;
    if let Some(rule) = withheld_by {
        draft.trigger(at.turn, Stage::Output, rule, GuardAction::Redact);
    }
    let message_id = MessageId::of_step(at.turn, at.attempt, at.step);
    let ModelFailure {
        class,
        message,
        model,
        usage,
        retry_after,
    } = failure;
    draft.push(
        at.turn,
        Event::MessageReset {
            message_id,
            reason: class.code().into(),
        },
    );
    draft.push(
        at.turn,
        Event::ModelFailed {
            class: class.code().into(),
            model,
            usage,
            detail: Some(message),
        },
    );
    let Some(turn) = draft.book.turn(at.turn) else {
        return Some(at.turn);
    };
    match turn.outage.next(class, retry_after, (at.turn, attempt), draft.limits()) {
        AfterFailure::Fail(code) => {
            draft.fail(at.turn, code, user_message(class));
            draft.start_next();
        }
        AfterFailure::Wait(reason, wait) => {
            // An answer that broke off was billed: a retry counts against the turn's limits like any other step.
            draft.bound_next_step();
            if draft.book.turn(at.turn).is_none() {
                return Some(at.turn);
            }
            let (model, until) = (draft.policy().model.clone(), draft.after(wait));
            let attempt = attempt + 1;
            draft.push(at.turn, Event::TurnStarted { attempt, model });
            draft.push(at.turn, Event::TurnWaiting { reason, until });
        }
    }
    Some(at.turn)
}

/// Returns the user's message for a model failure. The provider's own text may name accounts, deployments and limits.
fn user_message(class: FailureClass) -> &'static str {
    match class {
        FailureClass::Key => "the model provider rejected this copilot's credentials",
        FailureClass::Rejected => "the model provider rejected the request",
        FailureClass::ContextLength => "the conversation does not fit into the model's context window",
        FailureClass::ContentPolicy => "the model provider's content policy stopped the answer",
        FailureClass::Rate => "the model provider's rate limit was reached",
        FailureClass::Limit => "a limit on model usage was reached",
        FailureClass::Budget => "the model budget is used up",
        FailureClass::Overload => "the model provider is overloaded",
        FailureClass::TimedOut => "the model did not answer in time",
        FailureClass::Cut => "the model's answer was cut off",
        FailureClass::Malformed => "the model provider sent an answer that cannot be read",
        FailureClass::Network => "the model provider could not be reached",
    }
}
