//! Errors as clients see them: `application/problem+json` (RFC 9457).
//!
//! A [`Problem`] also travels in the response's extensions, so that [`super::request_id`] can add the request id to the
//! document or render it in OpenAI's error shape on the OpenAI-compatible routes.

mod code;
mod rate_limit;

use std::borrow::Cow;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
pub use code::{Code, Retry};
use copilotd_actors::domain::schema::Violation;
pub use rate_limit::RateLimit;
pub(crate) use rate_limit::complete;
use serde::Serialize;

use crate::retry_after;

/// The media type of problem documents.
pub const CONTENT_TYPE: HeaderValue = HeaderValue::from_static("application/problem+json");

/// Maximum length of a pointer in a response, in bytes.
const MAX_POINTER: usize = 512;

/// An error response. Its texts are shown to the caller: no internal messages, no secrets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    code: Code,
    retry: Retry,
    detail: Option<Cow<'static, str>>,
    errors: Vec<FieldError>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

/// One schema violation in a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FieldError {
    /// JSON Pointer into the body.
    pub pointer: String,
    /// What is wrong at the pointer.
    pub message: String,
}

impl From<Violation> for FieldError {
    fn from(violation: Violation) -> Self {
        Self {
            pointer: truncated(violation.pointer),
            message: violation.message,
        }
    }
}

/// Truncates an overlong pointer: the caller chooses its names, and the response repeats it for each violation.
fn truncated(mut pointer: String) -> String {
    if pointer.len() > MAX_POINTER {
        pointer.truncate(pointer.floor_char_boundary(MAX_POINTER));
        pointer.push('…');
    }
    pointer
}

#[derive(Serialize)]
struct Document<'a> {
    r#type: String,
    title: &'static str,
    status: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<&'a str>,
    code: Code,
    request_id: &'a str,
    retry: Retry,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    errors: &'a [FieldError],
}

impl Problem {
    /// Creates a problem with the code's defaults and no detail.
    pub fn new(code: Code) -> Self {
        let problem = Self {
            code,
            retry: code.retry(),
            detail: None,
            errors: Vec::new(),
            headers: Vec::new(),
        };
        // Every 429 and 503 carries Retry-After; callers that know a better value overwrite it.
        if code.has_retry_after() {
            problem.retry_after(Duration::from_secs(1))
        } else {
            problem
        }
    }

    /// Creates a 422 that lists the schema violations.
    pub fn invalid(errors: impl IntoIterator<Item = impl Into<FieldError>>) -> Self {
        let mut problem = Self::new(Code::Invalid);
        problem.errors = errors.into_iter().map(Into::into).collect();
        problem
    }

    /// Sets the detail, which the caller sees.
    pub fn detail(mut self, detail: impl Into<Cow<'static, str>>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// Overrides the code's retry advice.
    pub fn retry(mut self, retry: Retry) -> Self {
        self.retry = retry;
        self
    }

    /// Sets `Retry-After`, rounded up to whole seconds, at least one.
    pub fn retry_after(self, wait: Duration) -> Self {
        self.header(header::RETRY_AFTER, retry_after::value(wait))
    }

    /// Adds the `RateLimit` and `RateLimit-Policy` headers, and `Retry-After` from the limit's reset.
    pub fn rate_limit(self, limit: &RateLimit) -> Self {
        let (policy, state) = limit.headers();
        self.header(HeaderName::from_static("ratelimit-policy"), policy)
            .header(HeaderName::from_static("ratelimit"), state)
            .retry_after(limit.reset)
    }

    /// Sets a response header, replacing an earlier value.
    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.retain(|(known, _)| known != name);
        self.headers.push((name, value));
        self
    }

    pub fn code(&self) -> Code {
        self.code
    }

    pub fn detail_text(&self) -> Option<&str> {
        self.detail.as_deref()
    }

    pub fn errors(&self) -> &[FieldError] {
        &self.errors
    }

    /// Serialises the problem document with the request id.
    pub(crate) fn document(&self, request_id: &str) -> Vec<u8> {
        let document = Document {
            r#type: format!("https://copilotd.dev/problems/{}", self.code.as_str()),
            title: self.code.title(),
            status: self.code.status().as_u16(),
            detail: self.detail.as_deref(),
            code: self.code,
            request_id,
            retry: self.retry,
            errors: &self.errors,
        };
        serde_json::to_vec(&document).expect("a document of strings and numbers is serialisable")
    }
}

impl From<Code> for Problem {
    fn from(code: Code) -> Self {
        Self::new(code)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::from(self.document("")));
        *response.status_mut() = self.code.status();
        response.headers_mut().insert(header::CONTENT_TYPE, CONTENT_TYPE);
        for (name, value) in &self.headers {
            response.headers_mut().insert(name, value.clone());
        }
        response.extensions_mut().insert(self);
        response
    }
}

#[cfg(test)]
mod tests {
    use axum::http::StatusCode;

    use super::*;

    #[test]
    fn codes_are_distinct_and_found_by_status() {
        let mut names: Vec<_> = Code::ALL.iter().map(|code| code.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Code::ALL.len());
        for (status, code) in [
            (StatusCode::BAD_REQUEST, Code::Malformed),
            (StatusCode::METHOD_NOT_ALLOWED, Code::MethodNotAllowed),
            (StatusCode::IM_A_TEAPOT, Code::Malformed),
            (StatusCode::CONFLICT, Code::Conflict),
            (StatusCode::TOO_MANY_REQUESTS, Code::RateLimited),
            (StatusCode::BAD_GATEWAY, Code::Unavailable),
            (StatusCode::NOT_IMPLEMENTED, Code::Internal),
        ] {
            assert_eq!(Code::of_status(status), code, "{status}");
        }
    }

    #[test]
    fn only_429_and_503_carry_retry_after() {
        for code in Code::ALL {
            let response = Problem::new(*code).into_response();
            let status = response.status().as_u16();
            assert_eq!(
                response.headers().contains_key(header::RETRY_AFTER),
                status == 429 || status == 503
            );
        }
        let response = Problem::new(Code::Overloaded)
            .retry_after(Duration::from_millis(2100))
            .into_response();
        assert_eq!(response.headers()[header::RETRY_AFTER], "3");
    }

    #[test]
    fn every_document_satisfies_its_schema_and_the_schema_knows_every_code() {
        let text = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/schemas/api/problem.json"));
        let shape = crate::shape::Shape::compile(text).unwrap();
        for code in Code::ALL {
            let document = Problem::new(*code).detail("x").document("r1");
            let document = serde_json::from_slice(&document).unwrap();
            assert_eq!(shape.violations(&document, 16), [], "{document}");
        }
        let schema: serde_json::Value = serde_json::from_str(text).unwrap();
        assert_eq!(schema["properties"]["code"]["enum"], serde_json::json!(Code::ALL));
    }

    #[test]
    fn the_document_has_every_member() {
        let problem = Problem::invalid([FieldError {
            pointer: "/input".into(),
            message: "is required".into(),
        }])
        .detail("no");
        let document: serde_json::Value = serde_json::from_slice(&problem.document("r1")).unwrap();
        assert_eq!(
            document,
            serde_json::json!({
                "type": "https://copilotd.dev/problems/invalid",
                "title": "Invalid request",
                "status": 422,
                "detail": "no",
                "code": "invalid",
                "request_id": "r1",
                "retry": "never",
                "errors": [{ "pointer": "/input", "message": "is required" }],
            })
        );
    }
}
