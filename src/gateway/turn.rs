//! The gateway as the actors' port: turns and summaries.

use std::sync::Arc;

use async_trait::async_trait;
use copilotd_actors::domain::command::FailureClass;
use copilotd_actors::ports::{Model, ModelError, ModelRequest, ModelStream};
use futures::{StreamExt, TryStreamExt, stream};

use super::Gateway;
use super::upstream::UpstreamCall;
use crate::adapters::openai;

#[async_trait]
impl Model for Gateway {
    async fn stream(&self, request: ModelRequest) -> Result<ModelStream, ModelError> {
        let refused = |message: String| ModelError {
            class: FailureClass::Rejected,
            message,
            retry_after: None,
            refusal: None,
        };
        let body =
            openai::body(&request).map_err(|error| refused(format!("the request could not be built: {error}")))?;
        let route = self
            .route(&request.route)
            .map_err(|_| refused(format!("no model is configured for the route {:?}", request.route)))?;
        let (_, key) = self
            .first(&request.scope, &route)
            .map_err(|error| refused(error.message))?;
        let call = UpstreamCall {
            body: Arc::new(body),
            timeouts: route.timeouts,
            chunks: false,
            conversation: Some(request.conversation),
        };
        let pieces = key.upstream.stream(&call).await?;
        Ok(pieces
            .map_ok(|piece| stream::iter(piece.events.into_iter().map(Ok)))
            .try_flatten()
            .boxed())
    }
}
