//! The span of a call, as an OpenTelemetry backend receives it.

use std::sync::Arc;
use std::time::Duration;

use copilotd_actors::ports::{Model, ModelEvent};
use futures::StreamExt;
use opentelemetry::global;
use opentelemetry::trace::TracerProvider;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{SdkTracerProvider, SpanData, SpanExporter};
use parking_lot::Mutex;
use tracing::Instrument;
use tracing_subscriber::layer::SubscriberExt;

use super::server::{DONE, Exchange, STREAM, Server, chunked, finish, said, usage};
use super::{PATIENT, ask, model, request};

#[derive(Debug, Clone, Default)]
struct Kept(Arc<Mutex<Vec<SpanData>>>);

impl SpanExporter for Kept {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        self.0.lock().extend(batch);
        Ok(())
    }
}

impl Kept {
    fn take(&self, name: &str) -> SpanData {
        let mut spans = self.0.lock();
        let at = spans.iter().position(|span| span.name == name).expect(name);
        spans.remove(at)
    }
}

fn attribute(span: &SpanData, name: &str) -> Option<String> {
    let found = span.attributes.iter().find(|attribute| attribute.key.as_str() == name);
    found.map(|attribute| attribute.value.to_string())
}

/// Duration of a span as its backend receives it.
fn lasted(span: &SpanData) -> Duration {
    span.end_time.duration_since(span.start_time).unwrap()
}

#[tokio::test]
async fn a_streamed_call_lasts_until_its_end_or_until_it_is_left() {
    let kept = Kept::default();
    let provider = SdkTracerProvider::builder().with_simple_exporter(kept.clone()).build();
    let layer = tracing_opentelemetry::layer()
        .with_tracer(provider.tracer("test"))
        .with_tracked_inactivity(false)
        .with_context_activation(false);
    let _guard = tracing::subscriber::set_default(tracing_subscriber::registry().with(layer));
    let pause = Duration::from_millis(150);
    for (what, stream, leaves) in [
        (
            "whole",
            said("and more") + &finish("stop") + &usage(10, 3, 4) + DONE,
            false,
        ),
        ("cut", said("and more"), false),
        ("left", said("and more"), true),
    ] {
        let server = Server::start(move |mut exchange: Exchange| {
            let stream = stream.clone();
            async move {
                exchange.write(STREAM).await;
                exchange.chunk(said("some text")).await;
                tokio::time::sleep(pause).await;
                exchange.chunk(stream).await;
                exchange.write(b"0\r\n\r\n").await;
                Some(exchange)
            }
        })
        .await;
        let model = model(&server.url, PATIENT);
        let begun = std::time::Instant::now();
        let mut events = model.stream(request()).await.unwrap();
        while let Some(Ok(event)) = events.next().await {
            if leaves && matches!(&event, ModelEvent::Text(text) if text == "and more") {
                break;
            }
        }
        drop(events);
        let took = begun.elapsed();
        let call = kept.take("chat gpt-test");
        // The provider's pause is in it, and nothing after its end.
        assert!(lasted(&call) >= pause, "{what}: {:?}", lasted(&call));
        assert!(lasted(&call) <= took, "{what}: {:?} {took:?}", lasted(&call));
    }
}

#[tokio::test]
async fn a_call_is_one_span_in_the_trace_of_its_turn_and_holds_no_text() {
    let kept = Kept::default();
    let provider = SdkTracerProvider::builder().with_simple_exporter(kept.clone()).build();
    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
    let _guard = tracing::subscriber::set_default(tracing_subscriber::registry().with(layer));
    global::set_text_map_propagator(TraceContextPropagator::new());

    let (sender, mut heads) = tokio::sync::mpsc::unbounded_channel();
    let server = Server::start(move |mut exchange: Exchange| {
        let sender = sender.clone();
        async move {
            sender.send(exchange.head.clone()).unwrap();
            exchange.write(STREAM).await;
            let body = [
                said("a secret answer"),
                finish("stop"),
                usage(10, 3, 4),
                DONE.to_owned(),
            ]
            .concat();
            exchange
                .write([chunked(body.as_bytes()), b"0\r\n\r\n".to_vec()].concat())
                .await;
            Some(exchange)
        }
    })
    .await;
    let model = model(&server.url, PATIENT);

    let (_, error) = ask(&model, request()).instrument(tracing::info_span!("turn")).await;
    assert!(error.is_none());
    let (call, turn) = (kept.take("chat gpt-test"), kept.take("turn"));
    assert_eq!(call.parent_span_id, turn.span_context.span_id());
    let port = server
        .url
        .rsplit(':')
        .next()
        .unwrap()
        .trim_end_matches("/v1")
        .to_owned();
    for (name, value) in [
        ("gen_ai.operation.name", "chat"),
        ("gen_ai.provider.name", "openai"),
        ("gen_ai.request.model", "gpt-test"),
        ("gen_ai.request.max_tokens", "100"),
        ("gen_ai.response.model", "gpt-test-0613"),
        ("gen_ai.conversation.id", "conv_00000000000000000000000000000007"),
        ("gen_ai.usage.input_tokens", "10"),
        ("gen_ai.usage.cache_read.input_tokens", "4"),
        ("gen_ai.usage.output_tokens", "3"),
        ("server.address", "127.0.0.1"),
        ("server.port", &port),
    ] {
        assert_eq!(attribute(&call, name).as_deref(), Some(value), "{name}");
    }
    assert!(attribute(&call, "gen_ai.response.time_to_first_chunk").is_some());
    assert_eq!(attribute(&call, "error.type"), None);
    let whole = format!("{call:?}");
    for private in ["secret", "Hello?", "Be brief", "ada@", "acme"] {
        assert!(!whole.contains(private), "{private}: {whole}");
    }
    let head = heads.recv().await.unwrap();
    let parent = format!(
        "traceparent: 00-{}-{}-01",
        call.span_context.trace_id(),
        call.span_context.span_id()
    );
    assert!(head.contains(&parent), "{head}");

    // A reader that leaves, and a provider that refuses.
    drop(model.stream(request()).await.unwrap());
    assert_eq!(
        attribute(&kept.take("chat gpt-test"), "error.type").as_deref(),
        Some("cancelled")
    );
    let broken = Server::canned("HTTP/1.1 500 Oh\r\nconnection: close\r\n\r\n").await;
    let _ = ask(&super::model(&broken.url, PATIENT), request()).await;
    let call = kept.take("chat gpt-test");
    assert_eq!(attribute(&call, "error.type").as_deref(), Some("overload"));
    assert!(matches!(call.status, opentelemetry::trace::Status::Error { .. }));
}
