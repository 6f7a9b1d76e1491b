//! Models behind the OpenAI chat completions protocol: OpenAI's own and every server that speaks it.
//!
//! The request is made of async-openai's types. Its client is not used, for reasons that stand in its source
//! (`client.rs` of 0.43): it moves chunks through an unbounded channel from a task of its own, so that a slow reader
//! costs memory without bound and every stream a task more; it reads error bodies without bound and throws their
//! headers away, `Retry-After` among them; it puts bodies that it cannot parse, which hold what users and models
//! said, into the log; its event parser knows no longest line; and comments never come through, while a stream that
//! ends early ends like one that is done. What is needed instead is small: reqwest for the request, `sse` for
//! events, `chunk` for their meaning, `clocks` for silence, `errors` for classes.
//!
//! Nothing here repeats a request, except where HTTP/2 says that the server has not looked at it: retries, fallbacks and
//! limits are the gateway's. Nothing here logs.

mod chunk;
mod clocks;
mod config;
mod errors;
mod estimate;
mod hosts;
mod request;
mod retry_after;
mod sse;
mod stream;
mod strict;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use copilotd_actors::domain::command::FailureClass;
use copilotd_actors::domain::usage::Price;
use copilotd_actors::ports::{Model, ModelError, ModelRequest, ModelStream};
use reqwest::Url;
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use secrecy::ExposeSecret;
use tokio::time::{Instant, timeout_at};
use tracing::Instrument;

pub use clocks::Timeouts;
pub use config::{Dialect, InvalidDeployment, MaxTokensField, OpenAiConfig};
pub use hosts::Hosts;
pub use request::{build as build_request, user as user_hash};
pub use strict::allows_strict;

use crate::adapters::genai_span::{CallSpan, Peer};
use chunk::Decoder;
use clocks::Clocks;
use errors::Errors;
use estimate::Transcript;
use hosts::{Host, NoClient, Ticket};
use stream::Answer;

/// What is read of an answer that is not a stream.
const MAX_ERROR_BODY: usize = 64 * 1024;
/// How long that is waited for.
const ERROR_BODY_PATIENCE: Duration = Duration::from_secs(5);

/// One deployment of a model.
#[derive(Debug)]
pub struct OpenAi {
    url: Url,
    headers: HeaderMap,
    host: Arc<Host>,
    peer: Peer,
    errors: Errors,
    model: String,
    dialect: Dialect,
    timeouts: Timeouts,
    price: Option<Price>,
}

impl OpenAi {
    /// Makes the adapter of one deployment. Connects to nothing yet; connections are shared through `hosts`.
    pub fn new(config: OpenAiConfig, hosts: &Hosts) -> Result<Self, InvalidDeployment> {
        let invalid = |reason: String| InvalidDeployment {
            name: config.name.clone(),
            reason,
        };
        let url = config::endpoint(&config.base_url).map_err(invalid)?;
        if config.model.is_empty() {
            return Err(invalid("model is empty".to_owned()));
        }
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(ACCEPT, HeaderValue::from_static("text/event-stream"));
        let key = config.api_key.expose_secret();
        if !key.is_empty() {
            let value = secret_value(&format!("Bearer {key}"));
            headers.insert(
                AUTHORIZATION,
                value.ok_or_else(|| invalid("api_key holds characters that a header cannot".into()))?,
            );
        }
        for (name, value) in &config.headers {
            let header = HeaderName::from_bytes(name.as_bytes()).ok();
            let (header, value) = header
                .zip(secret_value(value.expose_secret()))
                .ok_or_else(|| invalid(format!("header {name:?} is not a header")))?;
            headers.insert(header, value);
        }
        let secrets = config
            .headers
            .iter()
            .map(|(_, value)| value.clone())
            .chain([config.api_key.clone()])
            .collect();
        let dialect = config.dialect;
        let host = hosts.host(
            &url,
            config.timeouts.connect,
            dialect.http2_cleartext,
            dialect.streams_per_connection,
        );
        // What keeps every call from going out, such as missing root certificates, is better known at start.
        if let Err(error @ NoClient::Setup(_)) = host.client() {
            return Err(invalid(error.to_string()));
        }
        let (address, port) = host.address();
        Ok(Self {
            peer: Peer {
                provider: "openai",
                model: config.model.clone(),
                address: address.to_owned(),
                port,
            },
            url,
            headers,
            host,
            errors: Errors::new(&config.name, secrets),
            model: config.model,
            dialect,
            timeouts: config.timeouts,
            price: config.price,
        })
    }

    async fn open(&self, request: ModelRequest, span: CallSpan) -> Result<ModelStream, (ModelError, CallSpan)> {
        let clocks = Clocks::start(self.timeouts, Instant::now());
        let (response, ticket) = match self.send(&request, &span, &clocks).await {
            Ok(sent) => sent,
            Err(error) => return Err((error, span)),
        };
        let decoder = Decoder::new(self.errors.clone(), request.response_schema.is_some());
        let transcript = Transcript::new(request.messages, request.tools);
        let errors = self.errors.clone();
        let answer = Answer::new(response, ticket, decoder, transcript, clocks, errors, self.price, span);
        Ok(answer.into_stream())
    }

    /// Sends the request and waits for the head of a stream.
    async fn send(
        &self,
        request: &ModelRequest,
        span: &CallSpan,
        clocks: &Clocks,
    ) -> Result<(reqwest::Response, Ticket), ModelError> {
        let body = serde_json::to_vec(&request::build(&self.model, &self.dialect, request)).map_err(|_| {
            self.errors
                .plain(FailureClass::Rejected, "the request could not be built")
        })?;
        let (client, ticket) = self.host.client().map_err(|error| match error {
            NoClient::Full => self.errors.plain(FailureClass::Overload, "too many streams are open"),
            NoClient::Setup(_) => self
                .errors
                .plain(FailureClass::Network, "the HTTP client could not be set up"),
        })?;
        let mut headers = self.headers.clone();
        span.inject(&mut headers);
        let sending = client
            .post(self.url.clone())
            .headers(headers)
            .body(Bytes::from(body))
            .send();
        let response = match timeout_at(clocks.due(), sending).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => return Err(self.errors.transport(&error)),
            Err(_) => return Err(self.silent(clocks)),
        };
        // Some servers name no type, or a plain one; a document or a page is surely not a stream.
        let kind = response
            .headers()
            .get(CONTENT_TYPE)
            .map_or(b"".as_slice(), HeaderValue::as_bytes);
        let is_document = kind.starts_with(b"application/json") || kind.starts_with(b"text/html");
        if response.status().is_success() && !is_document {
            return Ok((response, ticket));
        }
        Err(self.refusal(response, clocks).await)
    }

    /// Reads why there is no stream.
    async fn refusal(&self, mut response: reqwest::Response, clocks: &Clocks) -> ModelError {
        let status = response.status();
        let headers = std::mem::take(response.headers_mut());
        let mut body = Vec::new();
        // The status alone is an answer: a body that does not come, or never ends, takes nothing away from it.
        let patience = clocks.due().min(Instant::now() + ERROR_BODY_PATIENCE);
        while let Ok(Ok(Some(piece))) = timeout_at(patience, response.chunk()).await {
            let room = MAX_ERROR_BODY - body.len();
            body.extend_from_slice(&piece[..piece.len().min(room)]);
            if body.len() >= MAX_ERROR_BODY {
                break;
            }
        }
        if !status.is_success() {
            return self.errors.status(status, &headers, &body);
        }
        match serde_json::from_slice::<serde_json::Value>(&body)
            .ok()
            .as_ref()
            .and_then(|body| body.get("error"))
        {
            Some(error) if !error.is_null() => self.errors.in_stream(error),
            _ => self.errors.malformed("it did not answer with a stream"),
        }
    }

    fn silent(&self, clocks: &Clocks) -> ModelError {
        let silence = clocks
            .expired(Instant::now())
            .unwrap_or(clocks::Silence::FirstToken(self.timeouts.first_token));
        self.errors.silence(silence)
    }
}

#[async_trait]
impl Model for OpenAi {
    async fn stream(&self, request: ModelRequest) -> Result<ModelStream, ModelError> {
        let call = CallSpan::start(&self.peer, request.conversation, request.max_tokens);
        let span = call.span().clone();
        self.open(request, call)
            .instrument(span)
            .await
            .map_err(|(error, mut call)| {
                call.fail(error.class.code());
                error
            })
    }
}

fn secret_value(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}
