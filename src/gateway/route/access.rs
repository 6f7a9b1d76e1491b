//! Who may call what, and with which keys.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use copilotd_actors::tenancy::TenantScope;
use tokio::time::Instant;

use super::target::{Target, TargetName};
use crate::gateway::Terms;
use crate::gateway::upstream::Upstream;

/// How long a key that was refused is left alone, unless there is no other.
const DEAD: Duration = Duration::from_secs(60);
/// Longest rest, whatever a provider says.
const LONGEST_REST: Duration = Duration::from_secs(600);

/// One key of a provider for one target. Its state is worth keeping as long as the process lives.
#[derive(Debug)]
pub struct Key {
    /// Its name, for logs and metrics; never the key itself.
    pub name: String,
    /// The deployment behind it.
    pub upstream: Arc<dyn Upstream>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    dead_until: Option<Instant>,
    rests_until: Option<Instant>,
}

impl Key {
    /// A key that nothing is known of.
    pub fn new(name: String, upstream: Arc<dyn Upstream>) -> Self {
        Self {
            name,
            upstream,
            state: Mutex::default(),
        }
    }

    /// Notes that the provider does not accept it.
    pub fn died(&self, now: Instant) {
        self.state().dead_until = Some(now + DEAD);
    }

    /// Notes that the provider accepted it.
    pub fn lives(&self) {
        self.state().dead_until = None;
    }

    /// Notes that the provider wants to be left alone.
    pub fn rest(&self, wait: Duration, now: Instant) {
        self.state().rests_until = Some(now + wait.min(LONGEST_REST));
    }

    /// Tells whether it was refused lately.
    pub fn is_dead(&self, now: Instant) -> bool {
        self.state().dead_until.is_some_and(|until| until > now)
    }

    /// Returns how long it still rests.
    pub fn rests(&self, now: Instant) -> Duration {
        self.state()
            .rests_until
            .map_or(Duration::ZERO, |until| until.saturating_duration_since(now))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keys in order of preference.
pub type Keys = Arc<[Arc<Key>]>;

/// What tenants may call. This is the one place that decides it: without the keys that it hands out nothing can be
/// called, by a fallback as little as by a first attempt.
pub trait Access: Send + Sync + fmt::Debug {
    /// Returns the keys with which `scope` may call `target`, in order of preference; none when it may not.
    fn keys(&self, scope: &TenantScope, target: &Target) -> Option<Keys>;

    /// Returns the terms on which calls of `scope` are answered; none when none of them is.
    fn terms(&self, scope: &TenantScope) -> Option<Arc<Terms>> {
        let _ = scope;
        Some(Arc::default())
    }

    /// Tells whether `scope` may call `target`.
    fn allowed(&self, scope: &TenantScope, target: &Target) -> bool {
        self.keys(scope, target).is_some()
    }
}

/// Every tenant may call every target, with the same keys.
#[derive(Debug, Default)]
pub struct SharedKeys(HashMap<TargetName, Keys>);

impl SharedKeys {
    /// Hands out `keys`.
    pub fn new(keys: HashMap<TargetName, Keys>) -> Self {
        Self(keys)
    }
}

impl Access for SharedKeys {
    fn keys(&self, _: &TenantScope, target: &Target) -> Option<Keys> {
        self.0.get(&target.name).filter(|keys| !keys.is_empty()).cloned()
    }
}
