//! Common to all vendors' HTTP APIs: one client, bounded answers, and a clear statement of what is known about the
//! effect after a failure.

use std::time::Duration;

use bytes::Bytes;
use copilotd_actors::compute;
use copilotd_actors::domain::ids::TenantId;
use copilotd_actors::ports::{ToolError, ToolErrorKind};
use reqwest::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap};
use reqwest::{Client, RequestBuilder, StatusCode};
use serde_json::Value;

use super::{InvalidConfig, failed, refused, unreadable};
use crate::response_body::{self, BodyError};

/// Longest answer of a vendor.
const MAX_ANSWER_BYTES: usize = 4 * 1024 * 1024;
/// A byte order mark, which some proxies put before JSON.
const MARK: &[u8] = b"\xef\xbb\xbf";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The answer, whatever its status.
#[derive(Debug)]
pub(crate) struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    /// Reads the body as a JSON object, whatever its content type says.
    pub async fn object(&self, vendor: &str, tenant: &TenantId) -> Result<Value, ToolError> {
        match parsed(tenant, self.body.clone()).await {
            Some(value) if value.is_object() => Ok(value),
            Some(_) => Err(unreadable(vendor, "an answer that is not a JSON object")),
            None => Err(unreadable(
                vendor,
                &format!("an answer that is not JSON{}", self.looks()),
            )),
        }
    }

    /// What a body that is not JSON looks like, for whoever has to find the proxy that sends it.
    fn looks(&self) -> &'static str {
        let header = |name| self.headers.get(name).and_then(|value| value.to_str().ok());
        let is_html = header(CONTENT_TYPE).is_some_and(|kind| kind.to_ascii_lowercase().contains("html"));
        if self.body.trim_ascii().is_empty() {
            " (it is empty)"
        } else if header(CONTENT_ENCODING).is_some_and(|coding| !coding.eq_ignore_ascii_case("identity")) {
            " (it is compressed, which it was not asked to be)"
        } else if is_html || self.body.trim_ascii_start().starts_with(b"<") {
            " (it looks like a web page: a proxy may stand in between)"
        } else {
            ""
        }
    }
}

/// Builds the client that all systems of all tenants share. It stores no cookies and follows no redirect: a redirected
/// call would send a tenant's credentials to an address that nobody configured.
pub fn client() -> Result<Client, InvalidConfig> {
    Client::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .redirect(reqwest::redirect::Policy::none())
        .user_agent(concat!("copilotd/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(|error| InvalidConfig {
            system: "http".into(),
            reason: format!("cannot build the HTTP client: {error}"),
        })
}

/// Parses an answer as JSON; a long one on the compute pool, within its tenant's share. `None` if it is not JSON.
async fn parsed(tenant: &TenantId, body: Bytes) -> Option<Value> {
    let (cost, parse) = (body.len(), move || {
        serde_json::from_slice(body.strip_prefix(MARK).unwrap_or(&body)).ok()
    });
    compute::run(Some(tenant), cost, parse).await.ok().flatten()
}

/// Sends one request and reads its whole answer.
pub(crate) async fn send(vendor: &str, request: RequestBuilder) -> Result<Answer, ToolError> {
    send_bounded(vendor, request, MAX_ANSWER_BYTES).await
}

/// Sends one request and reads its whole answer, of at most `most` bytes.
pub(crate) async fn send_bounded(vendor: &str, request: RequestBuilder, most: usize) -> Result<Answer, ToolError> {
    let mut response = request.send().await.map_err(|error| classify(vendor, error))?;
    let status = response.status();
    let headers = response.headers().clone();
    let body = response_body::read(&mut response, most).await;
    let body = body.map_err(|error| match error {
        BodyError::Network(error) => classify(vendor, error),
        // The vendor has done its part: only the answer is lost.
        error @ BodyError::TooLarge(_) => unreadable(vendor, &format!("{error}; the answer was dropped")),
    })?;
    Ok(Answer { status, headers, body })
}

/// Checks a configured address and brings it into the form that paths are appended to.
pub(crate) fn base_url(system: &'static str, text: &str) -> Result<String, InvalidConfig> {
    let invalid = |reason: &str| InvalidConfig {
        system: system.into(),
        reason: reason.to_owned(),
    };
    let url = reqwest::Url::parse(text).map_err(|error| invalid(&format!("base_url: {error}")))?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
        return Err(invalid("base_url must be an http or https address"));
    }
    if !url.username().is_empty() || url.password().is_some() || url.query().is_some() || url.fragment().is_some() {
        return Err(invalid("base_url must not contain credentials, a query or a fragment"));
    }
    Ok(url.as_str().trim_end_matches('/').to_owned())
}

fn classify(vendor: &str, error: reqwest::Error) -> ToolError {
    // The address may contain what the model searched for; it stays out of messages and logs.
    let error = error.without_url();
    if error.is_connect() {
        failed(
            ToolErrorKind::Unreachable,
            format!("{vendor} cannot be reached: {}", root_cause(&error)),
        )
    } else if error.is_builder() {
        refused(format!("a request to {vendor} cannot be built: {}", root_cause(&error)))
    } else {
        failed(
            ToolErrorKind::OutcomeUnknown,
            format!("the connection to {vendor} broke: {}", root_cause(&error)),
        )
    }
}

pub(super) fn root_cause(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}
