//! What `copilotd check --online` asks of external systems: who the credential is, which changes nothing there.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use reqwest::{RequestBuilder, StatusCode};
use secrecy::ExposeSecret as _;
use serde_json::Value;

use super::online::silent;
use crate::config::{Slack, Zendesk};
use crate::telemetry::traces_url;

/// Longest answer that is read.
const MAX_ANSWER: usize = 256 * 1024;

/// Asks Zendesk who the credential is.
pub(super) async fn zendesk(client: &reqwest::Client, settings: &Zendesk) -> Result<String, String> {
    let base = settings.base_url.trim_end_matches('/');
    let request = client.get(format!("{base}/api/v2/users/me.json"));
    let request = match (&settings.oauth_token, &settings.email, &settings.token) {
        (Some(token), _, _) => request.bearer_auth(token.expose_secret()),
        (None, Some(email), Some(token)) => {
            let pair = format!("{email}/token:{}", token.expose_secret());
            request.header("authorization", format!("Basic {}", BASE64_STANDARD.encode(pair)))
        }
        _ => return Err("has no credential".to_owned()),
    };
    let (status, answer) = ask(request).await?;
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(refused(status)),
        StatusCode::TOO_MANY_REQUESTS => {
            Ok("answers; its rate limit is reached, so that the credential is not known to be good".to_owned())
        }
        status if status.is_success() => match answer["user"]["id"].as_u64() {
            Some(_) => Ok("answers, and takes the credential".to_owned()),
            // Zendesk calls who has no valid credential anonymous.
            None => Err("answers, and does not know the credential".to_owned()),
        },
        status => Err(format!("answers with status {}", status.as_u16())),
    }
}

/// Asks Slack who the token is (`auth.test`).
pub(super) async fn slack(client: &reqwest::Client, settings: &Slack) -> Result<String, String> {
    let base = settings.base_url.trim_end_matches('/');
    let request = client
        .post(format!("{base}/auth.test"))
        .bearer_auth(settings.bot_token.expose_secret());
    let (status, answer) = ask(request).await?;
    match (status, answer["ok"].as_bool()) {
        (StatusCode::TOO_MANY_REQUESTS, _) => {
            Ok("answers; its rate limit is reached, so that the token is not known to be good".to_owned())
        }
        (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, _) => Err(refused(status)),
        (status, Some(true)) if status.is_success() => Ok("answers, and takes the token".to_owned()),
        (status, Some(false)) if status.is_success() => {
            let word = answer["error"].as_str().unwrap_or("no reason");
            // A word of Slack's API; anything else is not repeated.
            let is_word = word.len() <= 64 && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
            Err(format!(
                "answers, and refuses the token ({})",
                if is_word { word } else { "no reason" }
            ))
        }
        (status, _) if status.is_success() => Err("answers, but not as Slack does".to_owned()),
        (status, _) => Err(format!("answers with status {}", status.as_u16())),
    }
}

/// Sends the collector an export without a span, which it acknowledges.
pub(super) async fn collector(client: &reqwest::Client, endpoint: &str) -> Result<String, String> {
    let request = client
        .post(traces_url(endpoint))
        .header("content-type", "application/x-protobuf")
        .body(Vec::new());
    let status = request.send().await.map_err(silent)?.status();
    match status {
        status if status.is_success() => Ok("takes traces".to_owned()),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(refused(status)),
        status => Err(format!("answers with status {}", status.as_u16())),
    }
}

fn refused(status: StatusCode) -> String {
    format!("answers, and refuses the credential (status {})", status.as_u16())
}

/// Sends a request and reads its answer as JSON, as far as it is JSON.
async fn ask(request: RequestBuilder) -> Result<(StatusCode, Value), String> {
    let mut answer = request
        .header("accept", "application/json")
        .send()
        .await
        .map_err(silent)?;
    let status = answer.status();
    let mut body = Vec::new();
    while let Some(piece) = answer.chunk().await.map_err(silent)? {
        if body.len() + piece.len() > MAX_ANSWER {
            return Err("answers with more than is read".to_owned());
        }
        body.extend_from_slice(&piece);
    }
    Ok((status, serde_json::from_slice(&body).unwrap_or(Value::Null)))
}
