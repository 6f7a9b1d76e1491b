//! Room for answers, reserved before a handler runs.
//!
//! Invariant: every route reserves room for a page, unless `Room::of` names it and says why less is enough. So a new route cannot
//! forget it. Reading a whole turn takes a [`PageRoom`] besides: who has none cannot.

use axum::extract::{FromRequestParts, MatchedPath, Request};
use axum::http::Method;
use axum::http::request::Parts;
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};

use super::account::Account;
use super::page;
use super::problem::Problem;

/// What a page costs while it is built: the records that were read for it, what clients see of them, and its text.
const PAGE_BYTES: usize = 4 * page::MAX_BYTES;
/// What a page of metrics takes, as a rule. A longer one gets more room once it is made.
const METRICS_BYTES: usize = 256 * 1024;

/// How much room a route reserves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Room {
    /// A page: the rule.
    Page,
    /// So many bytes.
    Bytes(usize),
    /// None at first: the answer is small or made of the request's own body, or the handler reserves room when it knows how much.
    Own,
}

impl Room {
    fn of(method: &Method, path: &str) -> Self {
        match (method.as_str(), path) {
            // Each frame has its own; a turn that is read first takes a `PageRoom`.
            (_, "/v1/conversations/{id}/events" | "/v1/turns/{id}/events") => Self::Own,
            // Providers' answers, which take their time: room is reserved when one has come.
            (_, "/v1/chat/completions" | "/v1/embeddings") => Self::Own,
            // Names alone.
            (_, "/v1/models" | "/v1/models/{id}" | "/v1/models/{provider}/{*model}") => Self::Own,
            // The turn that was submitted just now is its body once more. A copy's is read with a `PageRoom`.
            ("POST", "/v1/conversations/{id}/turns") => Self::Own,
            // A title and metadata, which have bounds.
            ("POST", "/v1/conversations") | ("PATCH" | "DELETE", "/v1/conversations/{id}") => Self::Own,
            // A few names and numbers.
            ("POST", "/v1/stream-tickets" | "/v1/admin/api-keys" | "/v1/admin/revocations") => Self::Own,
            ("DELETE", "/v1/admin/cache" | "/v1/admin/api-keys/{id}" | "/v1/admin/revocations/{id}") => Self::Own,
            // A job is a few names and numbers. A result is streamed: each piece that is read has room as a frame.
            ("POST", "/v1/admin/exports")
            | ("DELETE", "/v1/operator/tenants/{id}")
            | (_, "/v1/jobs/{id}" | "/v1/jobs/{id}/result") => Self::Own,
            (_, "/healthz" | "/readyz") => Self::Own,
            (_, "/metrics") => Self::Bytes(METRICS_BYTES),
            (_, "/openapi.json") => Self::Bytes(crate::openapi::size()),
            _ => Self::Page,
        }
    }
}

/// Reserves the room of the route that a request has found.
pub async fn layer(mut request: Request, next: Next) -> Response {
    let account = request.extensions().get::<Account>().cloned();
    let path = request.extensions().get::<MatchedPath>();
    let (Some(account), Some(path)) = (account, path) else {
        return next.run(request).await;
    };
    let reserved = match Room::of(request.method(), path.as_str()) {
        Room::Own => Ok(()),
        // Without a credential there is no page: the handler says so.
        Room::Page if !account.is_verified() => Ok(()),
        Room::Page => {
            let room = PageRoom::reserve(&account).await;
            room.map(|room| _ = request.extensions_mut().insert(room))
        }
        Room::Bytes(bytes) => account.reserve_answer(bytes).await,
    };
    match reserved {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}

/// Room for a page. The account of the request holds it; this says that it does.
#[derive(Debug, Clone)]
pub struct PageRoom(());

impl PageRoom {
    async fn reserve(account: &Account) -> Result<Self, Problem> {
        account.reserve_answer(PAGE_BYTES).await?;
        Ok(Self(()))
    }
}

/// As an argument it stands behind the caller: it is the room that the route reserved, or is reserved now.
impl<S: Send + Sync> FromRequestParts<S> for PageRoom {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        if let Some(room) = parts.extensions.get::<Self>() {
            return Ok(room.clone());
        }
        let later = LaterRoom::from_request_parts(parts, state).await?;
        later.page().await
    }
}

/// The way to room for a page of which a handler does not know yet whether it needs it.
#[derive(Debug)]
pub struct LaterRoom(Option<Account>);

impl LaterRoom {
    /// Reserves it.
    pub async fn page(&self) -> Result<PageRoom, Problem> {
        match &self.0 {
            Some(account) => PageRoom::reserve(account).await,
            // The request did not come through the router.
            None => Ok(PageRoom(())),
        }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for LaterRoom {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Problem> {
        Ok(Self(parts.extensions.get::<Account>().cloned()))
    }
}
