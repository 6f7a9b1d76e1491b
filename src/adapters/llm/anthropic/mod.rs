//! Models behind Anthropic's Messages API.
//!
//! Inside the gateway a request is an OpenAI chat body and an answer is OpenAI's: `request` translates the former to
//! Anthropic's format, `decoder` and `document` the latter to OpenAI's. What the Messages API cannot express is refused
//! with [`RefusedBy::Adapter`](copilotd_actors::ports::RefusedBy::Adapter), so that the route's next target is tried.
//!
//! Thinking is passed on as `reasoning_content`, as self-hosted servers do. It is sent again as `thinking_blocks`,
//! signatures included: the API wants them back with the calls that they led to, in a member of that name of the
//! assistant's message.

mod chunk;
mod config;
mod decoder;
mod document;
mod request;
mod wire;

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use copilotd_actors::compute;
use copilotd_actors::domain::usage::Price;
use copilotd_actors::ports::{ModelError, ModelEvent};
use jiff::Timestamp;
use reqwest::header::HeaderMap;
use tokio::time::Instant;
use tracing::Instrument;

pub use config::{AnthropicConfig, Auth, MAX_TOKENS};
pub use request::{TranslateOptions, Unsupported, write};

use copilotd_gateway::provider::{CallProgress, PieceStream, Timeouts, Upstream, UpstreamCall, WholeAnswer};
use copilotd_gateway::request::embed::{EmbedAnswer, EmbedBody};

use super::genai_span::{CallSpan, Operation, Peer};
use super::provider::{
    Accept, Answer, ConnectionPool, Deadlines, Endpoint, InvalidDeployment, Transcript, endpoint, sent_at,
};
use decoder::{AnswerOptions, Decoder};

/// Most streams of one HTTP/2 connection; Anthropic allows 100.
const STREAMS_PER_CONNECTION: usize = 100;

/// One deployment of a model.
#[derive(Debug)]
pub struct Anthropic {
    endpoint: Endpoint,
    peer: Peer,
    model: String,
    max_tokens: u64,
    price: Option<Price>,
}

impl Anthropic {
    /// Creates the adapter of one deployment. Does not connect yet; connections are shared through `hosts`.
    pub fn new(config: AnthropicConfig, hosts: &ConnectionPool) -> Result<Self, InvalidDeployment> {
        let invalid = |reason: String| InvalidDeployment {
            name: config.name.clone(),
            reason,
        };
        if config.model.is_empty() {
            return Err(invalid("model is empty".to_owned()));
        }
        let endpoint = Endpoint::new(
            &config.name,
            endpoint(&config.base_url, &["messages"]).map_err(invalid)?,
            &config.all_headers().map_err(invalid)?,
            vec![config.api_key.clone()],
            hosts,
            config.connect,
            config.http2_cleartext,
            STREAMS_PER_CONNECTION,
        )?;
        Ok(Self {
            peer: endpoint.peer("anthropic", &config.model),
            endpoint,
            model: config.model,
            max_tokens: config.max_tokens,
            price: config.price,
        })
    }

    /// Translates the request to Anthropic's format; a large one on the compute pool.
    async fn body(&self, call: &UpstreamCall, stream: bool) -> Result<Bytes, ModelError> {
        let (body, model, max_tokens) = (Arc::clone(&call.body), self.model.clone(), self.max_tokens);
        // A request that cannot be translated is never sent.
        call.progress.refused();
        // A turn's answer is validated against its schema by the core.
        let is_checked = call.conversation.is_some();
        let write = move || {
            let options = TranslateOptions {
                model: &model,
                max_tokens,
                stream,
                is_checked,
            };
            request::write(&body, options)
        };
        let errors = self.endpoint.errors();
        compute::run(call.tenant.as_ref(), call.body.size(), write)
            .await
            .map_err(|error| errors.not_computed(error))?
            .map_err(|Unsupported { param, why }| errors.unsupported(&param, &why))
    }

    async fn open(&self, call: &UpstreamCall, span: CallSpan) -> Result<PieceStream, (ModelError, CallSpan)> {
        let deadlines = Deadlines::start(call.timeouts, Instant::now());
        let sent = match self.body(call, true).await {
            Ok(body) => {
                let sent = self
                    .endpoint
                    .send(body, Accept::Stream, &span, &deadlines, &call.progress)
                    .await;
                sent.map_err(ModelError::from)
            }
            Err(error) => Err(error),
        };
        let (response, permit) = match sent {
            Ok(sent) => sent,
            Err(error) => return Err((error, span)),
        };
        let options = AnswerOptions {
            chunks: call.chunks,
            include_usage: call.body.include_usage(),
            created: created(response.headers()),
        };
        let errors = self.endpoint.errors().clone();
        let decoder = Decoder::new(errors.clone(), options);
        let answer = Answer::new(
            response,
            permit,
            decoder,
            transcript(call),
            deadlines,
            errors,
            self.price,
            span,
            Arc::clone(&call.progress),
        );
        Ok(answer.into_stream())
    }

    async fn ask(&self, call: &UpstreamCall, span: &mut CallSpan) -> Result<WholeAnswer, ModelError> {
        let deadlines = Deadlines::whole(call.timeouts, Instant::now());
        let body = self.body(call, false).await?;
        let (response, _permit) = self
            .endpoint
            .send(body, Accept::Document, span, &deadlines, &call.progress)
            .await?;
        let created = created(response.headers());
        let body = self.endpoint.document(response, &deadlines).await?;
        let mut transcript = transcript(call);
        let (size, errors) = (body.len(), self.endpoint.errors().clone());
        let read = move || {
            let document = document::read(&body, &errors, &mut transcript);
            (document, transcript)
        };
        let read = compute::run(call.tenant.as_ref(), size, read).await;
        let (document, transcript) = read.map_err(|error| self.endpoint.errors().not_computed(error))?;
        let document = document.inspect_err(|error| call.progress.failed_unanswered(error))?;
        let mut usage = transcript.completed(document.usage).await;
        usage.cost = self.price.map_or(0, |price| price.cost(&usage));
        let model = document.model.clone().unwrap_or_else(|| self.model.clone());
        span.event(&ModelEvent::Model(model.clone()));
        span.event(&ModelEvent::Usage(usage));
        span.event(&ModelEvent::Finished(document.finish));
        Ok(WholeAnswer {
            body: document.completion(&model, created, &usage),
            model,
            usage,
            finish: document.finish,
        })
    }

    fn span(&self, call: &UpstreamCall, stream: bool) -> CallSpan {
        let max_tokens = call.body.max_tokens().unwrap_or(self.max_tokens);
        CallSpan::start(&self.peer, Operation::Chat, call.conversation, Some(max_tokens), stream)
    }
}

fn transcript(call: &UpstreamCall) -> Transcript {
    Transcript::new(Arc::clone(&call.body), Arc::clone(&call.progress)).of_tenant(call.tenant.as_ref())
}

#[async_trait]
impl Upstream for Anthropic {
    async fn stream(&self, call: &UpstreamCall) -> Result<PieceStream, ModelError> {
        let span = self.span(call, true);
        let inside = span.span().clone();
        self.open(call, span)
            .instrument(inside)
            .await
            .map_err(|(error, mut span)| {
                span.fail(error.class.code());
                error
            })
    }

    async fn whole(&self, call: &UpstreamCall) -> Result<WholeAnswer, ModelError> {
        let mut span = self.span(call, false);
        let inside = span.span().clone();
        let answer = self.ask(call, &mut span).instrument(inside).await;
        if let Err(error) = &answer {
            span.fail(error.class.code());
        }
        answer
    }

    async fn embed(&self, _: &EmbedBody, _: Timeouts, progress: &CallProgress) -> Result<EmbedAnswer, ModelError> {
        progress.refused();
        Err(self
            .endpoint
            .errors()
            .unsupported("input", "embeddings are not supported"))
    }
}

/// Returns when an answer was created, in seconds since 1970.
fn created(headers: &HeaderMap) -> i64 {
    Timestamp::try_from(sent_at(headers)).map_or(0, Timestamp::as_second)
}
