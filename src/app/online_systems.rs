//! The checks of `copilotd check --online` for external systems and the trace collector. They change nothing there.

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

/// Checks a credential with Zendesk (`users/me`).
pub(super) async fn zendesk(client: &reqwest::Client, settings: &Zendesk) -> Result<String, String> {
    let base = settings.base_url.trim_end_matches('/');
    let request = client.get(format!("{base}/api/v2/users/me.json"));
    let request = match (&settings.oauth_token, &settings.email, &settings.token) {
        (Some(token), _, _) => request.bearer_auth(token.expose_secret()),
        (None, Some(email), Some(token)) => {
            let pair = format!("{email}/token:{}", token.expose_secret());
            request.header("authorization", format!("Basic {}", BASE64_STANDARD.encode(pair)))
        }
        _ => return Err("no credential is configured".to_owned()),
    };
    let (status, answer) = ask(request).await?;
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(refused(status)),
        StatusCode::TOO_MANY_REQUESTS => {
            Ok("reachable; its rate limit is reached, so the credential could not be checked".to_owned())
        }
        status if status.is_success() => match answer["user"]["id"].as_u64() {
            Some(_) => Ok("reachable, credential accepted".to_owned()),
            // Zendesk answers an invalid credential with an anonymous user that has no id.
            None => Err("the credential is not valid".to_owned()),
        },
        status => Err(format!("answered with status {}", status.as_u16())),
    }
}

/// Checks a bot token with Slack (`auth.test`).
pub(super) async fn slack(client: &reqwest::Client, settings: &Slack) -> Result<String, String> {
    let base = settings.base_url.trim_end_matches('/');
    let request = client
        .post(format!("{base}/auth.test"))
        .bearer_auth(settings.bot_token.expose_secret());
    let (status, answer) = ask(request).await?;
    match (status, answer["ok"].as_bool()) {
        (StatusCode::TOO_MANY_REQUESTS, _) => {
            Ok("reachable; its rate limit is reached, so the token could not be checked".to_owned())
        }
        (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, _) => Err(refused(status)),
        (status, Some(true)) if status.is_success() => Ok("reachable, token accepted".to_owned()),
        (status, Some(false)) if status.is_success() => {
            let word = answer["error"].as_str().unwrap_or("no reason given");
            // Only an error code of Slack's API is repeated, nothing else.
            let is_word = word.len() <= 64 && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
            Err(format!(
                "the token was refused ({})",
                if is_word { word } else { "no reason given" }
            ))
        }
        (status, _) if status.is_success() => Err("answered, but not as Slack does; check base_url".to_owned()),
        (status, _) => Err(format!("answered with status {}", status.as_u16())),
    }
}

/// Sends the collector an empty export, which it acknowledges.
pub(super) async fn collector(client: &reqwest::Client, endpoint: &str) -> Result<String, String> {
    let request = client
        .post(traces_url(endpoint))
        .header("content-type", "application/x-protobuf")
        .body(Vec::new());
    let status = request.send().await.map_err(silent)?.status();
    match status {
        status if status.is_success() => Ok("accepts traces".to_owned()),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(refused(status)),
        status => Err(format!("answered with status {}", status.as_u16())),
    }
}

fn refused(status: StatusCode) -> String {
    format!("the credential was refused (status {})", status.as_u16())
}

/// Sends a request and parses its answer as JSON; null if it is not JSON.
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
            return Err("the answer is larger than 256 KiB".to_owned());
        }
        body.extend_from_slice(&piece);
    }
    Ok((status, serde_json::from_slice(&body).unwrap_or(Value::Null)))
}
