//! What the process tells about itself: logs, traces and metrics. `docs/observability.md` lists all of it.
//!
//! Invariants: no prompt, answer, argument, result or credential stands in a log line, a span or a label, but for the
//! prompts and answers of tenants that asked for it ([`content`]). Nothing here runs once per token, and nothing here
//! makes a request wait: lines are written at once, spans go through a bounded queue which drops what is too much.

mod calls;
pub mod content;
mod http;
mod logs;
mod metrics;
mod panics;
mod runtime;
mod tenants;
mod traces;
mod zeros;

use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing_subscriber::layer::SubscriberExt as _;

pub use self::calls::{CallMetrics, start as start_counters_of_target};
pub use self::http::http_span;
pub use self::metrics::{METRICS, Metric, Render, metrics};
pub use self::runtime::PROCESS_METRICS;
pub use self::tenants::{MetricsView, count_request};
pub use self::traces::{StoredTraces, traceparent, traces_url};
pub use self::zeros::provider as start_counters_of_provider;
use crate::config::Telemetry as Settings;

/// Longest time that the last spans get on their way out.
const FLUSH: std::time::Duration = std::time::Duration::from_secs(3);

/// Keeps telemetry going; dropping it sends what is left.
#[derive(Debug)]
pub struct Telemetry(Option<SdkTracerProvider>);

/// Starts logs and, if a collector is configured, traces. Has to be called inside the runtime, once per process.
pub fn start(settings: &Settings) -> anyhow::Result<Telemetry> {
    let provider = settings.otlp_endpoint.as_deref().map(traces::provider).transpose()?;
    let traces = provider.as_ref().map(traces::layer);
    let subscriber = tracing_subscriber::registry().with(traces).with(logs::layer(settings)?);
    // Fails when a subscriber stands already, as in tests that start several applications: theirs stays.
    let _ = tracing::subscriber::set_global_default(subscriber);
    panics::log_without_content();
    Ok(Telemetry(provider))
}

impl Drop for Telemetry {
    fn drop(&mut self) {
        if let Some(provider) = &self.0 {
            // Whoever stops the process does not wait longer for a collector that is away.
            let _ = provider.shutdown_with_timeout(FLUSH);
        }
    }
}
