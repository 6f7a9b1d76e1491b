//! The OpenAI-compatible adapter against scripted servers on raw sockets. Sockets need real time: timeouts are short,
//! and tests wait only for what they observe.
#![expect(clippy::unwrap_used, reason = "helpers of tests may panic as tests do")]

mod anthropic;
mod cancel;
mod clocks;
mod early;
mod failures;
mod load;
mod loose;
mod loose_anthropic;
mod loose_calls;
mod loose_documents;
mod loose_requests;
mod passing;
pub mod request;
pub mod server;
mod stream;
mod strict_client;
mod trace;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use copilotd::adapters::llm::openai::{OpenAi, OpenAiConfig};
use copilotd::adapters::llm::provider::ConnectionPool;
use copilotd_actors::domain::context::prompt::PromptMessage;
use copilotd_actors::domain::ids::ConversationId;
use copilotd_actors::domain::sent_prompt::ToolOffer;
use copilotd_actors::domain::usage::Price;
use copilotd_actors::ports::{Model, ModelError, ModelEvent, ModelRequest, ModelStream};
use copilotd_actors::tenancy::TenantScope;
use copilotd_gateway::provider::{Timeouts, Upstream, UpstreamCall};
use copilotd_gateway::request::model_request;
use futures::{StreamExt, TryStreamExt};
use serde_json::json;
use uuid::Uuid;

/// The key of all tests; it must never appear in an error.
pub const KEY: &str = "sk-very-secret";

/// Timeouts that no passing test reaches.
pub const PATIENT: Timeouts = Timeouts {
    connect: Duration::from_secs(10),
    first_token: Duration::from_secs(30),
    idle: Duration::from_secs(30),
    total: Duration::from_secs(60),
};

/// Two and a half dollars a million in, a quarter when cached, ten out.
pub const PRICE: Price = Price {
    cached_input: 250_000_000,
    ..Price::flat(2_500_000_000, 10_000_000_000)
};

/// One deployment, without the gateway's retries.
#[derive(Debug)]
pub struct Direct {
    pub upstream: OpenAi,
    pub timeouts: Timeouts,
}

#[async_trait]
impl Model for Direct {
    async fn stream(&self, request: ModelRequest) -> Result<ModelStream, ModelError> {
        let pieces = self.upstream.stream(&call(&request, self.timeouts)).await?;
        Ok(pieces
            .map_ok(|piece| futures::stream::iter(piece.events.into_iter().map(Ok)))
            .try_flatten()
            .boxed())
    }
}

pub fn call(request: &ModelRequest, timeouts: Timeouts) -> UpstreamCall {
    UpstreamCall {
        body: Arc::new(model_request::body(request).unwrap()),
        timeouts,
        chunks: false,
        conversation: Some(request.conversation),
        tenant: Some(request.scope.tenant().clone()),
        progress: Arc::default(),
    }
}

pub fn config(base_url: &str, timeouts: Timeouts) -> OpenAiConfig {
    let mut config = OpenAiConfig::new("main", base_url, KEY.to_owned().into(), "gpt-test");
    config.connect = timeouts.connect;
    config.price = Some(PRICE);
    config
}

pub fn model(base_url: &str, timeouts: Timeouts) -> Direct {
    Direct {
        upstream: OpenAi::new(config(base_url, timeouts), &ConnectionPool::default()).unwrap(),
        timeouts,
    }
}

pub fn request() -> ModelRequest {
    ModelRequest {
        copilot: "support".parse().unwrap(),
        scope: TenantScope::from_verified("acme".parse().unwrap()),
        route: "default".to_owned(),
        conversation: ConversationId::new(Uuid::from_u128(7)),
        turn: None,
        user: "ada@acme.example".parse().unwrap(),
        api_key: None,
        messages: Arc::new(vec![
            PromptMessage::System {
                text: "Be brief.".into(),
            },
            PromptMessage::User { text: "Hello?".into() },
        ]),
        tools: Arc::new(Vec::new()),
        response_schema: None,
        max_tokens: Some(100),
    }
}

pub fn weather() -> ToolOffer {
    ToolOffer {
        name: "get_weather".to_owned(),
        description: "Tells the weather.".to_owned(),
        parameters: json!({"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}),
    }
}

/// Sends a request and reads to the end; returns what came, and the error that ended it.
pub async fn ask(model: &Direct, request: ModelRequest) -> (Vec<ModelEvent>, Option<ModelError>) {
    let mut stream = match model.stream(request).await {
        Ok(stream) => stream,
        Err(error) => return (Vec::new(), Some(error)),
    };
    let mut events = Vec::new();
    while let Some(item) = stream.next().await {
        match item {
            Ok(event) => events.push(event),
            Err(error) => {
                assert!(stream.next().await.is_none(), "an error is the last word");
                return (events, Some(error));
            }
        }
    }
    assert!(matches!(events.last(), Some(ModelEvent::Finished(_))), "{events:?}");
    (events, None)
}

/// Joins the texts of an answer.
pub fn text(events: &[ModelEvent]) -> String {
    let texts = events.iter().filter_map(|event| match event {
        ModelEvent::Text(text) => Some(text.as_str()),
        _ => None,
    });
    texts.collect()
}
