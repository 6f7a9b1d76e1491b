//! The parts of the process that follow configuration changes: policies, external systems, credentials, write limits,
//! and whose content is logged.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use anyhow::Context as _;
use arc_swap::ArcSwap;
use copilotd_actors::domain::conversation::quota::Quotas;
use copilotd_actors::domain::hash::fingerprint;
use copilotd_actors::domain::ids::{CopilotName, TenantId};
use copilotd_actors::domain::policy::Policy;
use copilotd_actors::ports::{
    Clock, Policies, ServingState, SystemKey, Systems, ToolBox, ToolCatalog, ToolDefinitions,
};
use copilotd_actors::tenancy::TenantScope;
use parking_lot::Mutex;

use crate::adapters::systems::kinds::Kinds;
use crate::adapters::systems::tools::http;
use crate::adapters::systems::{Shared, System, TenantSystems};
use crate::config::{self, Config, ConfiguredPolicies};
use crate::http::credentials::{Authenticator, Verifier, WriteLimits};
use crate::telemetry::content::ContentTenants;
use crate::tenants::{LiveServingStates, Reloadable};

/// Applies a prepared change.
type Commit<'a> = anyhow::Result<Box<dyn FnOnce() + Send + 'a>>;

/// The live policies of all copilots. They offer tools of the tenant's systems only, so both change together.
pub struct LivePolicies {
    policies: ArcSwap<ConfiguredPolicies>,
    systems: Arc<LiveSystems>,
    standings: Arc<LiveServingStates>,
}

impl LivePolicies {
    /// Builds the policies of a configuration, whose `systems` are built.
    pub fn new(config: &Config, systems: Arc<LiveSystems>, standings: Arc<LiveServingStates>) -> anyhow::Result<Self> {
        Ok(Self {
            policies: ArcSwap::from_pointee(policies(config, &*systems)?),
            systems,
            standings,
        })
    }
}

impl Policies for LivePolicies {
    fn policy(&self, scope: &TenantScope, copilot: Option<&CopilotName>) -> Option<Arc<Policy>> {
        self.policies.load().policy(scope, copilot)
    }

    fn quotas(&self, scope: &TenantScope) -> Quotas {
        self.policies.load().quotas(scope)
    }

    fn standing(&self, scope: &TenantScope) -> ServingState {
        self.standings.of(scope.tenant())
    }
}

impl Reloadable for LivePolicies {
    fn prepare<'a>(&'a self, config: &Arc<Config>) -> Commit<'a> {
        let built = self.systems.build(config)?;
        let policies = Arc::new(policies(config, &built.systems)?);
        Ok(Box::new(move || {
            self.systems.replace(built);
            self.policies.store(policies);
        }))
    }
}

/// Builds the policies of a configuration, with the tools in `catalog`.
fn policies(config: &Config, catalog: &dyn ToolCatalog) -> anyhow::Result<ConfiguredPolicies> {
    #[expect(
        clippy::disallowed_methods,
        reason = "the tenant is one of the configuration itself, not one that a request claims to be"
    )]
    let scope = |tenant: &TenantId| TenantScope::from_verified(tenant.clone());
    let policies = config.policies(|tenant| catalog.catalog(&scope(tenant)));
    policies.map_err(|faults| anyhow::anyhow!("{faults}"))
}

/// The live external systems of all tenants. A system whose settings did not change is kept, with all it has learned.
pub struct LiveSystems {
    kinds: Kinds,
    shared: Shared,
    known: Mutex<HashMap<SystemKey, KnownSystem>>,
    systems: ArcSwap<TenantSystems>,
}

/// A system, with its kind and the fingerprint of the settings it was built from.
type KnownSystem = (String, [u8; 32], Arc<dyn System>);

/// The systems of one configuration.
struct BuiltSystems {
    known: HashMap<SystemKey, KnownSystem>,
    systems: TenantSystems,
}

impl LiveSystems {
    /// Builds the systems of a configuration.
    pub fn new(config: &Config, kinds: Kinds, clock: Arc<dyn Clock>) -> anyhow::Result<Self> {
        let systems = Self {
            kinds,
            shared: Shared {
                client: http::client()?,
                clock,
            },
            known: Mutex::default(),
            systems: ArcSwap::default(),
        };
        let built = systems.build(config)?;
        systems.replace(built);
        Ok(systems)
    }

    fn build(&self, config: &Config) -> anyhow::Result<BuiltSystems> {
        let known = self.known.lock();
        let (mut built, mut systems) = (HashMap::new(), TenantSystems::default());
        for tenant in &config.tenants {
            for configured in &tenant.systems {
                let key = (tenant.id.clone(), configured.name.clone());
                let digest = fingerprint(&[&configured.settings.canonical()]);
                let system = match known.get(&key) {
                    Some((kind, same, system)) if *kind == configured.kind && *same == digest => Arc::clone(system),
                    _ => self
                        .build_one(configured)
                        .with_context(|| format!("tenant {}", tenant.id))?,
                };
                systems.insert(tenant.id.clone(), &configured.name, Arc::clone(&system));
                built.insert(key, (configured.kind.clone(), digest, system));
            }
        }
        Ok(BuiltSystems { known: built, systems })
    }

    fn build_one(&self, system: &config::System) -> anyhow::Result<Arc<dyn System>> {
        let kind = self.kinds.find(&system.kind);
        let kind = kind.with_context(|| format!("there is no kind of system {:?}", system.kind))?;
        Ok(kind.build(&system.name, &system.settings, &self.shared)?)
    }

    fn replace(&self, built: BuiltSystems) {
        self.systems.store(Arc::new(built.systems));
        *self.known.lock() = built.known;
    }
}

impl Systems for LiveSystems {
    fn system(&self, scope: &TenantScope, system: &str) -> Option<Arc<dyn ToolBox>> {
        self.systems.load().system(scope, system)
    }
}

impl ToolCatalog for LiveSystems {
    fn catalog(&self, scope: &TenantScope) -> ToolDefinitions {
        self.systems.load().catalog(scope)
    }
}

/// The credentials that are accepted.
pub struct Credentials(pub Arc<Authenticator>);

impl Reloadable for Credentials {
    fn prepare<'a>(&'a self, config: &Arc<Config>) -> Commit<'a> {
        let keys = Verifier::prepare(config)?;
        Ok(Box::new(move || self.0.verifier.take(keys)))
    }
}

/// The limits of writes.
pub struct Writes(pub Arc<Authenticator>);

impl Reloadable for Writes {
    fn prepare<'a>(&'a self, config: &Arc<Config>) -> Commit<'a> {
        let limits = WriteLimits::prepare(config);
        Ok(Box::new(move || self.0.writes.take(limits)))
    }
}

/// The tenants whose prompts and answers are logged.
pub struct LoggedTenants(pub Arc<ContentTenants>);

impl Reloadable for LoggedTenants {
    fn prepare<'a>(&'a self, config: &Arc<Config>) -> Commit<'a> {
        let tenants = Arc::new(content_tenants(config));
        Ok(Box::new(move || self.0.store(tenants)))
    }
}

/// Returns the tenants with `log_content = true`.
pub fn content_tenants(config: &Config) -> HashSet<TenantId> {
    let wanting = config.tenants.iter().filter(|tenant| tenant.log_content);
    wanting.map(|tenant| tenant.id.clone()).collect()
}
