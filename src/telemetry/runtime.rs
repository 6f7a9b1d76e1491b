//! Process and runtime metrics: files, memory and CPU from `metrics-process` under the standard names (`process_…`),
//! and tokio's from `tokio-metrics`.

use metrics::gauge;
use metrics_process::Collector;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio_metrics::{RuntimeIntervals, RuntimeMonitor};

/// Names of the metrics that `metrics-process` records. Not every operating system has all of them.
pub const PROCESS_METRICS: &[&str] = &[
    "process_cpu_seconds_total",
    "process_open_fds",
    "process_max_fds",
    "process_virtual_memory_bytes",
    "process_virtual_memory_max_bytes",
    "process_resident_memory_bytes",
    "process_start_time_seconds",
    "process_threads",
];

/// Samples the process and the runtime when the page is scraped.
pub(super) struct RuntimeState {
    process: Collector,
    /// Runtime intervals since the last scrape.
    intervals: Mutex<RuntimeIntervals>,
}

impl RuntimeState {
    /// Monitors the current runtime.
    pub fn new() -> Self {
        let process = Collector::default();
        process.describe();
        Self {
            process,
            intervals: Mutex::new(RuntimeMonitor::new(&Handle::current()).intervals()),
        }
    }

    /// Records the current values.
    pub fn record(&self) {
        self.process.collect();
        let now = self.intervals.lock().next();
        let Some(now) = now else { return };
        gauge!("copilotd_runtime_workers").set(super::metrics::number(now.workers_count));
        gauge!("copilotd_runtime_tasks").set(super::metrics::number(now.live_tasks_count));
        gauge!("copilotd_runtime_queue").set(super::metrics::number(now.global_queue_depth));
        let busy = now.busy_ratio() / super::metrics::number(now.workers_count.max(1));
        gauge!("copilotd_runtime_busy_ratio").set(if busy.is_finite() { busy } else { 0.0 });
    }
}
