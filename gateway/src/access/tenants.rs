//! Model access by tenant: which targets each may use, some with keys of their own.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use arc_swap::ArcSwap;
use copilotd_actors::domain::ids::TenantId;
use copilotd_actors::tenancy::TenantScope;

use super::keys::{Access, Keys};
use super::policy::TenantPolicy;
use crate::target::{Target, TargetName};

/// What one tenant may call. A target without an entry in [`ModelAccess::own`] is called with the shared keys.
#[derive(Debug, Clone, Default)]
pub struct ModelAccess {
    /// The allowed targets; all if `None`.
    pub only: Option<HashSet<TargetName>>,
    /// The tenant's own keys; where there are any, only these are used.
    pub own: HashMap<TargetName, Keys>,
    /// The policy that applies to the tenant's calls.
    pub policy: Arc<TenantPolicy>,
}

/// The access of every tenant; one that is not listed may call nothing. May be replaced while calls are in flight: a
/// call has looked up all its keys when it begins.
#[derive(Debug)]
pub struct TenantAccess {
    shared: ArcSwap<HashMap<TargetName, Keys>>,
    tenants: ArcSwap<HashMap<TenantId, ModelAccess>>,
}

impl TenantAccess {
    /// Uses `shared` keys for tenants without their own.
    pub fn new(shared: HashMap<TargetName, Keys>, tenants: HashMap<TenantId, ModelAccess>) -> Self {
        Self {
            shared: ArcSwap::from_pointee(shared),
            tenants: ArcSwap::from_pointee(tenants),
        }
    }

    /// Replaces all shared keys.
    pub fn replace_shared(&self, shared: HashMap<TargetName, Keys>) {
        self.shared.store(Arc::new(shared));
    }

    /// Replaces the access of all tenants.
    pub fn replace(&self, tenants: HashMap<TenantId, ModelAccess>) {
        self.tenants.store(Arc::new(tenants));
    }
}

impl Access for TenantAccess {
    fn keys(&self, scope: &TenantScope, target: &Target) -> Option<Keys> {
        let tenants = self.tenants.load();
        let model_access = tenants.get(scope.tenant())?;
        if model_access
            .only
            .as_ref()
            .is_some_and(|only| !only.contains(&target.name))
        {
            return None;
        }
        let shared = self.shared.load();
        let keys = model_access.own.get(&target.name).or_else(|| shared.get(&target.name));
        keys.filter(|keys| !keys.is_empty()).cloned()
    }

    fn policy(&self, scope: &TenantScope) -> Option<Arc<TenantPolicy>> {
        let tenants = self.tenants.load();
        tenants
            .get(scope.tenant())
            .map(|model_access| Arc::clone(&model_access.policy))
    }
}
