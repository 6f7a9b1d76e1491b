//! The gateway as the actors' port: turns and summaries.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use copilotd_actors::compute;
use copilotd_actors::domain::context::prompt::PromptMessage;
use copilotd_actors::domain::failure::FailureClass;
use copilotd_actors::domain::usage::{LostUsage, Usage};
use copilotd_actors::domain::weight;
use copilotd_actors::ports::{LogError, LostCall, Model, ModelError, ModelRequest, ModelStream};
use futures::{StreamExt, stream};
use tokio::time::Instant;
use uuid::Uuid;

use super::execution::{ExecutionRequest, ReadyAnswer};
use super::limits::Prompt;
use super::plan::Needs;
use super::{Gateway, billed};
use crate::error::{GatewayError, GatewayErrorKind, LimitState};
use crate::limit::{ActualUsage, Demand, Lease};
use crate::meter::{AttemptRecord, Outcome, UnreportedAttempts};
use crate::request::body::ChatBody;
use crate::request::call::{CacheOutcome, Caller, Purpose};
use crate::request::model_request;
use crate::routing::Candidate;
use crate::spending::Subject;
use crate::target::Target;

#[async_trait]
impl Model for Gateway {
    async fn lost(&self, call: LostCall) -> Result<Vec<LostUsage>, LogError> {
        if let Some(meter) = &self.planner.meter {
            let of = UnreportedAttempts {
                turn: call.turn,
                began_at: call.began_at,
                asked_at: call.prompt.map(|prompt| prompt.at),
            };
            let found = meter.unreported(&call.scope, &of, call.is_settled).await?;
            if !found.is_empty() {
                return Ok(found);
            }
        }
        if call.is_handed_over {
            return Ok(Vec::new());
        }
        Ok(self.unseen(call).into_iter().collect())
    }

    async fn stream(&self, request: ModelRequest) -> Result<ModelStream, ModelError> {
        let (request, body) = built(request).await?;
        let turn = request.turn;
        let caller = Caller {
            scope: request.scope,
            user: request.user,
            role: None,
            api_key: request.api_key,
            copilot: Some(request.copilot),
            conversation: Some(request.conversation),
            turn,
            purpose: if turn.is_some() {
                Purpose::Turn
            } else {
                Purpose::Summary
            },
        };
        let avoided = self.turns.of(turn).failed;
        let needs = Needs {
            tools: body.has_tools(),
            schema: body.has_schema(),
        };
        let size = body.size();
        let body = Arc::new(body);
        let ask = ExecutionRequest::Live(Arc::clone(&body), false);
        let route = self
            .planner
            .route(&request.route)
            .map_err(|error| unplanned(&error, &request.route))?;
        let mut execution = self
            .planner
            .execution(&route, caller, ask, needs, size, &avoided)
            .map_err(|error| unplanned(&error, &request.route))?;
        self.planner
            .reserve(&mut execution, &route, Prompt::chat(&body))
            .await
            .map_err(limited)?;
        let Some((candidate, got)) = execution.run().await else {
            let error = execution.plan.failure(Instant::now());
            let error = error.unwrap_or_else(|| refused("no model could be called".to_owned()));
            return billed::unanswered(&execution.context.bill, error).await;
        };
        let ReadyAnswer::Stream { held, rest } = got else {
            unreachable!("a stream was asked for")
        };
        let name = |candidate: Candidate| execution.plan.target(candidate).name.clone();
        let failed = execution
            .failures
            .iter()
            .map(|&(candidate, class)| (name(candidate), class))
            .collect();
        let fallback = self.turns.answers(turn, failed, &name(candidate)).map(Ok);
        let pieces = stream::iter(held.into_iter().map(Ok)).chain(rest).boxed();
        let events = self
            .turns
            .watch(pieces, turn, name(candidate), Arc::clone(&execution.context.bill));
        Ok(stream::iter(fallback).chain(events).boxed())
    }
}

/// Builds the body of a request; a long one on the compute pool.
async fn built(request: ModelRequest) -> Result<(ModelRequest, ChatBody), ModelError> {
    let text = |message: &PromptMessage| match message {
        PromptMessage::System { text } | PromptMessage::User { text } => text.len(),
        PromptMessage::Files { .. } => message.bytes(),
        PromptMessage::Assistant { text, calls } => {
            let calls = calls.iter().map(|call| weight::of(&call.arguments));
            text.len() + calls.sum::<usize>()
        }
        PromptMessage::Tool { content, .. } => content.len(),
    };
    // Serialised once and parsed once.
    let cost = 2 * request.messages.iter().map(text).sum::<usize>();
    let tenant = request.scope.tenant().clone();
    let build = move || {
        let body = model_request::body(&request);
        (request, body)
    };
    let built = compute::run(Some(&tenant), cost, build).await;
    let (request, body) = built.map_err(|error| ModelError {
        class: FailureClass::Overload,
        message: format!("the request could not be built: {error}"),
        retry_after: None,
        refusal: None,
    })?;
    let body = body.map_err(|error| refused(format!("the request could not be built: {error}")))?;
    Ok((request, body))
}

/// Namespace of the ids of lost attempts, so that one that is reported twice is one record.
const LOST: Uuid = Uuid::from_u128(0x5f0d_3c1e_8a4b_4d27_9c36_b1e7_0a52_d948);
/// Assumed age of a call that died before the ledger had stored its beginning.
const UNSEEN: Duration = Duration::from_millis(300);

impl Gateway {
    /// Estimates a call that died before the ledger had stored it: its prompt, and the beginning of an answer. Its
    /// target is the one that the turn's log names for a fallback, else the route's first. It is recorded in the ledger
    /// and charged to budgets, unless that was done when its stream was dropped.
    fn unseen(&self, call: LostCall) -> Option<LostUsage> {
        let prompt = call.prompt?;
        let route = self.planner.routes.get(&call.route)?;
        let named = |target: &&Arc<Target>| {
            call.target
                .as_ref()
                .is_some_and(|name| target.name.to_string() == *name)
        };
        let target = route.targets.iter().find(named).or(route.targets.first())?;
        let name = format!("{}/{}/{}", call.turn, call.attempt, call.step);
        let model = &target.name.model;
        let limits = self.planner.limits.as_deref();
        let tenant = call.scope.tenant().clone();
        let mut usage = Usage {
            prompt_tokens: prompt.tokens,
            completion_tokens: limits.map_or(0, |limits| limits.learned.begun_for(&tenant, model, UNSEEN)),
            ..Usage::default()
        };
        usage.cost = limits.and_then(|limits| limits.cost(model, &usage)).unwrap_or(0);
        let lost = LostUsage {
            model: model.clone(),
            usage,
        };
        if call.is_settled {
            return Some(lost);
        }
        let caller = Caller {
            scope: call.scope,
            user: call.user,
            role: None,
            api_key: call.api_key,
            copilot: Some(call.copilot),
            conversation: Some(call.conversation),
            turn: Some(call.turn),
            purpose: Purpose::Turn,
        };
        if let Some(limits) = limits {
            // A shared store charges what was reserved when the dead process's reservation expires.
            let lease = Lease {
                id: None,
                scope: caller.scope.clone(),
                subjects: Subject::of(&caller),
                demand: Demand::default(),
                standings: Vec::new(),
            };
            let spent = ActualUsage {
                tokens: 0,
                cost: usage.cost,
            };
            limits.limiter.settle(lease, spent);
        }
        if let Some(meter) = &self.planner.meter {
            let attempt = AttemptRecord {
                id: Some(Uuid::new_v5(&LOST, name.as_bytes())),
                caller: Arc::new(caller),
                route: route.name.as_str().into(),
                target: target.name.clone(),
                key: String::new(),
                number: call.attempt,
                model: None,
                usage,
                is_estimated: true,
                outcome: Outcome::Lost,
                cache: CacheOutcome::Bypass,
                first_content: None,
                took: Duration::ZERO,
            };
            meter.attempted_at(prompt.at, attempt);
        }
        Some(lost)
    }
}

/// A limit of ours: the turn waits in its conversation, or ends.
fn limited(error: GatewayError) -> ModelError {
    let is_money = error.limit.as_ref().is_some_and(LimitState::is_money);
    let class = match error.kind {
        GatewayErrorKind::BudgetExhausted => FailureClass::Budget,
        GatewayErrorKind::QuotaExceeded if is_money => FailureClass::Budget,
        _ => FailureClass::Limit,
    };
    ModelError {
        class,
        message: error.message,
        retry_after: error.retry_after,
        refusal: None,
    }
}

fn unplanned(error: &GatewayError, route: &str) -> ModelError {
    refused(match error.kind {
        GatewayErrorKind::UnknownRoute => format!("no model is configured for the route {route:?}"),
        _ => error.message.clone(),
    })
}

fn refused(message: String) -> ModelError {
    ModelError {
        class: FailureClass::Rejected,
        message,
        retry_after: None,
        refusal: None,
    }
}
