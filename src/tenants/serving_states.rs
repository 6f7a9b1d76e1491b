//! The live standing of tenants (served, left out or suspended) while the configuration changes.
//!
//! Invariant: a tenant is served only while every part of the process has what its work needs. So a tenant that becomes
//! left out or suspended stops being served before the first part applies the change, and one that is served again
//! starts after the last.

use std::sync::Arc;

use arc_swap::ArcSwap;
use copilotd_actors::domain::ids::TenantId;
use copilotd_actors::ports::ServingState;
use parking_lot::Mutex;

use crate::config::{Config, ServingStates};

/// Called after a change with the standings before and after it.
type Listener = Box<dyn Fn(&ServingStates, &ServingStates) + Send + Sync>;

/// The live standings; see the module.
pub struct LiveServingStates {
    current: ArcSwap<ServingStates>,
    listeners: Mutex<Vec<Listener>>,
}

impl LiveServingStates {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            current: ArcSwap::from_pointee(ServingStates::of_config(config)),
            listeners: Mutex::default(),
        }
    }

    /// Returns the standing of a tenant.
    pub fn of(&self, tenant: &TenantId) -> ServingState {
        self.current.load().of(tenant)
    }

    /// Calls `listener` after every change from now on.
    pub fn listen(&self, listener: impl Fn(&ServingStates, &ServingStates) + Send + Sync + 'static) {
        let mut listeners = self.listeners.lock();
        listeners.push(Box::new(listener));
    }

    /// Changes to the standings of `config`, calling `commit` in between, which applies the change to all parts.
    pub(super) fn change(&self, config: &Config, commit: impl FnOnce()) {
        let (before, next) = (self.current.load_full(), Arc::new(ServingStates::of_config(config)));
        self.current.store(Arc::new(before.while_changing_to(&next)));
        commit();
        self.current.store(Arc::clone(&next));
        if before != next {
            let listeners = self.listeners.lock();
            for listener in listeners.iter() {
                listener(&before, &next);
            }
        }
    }
}
