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

use super::stream::{self, Opening};
use super::{COST, Fault, cache_wish, caller, dollars, knowledge, label, mode, parsed, read};
use crate::http::credentials::Gateway;
use crate::http::problems::{Code, Problem};
use crate::surfaces::api::events::open_stream;
use crate::surfaces::openapi::OpenAiErrors;
use crate::surfaces::state::{AppState, Shutdown};
use crate::surfaces::taking_work;

/// How long the response status of a stream waits for the answer to start. After that the stream starts with comments,
/// so that no proxy times out, and a failure is reported inside the stream.
const PATIENCE: Duration = Duration::from_secs(10);
/// Extra time for streams when the process stops without a standby.
const LAST_MOMENT: Duration = Duration::from_secs(2);

/// The OpenAPI description of the request headers.
#[expect(dead_code, reason = "for OpenAPI only")]
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
pub struct Wishes {
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
    params(Wishes),
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
) -> Result<Response, Fault> {
    taking_work(&state).map_err(Fault::Problem)?;
    let (mode, cache) = (mode(request.headers())?, cache_wish(request.headers())?);
    let knowledge = knowledge(request.headers())?;
    let bytes = read(&state, &by, request).await?;
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
    let place = open_stream(&state, &by).map_err(Fault::Problem)?;
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
    let mut opening: Opening = Box::pin(async move { gateway.chat(call).await });
    match tokio::time::timeout(PATIENCE, &mut opening).await {
        Ok(reply) => {
            let reply = reply?;
            let (model, attempts, cache) = (reply.model.clone(), reply.attempts, reply.cache);
            let limits = reply.limits.clone();
            let mut response = stream::response(Box::pin(std::future::ready(Ok(reply))), (shares, tenant), place, cut);
            label(&mut response, &model, attempts, cache, &limits);
            Ok(response)
        }
        Err(_elapsed) => Ok(stream::response(opening, (shares, tenant), place, cut)),
    }
}

/// Waits until streams must end. Without a standby they get [`LAST_MOMENT`] more than event streams, which can be
/// resumed.
async fn stopped(shutdown: &Shutdown) {
    shutdown.closed().await;
    if !shutdown.is_handing_over() {
        tokio::time::sleep(LAST_MOMENT).await;
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
    label(&mut response, &reply.model, reply.attempts, reply.cache, &reply.limits);
    if let Some(cost) = reply.cost {
        response.headers_mut().insert(COST, dollars(cost));
    }
    response
}
