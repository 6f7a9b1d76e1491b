//! A client whose requests and responses read as request, status, body.

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, Method, Request, header};
use axum::response::Response;
use bytes::Bytes;
use serde_json::Value;
use tower::ServiceExt as _;

use super::app::TestApp;
use super::contract;
use super::sse::Stream;

/// A request builder.
pub struct Call<'a> {
    app: &'a TestApp,
    method: Method,
    path: String,
    headers: HeaderMap,
    body: Body,
}

impl<'a> Call<'a> {
    pub fn new(app: &'a TestApp, method: Method, path: &str) -> Self {
        Self {
            app,
            method,
            path: path.to_owned(),
            headers: HeaderMap::new(),
            body: Body::empty(),
        }
    }

    /// Adds a bearer credential.
    pub fn by(self, credential: &str) -> Self {
        self.header("authorization", &format!("Bearer {credential}"))
    }

    /// Adds a header, even if there already is one of this name.
    pub fn header(mut self, name: &'static str, value: &str) -> Self {
        // Some tests send bytes beyond ASCII.
        self.headers
            .append(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        self
    }

    pub fn json(self, body: &Value) -> Self {
        self.raw("application/json", body.to_string())
    }

    pub fn raw(mut self, content_type: &str, body: impl Into<Body>) -> Self {
        self.body = body.into();
        self.header("content-type", content_type)
    }

    async fn response(self) -> Response {
        let mut request = Request::new(self.body);
        *request.method_mut() = self.method;
        *request.uri_mut() = self.path.parse().unwrap();
        *request.headers_mut() = self.headers;
        self.app.router.clone().oneshot(request).await.unwrap()
    }

    /// Sends it and reads the whole response.
    pub async fn send(self) -> Answer {
        let (method, path) = (self.method.clone(), self.path.clone());
        let (parts, body) = self.response().await.into_parts();
        let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
        contract::check(&method, &path, parts.status.as_u16(), &parts.headers, Some(&body));
        if parts.status == 429 {
            for name in ["ratelimit", "ratelimit-policy"] {
                assert!(
                    parts.headers.contains_key(name),
                    "{method} {path}: a 429 without {name}"
                );
            }
        }
        Answer {
            said: format!("{method} {path}"),
            status: parts.status.as_u16(),
            headers: parts.headers,
            body,
        }
    }

    /// Sends it and reads the response as a stream of events.
    pub async fn stream(self) -> Stream {
        let (method, path) = (self.method.clone(), self.path.clone());
        let (parts, body) = self.response().await.into_parts();
        assert_eq!(parts.status, 200, "{method} {path}");
        contract::check(&method, &path, 200, &parts.headers, None);
        Stream::new(parts.headers, body)
    }
}

/// A complete response.
#[derive(Debug)]
pub struct Answer {
    /// The request line, for messages.
    pub said: String,
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    /// Fails unless the status is the expected one.
    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        let body = String::from_utf8_lossy(&self.body);
        assert_eq!(self.status, status, "{}: {body}", self.said);
        self
    }

    /// Fails unless this is a problem document with that code.
    #[track_caller]
    pub fn problem(self, status: u16, code: &str) -> Value {
        let answer = self.expect(status);
        assert_eq!(
            answer.headers[header::CONTENT_TYPE],
            "application/problem+json",
            "{}",
            answer.said
        );
        let problem = answer.json();
        assert_eq!(problem["code"], code, "{}: {problem:#}", answer.said);
        assert_eq!(problem["status"], status);
        assert_eq!(problem["request_id"], answer.headers["x-request-id"].to_str().unwrap());
        assert_eq!(problem["type"], format!("https://copilotd.dev/problems/{code}"));
        let later = matches!(status, 429 | 503);
        assert_eq!(answer.headers.contains_key("retry-after"), later, "{}", answer.said);
        problem
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{}: {error}: {}", self.said, String::from_utf8_lossy(&self.body)))
    }

    /// A string of the body.
    #[track_caller]
    pub fn text(&self, pointer: &str) -> String {
        let body = self.json();
        let text = body.pointer(pointer).and_then(Value::as_str);
        text.unwrap_or_else(|| panic!("{}: no string at {pointer}: {body:#}", self.said))
            .to_owned()
    }
}
