//! Leaves requests to the standby once this process hands over to it.
//!
//! A request that comes then is refused at once: the standby answers it when it is sent again. One that is being answered has until
//! the streams end; what is not done by then is told so.

use axum::extract::{Request, State};
use axum::http::Method;
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};

use super::openai_error::is_openai;
use super::problem::{Code, Problem, Retry};
use super::refusal;
use super::state::AppState;

/// The layer.
pub async fn layer(State(state): State<AppState>, request: Request, next: Next) -> Response {
    let path = request.uri().path();
    // Whoever supervises the process is answered to the end.
    if !path.starts_with("/v1/") {
        return next.run(request).await;
    }
    if state.shutdown.is_handing_over() {
        return refusal::handing_over().into_response();
    }
    // Reading changes nothing, and a model's answer that nobody has seen is not kept.
    let is_safe = matches!(*request.method(), Method::GET | Method::HEAD) || is_openai(path);
    let handed_over = async {
        state.shutdown.closed().await;
        if !state.shutdown.is_handing_over() {
            // A drain lets what has begun end.
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
            "this server handed over to its standby before the request was done; whether it was stored is not known",
        )
        .retry(Retry::Unsafe)
}
