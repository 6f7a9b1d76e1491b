//! The machine's clock, randomness and limits.

use std::sync::LazyLock;
use std::time::Duration;

use copilotd_actors::ports::{Clock, Ids};
use jiff::Timestamp;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::time::Instant;
use uuid::Uuid;

/// Returns the machine's time.
#[expect(clippy::disallowed_methods, reason = "the one place where the clock is read")]
pub fn now() -> Timestamp {
    Timestamp::now()
}

/// The machine's clock.
#[derive(Debug, Clone, Copy)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        now()
    }

    fn elapsed(&self) -> Duration {
        static BEGUN: LazyLock<Instant> = LazyLock::new(Instant::now);
        BEGUN.elapsed()
    }
}

/// Version 7 UUIDs: ordered by time, which keeps indexes compact.
#[derive(Debug, Clone, Copy)]
pub struct TimeOrderedIds;

impl Ids for TimeOrderedIds {
    fn uuid(&self) -> Uuid {
        Uuid::now_v7()
    }

    fn nonce(&self) -> String {
        format!("{:016x}", rand::random::<u64>())
    }
}

/// Nice value of compute threads: on a busy processor they get about a tenth of a serving thread's share.
#[cfg(target_os = "linux")]
const COMPUTE_NICE: i32 = 10;

/// Lowers the priority of the calling compute thread below that of serving threads.
#[cfg(target_os = "linux")]
pub fn lower_priority() {
    // On Linux each thread has its own priority.
    if let Err(error) = rustix::process::setpriority_process(Some(rustix::thread::gettid()), COMPUTE_NICE) {
        tracing::debug!(%error, "could not lower the priority of a compute thread");
    }
}

/// Does nothing: threads have no priority of their own on this system.
#[cfg(not(target_os = "linux"))]
pub fn lower_priority() {}

/// Raises the soft limit of open files to the hard limit. A streaming turn needs two files, one to its reader and one
/// to the provider, and the usual soft limit of 1,024 exists only for programs that use `select`.
///
/// Returns the resulting limit; `None` means unlimited.
pub fn raise_open_files() -> Option<u64> {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if limit.current != limit.maximum
        && let Err(error) = setrlimit(Resource::Nofile, raised)
    {
        tracing::warn!(%error, limit = limit.current, "could not raise the open file limit; keeping the soft limit");
        return limit.current;
    }
    limit.maximum
}
