//! The external systems of all tenants.

pub mod kinds;
pub mod slack;
pub mod tools;
pub mod zendesk;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use copilotd_actors::domain::ids::TenantId;
use copilotd_actors::ports::{Clock, Systems, ToolBox, ToolCatalog, ToolDefinitions};
use copilotd_actors::tenancy::TenantScope;
use copilotd_knowledge::sync::Feed;
use futures::future::BoxFuture;

use self::tools::InvalidConfig;
use crate::system_kind::{SystemKind, SystemSettings};

/// One external system of one tenant, with its tools.
pub trait System: ToolBox {
    /// Returns the definitions of its tools, whose names begin with its name.
    fn definitions(&self) -> Arc<ToolDefinitions>;
}

/// What all systems share.
#[derive(Clone)]
pub struct Shared {
    /// The HTTP client.
    pub client: reqwest::Client,
    /// The clock.
    pub clock: Arc<dyn Clock>,
}

/// Builds the systems of one kind from their settings, which the configuration has checked.
pub trait SystemFactory: SystemKind {
    /// Builds the system with this name; sends nothing.
    fn build(&self, name: &str, settings: &SystemSettings, shared: &Shared) -> Result<Arc<dyn System>, InvalidConfig>;

    /// Builds the connection through which documents of a system are kept up to date, from the settings of both; sends
    /// nothing.
    fn feed(
        &self,
        _settings: &SystemSettings,
        _source: &SystemSettings,
        _shared: &Shared,
    ) -> Result<Arc<dyn Feed>, InvalidConfig> {
        Err(InvalidConfig {
            system: self.name().into(),
            reason: "a system of this kind has no documents".to_owned(),
        })
    }

    /// Checks that the system can be reached and accepts its credentials; changes nothing there.
    fn probe<'a>(
        &self,
        settings: &SystemSettings,
        client: &'a reqwest::Client,
    ) -> BoxFuture<'a, Result<String, String>>;

    /// Returns the definitions of its tools in a system with the default name; none if only the running system knows
    /// them.
    fn definitions(&self) -> Arc<ToolDefinitions>;

    /// Returns the vendor's name and the address of the system, for people.
    fn describe(&self, settings: &SystemSettings) -> (&'static str, String);
}

/// Finds a tenant's system by its name. Built once per configuration.
#[derive(Default)]
pub struct TenantSystems {
    systems: HashMap<TenantId, BTreeMap<String, Arc<dyn System>>>,
}

impl TenantSystems {
    /// Adds or replaces one system of one tenant.
    pub fn insert(&mut self, tenant: TenantId, name: impl Into<String>, system: Arc<dyn System>) {
        self.systems.entry(tenant).or_default().insert(name.into(), system);
    }
}

impl Systems for TenantSystems {
    fn system(&self, scope: &TenantScope, system: &str) -> Option<Arc<dyn ToolBox>> {
        let system = self.systems.get(scope.tenant())?.get(system)?;
        Some(Arc::clone(system) as Arc<dyn ToolBox>)
    }
}

impl ToolCatalog for TenantSystems {
    fn catalog(&self, scope: &TenantScope) -> ToolDefinitions {
        let systems = self.systems.get(scope.tenant()).into_iter().flat_map(BTreeMap::values);
        let tools = systems.map(|system| system.definitions());
        tools.fold(ToolDefinitions::new(), |mut all, tools| {
            all.extend(tools.iter().map(|(name, tool)| (name.clone(), Arc::clone(tool))));
            all
        })
    }
}
