//! The HTTP side of Zendesk: credentials, errors, rate headers, cursor paging.

use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use copilotd_actors::domain::ids::TenantId;
use copilotd_actors::ports::{ToolError, ToolErrorKind};
use reqwest::header::{AUTHORIZATION, HeaderValue};
use reqwest::{Client, Method, StatusCode};
use secrecy::ExposeSecret;
use serde_json::Value;

use super::{ZendeskAuth, ZendeskConfig};
use crate::adapters::systems::tools::http::{self, Answer};
use crate::adapters::systems::tools::member::{as_flag, as_text, at, take_member};
use crate::adapters::systems::tools::run::{Progress, Session};
use crate::adapters::systems::tools::{InvalidConfig, failed, rate, text, unreadable};

/// Longest error text of the vendor that is passed on.
const MAX_ERROR_BYTES: usize = 600;
/// Zendesk's own largest page size.
const PAGE: usize = 100;

/// One tenant's access; shared by all calls.
pub(crate) struct Api {
    client: Client,
    base: String,
    authorization: HeaderValue,
}

impl Api {
    pub fn new(config: &ZendeskConfig, client: Client) -> Result<Self, InvalidConfig> {
        let credentials = match &config.auth {
            ZendeskAuth::Token { email, token } => {
                let pair = format!("{email}/token:{}", token.expose_secret());
                format!("Basic {}", BASE64_STANDARD.encode(pair))
            }
            ZendeskAuth::OAuth(token) => format!("Bearer {}", token.expose_secret()),
        };
        let mut authorization = HeaderValue::from_str(&credentials).map_err(|_| InvalidConfig {
            system: "zendesk".into(),
            reason: "the token contains characters that are not allowed in an HTTP header".into(),
        })?;
        authorization.set_sensitive(true);
        Ok(Self {
            client,
            base: http::base_url("zendesk", &config.base_url)?,
            authorization,
        })
    }

    /// Base address of the account, without a slash at its end.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// Address of a ticket for people.
    pub fn ticket_url(&self, id: impl std::fmt::Display) -> String {
        format!("{}/agent/tickets/{id}", self.base)
    }

    /// Begins a request below the API's root.
    pub fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        let address = format!("{}/api/v2/{path}.json", self.base);
        let request = self.client.request(method, address);
        request
            .header(AUTHORIZATION, self.authorization.clone())
            .header("accept", "application/json")
    }
}

/// One call of a tool: may be several requests.
pub(crate) struct Call {
    api: Arc<Api>,
    tenant: TenantId,
    progress: Progress,
}

impl Session for Call {
    const VENDOR: &'static str = "zendesk";

    fn progress(&self) -> &Progress {
        &self.progress
    }
}

/// The request of a change.
pub(crate) struct Change<'a> {
    pub method: Method,
    pub path: &'a str,
    pub body: Value,
    /// Only the creation of tickets supports it.
    pub idempotency_key: Option<String>,
}

impl Call {
    pub fn new(api: &Arc<Api>, tenant: &TenantId) -> Self {
        Self {
            api: Arc::clone(api),
            tenant: tenant.clone(),
            progress: Progress::default(),
        }
    }

    /// Address of a ticket for people.
    pub fn ticket_url(&self, id: u64) -> String {
        self.api.ticket_url(id)
    }

    /// Reads one document.
    pub async fn get(&self, path: &str, query: &[(&str, String)]) -> Result<Value, ToolError> {
        self.exchange(Method::GET, path, |request| request.query(query)).await
    }

    /// Sends one change.
    pub async fn change(&self, change: Change<'_>) -> Result<Value, ToolError> {
        self.progress.mark_effect_sent();
        self.exchange(change.method, change.path, |request| {
            let request = request.json(&change.body);
            match &change.idempotency_key {
                Some(key) => request.header("Idempotency-Key", key),
                None => request,
            }
        })
        .await
    }

    /// Reads at most `max` items of the list `key`, page by page; also returns whether there are more. Only our own
    /// path is requested, with the vendor's cursor: an address in an answer is not followed.
    pub async fn list(
        &self,
        path: &str,
        key: &str,
        query: &[(&str, String)],
        max: usize,
    ) -> Result<(Vec<Value>, bool), ToolError> {
        let mut items = Vec::new();
        let mut after: Option<String> = None;
        loop {
            let mut query = query.to_vec();
            query.push(("page[size]", (max - items.len()).min(PAGE).to_string()));
            let asked = after.take();
            query.extend(asked.clone().map(|cursor| ("page[after]", cursor)));
            let mut page = self.get(path, &query).await?;
            let Value::Array(found) = take_member(&mut page, key) else {
                return Err(unusable(format!("an answer without a list of {key}")));
            };
            let empty = found.is_empty();
            items.extend(found);
            // An account may still answer such a list with offset pages, which have no `meta`.
            let has_more = as_flag(at(&page, &["meta", "has_more"])) == Some(true);
            let more = has_more || at(&page, &["next_page"]).is_string();
            if items.len() >= max {
                let more = more || items.len() > max;
                items.truncate(max);
                return Ok((items, more));
            }
            let next = as_text(at(&page, &["meta", "after_cursor"])).filter(|cursor| !cursor.is_empty());
            // The same page again would repeat for ever.
            if !more || empty || next.is_none() || next == asked {
                return Ok((items, more));
            }
            after = next;
        }
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        finish: impl FnOnce(reqwest::RequestBuilder) -> reqwest::RequestBuilder,
    ) -> Result<Value, ToolError> {
        let request = self.api.request(method, path);
        let answer = http::send(Self::VENDOR, finish(request)).await?;
        self.progress.record_rate(rate::hint(&answer.headers));
        if !answer.status.is_success() {
            return Err(refusal(&answer));
        }
        answer.object(Self::VENDOR, &self.tenant).await
    }
}

/// Returns whether a refusal is Zendesk's answer to a change of an outdated version of the ticket.
pub(crate) fn is_conflict(error: &ToolError) -> bool {
    is_refusal(error, StatusCode::CONFLICT)
}

/// Returns whether Zendesk says that the requested object does not exist, or not any more.
pub(crate) fn is_gone(error: &ToolError) -> bool {
    is_refusal(error, StatusCode::NOT_FOUND) || is_refusal(error, StatusCode::GONE)
}

fn is_refusal(error: &ToolError, status: StatusCode) -> bool {
    let code = error.message.strip_prefix(ANSWERED).and_then(|rest| rest.get(..3));
    error.kind == ToolErrorKind::Refused && code == Some(status.as_str())
}

const ANSWERED: &str = "zendesk answered ";

pub(crate) fn unusable(what: impl std::fmt::Display) -> ToolError {
    unreadable(Call::VENDOR, &what.to_string())
}

pub(super) fn refusal(answer: &Answer) -> ToolError {
    let status = answer.status;
    let kind = match status {
        StatusCode::TOO_MANY_REQUESTS => ToolErrorKind::RateLimited,
        // 408 says that the server gave up on a request which it may have read in part.
        StatusCode::REQUEST_TIMEOUT => ToolErrorKind::OutcomeUnknown,
        _ if status.is_server_error() => ToolErrorKind::OutcomeUnknown,
        _ => ToolErrorKind::Refused,
    };
    let hint = match status {
        StatusCode::UNAUTHORIZED => " (the configured credentials are not accepted)",
        StatusCode::FORBIDDEN => " (the configured credentials are not allowed to do this)",
        _ if status.is_redirection() => " (base_url is not the account's own address)",
        _ => "",
    };
    let said = said(&answer.body);
    let separator = if said.is_empty() { "" } else { ": " };
    let mut error = failed(kind, format!("{ANSWERED}{}{hint}{separator}{said}", status.as_u16()));
    error.retry_after = rate::retry_after(&answer.headers);
    error
}

/// `{error, description, details}`; `error` is a text or, on some paths, `{title, message}`.
fn said(body: &[u8]) -> String {
    let Ok(body) = serde_json::from_slice::<Value>(body) else {
        return String::new();
    };
    let parts: [&[&str]; 4] = [&["error"], &["error", "title"], &["error", "message"], &["description"]];
    let texts = parts.into_iter().filter_map(|path| at(&body, path).as_str());
    let mut said: Vec<String> = texts.map(str::to_owned).collect();
    let details = at(&body, &["details"]);
    if details.is_object() {
        said.push(details.to_string());
    }
    text::clip(&said.join(": "), MAX_ERROR_BYTES)
}
