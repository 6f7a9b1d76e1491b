//! The external systems of all tenants.

pub mod slack;
pub mod tools;
pub mod zendesk;

use std::collections::HashMap;
use std::sync::Arc;

use copilotd_actors::domain::ids::TenantId;
use copilotd_actors::ports::{SystemKey, Systems, ToolBox};
use copilotd_actors::tenancy::TenantScope;

/// Finds a tenant's system by its name in the tool definitions (`zendesk`, `slack`). Built once, at start.
#[derive(Default)]
pub struct TenantSystems {
    systems: HashMap<SystemKey, Arc<dyn ToolBox>>,
}

impl TenantSystems {
    /// Adds or replaces one system of one tenant.
    pub fn insert(&mut self, tenant: TenantId, system: impl Into<String>, toolbox: Arc<dyn ToolBox>) {
        self.systems.insert((tenant, system.into()), toolbox);
    }
}

impl Systems for TenantSystems {
    fn system(&self, scope: &TenantScope, system: &str) -> Option<Arc<dyn ToolBox>> {
        self.systems
            .get(&(scope.tenant().clone(), system.to_owned()))
            .map(Arc::clone)
    }
}
