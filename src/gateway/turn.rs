//! The gateway as the actors' port: turns and summaries.

use std::sync::Arc;

use async_trait::async_trait;
use copilotd_actors::domain::command::FailureClass;
use copilotd_actors::ports::{Model, ModelError, ModelEvent, ModelRequest, ModelStream};
use futures::{StreamExt, stream};

use super::call::{Caller, GatewayError, GatewayErrorKind, Purpose};
use super::drive::{Ask, Drive, Got};
use super::limits::Prompt;
use super::rescue::Failed;
use super::route::Place;
use super::{Gateway, Needs};
use crate::adapters::openai;

#[async_trait]
impl Model for Gateway {
    async fn stream(&self, request: ModelRequest) -> Result<ModelStream, ModelError> {
        let body =
            openai::body(&request).map_err(|error| refused(format!("the request could not be built: {error}")))?;
        let turn = request.turn;
        let caller = Caller {
            scope: request.scope,
            user: request.user,
            api_key: None,
            conversation: Some(request.conversation),
            turn,
            purpose: if turn.is_some() {
                Purpose::Turn
            } else {
                Purpose::Summary
            },
        };
        let avoided = self.avoided.of(turn);
        let needs = Needs {
            tools: body.has_tools(),
            schema: body.has_schema(),
        };
        let size = body.size();
        let body = Arc::new(body);
        let ask = Ask::Live(Arc::clone(&body), false);
        let route = self
            .route(&request.route)
            .map_err(|error| unplanned(&error, &request.route))?;
        let mut drive = self
            .drive(&route, caller, ask, needs, size, &avoided)
            .map_err(|error| unplanned(&error, &request.route))?;
        self.reserve(&mut drive, &route, Prompt::chat(&body))
            .await
            .map_err(limited)?;
        let Some((place, got)) = drive.run().await else {
            return Err(drive
                .trip
                .failure()
                .unwrap_or_else(|| refused("no model could be asked".to_owned())));
        };
        let Got::Stream { held, rest } = got else {
            unreachable!("a stream was asked for")
        };
        let fallback = fallback(&drive, place, &avoided).map(Ok);
        let pieces = stream::iter(held.into_iter().map(Ok)).chain(rest).boxed();
        let events = self.avoided.watch(pieces, turn, drive.trip.target(place).name.clone());
        Ok(stream::iter(fallback).chain(events).boxed())
    }
}

/// Tells that another target answers than the one that failed this turn first.
fn fallback(drive: &Drive, place: Place, avoided: &[Failed]) -> Option<ModelEvent> {
    let to = &drive.trip.target(place).name;
    let before = avoided.iter().map(|(target, class)| (target, *class));
    let now = drive
        .failures
        .iter()
        .map(|&(place, class)| (&drive.trip.target(place).name, class));
    let (from, class) = before.chain(now).find(|(from, _)| *from != to)?;
    Some(ModelEvent::Fallback {
        from: from.to_string(),
        to: to.to_string(),
        reason: class.code().to_owned(),
    })
}

/// A limit of ours: the turn waits where its user sees it, or ends.
fn limited(error: GatewayError) -> ModelError {
    let class = match error.kind {
        GatewayErrorKind::BudgetExhausted => FailureClass::Budget,
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
