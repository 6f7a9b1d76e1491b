//! Who may call what, and with which keys.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use copilotd_actors::tenancy::TenantScope;

use super::target::{Target, TargetName};
use crate::gateway::upstream::Upstream;

/// One key of a provider for one target.
#[derive(Debug)]
pub struct Key {
    /// Its name, for logs and metrics; never the key itself.
    pub name: String,
    /// The deployment behind it.
    pub upstream: Arc<dyn Upstream>,
}

/// What tenants may call. This is the one place that decides it: without the keys that it hands out nothing can be
/// called, by a fallback as little as by a first attempt.
pub trait Access: Send + Sync + fmt::Debug {
    /// Returns the keys with which `scope` may call `target`, in order of preference; none when it may not.
    fn keys(&self, scope: &TenantScope, target: &Target) -> Option<Arc<[Arc<Key>]>>;

    /// Tells whether `scope` may call `target`.
    fn allowed(&self, scope: &TenantScope, target: &Target) -> bool {
        self.keys(scope, target).is_some()
    }
}

/// Every tenant may call every target, with the same keys.
#[derive(Debug, Default)]
pub struct SharedKeys(HashMap<TargetName, Arc<[Arc<Key>]>>);

impl SharedKeys {
    /// Hands out `keys`.
    pub fn new(keys: HashMap<TargetName, Arc<[Arc<Key>]>>) -> Self {
        Self(keys)
    }
}

impl Access for SharedKeys {
    fn keys(&self, _: &TenantScope, target: &Target) -> Option<Arc<[Arc<Key>]>> {
        self.0.get(&target.name).filter(|keys| !keys.is_empty()).cloned()
    }
}
