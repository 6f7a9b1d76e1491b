//! Which pages of other origins may read responses: those of `server.allowed_origins`, and those of the tenant whose
//! credential the request bears. A preflight bears none, and neither do requests that are refused: there the origins of
//! all tenants count.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header;
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};

use crate::http::account::Account;
use crate::http::cors;
use crate::http::problems::{Code, Problem};
use crate::tenants::TenantRegistry;

/// The layer; outside of the one that opens accounts.
pub async fn layer(State(tenants): State<Arc<TenantRegistry>>, request: Request, next: Next) -> Response {
    let Some(origin) = request.headers().get(header::ORIGIN).cloned() else {
        return next.run(request).await;
    };
    if cors::is_preflight(request.method(), request.headers()) {
        return match tenants.allows_origin(origin.as_bytes(), None) {
            true => cors::preflight(origin, request.headers()),
            false => Problem::new(Code::Forbidden)
                .detail("pages of this origin may not call this server: it is in no allowed_origins")
                .into_response(),
        };
    }
    let mut response = next.run(request).await;
    let tenant = response
        .extensions()
        .get::<Account>()
        .and_then(Account::tenant)
        .cloned();
    if tenants.allows_origin(origin.as_bytes(), tenant.as_ref()) {
        cors::allow(&mut response, origin);
    }
    cors::vary(&mut response);
    response
}
