//! One span and one count per request, following the OpenTelemetry semantic conventions for HTTP servers.
//!
//! Invariant: the query is never recorded (it may contain a stream ticket), and labels contain the route's pattern, so
//! that clients cannot create new label values.

use std::borrow::Cow;

use axum::extract::{MatchedPath, Request};
use axum::http::{Method, StatusCode, Version, header};
use axum::middleware::Next;
use axum::response::Response;
use opentelemetry_http::HeaderExtractor;
use tokio::time::Instant;
use tracing::{Instrument as _, Span, field};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

use super::request_id::RequestId;

/// Maximum length of a host name from a request.
const MAX_HOST: usize = 255;
/// The route label of paths without a route.
const NO_ROUTE: &str = "none";
/// The status of a request whose client disconnected before the response.
const CLIENT_GONE: u16 = 499;

/// Opens the span of each request and counts it. For a stream, the time ends with its first byte.
pub async fn http_span(request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().cloned();
    let method = method(request.method());
    let span = span(&request, method, route.as_ref().map(MatchedPath::as_str));
    let mut measurement = RequestMeasurement {
        span: span.clone(),
        method,
        route,
        started: Instant::now(),
        status: None,
    };
    let response = next.run(request).instrument(span).await;
    measurement.status = Some(response.status());
    response
}

fn span(request: &Request, method: &'static str, route: Option<&str>) -> Span {
    let (host, port) = host(request);
    let name = route.map_or(Cow::Borrowed(method), |route| Cow::Owned(format!("{method} {route}")));
    let span = tracing::info_span!(
        parent: None,
        "http_request",
        otel.name = %name,
        otel.kind = "server",
        otel.status_code = field::Empty,
        http.request.method = method,
        http.route = route,
        http.response.status_code = field::Empty,
        // With a route, the path can only contain ids; an unknown path could contain anything.
        url.path = route.map(|_| request.uri().path()),
        url.scheme = "http",
        server.address = host,
        server.port = port,
        network.protocol.version = version(request.version()),
        error.r#type = field::Empty,
        request_id = request.extensions().get::<RequestId>().map(RequestId::as_str),
    );
    let parent = opentelemetry::global::get_text_map_propagator(|propagator| {
        propagator.extract_with_context(&opentelemetry::Context::new(), &HeaderExtractor(request.headers()))
    });
    // Fails without a collector; then there is no trace to continue.
    let _ = span.set_parent(parent);
    span
}

/// Ends the span and counts the request, also when it is dropped midway.
struct RequestMeasurement {
    span: Span,
    method: &'static str,
    route: Option<MatchedPath>,
    started: Instant,
    status: Option<StatusCode>,
}

impl Drop for RequestMeasurement {
    fn drop(&mut self) {
        let status = match self.status {
            Some(status) => status.as_u16(),
            // The outer layer answers 500 for a handler that panicked.
            None if std::thread::panicking() => 500,
            None => CLIENT_GONE,
        };
        let took = self.started.elapsed();
        if status >= 500 {
            self.span.record("otel.status_code", "ERROR");
        }
        if status == CLIENT_GONE {
            self.span.record("error.type", "client_gone");
        } else {
            self.span.record("http.response.status_code", status);
            if status >= 500 {
                self.span.record("error.type", field::display(status));
            }
        }
        let route = self.route.as_ref().map_or(NO_ROUTE, MatchedPath::as_str).to_owned();
        self.span.in_scope(|| {
            tracing::debug!(
                status,
                method = self.method,
                ms = took.as_secs_f64() * 1000.0,
                "request finished"
            );
        });
        metrics::histogram!("copilotd_http_request_seconds", "method" => self.method, "route" => route.clone())
            .record(took);
        metrics::counter!("copilotd_http_requests_total",
            "method" => self.method, "route" => route, "status" => status.to_string())
        .increment(1);
    }
}

/// The methods of the conventions; all others are `_OTHER`.
fn method(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        Method::TRACE => "TRACE",
        Method::CONNECT => "CONNECT",
        _ => "_OTHER",
    }
}

fn version(version: Version) -> &'static str {
    match version {
        Version::HTTP_2 => "2",
        Version::HTTP_10 => "1.0",
        _ => "1.1",
    }
}

/// Returns the server name and port as sent by the client: in the `Host` header or the HTTP/2 authority.
fn host(request: &Request) -> (Option<&str>, Option<u16>) {
    let header = request.headers().get(header::HOST);
    let host = match header {
        Some(value) => value.to_str().ok(),
        None => request.uri().authority().map(|authority| authority.as_str()),
    };
    let Some(host) = host.filter(|host| host.len() <= MAX_HOST) else {
        return (None, None);
    };
    match host.rsplit_once(':').map(|(name, port)| (name, port.parse())) {
        Some((name, Ok(port))) => (Some(name), Some(port)),
        _ => (Some(host), None),
    }
}
