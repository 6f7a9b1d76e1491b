//! Where one deployment is reached: address, headers, connections, and the sending of one request.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use copilotd_actors::domain::command::FailureClass;
use copilotd_actors::ports::ModelError;
use reqwest::Url;
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use secrecy::{ExposeSecret, SecretString};
use tokio::time::{Instant, timeout_at};

use super::clocks::{Clocks, Silence};
use super::errors::Errors;
use super::hosts::{Host, Hosts, NoClient, Ticket};
use crate::adapters::genai_span::{CallSpan, Peer};

/// What is read of an answer that is an error.
const MAX_ERROR_BODY: usize = 64 * 1024;
/// How long that is waited for.
const ERROR_BODY_PATIENCE: Duration = Duration::from_secs(5);
/// Longest answer that is taken as one document.
pub const MAX_DOCUMENT: usize = 8 * 1024 * 1024;

/// The configuration of a deployment is not usable. The text names no secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("model deployment {name}: {reason}")]
pub struct InvalidDeployment {
    /// The deployment.
    pub name: String,
    /// What is wrong.
    pub reason: String,
}

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accept {
    /// Server-sent events.
    Stream,
    /// One JSON document.
    Document,
}

/// The way to one deployment.
#[derive(Debug)]
pub struct Door {
    url: Url,
    headers: HeaderMap,
    host: Arc<Host>,
    errors: Errors,
}

impl Door {
    /// Opens the way to `url`. Connects to nothing yet; connections are shared through `hosts`. `headers` go with each
    /// request, and what is among them or in `secrets` never comes back in an error.
    #[expect(
        clippy::too_many_arguments,
        reason = "each provider's adapter has one call site, with each of them at hand"
    )]
    pub fn new(
        name: &str,
        url: Url,
        headers: &[(String, SecretString)],
        secrets: Vec<SecretString>,
        hosts: &Hosts,
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
                .ok_or_else(|| invalid(format!("header {name:?} is not a header")))?;
            all.insert(header, value);
        }
        let secrets = headers.iter().map(|(_, value)| value.clone()).chain(secrets).collect();
        let host = hosts.host(&url, connect, http2_cleartext, streams_per_connection);
        // What keeps every call from going out, such as missing root certificates, is better known at start.
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

    /// Describes who is called, for traces.
    pub fn peer(&self, provider: &'static str, model: &str) -> Peer {
        let (address, port) = self.host.address();
        Peer {
            provider,
            model: model.to_owned(),
            address: address.to_owned(),
            port,
        }
    }

    /// Returns what makes this deployment's errors.
    pub fn errors(&self) -> &Errors {
        &self.errors
    }

    /// Sends `body` and waits for the head of a good answer.
    pub async fn send(
        &self,
        body: Bytes,
        accept: Accept,
        span: &CallSpan,
        clocks: &Clocks,
    ) -> Result<(reqwest::Response, Ticket), ModelError> {
        let (client, ticket) = self.host.client().map_err(|error| match error {
            NoClient::Full => self.errors.plain(FailureClass::Overload, "too many streams are open"),
            NoClient::Setup(_) => self
                .errors
                .plain(FailureClass::Network, "the HTTP client could not be set up"),
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
        let is_wanted = match accept {
            Accept::Stream => !kind.starts_with(b"application/json") && !kind.starts_with(b"text/html"),
            Accept::Document => !kind.starts_with(b"text/html"),
        };
        if response.status().is_success() && is_wanted {
            return Ok((response, ticket));
        }
        Err(self.refusal(response, accept, clocks).await)
    }

    /// Reads the answer as one document, before the clocks run out.
    pub async fn document(&self, mut response: reqwest::Response, clocks: &Clocks) -> Result<Bytes, ModelError> {
        let mut body = Vec::new();
        loop {
            match timeout_at(clocks.due(), response.chunk()).await {
                Ok(Ok(Some(piece))) if body.len() + piece.len() > MAX_DOCUMENT => {
                    return Err(self.errors.malformed("it sent an answer that is too long"));
                }
                Ok(Ok(Some(piece))) => body.extend_from_slice(&piece),
                Ok(Ok(None)) => return Ok(body.into()),
                Ok(Err(error)) => return Err(self.errors.body(&error)),
                Err(_) => return Err(self.silent(clocks)),
            }
        }
    }

    /// Reads why there is no answer.
    async fn refusal(&self, mut response: reqwest::Response, accept: Accept, clocks: &Clocks) -> ModelError {
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
            _ => self.errors.malformed(match accept {
                Accept::Stream => "it did not answer with a stream",
                Accept::Document => "it did not answer with a document",
            }),
        }
    }

    fn silent(&self, clocks: &Clocks) -> ModelError {
        self.errors.silence(
            clocks
                .expired(Instant::now())
                .unwrap_or(Silence::Total(clocks.limits().total)),
        )
    }
}

/// Makes a header's value that is never shown.
pub fn secret_value(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}
