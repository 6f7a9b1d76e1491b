//! One request of a sync: paced, bounded, and with its failures in terms of the port.

use std::time::Duration;

use copilotd_actors::domain::ids::TenantId;
use copilotd_actors::ports::{ToolError, ToolErrorKind};
use copilotd_knowledge::sync::FeedError;
use reqwest::{Method, StatusCode};
use serde_json::Value;

use super::ZendeskFeed;
use super::pace::Pace;
use crate::adapters::systems::tools::{http, rate};
use crate::adapters::systems::zendesk::api::refusal;

const VENDOR: &str = "zendesk";
/// Longest time for a request with its answer.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Longest answer: 1,000 articles of the incremental list, which has no smaller pages.
const MAX_ANSWER_BYTES: usize = 64 * 1024 * 1024;

impl ZendeskFeed {
    /// Asks for a page of an incremental export.
    pub(super) async fn export(
        &self,
        tenant: &TenantId,
        path: &str,
        query: &[(&str, String)],
    ) -> Result<Value, FeedError> {
        let answer = self.ask(&self.exports, tenant, path, query).await?;
        answer.ok_or_else(|| FeedError::Refused(format!("zendesk has no {path}; is it turned on for this account?")))
    }

    /// Asks for something else; none if it does not exist.
    pub(super) async fn get(
        &self,
        tenant: &TenantId,
        path: &str,
        query: &[(&str, String)],
    ) -> Result<Option<Value>, FeedError> {
        self.ask(&self.requests, tenant, path, query).await
    }

    async fn ask(
        &self,
        pace: &Pace,
        tenant: &TenantId,
        path: &str,
        query: &[(&str, String)],
    ) -> Result<Option<Value>, FeedError> {
        pace.turn().await;
        let request = self.api.request(Method::GET, path);
        let request = request.query(query).timeout(TIMEOUT);
        let answer = http::send_bounded(VENDOR, request, MAX_ANSWER_BYTES)
            .await
            .map_err(failed)?;
        match answer.status {
            status if status.is_success() => Ok(Some(answer.object(VENDOR, tenant).await.map_err(failed)?)),
            StatusCode::NOT_FOUND | StatusCode::GONE => Ok(None),
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                Err(FeedError::Busy(rate::retry_after(&answer.headers)))
            }
            _ => Err(failed(refusal(&answer))),
        }
    }
}

/// Whatever is no clear refusal may have success a little later: nothing was changed.
fn failed(error: ToolError) -> FeedError {
    match error.kind {
        ToolErrorKind::Refused => FeedError::Refused(error.message),
        ToolErrorKind::RateLimited => FeedError::Busy(error.retry_after),
        _ => FeedError::Failed(error.message),
    }
}
