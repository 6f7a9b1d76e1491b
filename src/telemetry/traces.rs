//! Exports traces to an OpenTelemetry collector, and propagates them across processes and restarts as W3C
//! `traceparent`.
//!
//! Without a collector none of this is installed, and spans only carry ids for log lines.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use async_trait::async_trait;
use bytes::Bytes;
use copilotd_actors::ports::Traces;
use opentelemetry::propagation::TextMapPropagator as _;
use opentelemetry::trace::{TraceContextExt as _, TracerProvider as _};
use opentelemetry::{Context, KeyValue};
use opentelemetry_http::{HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{RetryPolicy, SpanExporter as OtlpExporter, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracerProvider, SpanData, SpanExporter,
};
use tokio::runtime::Handle;
use tracing::level_filters::LevelFilter;
use tracing::{Span, Subscriber, field};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::Layer;
use tracing_subscriber::registry::LookupSpan;

use crate::response_body;

/// Maximum spans waiting for export; excess spans are dropped.
const QUEUE: usize = 8_192;
/// Maximum spans per request to the collector.
const BATCH: usize = 512;
/// Maximum time a span waits for its batch to fill.
const DELAY: Duration = Duration::from_secs(1);
/// Timeout of a request to the collector.
const COLLECTOR_TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum bytes read of a collector's response.
const MAX_ANSWER: usize = 64 * 1024;

/// Starts the export to the collector at `endpoint`.
pub fn provider(endpoint: &str) -> anyhow::Result<SdkTracerProvider> {
    let client = Client {
        http: reqwest::Client::builder()
            .timeout(COLLECTOR_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .context("cannot create the HTTP client for traces")?,
        runtime: Handle::current(),
    };
    let exporter = OtlpExporter::builder()
        .with_http()
        .with_http_client(client)
        .with_endpoint(traces_url(endpoint))
        .with_timeout(COLLECTOR_TIMEOUT)
        // The queue is bounded: while one batch is retried, others would be lost.
        .with_retry_policy(RetryPolicy::disabled())
        .build()
        .context("telemetry.otlp_endpoint")?;
    let exporter = ReportingExporter {
        inner: exporter,
        failing: AtomicBool::new(false),
    };
    let config = BatchConfigBuilder::default()
        .with_max_queue_size(QUEUE)
        .with_max_export_batch_size(BATCH)
        .with_scheduled_delay(DELAY)
        .build();
    let processor = BatchSpanProcessor::builder(exporter).with_batch_config(config).build();
    let resource = Resource::builder()
        .with_service_name("copilotd")
        .with_attributes([
            KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
            KeyValue::new("service.instance.id", uuid::Uuid::now_v7().to_string()),
        ])
        .build();
    opentelemetry::global::set_text_map_propagator(TraceContextPropagator::new());
    Ok(SdkTracerProvider::builder()
        .with_span_processor(processor)
        .with_resource(resource)
        // Respects a caller's decision not to sample its trace.
        .with_sampler(Sampler::ParentBased(Box::new(Sampler::AlwaysOn)))
        .build())
}

/// Returns the collector's URL for traces over OTLP/HTTP.
pub fn traces_url(endpoint: &str) -> String {
    let endpoint = endpoint.trim_end_matches('/');
    if endpoint.ends_with("/v1/traces") {
        endpoint.to_owned()
    } else {
        format!("{endpoint}/v1/traces")
    }
}

/// Turns our spans into spans of `provider`.
pub fn layer<S>(provider: &SdkTracerProvider) -> impl Layer<S> + use<S>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    tracing_opentelemetry::layer()
        .with_tracer(provider.tracer("copilotd"))
        .with_location(false)
        .with_threads(false)
        .with_target(false)
        .with_level(false)
        // Both would cost time at every poll of a future.
        .with_tracked_inactivity(false)
        .with_context_activation(false)
        // The prefix covers all crates of the workspace. Spans of other crates (drivers, HTTP) may contain anything.
        .with_filter(Targets::new().with_target("copilotd", LevelFilter::INFO))
}

/// Returns the W3C `traceparent` of the current span, if tracing is enabled.
pub fn traceparent() -> Option<String> {
    let context = Span::current().context();
    let span = context.span();
    let ids = span.span_context();
    ids.is_valid().then(|| {
        let flags = ids.trace_flags().to_u8();
        format!("00-{}-{}-{flags:02x}", ids.trace_id(), ids.span_id())
    })
}

/// Resumes traces from stored records.
#[derive(Debug, Clone, Copy)]
pub struct StoredTraces;

impl Traces for StoredTraces {
    fn resume(&self, traceparent: Option<&str>) -> Span {
        // A root for this process: the request's own span must not stay open as long as its turn.
        let span = tracing::info_span!(
            parent: None,
            "turn",
            copilotd.tenant = field::Empty,
            copilotd.turn.id = field::Empty,
            gen_ai.conversation.id = field::Empty,
        );
        if let Some(traceparent) = traceparent {
            let carrier = HashMap::from([("traceparent".to_owned(), traceparent.to_owned())]);
            let parent = TraceContextPropagator::new().extract_with_context(&Context::new(), &carrier);
            // Fails without a collector; then there is no trace to resume.
            let _ = span.set_parent(parent);
        }
        span
    }
}

/// Sends requests of the exporter's thread, which has no runtime, through the process's runtime.
#[derive(Debug)]
struct Client {
    http: reqwest::Client,
    runtime: Handle,
}

#[async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let request = reqwest::Request::try_from(request)?;
        let http = self.http.clone();
        let sent = self.runtime.spawn(async move {
            let mut response = http.execute(request).await?;
            let mut body = Vec::new();
            response_body::read_start(&mut response, &mut body, MAX_ANSWER).await?;
            Ok::<_, HttpError>((response.status(), Bytes::from(body)))
        });
        let (status, body) = sent.await??;
        Ok(Response::builder().status(status).body(body)?)
    }
}

/// Logs once when exporting fails, and once when it recovers.
#[derive(Debug)]
struct ReportingExporter<E> {
    inner: E,
    failing: AtomicBool,
}

impl<E: SpanExporter> SpanExporter for ReportingExporter<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len() as u64;
        let outcome = self.inner.export(batch).await;
        match &outcome {
            Ok(()) => {
                if self.failing.swap(false, Ordering::Relaxed) {
                    tracing::info!("trace export recovered");
                }
            }
            Err(error) => {
                metrics::counter!("copilotd_spans_lost_total").increment(spans);
                if !self.failing.swap(true, Ordering::Relaxed) {
                    tracing::warn!(%error, "trace export to the collector failed; spans are dropped until it recovers");
                }
            }
        }
        outcome
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_collectors_address_may_be_its_root_or_its_path() {
        for (given, used) in [
            ("http://c:4318", "http://c:4318/v1/traces"),
            ("http://c:4318/", "http://c:4318/v1/traces"),
            ("https://c/otlp/", "https://c/otlp/v1/traces"),
            ("http://c:4318/v1/traces", "http://c:4318/v1/traces"),
        ] {
            assert_eq!(traces_url(given), used);
        }
    }

    #[test]
    fn without_a_collector_there_is_no_traceparent() {
        assert_eq!(traceparent(), None);
        let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        assert_eq!(StoredTraces.resume(Some(parent)).in_scope(traceparent), None);
    }
}
