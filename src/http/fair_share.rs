//! The door of requests: a tenant that uses more than its share of the threads that serve waits here while others are active, before
//! its body is read; see [`copilotd_actors::fairness::share`].

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header;
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use copilotd_actors::fairness::share::{Crowded, metered};

use super::auth::{identify, is_protective};
use super::problem::{Code, Problem};
use super::state::AppState;

/// Lets a request in when it is its tenant's turn, and charges the work on it to the tenant. All requests without a credential have one
/// share together; a stream that is opened with a ticket waits for its tenant's once the ticket is known.
pub async fn layer(State(state): State<AppState>, request: Request, next: Next) -> Response {
    let path = request.uri().path();
    // Supervisors ask these whatever happens, and they cost nothing.
    if path == "/healthz" || path == "/readyz" {
        return next.run(request).await;
    }
    if !path.starts_with("/v1/") || !request.headers().contains_key(header::AUTHORIZATION) {
        return match state.shared.shares.enter_stranger().await {
            Ok(passage) => metered(Arc::clone(passage.share()), next.run(request)).await,
            Err(Crowded) => {
                let detail = "requests without a credential use more than their share of this server";
                Problem::new(Code::Overloaded).detail(detail).into_response()
            }
        };
    }
    let (mut parts, body) = request.into_parts();
    // The handler's extractors find the caller in the extensions.
    let caller = match identify(&mut parts, &state.auth).await {
        Ok(caller) => caller,
        Err(problem) => return problem.into_response(),
    };
    let (shares, tenant) = (&state.shared.shares, caller.scope.tenant());
    // Whoever revokes a leaked key does not stand behind those who flood with it. Reports and lists are work like any other.
    let answers_at_once = is_protective(&parts.method, parts.uri.path());
    let answer = next.run(Request::from_parts(parts, body));
    if answers_at_once {
        return metered(shares.of(tenant), answer).await;
    }
    match shares.enter(tenant).await {
        Ok(passage) => metered(Arc::clone(passage.share()), answer).await,
        Err(Crowded) => {
            let detail = "this tenant sends more than its share of this server can answer";
            Problem::new(Code::Overloaded).detail(detail).into_response()
        }
    }
}
