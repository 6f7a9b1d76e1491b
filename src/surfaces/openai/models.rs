//! `/v1/models`

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use copilotd_gateway::ModelCard;
use serde_json::{Value, json};

use super::OpenAiRejection;
use super::error::OpenAiError;
use crate::http::credentials::Gateway;
use crate::surfaces::openapi::OpenAiErrors;

/// List available models
#[utoipa::path(
    get,
    path = "/v1/models",
    operation_id = "list_models",
    tag = "gateway",
    responses(
        (status = 200, description = "OpenAI's list of models: the tenant's routes and the models behind them", body = Object),
        OpenAiErrors,
    ),
    security(("bearer" = ["gateway"])),
)]
pub async fn list(State(gateway): State<Arc<copilotd_gateway::Gateway>>, Gateway(by): Gateway) -> Response {
    let data: Vec<Value> = gateway.models(&by.scope).iter().map(card).collect();
    answer(json!({ "object": "list", "data": data }))
}

/// Get a model
#[utoipa::path(
    get,
    path = "/v1/models/{id}",
    operation_id = "get_model",
    tag = "gateway",
    responses(
        (status = 200, description = "OpenAI's model object", body = Object),
        OpenAiErrors,
    ),
    security(("bearer" = ["gateway"])),
)]
pub async fn get(
    State(gateway): State<Arc<copilotd_gateway::Gateway>>,
    Gateway(by): Gateway,
    Path(id): Path<String>,
) -> Result<Response, OpenAiRejection> {
    let models = gateway.models(&by.scope);
    let found = models.iter().find(|model| model.id == id);
    found
        .map(|model| answer(card(model)))
        .ok_or_else(|| OpenAiError::no_model(&id).into())
}

/// Like [`get`], for a name with a slash.
pub async fn get_nested(
    gateway: State<Arc<copilotd_gateway::Gateway>>,
    by: Gateway,
    Path((provider, model)): Path<(String, String)>,
) -> Result<Response, OpenAiRejection> {
    get(gateway, by, Path(format!("{provider}/{model}"))).await
}

fn card(model: &ModelCard) -> Value {
    // The creation time is unknown, but the protocol requires a number.
    json!({ "id": model.id, "object": "model", "created": 0, "owned_by": model.owner, "context_length": model.context_tokens })
}

fn answer(body: Value) -> Response {
    (
        [(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))],
        axum::Json(body),
    )
        .into_response()
}
