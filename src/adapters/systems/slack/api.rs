//! The HTTP side of Slack: the token, errors inside of answers with status 200, rate limits, cursor paging.

use std::sync::Arc;

use copilotd_actors::domain::ids::TenantId;
use copilotd_actors::ports::{Clock, ToolError, ToolErrorKind};
use parking_lot::Mutex;
use reqwest::header::{AUTHORIZATION, HeaderValue};
use reqwest::{Client, StatusCode};
use secrecy::ExposeSecret;
use serde_json::Value;

use super::SlackConfig;
use super::channels::Channels;
use super::people::Search;
use super::started::CallMemory;
use crate::adapters::systems::tools::http::{self, Answer};
use crate::adapters::systems::tools::member::{as_text, at, take_member};
use crate::adapters::systems::tools::run::{Progress, Session};
use crate::adapters::systems::tools::{InvalidConfig, failed, rate, text, unreadable};

/// Slack's recommended page size for all lists.
pub(super) const PAGE: usize = 200;

/// One tenant's access; shared by all calls.
pub(crate) struct Api {
    client: Client,
    base: String,
    authorization: HeaderValue,
    pub(super) channels: Channels,
    pub(super) search: Mutex<Option<Search>>,
    pub(super) started: CallMemory,
}

impl Api {
    pub fn new(config: &SlackConfig, client: Client, clock: Arc<dyn Clock>) -> Result<Self, InvalidConfig> {
        let credentials = format!("Bearer {}", config.token.expose_secret());
        let mut authorization = HeaderValue::from_str(&credentials).map_err(|_| InvalidConfig {
            system: "slack".into(),
            reason: "the token contains characters that are not allowed in an HTTP header".into(),
        })?;
        authorization.set_sensitive(true);
        Ok(Self {
            client,
            base: http::base_url("slack", &config.base_url)?,
            authorization,
            channels: Channels::default(),
            search: Mutex::default(),
            started: CallMemory::new(clock),
        })
    }
}

/// One call of a tool: may be several requests.
pub(crate) struct Call {
    pub(super) api: Arc<Api>,
    tenant: TenantId,
    progress: Progress,
}

impl Session for Call {
    const VENDOR: &'static str = "slack";

    fn progress(&self) -> &Progress {
        &self.progress
    }
}

/// One page of a list.
pub(crate) struct Page {
    pub items: Vec<Value>,
    /// Where the next one begins.
    pub next: Option<String>,
}

impl Call {
    pub fn new(api: &Arc<Api>, tenant: &TenantId) -> Self {
        Self {
            api: Arc::clone(api),
            tenant: tenant.clone(),
            progress: Progress::default(),
        }
    }

    /// Sends a read. Slack accepts no JSON here.
    pub async fn get(&self, method: &str, query: &[(&str, String)]) -> Result<Value, ToolError> {
        self.exchange(self.api.client.get(self.address(method)).query(query))
            .await
    }

    /// Reads one page of the list `key`.
    pub async fn page(
        &self,
        method: &str,
        key: &str,
        query: &[(&str, String)],
        cursor: Option<String>,
    ) -> Result<Page, ToolError> {
        let mut query = query.to_vec();
        query.push(("limit", PAGE.to_string()));
        query.extend(cursor.map(|cursor| ("cursor", cursor)));
        let mut answer = self.get(method, &query).await?;
        let Value::Array(items) = take_member(&mut answer, key) else {
            return Err(unusable(format_args!("an answer without a list of {key}")));
        };
        let next = as_text(at(&answer, &["response_metadata", "next_cursor"])).filter(|cursor| !cursor.is_empty());
        Ok(Page { items, next })
    }

    /// Opens what may already be open: nobody notices, so it does not count as an effect.
    pub async fn open(&self, method: &str, body: &Value) -> Result<Value, ToolError> {
        self.exchange(self.api.client.post(self.address(method)).json(body))
            .await
    }

    /// Sends a change.
    pub async fn change(&self, method: &str, body: &Value) -> Result<Value, ToolError> {
        self.progress.mark_effect_sent();
        self.open(method, body).await
    }

    fn address(&self, method: &str) -> String {
        format!("{}/{method}", self.api.base)
    }

    async fn exchange(&self, request: reqwest::RequestBuilder) -> Result<Value, ToolError> {
        let request = request.header(AUTHORIZATION, self.api.authorization.clone());
        let answer = http::send(Self::VENDOR, request).await?;
        self.progress.record_rate(rate::hint(&answer.headers));
        if !answer.status.is_success() {
            return Err(by_status(&answer));
        }
        let body = answer.object(Self::VENDOR, &self.tenant).await?;
        if at(&body, &["ok"]) == true {
            return Ok(body);
        }
        let mut error = by_code(&body)?;
        error.retry_after = rate::retry_after(&answer.headers);
        Err(error)
    }
}

/// Returns whether Slack refused with this code.
pub(super) fn is_code(error: &ToolError, code: &str) -> bool {
    error.kind == ToolErrorKind::Refused
        && error
            .message
            .strip_prefix(REFUSED)
            .is_some_and(|rest| rest.split([' ', ':']).next() == Some(code))
}

const REFUSED: &str = "slack refused: ";

pub(super) fn unusable(what: std::fmt::Arguments<'_>) -> ToolError {
    unreadable(Call::VENDOR, &what.to_string())
}

fn by_status(answer: &Answer) -> ToolError {
    let status = answer.status;
    let kind = match status {
        StatusCode::TOO_MANY_REQUESTS => ToolErrorKind::RateLimited,
        StatusCode::REQUEST_TIMEOUT => ToolErrorKind::OutcomeUnknown,
        _ if status.is_server_error() => ToolErrorKind::OutcomeUnknown,
        _ => ToolErrorKind::Refused,
    };
    let mut error = failed(kind, format!("slack answered {}", status.as_u16()));
    error.retry_after = rate::retry_after(&answer.headers);
    error
}

fn by_code(body: &Value) -> Result<ToolError, ToolError> {
    let code = at(body, &["error"])
        .as_str()
        .ok_or_else(|| unusable(format_args!("an answer that is neither ok nor an error")))?;
    let kind = match code {
        "ratelimited" | "rate_limited" | "message_limit_exceeded" => ToolErrorKind::RateLimited,
        // Slack's documentation says of these: some aspect of the operation may have succeeded before the error was
        // raised.
        "internal_error" | "fatal_error" | "service_unavailable" => ToolErrorKind::OutcomeUnknown,
        _ => ToolErrorKind::Refused,
    };
    let hint = match code {
        "not_in_channel" => " (the bot has to be invited to the channel first)",
        "channel_not_found" => " (no such channel, or a private one without the bot)",
        "missing_scope" => " (the app lacks a permission)",
        "invalid_auth" | "not_authed" | "account_inactive" | "token_revoked" | "token_expired" => {
            " (the configured token is not accepted)"
        }
        _ => "",
    };
    let needed = at(body, &["needed"]).as_str().map(|scope| format!(": needs {scope}"));
    Ok(failed(
        kind,
        text::clip(&format!("{REFUSED}{code}{hint}{}", needed.unwrap_or_default()), 400),
    ))
}
