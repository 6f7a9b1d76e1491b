//! Logs, traces and metrics. `docs/operate/observability.md` lists all of them.
//!
//! Invariants: no log line, span or label contains a prompt, answer, argument, result or credential, except the prompts
//! and answers of tenants that enable it ([`content`]). Nothing here runs once per token, and nothing here makes a
//! request wait: log lines are written at once, and spans go through a bounded queue that drops the excess.

mod calls;
pub mod content;
pub(crate) mod initial_counters;
mod logs;
mod metrics;
mod panics;
mod runtime;
mod tenants;
mod traces;

use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing_subscriber::layer::SubscriberExt as _;

pub use self::calls::{CallMetrics, start as start_counters_of_target};
pub use self::metrics::{HttpUse, METRICS, Metric, Render, metrics, start_counting};
pub use self::runtime::PROCESS_METRICS;
pub use self::tenants::{MetricsView, count_request};
pub use self::traces::{StoredTraces, traceparent, traces_url};
use crate::config::Telemetry as Settings;
pub use initial_counters::provider as start_counters_of_provider;
pub use initial_counters::system_kind as start_counters_of_system_kind;

/// Maximum time to send the last spans at exit.
const FLUSH: std::time::Duration = std::time::Duration::from_secs(3);

/// Keeps telemetry running; dropping it sends the remaining spans.
#[derive(Debug)]
pub struct Telemetry(Option<SdkTracerProvider>);

/// Starts logging and, if a collector is configured, tracing. Must be called inside the runtime, once per process.
pub fn start(settings: &Settings) -> anyhow::Result<Telemetry> {
    let provider = settings.otlp_endpoint.as_deref().map(traces::provider).transpose()?;
    let traces = provider.as_ref().map(traces::layer);
    let subscriber = tracing_subscriber::registry().with(traces).with(logs::layer(settings)?);
    // Fails if a subscriber is already set, as in tests that start several applications: the first one stays.
    let _ = tracing::subscriber::set_global_default(subscriber);
    panics::log_without_content();
    Ok(Telemetry(provider))
}

impl Drop for Telemetry {
    fn drop(&mut self) {
        if let Some(provider) = &self.0 {
            // Stopping the process does not wait longer for an unreachable collector.
            let _ = provider.shutdown_with_timeout(FLUSH);
        }
    }
}
