//! What every actor of one process shares: ports, limits, and the ways to each other.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use dashmap::DashMap;
use jiff::Timestamp;
use metrics::gauge;
use ractor::{ActorProcessingErr, ActorRef, SpawnErr};

use crate::connector::Connectors;
use crate::conversations::Directory;
use crate::domain::ids::TenantId;
use crate::live::Hub;
use crate::ports::{LogError, Ports};

/// Bounds of the actors. All have working defaults.
#[derive(Debug, Clone)]
pub struct Bounds {
    /// A conversation without work is let go after so long.
    pub idle: Duration,
    /// Approvals that are due later than this do not keep a conversation in memory.
    pub far_approval: Duration,
    /// Open turns of one process.
    pub node_turns: usize,
    /// Open turns of one tenant.
    pub tenant_turns: usize,
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
            directory: OnceLock::new(),
            connectors: OnceLock::new(),
        })
    }
}

/// Counts open turns, so that work is refused at the door before it queues without bound.
#[derive(Debug, Default)]
pub struct Admission {
    all: AtomicUsize,
    busy: AtomicUsize,
    queued: AtomicUsize,
    tenants: DashMap<TenantId, usize>,
}

/// Which bound is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    /// The process'.
    Node,
    /// The tenant's.
    Tenant,
}

impl Admission {
    /// Takes a place for one more turn, if there is one. Two that ask at once do not get the same place.
    pub fn admit(&self, tenant: &TenantId, bounds: &Bounds) -> Result<(), Full> {
        let mut open = self.tenants.entry(tenant.clone()).or_default();
        let full = if *open >= bounds.tenant_turns {
            Some(Full::Tenant)
        } else {
            let below = |all: usize| (all < bounds.node_turns).then_some(all + 1);
            let taken = self.all.fetch_update(Ordering::Relaxed, Ordering::Relaxed, below);
            taken.err().map(|_| Full::Node)
        };
        if full.is_none() {
            *open += 1;
        }
        let none = *open == 0;
        drop(open);
        if none {
            self.tenants.remove_if(tenant, |_, open| *open == 0);
        }
        full.map_or(Ok(()), Err)
    }

    /// Corrects the count of a tenant's open turns from `before` to `after`.
    pub fn count(&self, tenant: &TenantId, before: usize, after: usize) {
        if before == after {
            return;
        }
        // Wrapping arithmetic: the sum over all corrections is what is open.
        self.all.fetch_add(after.wrapping_sub(before), Ordering::Relaxed);
        let mut open = self.tenants.entry(tenant.clone()).or_default();
        *open = open.wrapping_add(after).wrapping_sub(before);
        let none = *open == 0;
        drop(open);
        if none {
            self.tenants.remove_if(tenant, |_, open| *open == 0);
        }
    }

    /// Turns that are being worked on; those that only wait for a person are not.
    pub fn busy(&self) -> usize {
        self.busy.load(Ordering::Relaxed)
    }

    /// Corrects the count of busy turns.
    pub fn count_busy(&self, before: bool, after: bool) {
        self.busy
            .fetch_add(usize::from(after).wrapping_sub(usize::from(before)), Ordering::Relaxed);
    }

    /// Corrects the count of turns that wait behind another one of their conversation.
    pub fn count_queued(&self, before: usize, after: usize) {
        self.queued.fetch_add(after.wrapping_sub(before), Ordering::Relaxed);
    }

    /// Open turns of this process.
    pub fn open(&self) -> usize {
        self.all.load(Ordering::Relaxed)
    }

    /// Open turns of this process by what they are doing. Taken while they change, so that sums may be off by a few.
    pub fn by_state(&self) -> OpenTurns {
        let (open, queued, running) = (self.open(), self.queued.load(Ordering::Relaxed), self.busy());
        OpenTurns {
            queued,
            running,
            awaiting_approval: open.saturating_sub(queued).saturating_sub(running),
        }
    }
}

/// Open turns of one process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenTurns {
    /// Those that wait behind another one.
    pub queued: usize,
    /// Those that are being worked on.
    pub running: usize,
    /// Those that only wait for a person.
    pub awaiting_approval: usize,
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
