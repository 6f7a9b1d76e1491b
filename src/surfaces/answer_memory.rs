//! How much memory for its response each route reserves before its handler runs.
//!
//! Invariant: every route reserves memory for a page, unless `RouteMemory::of` lists it with the reason why less is enough, so
//! a new route cannot forget to.

use axum::extract::{MatchedPath, Request};
use axum::http::Method;
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};

use super::openapi;
use crate::http::account::Account;
use crate::http::response_memory::PageMemory;

/// Usual size of a metrics page. A longer one reserves more once it is rendered.
const METRICS_BYTES: usize = 256 * 1024;

/// How much memory a route reserves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RouteMemory {
    /// A page: the default.
    Page,
    /// A fixed number of bytes.
    Bytes(usize),
    /// Nothing up front: the response is small or built from the request's own body, or the handler reserves memory
    /// when it knows how much.
    Deferred,
}

impl RouteMemory {
    fn of(method: &Method, path: &str) -> Self {
        match (method.as_str(), path) {
            // Each frame reserves its own; a turn that is read first takes a `PageMemory`.
            (_, "/v1/conversations/{id}/events" | "/v1/turns/{id}/events") => Self::Deferred,
            // Provider responses take long to arrive: memory is reserved on arrival.
            (_, "/v1/chat/completions" | "/v1/embeddings") => Self::Deferred,
            // Only names.
            (_, "/v1/models" | "/v1/models/{id}" | "/v1/models/{provider}/{*model}") => Self::Deferred,
            // The submitted turn repeats its request body. A retried request's turn is read with a `PageMemory`.
            ("POST", "/v1/conversations/{id}/turns") => Self::Deferred,
            // Title and metadata, which are bounded.
            ("POST", "/v1/conversations") | ("PATCH" | "DELETE", "/v1/conversations/{id}") => Self::Deferred,
            // A few names and numbers.
            ("POST", "/v1/stream-tickets" | "/v1/admin/api-keys" | "/v1/admin/revocations") => Self::Deferred,
            ("DELETE", "/v1/admin/cache" | "/v1/admin/api-keys/{id}" | "/v1/admin/revocations/{id}") => Self::Deferred,
            ("DELETE", "/v1/knowledge/{collection}/documents/{external_id}") => Self::Deferred,
            // At most eight sources of a few names and numbers.
            (_, "/v1/admin/knowledge/sources") => Self::Deferred,
            // One fact, which is short.
            ("PATCH" | "DELETE", "/v1/memory/facts/{id}") => Self::Deferred,
            // A few names and numbers. The content is streamed: each piece is reserved as a frame.
            (_, "/v1/files" | "/v1/files/{id}") => Self::Deferred,
            // A job is a few names and numbers. A result is streamed: each chunk is reserved as a frame.
            ("POST", "/v1/admin/exports")
            | ("DELETE", "/v1/operator/tenants/{id}")
            | (_, "/v1/jobs/{id}" | "/v1/jobs/{id}/result") => Self::Deferred,
            // Pages of a few KiB, written by us.
            (_, "/problems/{code}") => Self::Deferred,
            // Embedded in the program: no memory of their own.
            (_, "/widget.js" | "/widget/{file}") => Self::Deferred,
            (_, "/healthz" | "/readyz") => Self::Deferred,
            (_, "/metrics") => Self::Bytes(METRICS_BYTES),
            (_, "/openapi.json") => Self::Bytes(openapi::size()),
            _ => Self::Page,
        }
    }
}

/// Reserves memory for the route that a request matched.
pub async fn layer(mut request: Request, next: Next) -> Response {
    let account = request.extensions().get::<Account>().cloned();
    let path = request.extensions().get::<MatchedPath>();
    let (Some(account), Some(path)) = (account, path) else {
        return next.run(request).await;
    };
    let reserved = match RouteMemory::of(request.method(), path.as_str()) {
        RouteMemory::Deferred => Ok(()),
        // Without a credential there is no page: the handler answers 401.
        RouteMemory::Page if !account.is_verified() => Ok(()),
        RouteMemory::Page => {
            let room = PageMemory::reserve(&account).await;
            room.map(|room| _ = request.extensions_mut().insert(room))
        }
        RouteMemory::Bytes(bytes) => account.reserve_answer(bytes).await,
    };
    match reserved {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}
