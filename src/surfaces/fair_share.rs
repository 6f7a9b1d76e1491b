//! Fair sharing of the serving threads: while others are active, requests of a tenant that uses more than its share
//! wait here, before their body is read; see [`copilotd_actors::fairness::share`].

use std::pin::pin;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header;
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use copilotd_actors::fairness::share::{ShareExceeded, Shares, metered};

use crate::http::credentials::{Authenticator, identify, is_protective};
use crate::http::problems::{Code, Problem};

/// Admits a request when it is its tenant's turn, and charges the work to the tenant. All requests without a credential
/// share one share; a stream opened with a ticket waits for its tenant's share once the ticket is verified.
pub async fn layer(
    State(auth): State<Arc<Authenticator>>,
    State(shares): State<Arc<Shares>>,
    request: Request,
    next: Next,
) -> Response {
    let path = request.uri().path();
    // Health checks must always be answered, and they are cheap.
    if path == "/healthz" || path == "/readyz" {
        return next.run(request).await;
    }
    if !path.starts_with("/v1/") || !request.headers().contains_key(header::AUTHORIZATION) {
        return match shares.enter_anonymous().await {
            Ok(passage) => metered(Arc::clone(passage.share()), pin!(next.run(request))).await,
            Err(ShareExceeded) => {
                let detail = "requests without a credential are using more than their share of this server";
                Problem::new(Code::Overloaded).detail(detail).into_response()
            }
        };
    }
    let (mut parts, body) = request.into_parts();
    // Stored in the extensions for the handler's extractors.
    let caller = match identify(&mut parts, &auth).await {
        Ok(caller) => caller,
        Err(problem) => return problem.into_response(),
    };
    let tenant = caller.scope.tenant();
    // Revoking a leaked key must not queue behind a flood that uses it. Reports and lists wait like any other work.
    let answers_at_once = is_protective(&parts.method, parts.uri.path());
    let answer = pin!(next.run(Request::from_parts(parts, body)));
    if answers_at_once {
        return metered(shares.of(tenant), answer).await;
    }
    match shares.enter(tenant).await {
        Ok(passage) => metered(Arc::clone(passage.share()), answer).await,
        Err(ShareExceeded) => {
            let detail = "this tenant is using more than its share of this server";
            Problem::new(Code::Overloaded).detail(detail).into_response()
        }
    }
}
