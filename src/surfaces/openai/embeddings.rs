//! `/v1/embeddings`

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use copilotd_gateway::request::call::{CacheOutcome, Purpose};
use copilotd_gateway::request::embed::{EmbedBody, EmbedCall};

use super::{COST, OpenAiRejection, caller, dollars, parsed, read, set_gateway_headers};
use crate::http::credentials::Gateway;
use crate::surfaces::ensure_accepting_work;
use crate::surfaces::openapi::OpenAiErrors;
use crate::surfaces::state::Shutdown;
use crate::tenants::TenantRegistry;

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
    State(shutdown): State<Shutdown>,
    State(gateway): State<Arc<copilotd_gateway::Gateway>>,
    State(tenants): State<Arc<TenantRegistry>>,
    Gateway(by): Gateway,
    request: Request,
) -> Result<Response, OpenAiRejection> {
    ensure_accepting_work(&shutdown).map_err(OpenAiRejection::Problem)?;
    let bytes = read(&tenants, &by, request).await?;
    let body = parsed(&by, bytes, EmbedBody::parse).await?;
    let call = EmbedCall {
        caller: caller(&by, Purpose::Embedding),
        route: body.model().to_owned(),
        body,
    };
    let reply = gateway.embed(call).await?;
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
