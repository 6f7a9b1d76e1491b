//! Leaves requests to the standby once this process is handing over.
//!
//! New requests are refused immediately: the standby answers the retry. Requests in flight have until the streams end;
//! those unfinished by then are answered 503.

use axum::extract::{Request, State};
use axum::http::Method;
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};

use super::openai::error::is_openai;
use super::refusal;
use super::state::Shutdown;
use crate::http::problems::{Code, Problem, Retry};

pub async fn layer(State(shutdown): State<Shutdown>, request: Request, next: Next) -> Response {
    let path = request.uri().path();
    // Health checks and metrics are answered to the end.
    if !path.starts_with("/v1/") {
        return next.run(request).await;
    }
    if shutdown.is_handing_over() {
        return refusal::handing_over().into_response();
    }
    // Reads change nothing, and an unseen model answer is not stored.
    let is_safe = matches!(*request.method(), Method::GET | Method::HEAD) || is_openai(path);
    let handed_over = async {
        shutdown.closed().await;
        if !shutdown.is_handing_over() {
            // A drain without handover lets running requests finish.
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        biased;
        answer = next.run(request) => answer,
        () = handed_over => unfinished(is_safe).into_response(),
    }
}

fn unfinished(is_safe: bool) -> Problem {
    if is_safe {
        return refusal::handing_over();
    }
    Problem::new(Code::Unavailable)
        .detail(
            "this server handed over to its standby before the request finished; it may or may not have been stored",
        )
        .retry(Retry::Unsafe)
}
