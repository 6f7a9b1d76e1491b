//! A trace collector on loopback: OTLP over HTTP.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::http::{HeaderMap, header};
use axum::routing::post;
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use parking_lot::Mutex;
use prost::Message;
use tokio::net::TcpListener;

use super::eventually;

/// A received span.
#[derive(Debug, Clone)]
pub struct Span {
    /// The process that sent it.
    pub instance: String,
    pub trace: String,
    pub id: String,
    pub parent: String,
    pub name: String,
    pub kind: i32,
    pub failed: bool,
    pub lasted: Duration,
    pub attributes: BTreeMap<String, String>,
}

impl Span {
    pub fn attribute(&self, name: &str) -> &str {
        self.attributes.get(name).map_or("", String::as_str)
    }
}

#[derive(Debug, Default)]
struct Received {
    spans: Vec<Span>,
    bytes: Vec<u8>,
}

/// The collector; stops with its test.
#[derive(Debug, Clone)]
pub struct Collector {
    received: Arc<Mutex<Received>>,
    pub url: String,
}

impl Collector {
    pub async fn start() -> Self {
        let received = Arc::new(Mutex::new(Received::default()));
        let kept = Arc::clone(&received);
        let take = move |headers: HeaderMap, body: Bytes| async move {
            assert_eq!(headers[header::CONTENT_TYPE], "application/x-protobuf");
            let request = ExportTraceServiceRequest::decode(body.clone()).unwrap();
            let mut received = kept.lock();
            received.bytes.extend_from_slice(&body);
            received.spans.extend(spans(request));
            ExportTraceServiceResponse::default().encode_to_vec()
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let router = Router::new().route("/v1/traces", post(take));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { received, url }
    }

    /// All spans so far.
    pub fn spans(&self) -> Vec<Span> {
        self.received.lock().spans.clone()
    }

    /// Everything received, unparsed.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.received.lock().bytes).into_owned()
    }

    /// Waits for a span.
    pub async fn span(&self, what: &str, fits: impl Fn(&Span) -> bool) -> Span {
        let found = || self.spans().into_iter().find(|span| fits(span));
        eventually(what, Duration::from_secs(30), || async { found() }).await
    }
}

fn spans(request: ExportTraceServiceRequest) -> Vec<Span> {
    let mut all = Vec::new();
    for resource in request.resource_spans {
        let about = attributes(resource.resource.unwrap_or_default().attributes);
        assert_eq!(about["service.name"], "copilotd");
        for span in resource.scope_spans.into_iter().flat_map(|scope| scope.spans) {
            all.push(Span {
                instance: about["service.instance.id"].clone(),
                trace: hex::encode(&span.trace_id),
                id: hex::encode(&span.span_id),
                parent: hex::encode(&span.parent_span_id),
                name: span.name,
                kind: span.kind,
                lasted: Duration::from_nanos(span.end_time_unix_nano - span.start_time_unix_nano),
                failed: span.status.is_some_and(|status| status.code == 2),
                attributes: attributes(span.attributes),
            });
        }
    }
    all
}

fn attributes(attributes: Vec<KeyValue>) -> BTreeMap<String, String> {
    let text = |value: AnyValue| match value.value {
        Some(Value::StringValue(text)) => text,
        Some(Value::IntValue(number)) => number.to_string(),
        Some(Value::BoolValue(yes)) => yes.to_string(),
        Some(Value::DoubleValue(number)) => number.to_string(),
        other => format!("{other:?}"),
    };
    let pair = |pair: KeyValue| (pair.key, text(pair.value.unwrap_or_default()));
    attributes.into_iter().map(pair).collect()
}
