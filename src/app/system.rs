//! Time, randomness and limits of the machine.

use std::sync::LazyLock;
use std::time::Duration;

use copilotd_actors::ports::{Clock, Ids};
use jiff::Timestamp;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::time::Instant;
use uuid::Uuid;

/// Returns the time of the machine.
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

/// UUIDs of version 7: ordered by time, which keeps indexes compact.
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

/// How much less of a busy processor a compute thread gets than one that serves: a tenth of it.
#[cfg(target_os = "linux")]
const COMPUTE_NICE: i32 = 10;

/// Lowers the priority of the calling thread, which computes: those that serve go first.
#[cfg(target_os = "linux")]
pub fn give_way() {
    // On Linux a thread has a priority of its own.
    if let Err(error) = rustix::process::setpriority_process(Some(rustix::thread::gettid()), COMPUTE_NICE) {
        tracing::debug!(%error, "a compute thread keeps its priority");
    }
}

/// Lowers the priority of the calling thread where threads have one.
#[cfg(not(target_os = "linux"))]
pub fn give_way() {}

/// Raises the soft limit of open files to the hard one. A turn that streams needs two files, one to its reader and one
/// to the provider, and the usual soft limit of 1,024 is kept low only for programs that use `select`.
///
/// Returns the limit that holds then; none means that there is no limit.
pub fn raise_open_files() -> Option<u64> {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if limit.current != limit.maximum
        && let Err(error) = setrlimit(Resource::Nofile, raised)
    {
        tracing::warn!(%error, limit = limit.current, "the limit of open files could not be raised");
        return limit.current;
    }
    limit.maximum
}
