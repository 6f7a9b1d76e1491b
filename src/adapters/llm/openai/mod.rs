//! Models behind the OpenAI chat completions protocol: OpenAI's own and every compatible server.
//!
//! The request is built from async-openai's types. Its client is not used, for reasons found in its source (`client.rs`
//! of 0.43): it moves chunks through an unbounded channel from a task of its own, so that a slow reader costs unbounded
//! memory and every stream one more task; it reads error bodies without bound and drops their headers, `Retry-After`
//! among them; it logs bodies that it cannot parse, which contain what users and models said; its event parser has no
//! longest line; and comments never come through, while a stream that ends early looks like one that is complete. What
//! is needed instead is small: reqwest for the request, `provider` for connections, events, deadlines and error
//! classes, `chunk` and `document` for the content.
//!
//! The body is the caller's, byte for byte, except for the fields that a deployment decides on (`wire`).

mod assembled;
mod chunk;
mod config;
mod document;
mod embeddings;
mod read;
mod rewrite;
mod wire;

use std::sync::Arc;

use async_trait::async_trait;
use copilotd_actors::compute;
use copilotd_actors::domain::content::Finish;
use copilotd_actors::domain::usage::{Price, Usage};
use copilotd_actors::ports::{ModelError, ModelEvent};
use secrecy::ExposeSecret;
use tokio::time::Instant;
use tracing::Instrument;

pub use config::{Auth, Dialect, MaxTokensField, OpenAiConfig};
pub use wire::write;

pub use super::provider::{AddedParameters, ConnectionPool, InvalidDeployment, RejectedParameters};
pub use copilotd_gateway::provider::Timeouts;

use copilotd_gateway::provider::{CallProgress, PieceStream, Upstream, UpstreamCall, WholeAnswer};
use copilotd_gateway::request::embed::{EmbedAnswer, EmbedBody};
use copilotd_gateway::request::prompt_tokens::count_inputs;

use super::genai_span::{CallSpan, Operation, Peer};
use super::provider::{Accept, Answer, Deadlines, Endpoint, StreamPermit, Transcript, endpoint};
use chunk::{AnswerOptions, Decoder};

/// One deployment of a model.
#[derive(Debug)]
pub struct OpenAi {
    endpoint: Endpoint,
    embeddings: Endpoint,
    peer: Peer,
    model: String,
    dialect: Dialect,
    learned: Arc<RejectedParameters>,
    price: Option<Price>,
}

impl OpenAi {
    /// Creates the adapter of one deployment. Does not connect yet; connections are shared through `hosts`.
    pub fn new(config: OpenAiConfig, hosts: &ConnectionPool) -> Result<Self, InvalidDeployment> {
        let invalid = |reason: String| InvalidDeployment {
            name: config.name.clone(),
            reason,
        };
        let url = |resource: &[&str]| endpoint(&config.base_url, resource).map_err(invalid);
        if config.model.is_empty() {
            return Err(invalid("model is empty".to_owned()));
        }
        let mut headers = config.headers.clone();
        let key = config.api_key.expose_secret();
        if !key.is_empty() {
            if key.chars().any(|c| c.is_control() || !c.is_ascii()) {
                return Err(invalid(
                    "api_key contains characters that are not allowed in a header".to_owned(),
                ));
            }
            headers.insert(0, config.auth.header(key));
        }
        let endpoint = |resource: &[&str]| {
            Endpoint::new(
                &config.name,
                url(resource)?,
                &headers,
                vec![config.api_key.clone()],
                hosts,
                config.connect,
                config.dialect.http2_cleartext,
                config.dialect.streams_per_connection,
            )
        };
        let (endpoint, embeddings) = (endpoint(&["chat", "completions"])?, endpoint(&["embeddings"])?);
        Ok(Self {
            peer: endpoint.peer("openai", &config.model),
            learned: hosts.learned(&format!("{} {}", config.base_url, config.model)),
            endpoint,
            embeddings,
            model: config.model,
            dialect: config.dialect,
            price: config.price,
        })
    }

    /// Sends a request. If a parameter that we added is rejected, sends it again without: the provider has done nothing
    /// yet.
    async fn send(
        &self,
        call: &UpstreamCall,
        accept: Accept,
        span: &CallSpan,
        deadlines: &Deadlines,
    ) -> Result<(reqwest::Response, StreamPermit), ModelError> {
        let mut left_out = self.learned.left_out();
        loop {
            let is_stream = accept == Accept::Stream;
            let (body, added) = wire::write(call, &self.model, &self.dialect, is_stream, left_out);
            match self.endpoint.send(body, accept, span, deadlines, &call.progress).await {
                Ok(sent) => {
                    self.learned.learn(left_out, self.endpoint.name());
                    return Ok(sent);
                }
                Err(refused) => {
                    let named = added.refused(&refused);
                    if named.is_empty() {
                        return Err(refused.error);
                    }
                    left_out = left_out | named;
                }
            }
        }
    }

    async fn open(&self, call: &UpstreamCall, span: CallSpan) -> Result<PieceStream, (ModelError, CallSpan)> {
        let deadlines = Deadlines::start(call.timeouts, Instant::now());
        let (response, permit) = match self.send(call, Accept::Stream, &span, &deadlines).await {
            Ok(sent) => sent,
            Err(error) => return Err((error, span)),
        };
        let options = AnswerOptions {
            chunks: call.chunks,
            include_usage: call.body.include_usage(),
            has_schema: call.body.has_schema(),
            choices: call.body.choices(),
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
        let (response, _permit) = self.send(call, Accept::Document, span, &deadlines).await?;
        let body = self.endpoint.document(response, &deadlines).await?;
        let mut transcript = transcript(call);
        let (size, choices, errors) = (body.len(), call.body.choices(), self.endpoint.errors().clone());
        let read = move || {
            let assembled = assembled::document(&body, choices, &errors, &transcript);
            let body = match assembled.transpose() {
                Ok(assembled) => assembled.unwrap_or(body),
                Err(error) => return (Err(error), transcript),
            };
            let meaning = document::read(&body, &errors, &mut transcript);
            (meaning.map(|meaning| (meaning, body)), transcript)
        };
        let read = compute::run(call.tenant.as_ref(), size, read).await;
        let (read, transcript) = read.map_err(|error| self.endpoint.errors().not_computed(error))?;
        let (meaning, body) = read.inspect_err(|error| call.progress.failed_unanswered(error))?;
        let mut usage = transcript.completed(meaning.usage).await;
        usage.cost = self.price.map_or(0, |price| price.cost(&usage));
        let model = meaning.model.clone().unwrap_or_else(|| self.model.clone());
        span.event(&ModelEvent::Model(model.clone()));
        span.event(&ModelEvent::Usage(usage));
        span.event(&ModelEvent::Finished(meaning.finish));
        Ok(WholeAnswer {
            body: meaning.body(body, &usage),
            model,
            usage,
            finish: meaning.finish,
        })
    }

    async fn ask_embeddings(
        &self,
        body: &EmbedBody,
        timeouts: Timeouts,
        span: &mut CallSpan,
        progress: &CallProgress,
    ) -> Result<EmbedAnswer, ModelError> {
        let (deadlines, request) = (Deadlines::whole(timeouts, Instant::now()), body.write(&self.model));
        let sent = self
            .embeddings
            .send(request, Accept::Document, span, &deadlines, progress);
        let (response, _permit) = sent.await?;
        let answer = self.embeddings.document(response, &deadlines).await?;
        let (document, errors) = (answer.clone(), self.embeddings.errors().clone());
        let wanted = body.inputs().len();
        let read = compute::run(None, answer.len(), move || embeddings::read(&document, wanted, &errors)).await;
        let read = read.map_err(|error| self.embeddings.errors().not_computed(error))?;
        let mut usage = match read.inspect_err(|error| progress.failed_unanswered(error))? {
            Some(usage) => usage,
            None => counted(body).await,
        };
        usage.cost = self.price.map_or(0, |price| price.cost(&usage));
        span.event(&ModelEvent::Usage(usage));
        span.event(&ModelEvent::Finished(Finish::Stop));
        Ok(EmbedAnswer { body: answer, usage })
    }

    fn span(&self, call: &UpstreamCall, stream: bool) -> CallSpan {
        CallSpan::start(
            &self.peer,
            Operation::Chat,
            call.conversation,
            call.body.max_tokens(),
            stream,
        )
    }
}

fn transcript(call: &UpstreamCall) -> Transcript {
    Transcript::new(Arc::clone(&call.body), Arc::clone(&call.progress)).of_tenant(call.tenant.as_ref())
}

/// Estimates the usage of embeddings where the provider does not report it.
async fn counted(body: &EmbedBody) -> Usage {
    let counted = count_inputs(None, body).await;
    Usage {
        // A coarse number is better than none.
        prompt_tokens: counted.unwrap_or(body.size() as u64 / 4),
        estimated: true,
        ..Usage::default()
    }
}

#[async_trait]
impl Upstream for OpenAi {
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

    async fn embed(
        &self,
        body: &EmbedBody,
        timeouts: Timeouts,
        progress: &CallProgress,
    ) -> Result<EmbedAnswer, ModelError> {
        let mut span = CallSpan::start(&self.peer, Operation::Embeddings, None, None, false);
        let inside = span.span().clone();
        let asked = self.ask_embeddings(body, timeouts, &mut span, progress);
        let answer = asked.instrument(inside).await;
        if let Err(error) = &answer {
            span.fail(error.class.code());
        }
        answer
    }
}
