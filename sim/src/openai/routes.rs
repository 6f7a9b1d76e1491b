//! HTTP routes of the provider.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{ConnectInfo, DefaultBodyLimit, Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::Response;
use axum::routing::{get, post};
use serde_json::{Value, json};

use super::stream::{self, Frames, ResponseOptions};
use super::{embeddings, request, validate};
use crate::http::Reply;
use crate::model::chat::Chat;
use crate::model::pieces::Pieces;
use crate::model::state::{Decision, Provider};
use crate::model::step::Refusal;
use crate::model::{control, play};
use crate::net::Switch;

const MAX_BODY_BYTES: usize = 32 * 1024 * 1024;
const MODELS: [&str; 5] = [
    "sim-large",
    "sim-small",
    "gpt-4o",
    "gpt-4o-mini",
    "text-embedding-3-small",
];
/// The one model that does not exist.
const MISSING_MODEL: &str = "no-such-model";

pub(crate) fn router(provider: Arc<Provider>) -> Router {
    Router::new()
        .route("/v1/chat/completions", post(chat))
        .route("/v1/embeddings", post(embed))
        .route("/v1/models", get(models))
        .route("/v1/models/{id}", get(model))
        .merge(control::router())
        .fallback(unknown)
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .with_state(provider)
}

async fn chat(
    State(provider): State<Arc<Provider>>,
    ConnectInfo(switch): ConnectInfo<Switch>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let started = Instant::now();
    let request = authorised(&provider, &headers)
        .and_then(|()| parse(&body))
        .and_then(|request| validate::chat(&request).map(|()| request))
        .and_then(|request| known_model(&request["model"]).map(|()| request));
    let request = match request {
        Ok(request) => request,
        Err(refusal) => {
            provider.refused();
            return add_headers(&provider, refused(&refusal), started);
        }
    };
    let chat = request::read(&request);
    let decision = provider.decide(&chat, request, body.len());
    provider.wait_if_held().await;
    let response = answer(&provider, &switch, &chat, decision).await;
    add_headers(&provider, response, started)
}

async fn answer(provider: &Arc<Provider>, switch: &Switch, chat: &Chat, decision: Decision) -> Response {
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
        return refused(refusal);
    }
    let name = provider.unique();
    let options = ResponseOptions {
        id: format!("chatcmpl-{name}"),
        created: jiff::Timestamp::now().as_second(),
        model: chat.model.clone(),
        n: chat.n,
        include_usage: chat.include_usage,
        max_pieces: chat.max_tokens,
        prompt_tokens,
        cached_tokens,
        call_prefix: name,
    };
    if chat.stream {
        return play::stream(Frames::new(step, options), pace, open);
    }
    if let Some(error) = &step.in_stream_error {
        open.finish("error");
        return Reply::json(500, json!({"error": error})).into_response();
    }
    let mut pieces = Pieces::new(&step, options.max_pieces);
    let answer = stream::whole(&step, &mut pieces, &options);
    play::whole(switch, &step, &pieces, pace, open, answer).await
}

async fn embed(State(provider): State<Arc<Provider>>, headers: HeaderMap, body: Bytes) -> Response {
    let started = Instant::now();
    let answer = authorised(&provider, &headers)
        .and_then(|()| parse(&body))
        .and_then(|request| known_model(&request["model"]).map(|()| request))
        .and_then(|request| embeddings::answer(&request));
    let response = match answer {
        Ok(answer) => Reply::json(200, answer).into_response(),
        Err(refusal) => refused(&refusal),
    };
    add_headers(&provider, response, started)
}

async fn models(State(provider): State<Arc<Provider>>, headers: HeaderMap) -> Response {
    let started = Instant::now();
    let response = match authorised(&provider, &headers) {
        Ok(()) => {
            let data: Vec<_> = MODELS.iter().map(|id| model_object(id)).collect();
            Reply::json(200, json!({"object": "list", "data": data})).into_response()
        }
        Err(refusal) => refused(&refusal),
    };
    add_headers(&provider, response, started)
}

async fn model(State(provider): State<Arc<Provider>>, headers: HeaderMap, Path(id): Path<String>) -> Response {
    let started = Instant::now();
    let known = authorised(&provider, &headers).and_then(|()| known_model(&json!(id)));
    let response = match known {
        Ok(()) => Reply::json(200, model_object(&id)).into_response(),
        Err(refusal) => refused(&refusal),
    };
    add_headers(&provider, response, started)
}

fn model_object(id: &str) -> Value {
    json!({"id": id, "object": "model", "created": 1_686_935_002, "owned_by": "simulator"})
}

async fn unknown(State(provider): State<Arc<Provider>>, uri: axum::http::Uri) -> Response {
    let refusal = Refusal {
        status: 404,
        message: Some(format!("Invalid URL ({})", uri.path())),
        code: Some("unknown_url".to_owned()),
        ..Refusal::default()
    };
    add_headers(&provider, refused(&refusal), Instant::now())
}

fn authorised(provider: &Provider, headers: &HeaderMap) -> Result<(), Box<Refusal>> {
    let key = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.strip_prefix("Bearer "))
        .map_or("", str::trim);
    let refuse = |message: String| {
        let mut refusal = Refusal::status(401);
        refusal.message = Some(message);
        refusal
    };
    if key.is_empty() {
        let message = "You didn't provide an API key. You need to provide your API key in an Authorization header using Bearer auth (i.e. Authorization: Bearer YOUR_KEY).";
        return Err(refuse(message.to_owned()));
    }
    match provider.knobs().require_key {
        Some(wanted) if wanted != key => {
            let tail: String = key.chars().rev().take(4).collect();
            let tail: String = tail.chars().rev().collect();
            Err(refuse(format!("Incorrect API key provided: ****{tail}.")))
        }
        _ => Ok(()),
    }
}

fn parse(body: &[u8]) -> Result<Value, Box<Refusal>> {
    serde_json::from_slice(body).map_err(|_| {
        Refusal::invalid(
            "We could not parse the JSON body of your request. (HINT: This likely means you aren't using your HTTP library correctly. The OpenAI API expects a JSON payload, but what was sent was not valid JSON.)",
            None,
        )
    })
}

fn known_model(model: &Value) -> Result<(), Box<Refusal>> {
    if model == MISSING_MODEL {
        let mut refusal = Refusal::status(404);
        refusal.message = Some(format!(
            "The model `{MISSING_MODEL}` does not exist or you do not have access to it."
        ));
        return Err(refusal);
    }
    Ok(())
}

fn refused(refusal: &Refusal) -> Response {
    let mut reply = match &refusal.body {
        Some(Value::String(text)) => Reply::text(refusal.status, text.clone()),
        Some(body) => Reply::json(refusal.status, body.clone()),
        None => Reply::json(refusal.status, refusal.to_json()),
    };
    if let Some(seconds) = refusal.retry_after {
        reply = reply.with_header("retry-after", seconds.to_string());
    }
    reply.into_response()
}

/// Adds the headers that OpenAI sends with every answer.
fn add_headers(provider: &Provider, mut response: Response, started: Instant) -> Response {
    let exhausted = response.status() == StatusCode::TOO_MANY_REQUESTS;
    let remaining = if exhausted { "0" } else { "9999" };
    let headers = response.headers_mut();
    let mut set = |name: &'static str, value: &str| {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(name, value);
        }
    };
    set("x-request-id", &format!("req_{}", provider.unique()));
    set("openai-version", "2020-10-01");
    set("openai-processing-ms", &started.elapsed().as_millis().to_string());
    set("x-ratelimit-limit-requests", "10000");
    set("x-ratelimit-remaining-requests", remaining);
    set("x-ratelimit-reset-requests", "6ms");
    set("x-ratelimit-limit-tokens", "30000000");
    set("x-ratelimit-remaining-tokens", "29999000");
    set("x-ratelimit-reset-tokens", "1ms");
    response
}
