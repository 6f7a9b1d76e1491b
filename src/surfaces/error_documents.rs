//! The outermost layer: adds an id to every request, `x-request-id` to every response, and the problem document to
//! every error.
//!
//! Invariant: whatever happens inside (a panic, a rejection of the framework, an unknown path), the response is either
//! a handler's answer or an error document with the request id.

use std::panic::AssertUnwindSafe;

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures::FutureExt;

use super::openai::error::{OpenAiError, is_openai};
use crate::http::problems::{self, Code, Problem, complete};
use crate::http::request_id::{RequestId, X_REQUEST_ID};

/// The layer, for [`axum::middleware::from_fn`]; add it last, so that it is the outermost.
pub async fn layer(mut request: Request, next: Next) -> Response {
    let id = RequestId::of(request.headers());
    let head = request.method() == Method::HEAD;
    let openai = is_openai(request.uri().path());
    request.extensions_mut().insert(id.clone());
    let answer = AssertUnwindSafe(next.run(request)).catch_unwind().await;
    let mut response = answer.unwrap_or_else(|_panic| {
        // The panic hook has already logged the location; the payload may contain user content and is not repeated.
        tracing::error!(request_id = id.as_str(), "request handler panicked; answered 500");
        Problem::new(Code::Internal).into_response()
    });
    if let Some(problem) = problem_of(&response) {
        let (kind, document) = if openai {
            let error = OpenAiError::of_problem(&problem);
            *response.status_mut() = error.status();
            (
                HeaderValue::from_static("application/json"),
                error.document().to_string().into(),
            )
        } else {
            (problems::CONTENT_TYPE, problem.document(id.as_str()).into())
        };
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
        response.headers_mut().remove(header::CONTENT_LENGTH);
        // A response to HEAD has headers only.
        *response.body_mut() = if head { Body::empty() } else { document };
        response.extensions_mut().insert(problem);
    }
    if response.status() == StatusCode::TOO_MANY_REQUESTS {
        complete(response.headers_mut());
    }
    if let Ok(value) = HeaderValue::from_str(id.as_str()) {
        response.headers_mut().insert(X_REQUEST_ID, value);
    }
    response
}

/// Returns the problem of an error response, creating one for rejections made by the framework.
fn problem_of(response: &Response) -> Option<Problem> {
    if let Some(problem) = response.extensions().get::<Problem>() {
        return Some(problem.clone());
    }
    let status = response.status();
    if !status.is_client_error() && !status.is_server_error() {
        return None;
    }
    // A handler's own error document (of another protocol) has a content type; framework rejections are empty or plain
    // text.
    let plain = match response.headers().get(header::CONTENT_TYPE) {
        Some(value) => value.as_bytes().starts_with(b"text/plain"),
        None => true,
    };
    plain.then(|| Problem::new(Code::of_status(status)))
}
