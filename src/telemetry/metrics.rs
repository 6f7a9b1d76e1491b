//! The metrics of the process, as served by `/metrics`. [`METRICS`] is the complete list.
//!
//! Counters and histograms are recorded where things happen; states (open turns, streams, memory) are read when the
//! page is scraped, so they cost nothing in between.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use copilotd_actors::actors::shared::Shared;
use metrics::{Unit, gauge};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

use super::initial_counters;
use super::runtime::RuntimeState;
use super::tenants::{self, MetricsView};

/// Interval for folding samples into histograms: until then each sample is held in memory.
const UPKEEP: Duration = Duration::from_secs(5);

/// The type of a metric.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// A value that only grows.
    Counter,
    /// A current value.
    Gauge,
    /// Samples, counted in buckets with these bounds.
    Histogram(&'static [f64]),
}

/// One metric.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    pub name: &'static str,
    pub kind: Kind,
    pub unit: Unit,
    /// The HELP text.
    pub about: &'static str,
}

/// Buckets for what should take milliseconds.
const FAST: &[f64] = &[
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
];
/// Buckets for model latencies.
const SLOW: &[f64] = &[
    0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 7.5, 10.0, 20.0, 30.0, 60.0, 120.0, 600.0,
];
/// Buckets for per-tenant histograms: few, because there are many tenants.
const CALLS: &[f64] = &[0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0];
/// Buckets for counts.
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
        "Always 1; the running version is in the label.",
    ),
    metric(
        "copilotd_runtime_workers",
        Kind::Gauge,
        Unit::Count,
        "Worker threads of the runtime.",
    ),
    metric(
        "copilotd_runtime_tasks",
        Kind::Gauge,
        Unit::Count,
        "Live tasks of the runtime: connections, actors, calls.",
    ),
    metric(
        "copilotd_runtime_queue",
        Kind::Gauge,
        Unit::Count,
        "Runtime tasks waiting for a worker thread.",
    ),
    metric(
        "copilotd_runtime_busy_ratio",
        Kind::Gauge,
        Unit::Count,
        "Fraction of time that worker threads were busy since the last scrape, from 0 to 1.",
    ),
    metric(
        "copilotd_http_requests_total",
        Kind::Counter,
        Unit::Count,
        "HTTP requests, by method, route and status; 499 means that the client disconnected before the response.",
    ),
    metric(
        "copilotd_http_request_seconds",
        Kind::Histogram(FAST),
        Unit::Seconds,
        "Time until the response headers, by method and route.",
    ),
    metric(
        "copilotd_auth_failures_total",
        Kind::Counter,
        Unit::Count,
        "Refused credentials, by reason.",
    ),
    metric(
        "copilotd_auth_failures_limited_total",
        Kind::Counter,
        Unit::Count,
        "Invalid credentials answered 429 because their address had sent too many of them.",
    ),
    metric(
        "copilotd_tenant_requests_total",
        Kind::Counter,
        Unit::Count,
        "Requests with a valid credential; by tenant on the admin port.",
    ),
    metric(
        "copilotd_http_connections",
        Kind::Gauge,
        Unit::Count,
        "Open connections, by whether a valid credential was seen on them.",
    ),
    metric(
        "copilotd_http_connections_refused_total",
        Kind::Counter,
        Unit::Count,
        "Refused connections, by the limit reached.",
    ),
    metric(
        "copilotd_http_stalled_total",
        Kind::Counter,
        Unit::Count,
        "Connections and streams closed because the client did not read fast enough.",
    ),
    metric(
        "copilotd_http_memory_bytes",
        Kind::Gauge,
        Unit::Bytes,
        "Memory reserved for request bodies and responses.",
    ),
    metric("copilotd_open_streams", Kind::Gauge, Unit::Count, "Open event streams."),
    metric(
        "copilotd_turns_total",
        Kind::Counter,
        Unit::Count,
        "State changes of turns, by the state reached.",
    ),
    metric(
        "copilotd_open_turns",
        Kind::Gauge,
        Unit::Count,
        "Open turns, by current state; a queued turn waits behind another one of its conversation.",
    ),
    metric(
        "copilotd_first_token_seconds",
        Kind::Histogram(SLOW),
        Unit::Seconds,
        "Time from accepting a turn to the first text of each answer.",
    ),
    metric(
        "copilotd_tokens_total",
        Kind::Counter,
        Unit::Count,
        "Tokens of model calls as recorded in the ledger, by kind; cached tokens are included in prompt tokens.",
    ),
    metric(
        "copilotd_model_calls_total",
        Kind::Counter,
        Unit::Count,
        "Model calls for any purpose, by outcome.",
    ),
    metric(
        "copilotd_model_calls_estimated_total",
        Kind::Counter,
        Unit::Count,
        "Model calls with estimated usage, because the provider reported none.",
    ),
    metric(
        "copilotd_model_cost_usd_total",
        Kind::Counter,
        Unit::Count,
        "Cost of model calls, in US dollars.",
    ),
    metric(
        "copilotd_model_call_seconds",
        Kind::Histogram(CALLS),
        Unit::Seconds,
        "Duration of model calls.",
    ),
    metric(
        "copilotd_model_first_content_seconds",
        Kind::Histogram(CALLS),
        Unit::Seconds,
        "Time from the start of a model call to its first content.",
    ),
    metric(
        "copilotd_model_failures_total",
        Kind::Counter,
        Unit::Count,
        "Run steps of turns that no model answered, by class of the last failure.",
    ),
    metric(
        "copilotd_gateway_attempts_total",
        Kind::Counter,
        Unit::Count,
        "Requests to providers, by outcome.",
    ),
    metric(
        "copilotd_usage_records_lost_total",
        Kind::Counter,
        Unit::Count,
        "Usage records that could not be stored before the process exited.",
    ),
    metric(
        "copilotd_usage_records_refused_total",
        Kind::Counter,
        Unit::Count,
        "Usage records that the store refused individually; they are kept and retried.",
    ),
    metric(
        "copilotd_usage_records_waiting",
        Kind::Gauge,
        Unit::Count,
        "Usage records not stored yet.",
    ),
    metric(
        "copilotd_provider_skipped_total",
        Kind::Counter,
        Unit::Count,
        "Unrecognised items in provider responses that were skipped, by kind.",
    ),
    metric(
        "copilotd_gateway_breaker_state",
        Kind::Gauge,
        Unit::Count,
        "Circuit breaker of a model: 0 closed, 1 half open, 2 open.",
    ),
    metric(
        "copilotd_limits_store_up",
        Kind::Gauge,
        Unit::Count,
        "1 if the store of shared limits is reachable, otherwise 0.",
    ),
    metric(
        "copilotd_limits_settlements_lost_total",
        Kind::Counter,
        Unit::Count,
        "Reservations in shared limits that could not be settled in time and are charged in full.",
    ),
    metric(
        "copilotd_writes_refused_total",
        Kind::Counter,
        Unit::Count,
        "Requests refused by writes_per_minute, by whose limit was reached.",
    ),
    metric(
        "copilotd_cache_lookups_total",
        Kind::Counter,
        Unit::Count,
        "Cache lookups, by outcome.",
    ),
    metric(
        "copilotd_cache_embeddings_missed_total",
        Kind::Counter,
        Unit::Count,
        "Cache lookups without an embedding, because the embedding model was late, busy, failed or not allowed.",
    ),
    metric(
        "copilotd_cache_audits_total",
        Kind::Counter,
        Unit::Count,
        "Cached answers compared with fresh ones, by whether they were right.",
    ),
    metric(
        "copilotd_gateway_guardrails_total",
        Kind::Counter,
        Unit::Count,
        "Guardrails triggered by calls of the OpenAI-compatible endpoint, by stage and action.",
    ),
    metric(
        "copilotd_tool_tries_total",
        Kind::Counter,
        Unit::Count,
        "Attempts to call tools, by kind of system and outcome.",
    ),
    metric(
        "copilotd_connector_queue",
        Kind::Gauge,
        Unit::Count,
        "Tool calls waiting for a tenant's system.",
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
        "Time that compute work (tokenizing, large bodies) waits for a compute thread.",
    ),
    metric(
        "copilotd_compute_refused_total",
        Kind::Counter,
        Unit::Count,
        "Compute work refused because too much, of its tenant or in total, was already waiting.",
    ),
    metric(
        "copilotd_fair_share_wait_seconds",
        Kind::Histogram(FAST),
        Unit::Seconds,
        "Time that requests waited because their tenant exceeded its fair share while others were active; only requests that \
         waited.",
    ),
    metric(
        "copilotd_fair_share_refused_total",
        Kind::Counter,
        Unit::Count,
        "Requests refused with 503 after waiting for their tenant's fair share, or because too many were already waiting.",
    ),
    metric(
        "copilotd_append_wait_seconds",
        Kind::Histogram(FAST),
        Unit::Seconds,
        "Time that a conversation waits for its append, retries included.",
    ),
    metric(
        "copilotd_append_seconds",
        Kind::Histogram(FAST),
        Unit::Seconds,
        "Duration of an append, by store.",
    ),
    metric(
        "copilotd_append_batch",
        Kind::Histogram(COUNT),
        Unit::Count,
        "Appends per SQLite commit.",
    ),
    metric(
        "copilotd_store_bytes_total",
        Kind::Counter,
        Unit::Bytes,
        "Uncompressed bytes written to the store, by part: records, projections, snapshots.",
    ),
    metric(
        "copilotd_store_writable",
        Kind::Gauge,
        Unit::Count,
        "1 if the store is writable, as tested every 10 s, otherwise 0.",
    ),
    metric(
        "copilotd_unreadable_rows_total",
        Kind::Counter,
        Unit::Count,
        "Unreadable rows of the store that were skipped, by what they contain.",
    ),
    metric(
        "copilotd_actors_alive",
        Kind::Gauge,
        Unit::Count,
        "Live actors, by kind.",
    ),
    metric(
        "copilotd_actor_deaths_total",
        Kind::Counter,
        Unit::Count,
        "Actors that died from an error, by kind.",
    ),
    metric(
        "copilotd_passivations_total",
        Kind::Counter,
        Unit::Count,
        "Idle conversations that were passivated.",
    ),
    metric(
        "copilotd_recoveries_total",
        Kind::Counter,
        Unit::Count,
        "Conversations replayed with open turns.",
    ),
    metric(
        "copilotd_reconciled_total",
        Kind::Counter,
        Unit::Count,
        "Items repaired by the reconciler, by kind.",
    ),
    metric(
        "copilotd_compressions_total",
        Kind::Counter,
        Unit::Count,
        "Conversation compressions, by method; failed ones included.",
    ),
    metric(
        "copilotd_titles_total",
        Kind::Counter,
        Unit::Count,
        "Attempts of the small model to write a conversation's title, by outcome.",
    ),
    metric(
        "copilotd_retrievals_total",
        Kind::Counter,
        Unit::Count,
        "Searches of turns for documents, by outcome; a turn without a result runs without documents.",
    ),
    metric(
        "copilotd_fact_reads_total",
        Kind::Counter,
        Unit::Count,
        "Turns that asked what is known about their user, by outcome; a turn without a result runs without facts.",
    ),
    metric(
        "copilotd_fact_lessons_total",
        Kind::Counter,
        Unit::Count,
        "Messages that facts about users were to be learned from, by outcome.",
    ),
    metric(
        "copilotd_facts_total",
        Kind::Counter,
        Unit::Count,
        "Facts about users that a model proposed, by what became of them, and those that people corrected or deleted.",
    ),
    metric(
        "copilotd_retrieval_seconds",
        Kind::Histogram(FAST),
        Unit::Seconds,
        "Time of a turn's search for documents, with rewriting the question and the guardrails' inspection.",
    ),
    metric(
        "copilotd_recalls_total",
        Kind::Counter,
        Unit::Count,
        "Searches of turns for earlier messages, by outcome; a turn without a result runs without them.",
    ),
    metric(
        "copilotd_recall_seconds",
        Kind::Histogram(FAST),
        Unit::Seconds,
        "Time of a turn's search for earlier messages, with the guardrails' inspection.",
    ),
    metric(
        "copilotd_recall_preparations_dropped_total",
        Kind::Counter,
        Unit::Count,
        "Ended turns that were not prepared for searches in the background because too much was waiting.",
    ),
    metric(
        "copilotd_knowledge_searches_total",
        Kind::Counter,
        Unit::Count,
        "Searches in documents, of turns and over HTTP, by whether vectors took part.",
    ),
    metric(
        "copilotd_knowledge_searches_refused_total",
        Kind::Counter,
        Unit::Count,
        "Searches refused by searches_per_minute, by whose limit was reached.",
    ),
    metric(
        "copilotd_knowledge_chunks_without_vector",
        Kind::Gauge,
        Unit::Count,
        "Searchable chunks that wait for a vector of the current embedding model, as far as the backfill has counted.",
    ),
    metric(
        "copilotd_embedding_requests_waiting",
        Kind::Gauge,
        Unit::Count,
        "Requests to the local embedding model that no thread has taken, by urgency.",
    ),
    metric(
        "copilotd_embedding_requests_rejected_total",
        Kind::Counter,
        Unit::Count,
        "Requests to the local embedding model refused because the queue of their urgency was full.",
    ),
    metric(
        "copilotd_knowledge_search_seconds",
        Kind::Histogram(FAST),
        Unit::Seconds,
        "Time of a search in documents, by step.",
    ),
    metric(
        "copilotd_ingested_documents_total",
        Kind::Counter,
        Unit::Count,
        "Versions of documents whose ingestion ended, by outcome.",
    ),
    metric(
        "copilotd_ingested_chunks_total",
        Kind::Counter,
        Unit::Count,
        "Chunks of ingested versions, by whether they were stored before.",
    ),
    metric(
        "copilotd_source_runs_total",
        Kind::Counter,
        Unit::Count,
        "Runs of sources that are kept up to date, by outcome.",
    ),
    metric(
        "copilotd_source_documents_total",
        Kind::Counter,
        Unit::Count,
        "Documents of sources that are kept up to date, by what became of them.",
    ),
    metric(
        "copilotd_extraction_seconds",
        Kind::Histogram(FAST),
        Unit::Seconds,
        "Time of extracting a document's text, with the wait for a process that reads PDF documents.",
    ),
    metric(
        "copilotd_ingestion_step_seconds",
        Kind::Histogram(FAST),
        Unit::Seconds,
        "Time of a step of an ingestion after the extraction, with its waits.",
    ),
    metric(
        "copilotd_schema_checks_total",
        Kind::Counter,
        Unit::Count,
        "Response schemas compiled and answers validated against one, by outcome.",
    ),
    metric(
        "copilotd_schema_check_seconds",
        Kind::Histogram(FAST),
        Unit::Seconds,
        "Duration of a schema compilation or validation in its worker process, without waiting for a worker.",
    ),
    metric(
        "copilotd_schema_workers_killed_total",
        Kind::Counter,
        Unit::Count,
        "Worker processes killed because a schema check exceeded its time or memory limit.",
    ),
    metric(
        "copilotd_pdf_extractions_total",
        Kind::Counter,
        Unit::Count,
        "PDF documents read, by outcome.",
    ),
    metric(
        "copilotd_pdf_extraction_seconds",
        Kind::Histogram(FAST),
        Unit::Seconds,
        "Duration of reading a PDF document in its process, without waiting for a process.",
    ),
    metric(
        "copilotd_spans_lost_total",
        Kind::Counter,
        Unit::Count,
        "Trace spans that could not be sent to the collector and were dropped.",
    ),
];

/// Renders the metrics page for a view.
pub type Render = Arc<dyn Fn(MetricsView) -> String + Send + Sync>;

/// Memory and streams that requests hold now.
#[derive(Debug, Clone, Copy, Default)]
pub struct HttpUse {
    /// Open streams.
    pub streams: usize,
    /// Bytes of request bodies.
    pub bodies: usize,
    /// Bytes of responses.
    pub answers: usize,
    /// Bytes of changes that wait for the store.
    pub changes: usize,
}

/// Returns the renderer; `in_use` reads what requests hold. Several applications in one process (in tests) share their
/// counters.
pub fn metrics(shared: Arc<Shared>, in_use: impl Fn() -> HttpUse + Send + Sync + 'static) -> Render {
    let handle = recorder();
    let runtime = RuntimeState::new();
    Arc::new(move |view| {
        runtime.record();
        gauge!("copilotd_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
        let held = in_use();
        gauge!("copilotd_open_streams").set(number(held.streams));
        for (what, bytes) in [
            ("bodies", held.bodies),
            ("answers", held.answers),
            ("changes", held.changes),
        ] {
            gauge!("copilotd_http_memory_bytes", "what" => what).set(number(bytes));
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

/// Installs the recorder of this process, unless it is. What is counted before that is lost.
pub fn start_counting() {
    recorder();
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
        initial_counters::start();
        let upkeep = handle.clone();
        let thread = std::thread::Builder::new().name("metrics".to_owned()).spawn(move || {
            loop {
                std::thread::sleep(UPKEEP);
                upkeep.run_upkeep();
            }
        });
        if let Err(error) = thread {
            tracing::warn!(
                %error,
                "metrics upkeep thread could not be started; histogram samples use memory until the next scrape"
            );
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
                .expect("every list of buckets is non-empty");
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
