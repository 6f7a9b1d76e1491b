//! Who may call which target, and with which keys.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use copilotd_actors::domain::failure::FailureClass;
use copilotd_actors::ports::ModelError;
use copilotd_actors::tenancy::TenantScope;
use parking_lot::{Mutex, MutexGuard};
use tokio::time::Instant;

use super::policy::TenantPolicy;
use crate::provider::Upstream;
use crate::target::{Target, TargetName};

/// How long a rejected key is not used, unless there is no other.
const DISABLED_FOR: Duration = Duration::from_secs(60);
/// Longest cooldown, whatever a provider says.
const LONGEST_COOLDOWN: Duration = Duration::from_secs(600);
/// A shorter cooldown is not probed.
const SHORTEST_PROBED: Duration = Duration::from_secs(4);
/// A cooldown that ends this much later than the previous one counts as a new one, with a probe of its own.
const LATER: Duration = Duration::from_secs(1);

/// One key of a provider for one target. Its state is kept until the process ends.
#[derive(Debug)]
pub struct Key {
    /// Name of the key for logs and metrics; never the key itself.
    pub name: String,
    /// The upstream that uses the key.
    pub upstream: Arc<dyn Upstream>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    disabled_until: Option<Instant>,
    cool_down: Option<Cooldown>,
}

/// A time for which a provider does not want to be called.
#[derive(Debug, Clone, Copy)]
struct Cooldown {
    since: Instant,
    until: Instant,
    /// From this time on one call may probe whether the provider answers already.
    probe_at: Option<Instant>,
    /// Whether the provider named the time itself.
    is_named: bool,
    /// Class of the provider's failure.
    class: FailureClass,
}

impl Key {
    /// Creates a key without history.
    pub fn new(name: String, upstream: Arc<dyn Upstream>) -> Self {
        Self {
            name,
            upstream,
            state: Mutex::default(),
        }
    }

    /// Records that the provider rejected the key.
    pub fn disable(&self, now: Instant) {
        self.state().disabled_until = Some(now + DISABLED_FOR);
    }

    /// Records that the provider accepted the key in a call that began at `asked`; this ends an earlier cooldown.
    pub fn accepted(&self, asked: Instant) {
        let mut state = self.state();
        state.disabled_until = None;
        state.cool_down.take_if(|cool_down| cool_down.since <= asked);
    }

    /// Records a cooldown after a failure of `class`. `is_named`: the provider itself named the time.
    pub fn cool_down(&self, wait: Duration, now: Instant, class: FailureClass, is_named: bool) {
        let wait = wait.min(LONGEST_COOLDOWN);
        let until = now + wait;
        let mut state = self.state();
        let known = state
            .cool_down
            .filter(|cool_down| cool_down.until > now && until <= cool_down.until + LATER);
        let probe_at = match known {
            Some(known) => known.probe_at,
            None => (wait >= SHORTEST_PROBED).then(|| now + wait / 2),
        };
        state.cool_down = Some(Cooldown {
            since: now,
            until,
            probe_at,
            is_named,
            class,
        });
    }

    /// Whether the provider itself named the time of the last cooldown.
    pub fn cooldown_is_named(&self) -> bool {
        self.state().cool_down.is_some_and(|cool_down| cool_down.is_named)
    }

    /// Takes the right to one probe during a cooldown; one in the second half of each.
    pub fn take_probe(&self, now: Instant) -> bool {
        let mut state = self.state();
        let Some(cool_down) = state.cool_down.as_mut().filter(|cool_down| cool_down.until > now) else {
            return false;
        };
        cool_down.probe_at.take_if(|probe_at| *probe_at <= now).is_some()
    }

    /// Returns the failure of a call that is not made because `target` is cooling down for `wait` more.
    pub fn cooling_down_error(&self, target: &str, wait: Duration) -> ModelError {
        let class = self
            .state()
            .cool_down
            .map_or(FailureClass::Rate, |cool_down| cool_down.class);
        let seconds = wait.as_secs_f64().ceil();
        ModelError {
            class,
            message: format!("model {target}: cooling down after a provider error; not called for another {seconds} s"),
            retry_after: Some(wait),
            refusal: None,
        }
    }

    /// Whether the key was rejected recently.
    pub fn is_disabled(&self, now: Instant) -> bool {
        self.state().disabled_until.is_some_and(|until| until > now)
    }

    /// Returns how long the key still cools down.
    pub fn remaining_cooldown(&self, now: Instant) -> Duration {
        self.state().cool_down.map_or(Duration::ZERO, |cool_down| {
            cool_down.until.saturating_duration_since(now)
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

/// Keys in order of preference.
pub type Keys = Arc<[Arc<Key>]>;

/// Decides what tenants may call, and is the only place that does: without the keys that it returns nothing can be
/// called, neither by a first attempt nor by a fallback.
pub trait Access: Send + Sync + fmt::Debug {
    /// Returns the keys with which `scope` may call `target`, in order of preference; `None` if it may not.
    fn keys(&self, scope: &TenantScope, target: &Target) -> Option<Keys>;

    /// Returns the policy for calls of `scope`; `None` if it may make none.
    fn policy(&self, scope: &TenantScope) -> Option<Arc<TenantPolicy>> {
        let _ = scope;
        Some(Arc::default())
    }

    /// Whether `scope` may call `target`.
    fn allowed(&self, scope: &TenantScope, target: &Target) -> bool {
        self.keys(scope, target).is_some()
    }
}

/// Access by which every tenant may call every target, with the same keys.
#[derive(Debug, Default)]
pub struct SharedKeys(HashMap<TargetName, Keys>);

impl SharedKeys {
    /// Returns `keys` for every tenant.
    pub fn new(keys: HashMap<TargetName, Keys>) -> Self {
        Self(keys)
    }
}

impl Access for SharedKeys {
    fn keys(&self, _: &TenantScope, target: &Target) -> Option<Keys> {
        self.0.get(&target.name).filter(|keys| !keys.is_empty()).cloned()
    }
}
