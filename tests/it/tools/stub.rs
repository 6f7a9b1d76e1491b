//! A scripted server: it records requests and answers what the test says.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::{Bytes, to_bytes};
use axum::extract::Request;
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use parking_lot::Mutex;
use serde_json::Value;

/// One request.
#[derive(Debug, Clone)]
pub struct Seen {
    pub method: Method,
    pub path: String,
    pub query: Vec<(String, String)>,
    pub headers: HeaderMap,
    pub body: Value,
}

impl Seen {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    pub fn param(&self, name: &str) -> Option<&str> {
        let found = self.query.iter().find(|(key, _)| key == name)?;
        Some(&found.1)
    }

    /// Method and path in one line.
    pub fn line(&self) -> String {
        format!("{} {}", self.method, self.path)
    }
}

/// An answer.
#[derive(Debug, Clone)]
pub struct Say {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: Bytes,
}

impl Say {
    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

/// Answers with JSON.
pub fn json(status: u16, body: Value) -> Say {
    Say {
        status,
        headers: vec![("content-type", "application/json".into())],
        body: body.to_string().into(),
    }
}

/// Answers with any body.
pub fn raw(status: u16, body: impl Into<Bytes>) -> Say {
    Say {
        status,
        headers: Vec::new(),
        body: body.into(),
    }
}

pub struct Stub {
    pub url: String,
    seen: Arc<Mutex<Vec<Seen>>>,
    server: tokio::task::JoinHandle<()>,
}

impl Stub {
    pub async fn start(script: impl Fn(&Seen) -> Say + Send + Sync + 'static) -> Self {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&seen);
        let script = Arc::new(script);
        let app = Router::new().fallback(move |request: Request| {
            let (kept, script) = (Arc::clone(&kept), Arc::clone(&script));
            async move {
                let one = read(request).await;
                let say = script(&one);
                kept.lock().push(one);
                respond(say)
            }
        });
        let listener = tokio::net::TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0)))
            .await
            .unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let server = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { url, seen, server }
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().clone()
    }

    pub fn lines(&self) -> Vec<String> {
        self.seen().iter().map(Seen::line).collect()
    }
}

impl Drop for Stub {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn read(request: Request) -> Seen {
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, 1 << 20).await.unwrap();
    let query = parts.uri.query().unwrap_or_default();
    Seen {
        method: parts.method,
        path: parts.uri.path().to_owned(),
        query: axum::extract::Query::try_from_uri(&parts.uri)
            .map(|axum::extract::Query(pairs)| pairs)
            .unwrap_or_else(|_| panic!("unreadable query {query}")),
        headers: parts.headers,
        body: if body.is_empty() {
            Value::Null
        } else {
            serde_json::from_slice(&body).unwrap()
        },
    }
}

fn respond(say: Say) -> Response {
    let mut response = (StatusCode::from_u16(say.status).unwrap(), say.body).into_response();
    for (name, value) in say.headers {
        response.headers_mut().insert(name, value.parse().unwrap());
    }
    response
}
