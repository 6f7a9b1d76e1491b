//! What all actors of one process share: ports, limits, and references to each other.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use jiff::Timestamp;
use metrics::gauge;
use ractor::{ActorProcessingErr, ActorRef, SpawnErr};
use tokio::sync::{Notify, Semaphore};

pub use super::admission::{Admission, OpenTurns, TurnCounts, TurnLimit};
use super::connector::Connectors;
use super::conversations::Directory;
use crate::compute::ComputeError;
use crate::fairness::share::Shares;
use crate::fairness::user_turns::UserTurns;
use crate::guardrails::Guardrails;
use crate::live::Hub;
use crate::ports::{LogError, Ports, ServingState};
use crate::tenancy::TenantScope;

/// Memory for attached images and PDFs in the prompts of one process, copies for the wire included, in KiB.
const FILE_MEMORY_KIB: usize = 256 * 1024;

/// Limits of the actors. All have usable defaults.
#[derive(Debug, Clone)]
pub struct Bounds {
    /// Idle time after which a conversation is passivated.
    pub idle: Duration,
    /// Approvals due later than this do not keep a conversation in memory.
    pub far_approval: Duration,
    /// Working permits of one process: turns that run or are queued behind a running one.
    pub node_turns: usize,
    /// Working permits of one tenant; it never takes more than are free, so alone at most half.
    pub tenant_turns: usize,
    /// Open turns of one user, except those that only wait for people or their pages.
    pub user_turns: usize,
    /// Turns of one user with a call that waits for approval.
    pub user_approvals: usize,
    /// Turns of one tenant with a call that waits for approval.
    pub tenant_approvals: usize,
    /// Idle conversations kept in memory; above this number one is passivated as soon as it is idle.
    pub idle_conversations: usize,
    /// Timeout of a call to an actor; above the log's own deadline of 30 s.
    pub call: Duration,
    /// Records after which a new snapshot is stored.
    pub snapshot_every: u64,
    /// Concurrent calls to one external system of one tenant.
    pub connector_concurrency: usize,
    /// Calls that may wait for that system.
    pub connector_queue: usize,
    /// Calls per minute until the vendor's headers say otherwise.
    pub connector_per_minute: u32,
    /// Interval of the reconciler.
    pub reconcile: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            idle: Duration::from_secs(60),
            far_approval: Duration::from_secs(300),
            node_turns: 20_000,
            tenant_turns: 10_000,
            user_turns: 200,
            user_approvals: 100,
            tenant_approvals: 10_000,
            idle_conversations: 2_000,
            call: Duration::from_secs(35),
            snapshot_every: 64,
            connector_concurrency: 8,
            connector_queue: 256,
            connector_per_minute: 200,
            reconcile: Duration::from_secs(15),
        }
    }
}

/// Given to every actor at its start; read-only except for the counters.
pub struct Shared {
    /// Ports to the outside world.
    pub ports: Ports,
    /// Guardrails: the deny rules and the detectors among the ports.
    pub guardrails: Guardrails,
    /// Limits of the actors.
    pub bounds: Bounds,
    /// When this process started: work recorded as running before then belongs to no live process.
    pub started_at: Timestamp,
    /// Watched conversations.
    pub(crate) hub: Hub,
    /// Open turns, by tenant and in total.
    pub admission: Admission,
    /// Open turns by user.
    pub user_turns: UserTurns,
    /// Memory for attached files in prompts, in KiB.
    pub(crate) file_memory: Arc<Semaphore>,
    /// Each tenant's share of the serving threads.
    pub shares: Arc<Shares>,
    /// Whether this process is handing its conversations over to another one: none is started any more.
    pub handing_over: AtomicBool,
    /// Wakes those who wait until their tenant is served again.
    pub standing_changed: Notify,
    /// The directory; set once, right after it was spawned.
    pub directory: OnceLock<Directory>,
    /// The connectors' supervisor; set once, right after it was spawned.
    pub connectors: OnceLock<ActorRef<<Connectors as ractor::Actor>::Msg>>,
}

impl Shared {
    /// Creates the shared state of a process.
    pub fn new(ports: Ports, bounds: Bounds) -> Arc<Self> {
        Arc::new(Self {
            started_at: ports.clock.now(),
            guardrails: Guardrails::new(ports.detectors.iter().cloned()),
            ports,
            bounds,
            hub: Hub::default(),
            admission: Admission::default(),
            user_turns: UserTurns::default(),
            file_memory: Arc::new(Semaphore::new(FILE_MEMORY_KIB)),
            shares: Arc::default(),
            handing_over: AtomicBool::new(false),
            standing_changed: Notify::new(),
            directory: OnceLock::new(),
            connectors: OnceLock::new(),
        })
    }
}

impl Shared {
    /// Waits while a tenant is left out. Returns at once if it is served or suspended.
    pub async fn wait_while_left_out(&self, scope: &TenantScope) {
        loop {
            let mut changed = std::pin::pin!(self.standing_changed.notified());
            changed.as_mut().enable();
            if self.ports.policies.standing(scope) != ServingState::LeftOut {
                return;
            }
            // Not every change is notified: the timeout finds the others.
            let _ = tokio::time::timeout(self.bounds.reconcile, changed).await;
        }
    }
}

/// Counts an actor in the gauge of running actors until dropped. Part of the actor's state, so it is dropped however
/// the actor ends.
#[derive(Debug)]
pub struct Alive(&'static str);

impl Alive {
    /// Counts one more actor of a kind.
    pub fn new(kind: &'static str) -> Self {
        gauge!("copilotd_actors_alive", "actor" => kind).increment(1.0);
        Self(kind)
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        gauge!("copilotd_actors_alive", "actor" => self.0).decrement(1.0);
    }
}

/// Returns why an actor died, for the log. A panic's message is left out because it may quote user text; the panic hook
/// logs where it was.
pub fn cause(error: &ActorProcessingErr) -> String {
    if let Some(error) = error.downcast_ref::<LogError>() {
        error.to_string()
    } else if let Some(error) = error.downcast_ref::<SpawnErr>() {
        error.to_string()
    } else if let Some(error) = error.downcast_ref::<ComputeError>() {
        error.to_string()
    } else {
        "panic or internal error; a panic is logged separately with its location".to_owned()
    }
}

/// Sends a message outside of every span. ractor handles a message inside its sender's span and enters that at every
/// poll: a handler that streams an answer would enter it once per token and keep it open as long.
pub fn outside_spans<T>(send: impl FnOnce() -> T) -> T {
    tracing::dispatcher::with_default(&tracing::Dispatch::none(), send)
}

/// Returns the time from `now` until `at`; zero if it has passed.
pub fn until(now: jiff::Timestamp, at: jiff::Timestamp) -> Duration {
    at.duration_since(now).try_into().unwrap_or(Duration::ZERO)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cause_of_a_death_is_named_unless_it_may_quote_user_text() {
        let deaths: [(ActorProcessingErr, &str); 4] = [
            (
                LogError::Unavailable("the disk is slow".to_owned()).into(),
                "the disk is slow",
            ),
            (
                ComputeError::Full.into(),
                "too many compute jobs of this tenant are queued",
            ),
            (ComputeError::Panicked.into(), "compute job panicked"),
            ("my card number is 4242".into(), "panic or internal error"),
        ];
        for (error, expected) in deaths {
            let told = cause(&error);
            assert!(told.contains(expected), "{told}");
            assert!(!told.contains("4242"), "{told}");
        }
    }
}
