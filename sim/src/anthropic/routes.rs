//! HTTP routes of the provider.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{ConnectInfo, DefaultBodyLimit, State};
use axum::http::{HeaderMap, HeaderValue};
use axum::response::Response;
use axum::routing::post;
use serde_json::Value;

use super::refusal::{in_stream, invalid, refused};
use super::stream::{self, Frames, ResponseOptions};
use super::{request, validate};
use crate::http::Reply;
use crate::model::chat::Chat;
use crate::model::pieces::Pieces;
use crate::model::state::{Decision, Provider};
use crate::model::step::Refusal;
use crate::model::{control, play};
use crate::net::Switch;

const MAX_BODY_BYTES: usize = 32 * 1024 * 1024;
/// Block size of the cache in tokens.
const BLOCK_TOKENS: u64 = 16;
/// The one model that does not exist.
const MISSING_MODEL: &str = "no-such-model";

pub(super) fn router(provider: Arc<Provider>) -> Router {
    Router::new()
        .route("/v1/messages", post(messages))
        .merge(control::router())
        .fallback(unknown)
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .with_state(provider)
}

async fn messages(
    State(provider): State<Arc<Provider>>,
    ConnectInfo(switch): ConnectInfo<Switch>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let id = format!("req_{}", provider.unique());
    let read = authorised(&provider, &headers)
        .and_then(|()| {
            let parsed: Result<Value, _> = serde_json::from_slice(&body);
            parsed.map_err(|_| invalid("The request body is not valid JSON: could not be parsed"))
        })
        .and_then(|body| validate::request(&body).map(|()| body))
        .and_then(known_model);
    let read = match read {
        Ok(read) => read,
        Err(refusal) => {
            provider.refused();
            return add_headers(refused(&refusal, &id), &id);
        }
    };
    let chat = request::read(&read);
    let marks = Marks {
        is_cached: request::is_cached(&read),
        thinks: matches!(read["thinking"]["type"].as_str(), Some("enabled" | "adaptive")),
    };
    let decision = provider.decide(&chat, read, body.len());
    provider.wait_if_held().await;
    let response = answer(&provider, &switch, &chat, marks, decision, &id).await;
    add_headers(response, &id)
}

/// What a request asks for besides the answer.
#[derive(Clone, Copy)]
struct Marks {
    is_cached: bool,
    thinks: bool,
}

async fn answer(
    provider: &Arc<Provider>,
    switch: &Switch,
    chat: &Chat,
    marks: Marks,
    decision: Decision,
    id: &str,
) -> Response {
    let Decision {
        step,
        prompt_tokens,
        cached_tokens,
        pace,
        mut open,
    } = decision;
    if let Some(refusal) = &step.error {
        if let Some(delay) = step.delay_first_ms {
            tokio::time::sleep(Duration::from_millis(delay)).await;
        }
        open.finish("error");
        return refused(refusal, id);
    }
    let name = provider.unique();
    let cache_read = if marks.is_cached { cached_tokens } else { 0 };
    let blocks = prompt_tokens / BLOCK_TOKENS * BLOCK_TOKENS;
    let options = ResponseOptions {
        id: format!("msg_{name}"),
        model: chat.model.clone(),
        max_pieces: chat.max_tokens,
        prompt_tokens,
        cache_read,
        cache_written: if marks.is_cached {
            blocks.saturating_sub(cache_read)
        } else {
            0
        },
        thinks: marks.thinks,
        call_prefix: name,
    };
    if chat.stream {
        return play::stream(Frames::new(step, options), pace, open);
    }
    if let Some(error) = &step.in_stream_error {
        open.finish("error");
        return Reply::json(500, in_stream(error)).into_response();
    }
    let mut pieces = Pieces::new(&step, options.max_pieces);
    let answer = stream::whole(&step, &mut pieces, &options);
    play::whole(switch, &step, &pieces, pace, open, answer).await
}

async fn unknown(State(provider): State<Arc<Provider>>) -> Response {
    let id = format!("req_{}", provider.unique());
    let mut refusal = Refusal::status(404);
    refusal.message = Some("Not Found".to_owned());
    add_headers(refused(&refusal, &id), &id)
}

fn authorised(provider: &Provider, headers: &HeaderMap) -> Result<(), Box<Refusal>> {
    let header = |name: &str| {
        headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    };
    let key = header("x-api-key");
    let refuse = |message: &str| {
        let mut refusal = Refusal::status(401);
        refusal.message = Some(message.to_owned());
        refusal
    };
    if key.is_empty() {
        return Err(refuse("x-api-key header is required"));
    }
    if provider.knobs().require_key.is_some_and(|wanted| wanted != key) {
        return Err(refuse("invalid x-api-key"));
    }
    match header("anthropic-version") {
        "2023-06-01" | "2023-01-01" => Ok(()),
        "" => Err(invalid("anthropic-version: header is required")),
        _ => Err(invalid("anthropic-version: is not a valid version")),
    }
}

fn known_model(body: Value) -> Result<Value, Box<Refusal>> {
    if body["model"] != MISSING_MODEL {
        return Ok(body);
    }
    let mut refusal = Refusal::status(404);
    refusal.message = Some(format!("model: {MISSING_MODEL}"));
    Err(refusal)
}

fn add_headers(mut response: Response, id: &str) -> Response {
    if let Ok(id) = HeaderValue::from_str(id) {
        response.headers_mut().insert("request-id", id);
    }
    response
}
