//! The process and its runtime in the metrics: files, memory and processor by `metrics-process` under the names that every dashboard knows
//! (`process_…`), and tokio by `tokio-metrics`.

use std::sync::{Mutex, PoisonError};

use metrics::gauge;
use metrics_process::Collector;
use tokio::runtime::Handle;
use tokio_metrics::{RuntimeIntervals, RuntimeMonitor};

/// Names of the metrics that `metrics-process` records. Not every system has all of them.
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

/// Looks at the process and the runtime when the page is asked for.
pub(super) struct RuntimeState {
    process: Collector,
    /// What has happened since the page was asked for last.
    intervals: Mutex<RuntimeIntervals>,
}

impl RuntimeState {
    /// Watches the runtime that this is called on.
    pub fn new() -> Self {
        let process = Collector::default();
        process.describe();
        Self {
            process,
            intervals: Mutex::new(RuntimeMonitor::new(&Handle::current()).intervals()),
        }
    }

    /// Records how they are now.
    pub fn record(&self) {
        self.process.collect();
        let now = self.intervals.lock().unwrap_or_else(PoisonError::into_inner).next();
        let Some(now) = now else { return };
        gauge!("copilotd_runtime_workers").set(super::metrics::number(now.workers_count));
        gauge!("copilotd_runtime_tasks").set(super::metrics::number(now.live_tasks_count));
        gauge!("copilotd_runtime_queue").set(super::metrics::number(now.global_queue_depth));
        let busy = now.busy_ratio() / super::metrics::number(now.workers_count.max(1));
        gauge!("copilotd_runtime_busy_ratio").set(if busy.is_finite() { busy } else { 0.0 });
    }
}
