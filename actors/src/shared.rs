//! What every actor of one process shares: ports, limits, and the ways to each other.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use jiff::Timestamp;
use metrics::gauge;
use ractor::{ActorProcessingErr, ActorRef, SpawnErr};
use tokio::sync::Notify;

pub use crate::admission::{Admission, Full, OpenTurns, TurnCounts};
use crate::connector::Connectors;
use crate::conversations::Directory;
use crate::live::Hub;
use crate::ports::{LogError, Ports, Standing};
use crate::share::Shares;
use crate::tenancy::TenantScope;
use crate::user_turns::UserTurns;

/// Bounds of the actors. All have working defaults.
#[derive(Debug, Clone)]
pub struct Bounds {
    /// A conversation without work is let go after so long.
    pub idle: Duration,
    /// Approvals that are due later than this do not keep a conversation in memory.
    pub far_approval: Duration,
    /// Working places of one process: turns that run, or wait behind one that does.
    pub node_turns: usize,
    /// Working places of one tenant; it never takes more than are free, so alone at most half.
    pub tenant_turns: usize,
    /// Open turns of one user, those that only wait for a person left out.
    pub user_turns: usize,
    /// Turns of one user with a call that waits for a person.
    pub user_approvals: usize,
    /// Turns of one tenant with a call that waits for a person.
    pub tenant_approvals: usize,
    /// Conversations without work that are kept in memory; with more, one is let go as soon as it has none.
    pub idle_conversations: usize,
    /// Longest wait for an actor's answer; above the log's own deadline of 30 s.
    pub call: Duration,
    /// Records after which a snapshot is worth its write.
    pub snapshot_every: u64,
    /// Calls under way to one external system of one tenant.
    pub connector_concurrency: usize,
    /// Calls that may wait for it.
    pub connector_queue: usize,
    /// Calls per minute before the vendor's headers say better.
    pub connector_per_minute: u32,
    /// Time between two looks of the reconciler.
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

/// Handed to every actor at its start; read-only but for the counters.
pub struct Shared {
    /// The outside world.
    pub ports: Ports,
    /// Bounds.
    pub bounds: Bounds,
    /// When this process began: what it finds under way from before is nobody's any more.
    pub started_at: Timestamp,
    /// Watched conversations.
    pub hub: Hub,
    /// Open turns, by tenant and in all.
    pub admission: Admission,
    /// Open turns by user.
    pub user_turns: UserTurns,
    /// Each tenant's share of the threads that serve.
    pub shares: Arc<Shares>,
    /// Whether this process hands its conversations over to another one: none is spawned any more.
    pub handing_over: AtomicBool,
    /// Wakes those who wait until their tenant is served again.
    pub standing_changed: Notify,
    /// The directory; set once, right after it was spawned.
    pub directory: OnceLock<Directory>,
    /// The connectors' supervisor; set once, right after it was spawned.
    pub connectors: OnceLock<ActorRef<<Connectors as ractor::Actor>::Msg>>,
}

impl Shared {
    /// Puts the parts together.
    pub fn new(ports: Ports, bounds: Bounds) -> Arc<Self> {
        Arc::new(Self {
            started_at: ports.clock.now(),
            ports,
            bounds,
            hub: Hub::default(),
            admission: Admission::default(),
            user_turns: UserTurns::default(),
            shares: Arc::default(),
            handing_over: AtomicBool::new(false),
            standing_changed: Notify::new(),
            directory: OnceLock::new(),
            connectors: OnceLock::new(),
        })
    }
}

impl Shared {
    /// Waits while a tenant is left out. Ends at once for one that is served or suspended.
    pub async fn left_out_no_more(&self, scope: &TenantScope) {
        loop {
            let mut changed = std::pin::pin!(self.standing_changed.notified());
            changed.as_mut().enable();
            if self.ports.policies.standing(scope) != Standing::LeftOut {
                return;
            }
            // Whoever changed it need not have told: then the next look finds out.
            let _ = tokio::time::timeout(self.bounds.reconcile, changed).await;
        }
    }
}

/// Counts an actor as alive until it is dropped: part of the actor's state, which goes however the actor ends.
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

/// Why an actor died, for the log. A panic's message may quote a text; where it happened is logged by the panic itself.
pub fn cause(error: &ActorProcessingErr) -> String {
    if let Some(error) = error.downcast_ref::<LogError>() {
        error.to_string()
    } else if let Some(error) = error.downcast_ref::<SpawnErr>() {
        error.to_string()
    } else {
        "a panic, or something that must not happen".to_owned()
    }
}

/// Sends a message outside of every span. ractor handles a message inside its sender's span and enters that at every poll;
/// a handler that streams an answer would do so once per token, and keep the span open as long.
pub fn outside_spans<T>(send: impl FnOnce() -> T) -> T {
    tracing::dispatcher::with_default(&tracing::Dispatch::none(), send)
}

/// A random duration up to `most`, so that what failed together does not come back together.
pub fn jitter(most: Duration) -> Duration {
    // The hasher's keys are random per instance; that is all the randomness a jitter needs.
    let share = RandomState::new().hash_one(0_u8) % 1000;
    most * u32::try_from(share).unwrap_or(0) / 1000
}

/// Time from `now` until `at`; zero if it has passed.
pub fn until(now: jiff::Timestamp, at: jiff::Timestamp) -> Duration {
    at.duration_since(now).try_into().unwrap_or(Duration::ZERO)
}
