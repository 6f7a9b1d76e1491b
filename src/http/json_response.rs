//! JSON responses: a long one is serialised on the compute pool, not on a serving thread.

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use copilotd_actors::compute::{self, ComputeError};
use copilotd_actors::domain::ids::TenantId;
use serde::Serialize;

use super::problems::{Code, Problem};

/// Runs work for a response of `tenant`, on the compute pool when it is expensive.
pub async fn work<T: Send + 'static>(
    tenant: &TenantId,
    cost: usize,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Problem> {
    compute::run(Some(tenant), cost, work)
        .await
        .map_err(|error| match error {
            ComputeError::Full => {
                Problem::new(Code::Overloaded).detail("too many large responses are waiting to be serialised")
            }
            ComputeError::Panicked => Problem::new(Code::Internal),
        })
}

/// Responds with `value`, whose JSON is about `bytes` long.
pub async fn json<T: Serialize + Send + 'static>(
    tenant: &TenantId,
    bytes: usize,
    status: StatusCode,
    value: T,
) -> Result<Response, Problem> {
    let text = work(tenant, bytes, move || serde_json::to_vec(&value)).await?;
    let text = text.map_err(|error| {
        tracing::error!(%error, "response could not be serialised as JSON; answered 500");
        Problem::new(Code::Internal)
    })?;
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    Ok(response)
}
