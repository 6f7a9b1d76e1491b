//! The control plane of a model provider.

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::response::Response;
use axum::routing::{get, post};
use serde_json::{Value, json};

use super::state::Provider;
use crate::http::Reply;

/// Routes below `/_sim/`.
pub(crate) fn router() -> Router<Arc<Provider>> {
    Router::new()
        .route("/_sim/state", get(state))
        .route("/_sim/requests", get(requests))
        .route("/_sim/calls", get(calls))
        .route("/_sim/reset", post(reset))
        .route("/_sim/knobs", post(set_knobs).get(show_knobs))
        .route("/_sim/release", post(release))
        .route("/_sim/script", post(script))
}

fn control(status: u16, body: Value) -> Response {
    Reply::json(status, body).into_response()
}

async fn state(State(provider): State<Arc<Provider>>) -> Response {
    control(200, provider.show())
}

async fn requests(State(provider): State<Arc<Provider>>) -> Response {
    control(200, provider.show_requests())
}

async fn calls(State(provider): State<Arc<Provider>>) -> Response {
    control(200, provider.show_calls())
}

async fn reset(State(provider): State<Arc<Provider>>) -> Response {
    provider.reset();
    control(200, json!({"ok": true}))
}

async fn show_knobs(State(provider): State<Arc<Provider>>) -> Response {
    control(200, json!(provider.knobs()))
}

async fn set_knobs(State(provider): State<Arc<Provider>>, body: Bytes) -> Response {
    let set = serde_json::from_slice(&body)
        .map_err(|error| error.to_string())
        .and_then(|changes| provider.set_knobs(&changes));
    match set {
        Ok(knobs) => control(200, knobs),
        Err(error) => control(400, json!({"error": error})),
    }
}

async fn release(State(provider): State<Arc<Provider>>) -> Response {
    match provider.set_knobs(&json!({"hold": false})) {
        Ok(knobs) => control(200, knobs),
        Err(error) => control(500, json!({"error": error})),
    }
}

async fn script(State(provider): State<Arc<Provider>>, body: Bytes) -> Response {
    let queued = serde_json::from_slice(&body)
        .map_err(|error| error.to_string())
        .and_then(|script| {
            provider
                .with_scripts(|scripts| {
                    scripts.push(script)?;
                    Ok::<_, &str>(scripts.waiting())
                })
                .map_err(str::to_owned)
        });
    match queued {
        Ok(waiting) => control(200, json!({"scripts_waiting": waiting})),
        Err(error) => control(400, json!({"error": error})),
    }
}
