//! The door of requests: a tenant that uses more than its share of the threads that serve waits here while others are active, before
//! its body is read; see [`copilotd_actors::share`].

use axum::extract::{FromRequestParts as _, Request, State};
use axum::http::header;
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use copilotd_actors::share::{Crowded, metered};

use super::auth::Caller;
use super::problem::{Code, Problem};
use super::state::AppState;

/// Lets a request in when it is its tenant's turn, and charges the work on it to the tenant.
pub async fn layer(State(state): State<AppState>, request: Request, next: Next) -> Response {
    // Without a credential, or with a ticket, the handler decides; neither costs much.
    let has_tenant = request.uri().path().starts_with("/v1/") && request.headers().contains_key(header::AUTHORIZATION);
    if !has_tenant {
        return next.run(request).await;
    }
    let (mut parts, body) = request.into_parts();
    // The handler's extractors find the caller in the extensions.
    let caller = match Caller::from_request_parts(&mut parts, &state).await {
        Ok(caller) => caller,
        Err(problem) => return problem.into_response(),
    };
    let passage = match state.shared.shares.enter(caller.scope.tenant()).await {
        Ok(passage) => passage,
        Err(Crowded) => {
            let detail = "this tenant sends more than its share of this server can answer";
            return Problem::new(Code::Overloaded).detail(detail).into_response();
        }
    };
    let answer = next.run(Request::from_parts(parts, body));
    metered(passage.share().clone(), answer).await
}
