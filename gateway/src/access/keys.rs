//! Who may call what, and with which keys.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use copilotd_actors::domain::failure::FailureClass;
use copilotd_actors::ports::ModelError;
use copilotd_actors::tenancy::TenantScope;
use tokio::time::Instant;

use super::policy::Terms;
use crate::provider::Upstream;
use crate::target::{Target, TargetName};

/// How long a key that was refused is left alone, unless there is no other.
const DEAD: Duration = Duration::from_secs(60);
/// Longest rest, whatever a provider says.
const LONGEST_REST: Duration = Duration::from_secs(600);
/// A rest that is shorter is not probed.
const SHORTEST_PROBED: Duration = Duration::from_secs(4);
/// A rest that ends so much later than the one before is another one, with a probe of its own.
const LATER: Duration = Duration::from_secs(1);

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
    rest: Option<Rest>,
}

/// A time for which a provider wants to be left alone.
#[derive(Debug, Clone, Copy)]
struct Rest {
    since: Instant,
    until: Instant,
    /// From then on one call may find out whether the time was meant.
    probe_at: Option<Instant>,
    /// Whether the provider named the time itself.
    is_named: bool,
    /// What the provider answered.
    class: FailureClass,
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

    /// Notes that the provider accepted it in a call that began at `asked`: a rest from before is over.
    pub fn lives(&self, asked: Instant) {
        let mut state = self.state();
        state.dead_until = None;
        state.rest.take_if(|rest| rest.since <= asked);
    }

    /// Notes that the provider wants to be left alone, as it said with a failure of `class`. `is_named` tells that the time is its
    /// own word.
    pub fn rest(&self, wait: Duration, now: Instant, class: FailureClass, is_named: bool) {
        let wait = wait.min(LONGEST_REST);
        let until = now + wait;
        let mut state = self.state();
        let known = state
            .rest
            .filter(|rest| rest.until > now && until <= rest.until + LATER);
        let probe_at = match known {
            Some(known) => known.probe_at,
            None => (wait >= SHORTEST_PROBED).then(|| now + wait / 2),
        };
        state.rest = Some(Rest {
            since: now,
            until,
            probe_at,
            is_named,
            class,
        });
    }

    /// Tells whether its last rest was as long as the provider said.
    pub fn rest_is_named(&self) -> bool {
        self.state().rest.is_some_and(|rest| rest.is_named)
    }

    /// Takes the right to ask once while it rests; once in the second half of each rest.
    pub fn take_probe(&self, now: Instant) -> bool {
        let mut state = self.state();
        let Some(rest) = state.rest.as_mut().filter(|rest| rest.until > now) else {
            return false;
        };
        rest.probe_at.take_if(|probe_at| *probe_at <= now).is_some()
    }

    /// Makes the failure of a call that is not made because `target` wants to be left alone for `wait` more.
    pub fn remembered(&self, target: &str, wait: Duration) -> ModelError {
        let class = self.state().rest.map_or(FailureClass::Rate, |rest| rest.class);
        let seconds = wait.as_secs_f64().ceil();
        ModelError {
            class,
            message: format!("model {target}: its provider asked for patience; it is asked again in {seconds} s"),
            retry_after: Some(wait),
            refusal: None,
        }
    }

    /// Tells whether it was refused lately.
    pub fn is_dead(&self, now: Instant) -> bool {
        self.state().dead_until.is_some_and(|until| until > now)
    }

    /// Returns how long it still rests.
    pub fn rests(&self, now: Instant) -> Duration {
        self.state()
            .rest
            .map_or(Duration::ZERO, |rest| rest.until.saturating_duration_since(now))
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
