//! The endpoint of one deployment: address, headers, connections, and sending one request.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use copilotd_actors::domain::failure::FailureClass;
use copilotd_actors::ports::ModelError;
use copilotd_gateway::provider::CallProgress;
use futures::StreamExt;
use reqwest::Url;
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use secrecy::{ExposeSecret, SecretString};
use tokio::time::{Instant, timeout_at};

use super::body::{self, BodyError};
use super::connection_pool::{ConnectionPool, HostPool, NoClient, StreamPermit};
use super::deadlines::{Deadlines, TimedOut};
use super::errors::Errors;
use super::memory::MemoryShare;
use crate::adapters::llm::genai_span::{CallSpan, Peer};
use crate::response_body;

/// Most bytes that are read of an error's body.
const MAX_ERROR_BODY: usize = 64 * 1024;
/// How long an error's body is waited for.
const ERROR_BODY_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest answer that is accepted as one document.
pub const MAX_DOCUMENT: usize = 8 * 1024 * 1024;

/// The configuration of a deployment is unusable. The text contains no secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("model deployment {name}: {reason}")]
pub struct InvalidDeployment {
    pub name: String,
    pub reason: String,
}

/// The requested form of the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accept {
    /// Server-sent events.
    Stream,
    /// One JSON document.
    Document,
}

/// Why there is no answer.
#[derive(Debug)]
pub struct SendError {
    /// The error for the caller.
    pub error: ModelError,
    /// The status of the provider's answer, if there was one.
    pub status: Option<u16>,
    /// The provider's error body, verbatim; may be empty. Never shown: it may contain a key.
    pub said: String,
}

impl From<ModelError> for SendError {
    fn from(error: ModelError) -> Self {
        Self {
            error,
            status: None,
            said: String::new(),
        }
    }
}

impl From<SendError> for ModelError {
    fn from(refused: SendError) -> Self {
        refused.error
    }
}

/// The endpoint of one deployment.
#[derive(Debug)]
pub struct Endpoint {
    url: Url,
    headers: HeaderMap,
    host: Arc<HostPool>,
    errors: Errors,
}

impl Endpoint {
    /// Creates an endpoint for `url`. Does not connect yet; connections are shared through `hosts`. `headers` are sent
    /// with each request, and neither their values nor `secrets` ever appear in an error.
    #[expect(
        clippy::too_many_arguments,
        reason = "each provider's adapter has one call site, with all of them at hand"
    )]
    pub fn new(
        name: &str,
        url: Url,
        headers: &[(String, SecretString)],
        secrets: Vec<SecretString>,
        hosts: &ConnectionPool,
        connect: Duration,
        http2_cleartext: bool,
        streams_per_connection: usize,
    ) -> Result<Self, InvalidDeployment> {
        let invalid = |reason: String| InvalidDeployment {
            name: name.to_owned(),
            reason,
        };
        let mut all = HeaderMap::new();
        all.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        for (name, value) in headers {
            let header = HeaderName::from_bytes(name.as_bytes()).ok();
            let (header, value) = header
                .zip(secret_value(value.expose_secret()))
                .ok_or_else(|| invalid(format!("header {name:?}: invalid name or value")))?;
            all.insert(header, value);
        }
        let secrets = headers.iter().map(|(_, value)| value.clone()).chain(secrets).collect();
        let host = hosts.host(&url, connect, http2_cleartext, streams_per_connection);
        // What prevents every call, such as missing root certificates, is better reported at start.
        if let Err(error @ NoClient::Setup(_)) = host.client() {
            return Err(invalid(error.to_string()));
        }
        Ok(Self {
            url,
            headers: all,
            host,
            errors: Errors::new(name, secrets),
        })
    }

    /// Describes the peer, for traces.
    pub fn peer(&self, provider: &'static str, model: &str) -> Peer {
        let (address, port) = self.host.address();
        Peer {
            provider,
            model: model.to_owned(),
            address: address.to_owned(),
            port,
        }
    }

    /// Returns the deployment's name.
    pub fn name(&self) -> &str {
        self.errors.name()
    }

    /// Returns the factory of this deployment's errors.
    pub fn errors(&self) -> &Errors {
        &self.errors
    }

    /// Sends `body` and waits for the head of a successful answer.
    pub async fn send(
        &self,
        body: Bytes,
        accept: Accept,
        span: &CallSpan,
        deadlines: &Deadlines,
        progress: &CallProgress,
    ) -> Result<(reqwest::Response, StreamPermit), SendError> {
        progress.refused();
        let (client, permit) = self.host.client().map_err(|error| match error {
            NoClient::Full => self
                .errors
                .plain(FailureClass::Overload, "too many streams to this provider are open"),
            NoClient::Setup(_) => self
                .errors
                .plain(FailureClass::Network, "cannot set up the HTTP client"),
        })?;
        let mut headers = self.headers.clone();
        headers.insert(
            ACCEPT,
            HeaderValue::from_static(match accept {
                Accept::Stream => "text/event-stream",
                Accept::Document => "application/json",
            }),
        );
        span.inject(&mut headers);
        let sending = client.post(self.url.clone()).headers(headers).body(body).send();
        progress.sending();
        let response = match timeout_at(deadlines.due(), sending).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => {
                if error.is_connect() || error.is_builder() {
                    progress.refused();
                }
                return Err(self.errors.transport(&error).into());
            }
            Err(_) => return Err(self.silent(deadlines).into()),
        };
        // The content type says little: some servers send none, a plain one or a wrong one. The answer is read if
        // possible.
        if response.status().is_success() {
            progress.accepted();
            return Ok((response, permit));
        }
        progress.refused();
        Err(self.refusal(response, deadlines).await)
    }

    /// Reads the answer as one document, within the deadlines.
    pub async fn document(&self, response: reqwest::Response, deadlines: &Deadlines) -> Result<Bytes, ModelError> {
        let mut pieces = body::open(response);
        let (mut body, mut memory) = (Vec::new(), MemoryShare::default());
        loop {
            match timeout_at(deadlines.due(), pieces.next()).await {
                Ok(Some(Ok(piece))) if body.len() + piece.len() > MAX_DOCUMENT => {
                    return Err(self.errors.malformed("the provider sent an answer that is too long"));
                }
                Ok(Some(Ok(piece))) => {
                    let full = |_| {
                        self.errors
                            .plain(FailureClass::Overload, "this process is reading too many large answers")
                    };
                    memory.hold(body.len() + piece.len()).map_err(full)?;
                    body.extend_from_slice(&piece);
                }
                Ok(None) => return Ok(body.into()),
                Ok(Some(Err(BodyError::Network(error)))) => return Err(self.errors.body(&error)),
                Ok(Some(Err(BodyError::Encoding))) => {
                    return Err(self
                        .errors
                        .malformed("the provider sent an answer that cannot be decompressed"));
                }
                Err(_) => return Err(self.silent(deadlines)),
            }
        }
    }

    /// Reads why there is no answer.
    async fn refusal(&self, mut response: reqwest::Response, deadlines: &Deadlines) -> SendError {
        let status = response.status();
        let headers = std::mem::take(response.headers_mut());
        let mut body = Vec::new();
        // The status alone is an answer: a body that does not come, or never ends, does not change it.
        let deadline = deadlines.due().min(Instant::now() + ERROR_BODY_TIMEOUT);
        let read = response_body::read_start(&mut response, &mut body, MAX_ERROR_BODY);
        let _ = timeout_at(deadline, read).await;
        SendError {
            error: self.errors.status(status, &headers, &body),
            status: Some(status.as_u16()),
            said: String::from_utf8_lossy(&body).into_owned(),
        }
    }

    fn silent(&self, deadlines: &Deadlines) -> ModelError {
        self.errors.silence(
            deadlines
                .expired(Instant::now())
                .unwrap_or(TimedOut::Total(deadlines.limits().total)),
        )
    }
}

/// Creates a header value that is never shown.
pub fn secret_value(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}
