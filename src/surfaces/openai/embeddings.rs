//! `/v1/embeddings`

use axum::extract::{Request, State};
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use copilotd_gateway::request::call::{CacheOutcome, Purpose};
use copilotd_gateway::request::embed::{EmbedBody, EmbedCall};

use super::{COST, OpenAiRejection, caller, dollars, parsed, read, set_gateway_headers};
use crate::http::credentials::Gateway;
use crate::surfaces::ensure_accepting_work;
use crate::surfaces::openapi::OpenAiErrors;
use crate::surfaces::state::AppState;

/// Create embeddings
///
/// Compatible with OpenAI's API. `model` is a route of the tenant's configuration, or a `provider/model` that the
/// tenant may use.
#[utoipa::path(
    post,
    path = "/v1/embeddings",
    operation_id = "create_embeddings",
    tag = "gateway",
    request_body(content = Object, content_type = "application/json", description = "OpenAI's embeddings request"),
    responses(
        (status = 200, description = "OpenAI's list of embeddings", body = Object),
        OpenAiErrors,
    ),
    security(("bearer" = ["gateway"])),
)]
pub async fn create(
    State(state): State<AppState>,
    Gateway(by): Gateway,
    request: Request,
) -> Result<Response, OpenAiRejection> {
    ensure_accepting_work(&state).map_err(OpenAiRejection::Problem)?;
    let bytes = read(&state, &by, request).await?;
    let body = parsed(&by, bytes, EmbedBody::parse).await?;
    let call = EmbedCall {
        caller: caller(&by, Purpose::Embedding),
        route: body.model().to_owned(),
        body,
    };
    let reply = state.gateway.embed(call).await?;
    let json = HeaderValue::from_static("application/json");
    let mut response = ([(header::CONTENT_TYPE, json)], reply.body).into_response();
    set_gateway_headers(
        &mut response,
        &reply.model,
        reply.attempts,
        CacheOutcome::Bypass,
        &reply.limits,
    );
    response.headers_mut().insert(COST, dollars(reply.usage.cost));
    Ok(response)
}
