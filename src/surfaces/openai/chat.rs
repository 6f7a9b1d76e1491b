//! `/v1/chat/completions`

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use copilotd_gateway::answer::{Answer, Reply};
use copilotd_gateway::error::{GatewayError, GatewayErrorKind};
use copilotd_gateway::request::body::ChatBody;
use copilotd_gateway::request::call::{GatewayCall, Purpose};
use utoipa::IntoParams;

use super::stream::{self, PendingReply};
use super::{
    COST, OpenAiRejection, cache_headers, caller, dollars, knowledge, mode, parsed, read, set_gateway_headers,
};
use crate::http::credentials::Gateway;
use crate::http::problems::{Code, Problem};
use crate::surfaces::api::events::open_stream;
use crate::surfaces::ensure_accepting_work;
use crate::surfaces::openapi::OpenAiErrors;
use crate::surfaces::state::{AppState, Shutdown};

/// How long the response status of a stream waits for the answer to start. After that the stream starts with comments,
/// so that no proxy times out, and a failure is reported inside the stream.
const MAX_START_DELAY: Duration = Duration::from_secs(10);
/// Extra time for streams when the process stops without a standby.
const STREAM_GRACE: Duration = Duration::from_secs(2);

/// The OpenAPI description of the request headers.
#[expect(dead_code, reason = "for OpenAPI only")]
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
pub struct ChatHeaders {
    /// `live` forwards chunks as they arrive; `buffered` starts the stream when the answer is complete. Default: the
    /// route's mode
    #[param(rename = "x-copilotd-mode", schema_with = modes)]
    mode: Option<String>,
    /// Minimum similarity for a semantic cache hit; only raises the route's threshold
    #[param(rename = "x-copilotd-cache-threshold", minimum = 0, maximum = 1)]
    threshold: Option<f64>,
    /// Version of the knowledge that the caller put into the prompt: the cache returns only answers given under the
    /// same version
    #[param(rename = "x-copilotd-knowledge-version", max_length = 128)]
    knowledge: Option<String>,
}

fn modes() -> utoipa::openapi::schema::Object {
    utoipa::openapi::schema::ObjectBuilder::new()
        .schema_type(utoipa::openapi::schema::Type::String)
        .enum_values(Some(["live", "buffered"]))
        .build()
}

/// Create a chat completion
///
/// Compatible with OpenAI's API. `model` is a route of the tenant's configuration, or a `provider/model` that the
/// tenant may use. Unknown members are passed on to the provider.
#[utoipa::path(
    post,
    path = "/v1/chat/completions",
    operation_id = "create_chat_completion",
    tag = "gateway",
    params(ChatHeaders),
    request_body(content = Object, content_type = "application/json", description = "OpenAI's chat completion request"),
    responses(
        (status = 200, description = "A chat completion, or a stream of its chunks that ends with `[DONE]`", content(
            (Object = "application/json"),
            (String = "text/event-stream"),
        )),
        OpenAiErrors,
    ),
    security(("bearer" = ["gateway"])),
)]
pub async fn complete(
    State(state): State<AppState>,
    Gateway(by): Gateway,
    request: Request,
) -> Result<Response, OpenAiRejection> {
    ensure_accepting_work(&state.shutdown).map_err(OpenAiRejection::Problem)?;
    let (mode, cache) = (mode(request.headers())?, cache_headers(request.headers())?);
    let knowledge = knowledge(request.headers())?;
    let bytes = read(&state.tenants, &by, request).await?;
    let body = parsed(&by, bytes, ChatBody::parse).await?;
    let streams = body.stream();
    let call = GatewayCall {
        caller: caller(&by, Purpose::Endpoint),
        route: body.model().to_owned(),
        body,
        mode,
        cache,
        knowledge,
    };
    if !streams {
        let reply = state.gateway.chat(call).await?;
        return Ok(whole(reply));
    }
    let slot = open_stream(&state.budgets, &by).map_err(OpenAiRejection::Problem)?;
    let (shares, tenant) = (Arc::clone(&state.shared.shares), by.scope.tenant().clone());
    let (auth, shutdown) = (Arc::clone(&state.auth), state.shutdown.clone());
    let cut = async move {
        tokio::select! {
            () = auth.verifier.ended(&by) => {
                GatewayError::new(GatewayErrorKind::Cut, "the credential has expired or was revoked")
            }
            () = stopped(&shutdown) => {
                GatewayError::new(GatewayErrorKind::Cut, "the server is shutting down; send the request again")
            }
        }
    };
    let gateway = Arc::clone(&state.gateway);
    let mut opening: PendingReply = Box::pin(async move { gateway.chat(call).await });
    match tokio::time::timeout(MAX_START_DELAY, &mut opening).await {
        Ok(reply) => {
            let reply = reply?;
            let (model, attempts, cache) = (reply.model.clone(), reply.attempts, reply.cache);
            let limits = reply.limits.clone();
            let mut response = stream::response(Box::pin(std::future::ready(Ok(reply))), (shares, tenant), slot, cut);
            set_gateway_headers(&mut response, &model, attempts, cache, &limits);
            Ok(response)
        }
        Err(_elapsed) => Ok(stream::response(opening, (shares, tenant), slot, cut)),
    }
}

/// Waits until streams must end. Without a standby they get [`STREAM_GRACE`] more than event streams, which can be
/// resumed.
async fn stopped(shutdown: &Shutdown) {
    shutdown.closed().await;
    if !shutdown.is_handing_over() {
        tokio::time::sleep(STREAM_GRACE).await;
    }
}

/// The response to a request without streaming.
fn whole(reply: Reply) -> Response {
    let Answer::Whole(bytes) = reply.answer else {
        // The gateway streams only when the request asks for it.
        return Problem::new(Code::Internal).into_response();
    };
    let mut response = (
        [(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))],
        bytes,
    )
        .into_response();
    set_gateway_headers(&mut response, &reply.model, reply.attempts, reply.cache, &reply.limits);
    if let Some(cost) = reply.cost {
        response.headers_mut().insert(COST, dollars(cost));
    }
    response
}
