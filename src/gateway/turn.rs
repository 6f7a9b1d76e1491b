//! The gateway as the actors' port: turns and summaries.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use copilotd_actors::compute;
use copilotd_actors::domain::command::FailureClass;
use copilotd_actors::domain::prompt::PromptMessage;
use copilotd_actors::domain::usage::Usage;
use copilotd_actors::domain::weight;
use copilotd_actors::ports::{LostCall, Model, ModelError, ModelRequest, ModelStream};
use futures::{StreamExt, stream};
use tokio::time::Instant;
use uuid::Uuid;

use super::Gateway;
use super::attempt::{Attempted, Outcome};
use super::billed;
use super::body::ChatBody;
use super::call::{CacheOutcome, Caller, GatewayError, GatewayErrorKind, LimitState, Purpose};
use super::drive::{Ask, Got};
use super::limit::{Demand, Lease, Spent, Subject};
use super::limits::Prompt;
use super::plan::Needs;
use super::route::Place;
use crate::adapters::openai;

#[async_trait]
impl Model for Gateway {
    fn lost(&self, call: LostCall) {
        self.note_lost(call);
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
        let ask = Ask::Live(Arc::clone(&body), false);
        let route = self
            .planner
            .route(&request.route)
            .map_err(|error| unplanned(&error, &request.route))?;
        let mut drive = self
            .planner
            .drive(&route, caller, ask, needs, size, &avoided)
            .map_err(|error| unplanned(&error, &request.route))?;
        self.planner
            .reserve(&mut drive, &route, Prompt::chat(&body))
            .await
            .map_err(limited)?;
        let Some((place, got)) = drive.run().await else {
            let error = drive.trip.failure(Instant::now());
            let error = error.unwrap_or_else(|| refused("no model could be asked".to_owned()));
            return billed::unanswered(&drive.books.bill, error).await;
        };
        let Got::Stream { held, rest } = got else {
            unreachable!("a stream was asked for")
        };
        let name = |place: Place| drive.trip.target(place).name.clone();
        let failed = drive
            .failures
            .iter()
            .map(|&(place, class)| (name(place), class))
            .collect();
        let fallback = self.turns.answers(turn, failed, &name(place)).map(Ok);
        let pieces = stream::iter(held.into_iter().map(Ok)).chain(rest).boxed();
        let events = self
            .turns
            .watch(pieces, turn, name(place), Arc::clone(&drive.books.bill));
        Ok(stream::iter(fallback).chain(events).boxed())
    }
}

/// Builds the body of a request; a long one on the compute pool.
async fn built(request: ModelRequest) -> Result<(ModelRequest, ChatBody), ModelError> {
    let text = |message: &PromptMessage| match message {
        PromptMessage::System { text } | PromptMessage::User { text } => text.len(),
        PromptMessage::Assistant { text, calls } => {
            let calls = calls.iter().map(|call| weight::of(&call.arguments));
            text.len() + calls.sum::<usize>()
        }
        PromptMessage::Tool { content, .. } => content.len(),
    };
    // Written once and parsed once.
    let cost = 2 * request.messages.iter().map(text).sum::<usize>();
    let tenant = request.scope.tenant().clone();
    let build = move || {
        let body = openai::body(&request);
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

/// Namespace of the ids of lost attempts: one that is told twice is one record.
const LOST: Uuid = Uuid::from_u128(0x5f0d_3c1e_8a4b_4d27_9c36_b1e7_0a52_d948);

impl Gateway {
    /// Puts down what a call probably used that died with its process: its prompt, and an answer as its like are. It was going to the
    /// route's first target, as far as anybody knows. Budgets are charged too.
    fn note_lost(&self, call: LostCall) {
        let Some(route) = self.planner.routes.get(&call.route) else {
            return;
        };
        let Some(target) = route.targets.first() else { return };
        let name = format!("{}/{}/{}", call.turn, call.attempt, call.step);
        let model = &target.name.model;
        let limits = self.planner.limits.as_deref();
        let tenant = call.scope.tenant().clone();
        let output = limits.map_or(0, |limits| limits.learned.expect(&tenant, model, 0, None).output);
        let mut usage = Usage {
            prompt_tokens: call.prompt_tokens,
            completion_tokens: output,
            ..Usage::default()
        };
        usage.cost = limits.and_then(|limits| limits.cost(model, &usage)).unwrap_or(0);
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
                tenant,
                subjects: Subject::of(&caller),
                demand: Demand::default(),
                standings: Vec::new(),
            };
            let spent = Spent {
                tokens: 0,
                cost: usage.cost,
            };
            limits.limiter.settle(lease, spent);
        }
        if let Some(meter) = &self.planner.meter {
            meter.attempted(Attempted {
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
            });
        }
    }
}

/// A limit of ours: the turn waits where its user sees it, or ends.
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
