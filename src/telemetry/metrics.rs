//! The metrics of the process, as `/metrics` shows them. [`METRICS`] is the whole list.
//!
//! Counters and histograms are recorded where things happen; what is a state (open turns, live actors' numbers, streams)
//! is looked at when the page is asked for, so that it costs nothing in between.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use copilotd_actors::actors::shared::Shared;
use metrics::{Unit, gauge};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

use super::runtime::RuntimeState;
use super::tenants::{self, MetricsView};
use super::zeros;
use crate::http::account::Budgets;

/// Time between two foldings of the histograms: until then each sample stands in memory.
const UPKEEP: Duration = Duration::from_secs(5);

/// What a metric is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// As it is now.
    Gauge,
    /// Samples, counted by these bounds.
    Histogram(&'static [f64]),
}

/// One metric.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// What it is counted in.
    pub unit: Unit,
    /// What it tells.
    pub about: &'static str,
}

/// Bounds for what should take milliseconds.
const FAST: &[f64] = &[
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
];
/// Bounds for what a model does.
const SLOW: &[f64] = &[
    0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 7.5, 10.0, 20.0, 30.0, 60.0, 120.0, 600.0,
];
/// Bounds for what is told of each tenant: few, since there are many of them.
const CALLS: &[f64] = &[0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0];
/// Bounds for numbers of things.
const COUNT: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0];

const fn metric(name: &'static str, kind: Kind, unit: Unit, about: &'static str) -> Metric {
    Metric {
        name,
        kind,
        unit,
        about,
    }
}

/// Every metric of this process.
pub const METRICS: &[Metric] = &[
    metric(
        "copilotd_build_info",
        Kind::Gauge,
        Unit::Count,
        "Always 1; the label says which version runs.",
    ),
    metric(
        "copilotd_runtime_workers",
        Kind::Gauge,
        Unit::Count,
        "Threads of the runtime that serve.",
    ),
    metric(
        "copilotd_runtime_tasks",
        Kind::Gauge,
        Unit::Count,
        "Tasks of the runtime that live: connections, actors, calls.",
    ),
    metric(
        "copilotd_runtime_queue",
        Kind::Gauge,
        Unit::Count,
        "Tasks that wait for a thread of the runtime.",
    ),
    metric(
        "copilotd_runtime_busy_ratio",
        Kind::Gauge,
        Unit::Count,
        "Share of the time that the threads of the runtime were busy since the page was asked for last.",
    ),
    metric(
        "copilotd_http_requests_total",
        Kind::Counter,
        Unit::Count,
        "Requests by method, route and status; 499: the client left before there was an answer.",
    ),
    metric(
        "copilotd_http_request_seconds",
        Kind::Histogram(FAST),
        Unit::Seconds,
        "Time until the answer's head, by method and route.",
    ),
    metric(
        "copilotd_auth_failures_total",
        Kind::Counter,
        Unit::Count,
        "Credentials that were refused, by reason.",
    ),
    metric(
        "copilotd_auth_failures_limited_total",
        Kind::Counter,
        Unit::Count,
        "Refused credentials that were answered 429, because too many had come from that address.",
    ),
    metric(
        "copilotd_tenant_requests_total",
        Kind::Counter,
        Unit::Count,
        "Requests with a valid credential, by tenant on the admin port.",
    ),
    metric(
        "copilotd_http_connections",
        Kind::Gauge,
        Unit::Count,
        "Connections that are open, by whether a valid credential was seen on them.",
    ),
    metric(
        "copilotd_http_connections_refused_total",
        Kind::Counter,
        Unit::Count,
        "Connections that were refused, by the limit that they met.",
    ),
    metric(
        "copilotd_http_stalled_total",
        Kind::Counter,
        Unit::Count,
        "Connections and streams that were closed because their clients did not take what they were sent.",
    ),
    metric(
        "copilotd_http_memory_bytes",
        Kind::Gauge,
        Unit::Bytes,
        "Memory that is reserved for request bodies and for answers.",
    ),
    metric(
        "copilotd_open_streams",
        Kind::Gauge,
        Unit::Count,
        "Event streams that are open.",
    ),
    metric(
        "copilotd_turns_total",
        Kind::Counter,
        Unit::Count,
        "Turns that reached a state.",
    ),
    metric(
        "copilotd_open_turns",
        Kind::Gauge,
        Unit::Count,
        "Turns that are in a state now; queued ones wait behind another of their conversation.",
    ),
    metric(
        "copilotd_first_token_seconds",
        Kind::Histogram(SLOW),
        Unit::Seconds,
        "Time from a turn's acceptance to the first text of each answer.",
    ),
    metric(
        "copilotd_tokens_total",
        Kind::Counter,
        Unit::Count,
        "Tokens of model calls as the ledger has them, by kind; cached ones are part of the prompt's.",
    ),
    metric(
        "copilotd_model_calls_total",
        Kind::Counter,
        Unit::Count,
        "Requests to models, whatever for, by how they ended.",
    ),
    metric(
        "copilotd_model_calls_estimated_total",
        Kind::Counter,
        Unit::Count,
        "Those of them whose usage is an estimate, because the provider did not report it.",
    ),
    metric(
        "copilotd_model_cost_usd_total",
        Kind::Counter,
        Unit::Count,
        "What they cost, in US dollars.",
    ),
    metric(
        "copilotd_model_call_seconds",
        Kind::Histogram(CALLS),
        Unit::Seconds,
        "Time from a request to a model until its end.",
    ),
    metric(
        "copilotd_model_first_content_seconds",
        Kind::Histogram(CALLS),
        Unit::Seconds,
        "Time from a request to a model until its first content.",
    ),
    metric(
        "copilotd_model_failures_total",
        Kind::Counter,
        Unit::Count,
        "Steps of turns that no model answered, by the class of the last failure.",
    ),
    metric(
        "copilotd_gateway_attempts_total",
        Kind::Counter,
        Unit::Count,
        "Requests to providers, by how they ended.",
    ),
    metric(
        "copilotd_usage_records_lost_total",
        Kind::Counter,
        Unit::Count,
        "Records of the ledger that could not be stored before the process ended.",
    ),
    metric(
        "copilotd_usage_records_refused_total",
        Kind::Counter,
        Unit::Count,
        "Records of the ledger that the store refused by themselves; they are kept and tried again.",
    ),
    metric(
        "copilotd_usage_records_waiting",
        Kind::Gauge,
        Unit::Count,
        "Records of the ledger that are not stored yet.",
    ),
    metric(
        "copilotd_provider_skipped_total",
        Kind::Counter,
        Unit::Count,
        "Odd items of providers' answers that were passed over, by what they were.",
    ),
    metric(
        "copilotd_gateway_breaker_state",
        Kind::Gauge,
        Unit::Count,
        "Breakers of models: 0 closed, 1 half open, 2 open.",
    ),
    metric(
        "copilotd_limits_store_up",
        Kind::Gauge,
        Unit::Count,
        "1 while the store of shared limits answers, 0 while it does not.",
    ),
    metric(
        "copilotd_limits_settlements_lost_total",
        Kind::Counter,
        Unit::Count,
        "Reservations in shared limits that could not be settled in time; they are charged in full.",
    ),
    metric(
        "copilotd_writes_refused_total",
        Kind::Counter,
        Unit::Count,
        "Requests refused by the rate of writes, by whose limit it was.",
    ),
    metric(
        "copilotd_cache_lookups_total",
        Kind::Counter,
        Unit::Count,
        "Look-ups in the semantic cache, by what came of them.",
    ),
    metric(
        "copilotd_cache_embeddings_missed_total",
        Kind::Counter,
        Unit::Count,
        "Look-ups that went on without a vector: the embedding model was late, busy, failed or not allowed.",
    ),
    metric(
        "copilotd_cache_audits_total",
        Kind::Counter,
        Unit::Count,
        "Kept answers that were compared with fresh ones, by whether they were right.",
    ),
    metric(
        "copilotd_gateway_guardrails_total",
        Kind::Counter,
        Unit::Count,
        "Rules of tenants that applied to calls of the OpenAI-compatible endpoint, by stage and action.",
    ),
    metric(
        "copilotd_tool_tries_total",
        Kind::Counter,
        Unit::Count,
        "Tries of tool calls, by system and outcome.",
    ),
    metric(
        "copilotd_connector_queue",
        Kind::Gauge,
        Unit::Count,
        "Tool calls that wait for a tenant's system.",
    ),
    metric(
        "copilotd_breaker_state",
        Kind::Gauge,
        Unit::Count,
        "Circuit breaker of a tenant's system: 0 closed, 1 half open, 2 open.",
    ),
    metric(
        "copilotd_compute_wait_seconds",
        Kind::Histogram(FAST),
        Unit::Seconds,
        "Time that work for the compute threads (tokenizing, large bodies) waits for one of them.",
    ),
    metric(
        "copilotd_compute_refused_total",
        Kind::Counter,
        Unit::Count,
        "Work that was refused because too much of its tenant was waiting for the compute threads.",
    ),
    metric(
        "copilotd_fair_share_wait_seconds",
        Kind::Histogram(FAST),
        Unit::Seconds,
        "Time that requests waited because their tenant used more than its share while others were active; only those that waited.",
    ),
    metric(
        "copilotd_fair_share_refused_total",
        Kind::Counter,
        Unit::Count,
        "Requests that were refused with 503 after such a wait, or because too many of their tenant were waiting.",
    ),
    metric(
        "copilotd_append_wait_seconds",
        Kind::Histogram(FAST),
        Unit::Seconds,
        "Time a conversation waits for its append, retries included.",
    ),
    metric(
        "copilotd_append_seconds",
        Kind::Histogram(FAST),
        Unit::Seconds,
        "Time the store takes for an append, by store.",
    ),
    metric(
        "copilotd_append_batch",
        Kind::Histogram(COUNT),
        Unit::Count,
        "Appends that SQLite committed together.",
    ),
    metric(
        "copilotd_store_bytes_total",
        Kind::Counter,
        Unit::Bytes,
        "Bytes handed to the store, uncompressed, by part: records, projections, snapshots.",
    ),
    metric(
        "copilotd_store_writable",
        Kind::Gauge,
        Unit::Count,
        "1 while the store takes writes, as tried every 10 s, else 0.",
    ),
    metric(
        "copilotd_unreadable_rows_total",
        Kind::Counter,
        Unit::Count,
        "Rows of the store that could not be read and were left out of what was read, by what they hold.",
    ),
    metric(
        "copilotd_actors_alive",
        Kind::Gauge,
        Unit::Count,
        "Actors that live, by kind.",
    ),
    metric(
        "copilotd_actor_deaths_total",
        Kind::Counter,
        Unit::Count,
        "Actors that died of an error, by kind.",
    ),
    metric(
        "copilotd_passivations_total",
        Kind::Counter,
        Unit::Count,
        "Idle conversations that were let go.",
    ),
    metric(
        "copilotd_recoveries_total",
        Kind::Counter,
        Unit::Count,
        "Conversations that were loaded with open turns.",
    ),
    metric(
        "copilotd_reconciled_total",
        Kind::Counter,
        Unit::Count,
        "What the reconciler found to do.",
    ),
    metric(
        "copilotd_compressions_total",
        Kind::Counter,
        Unit::Count,
        "Compressions of memories, by how they ended.",
    ),
    metric(
        "copilotd_schema_checks_total",
        Kind::Counter,
        Unit::Count,
        "Callers' schemas that were compiled, and answers that were checked against one, by outcome.",
    ),
    metric(
        "copilotd_schema_check_seconds",
        Kind::Histogram(FAST),
        Unit::Seconds,
        "Time of one such check in its worker process, without the wait for one.",
    ),
    metric(
        "copilotd_schema_workers_killed_total",
        Kind::Counter,
        Unit::Count,
        "Worker processes that were killed because a schema check exceeded its limit of time or memory.",
    ),
    metric(
        "copilotd_spans_lost_total",
        Kind::Counter,
        Unit::Count,
        "Spans that the collector did not take.",
    ),
];

/// Renders the page for who reads it.
pub type Render = Arc<dyn Fn(MetricsView) -> String + Send + Sync>;

/// Returns what renders the page. Several applications of one process (in tests) share their counters.
pub fn metrics(shared: Arc<Shared>, budgets: Arc<Budgets>) -> Render {
    let handle = recorder();
    let runtime = RuntimeState::new();
    Arc::new(move |view| {
        runtime.record();
        gauge!("copilotd_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
        gauge!("copilotd_open_streams").set(number(budgets.streams.in_use()));
        for (what, budget) in [
            ("bodies", &budgets.bodies),
            ("answers", &budgets.answers),
            ("changes", &budgets.changes),
        ] {
            gauge!("copilotd_http_memory_bytes", "what" => what).set(number(budget.in_use()));
        }
        let turns = shared.admission.by_state();
        for (state, count) in [
            ("queued", turns.queued),
            ("running", turns.running),
            ("waiting", turns.waiting),
            ("awaiting_approval", turns.awaiting_approval),
        ] {
            gauge!("copilotd_open_turns", "state" => state).set(number(count));
        }
        tenants::rewrite(&handle.render(), view)
    })
}

/// Installs the recorder, once per process.
fn recorder() -> &'static PrometheusHandle {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    HANDLE.get_or_init(|| {
        let recorder = builder().build_recorder();
        let handle = recorder.handle();
        // Fails when a test has installed its own; the page is then empty.
        let _ = metrics::set_global_recorder(recorder);
        METRICS.iter().for_each(describe);
        zeros::start();
        let upkeep = handle.clone();
        let thread = std::thread::Builder::new().name("metrics".to_owned()).spawn(move || {
            loop {
                std::thread::sleep(UPKEEP);
                upkeep.run_upkeep();
            }
        });
        if let Err(error) = thread {
            tracing::warn!(%error, "histograms are folded only when the page is asked for");
        }
        handle
    })
}

fn builder() -> PrometheusBuilder {
    let mut builder = PrometheusBuilder::new();
    for metric in METRICS {
        if let Kind::Histogram(bounds) = metric.kind {
            let name = Matcher::Full(metric.name.to_owned());
            builder = builder
                .set_buckets_for_metric(name, bounds)
                .expect("no list of bounds is empty");
        }
    }
    builder
}

fn describe(metric: &Metric) {
    match metric.kind {
        Kind::Counter => metrics::describe_counter!(metric.name, metric.unit, metric.about),
        Kind::Gauge => metrics::describe_gauge!(metric.name, metric.unit, metric.about),
        Kind::Histogram(_) => metrics::describe_histogram!(metric.name, metric.unit, metric.about),
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "counts of things in memory are far below 2^52"
)]
pub(super) fn number(count: usize) -> f64 {
    count as f64
}
