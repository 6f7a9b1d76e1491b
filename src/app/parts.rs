//! The parts of the process that follow configuration changes: policies, external systems, credentials, write limits,
//! and whose content is logged.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;
use arc_swap::ArcSwap;
use copilotd_actors::domain::conversation::quota::Quotas;
use copilotd_actors::domain::ids::{CopilotName, TenantId};
use copilotd_actors::domain::policy::Policy;
use copilotd_actors::ports::{Clock, Policies, ServingState, SystemKey, Systems, ToolBox};
use copilotd_actors::tenancy::TenantScope;
use secrecy::{ExposeSecret as _, SecretString};

use crate::adapters::systems::TenantSystems;
use crate::adapters::systems::slack::{Slack, SlackConfig};
use crate::adapters::systems::tools::{self, http};
use crate::adapters::systems::zendesk::{Zendesk, ZendeskAuth, ZendeskConfig};
use crate::config::{Config, ConfiguredPolicies, Tenant};
use crate::http::credentials::{Authenticator, Verifier, WriteLimits};
use crate::telemetry::content::ContentTenants;
use crate::tenants::{LiveServingStates, Reloadable};
use copilotd_actors::domain::access::fingerprint::fingerprint;

/// Applies a prepared change.
type Commit<'a> = anyhow::Result<Box<dyn FnOnce() + Send + 'a>>;

/// The live policies of all copilots.
pub struct LivePolicies {
    policies: ArcSwap<ConfiguredPolicies>,
    standings: Arc<LiveServingStates>,
}

impl LivePolicies {
    /// Builds the policies of a configuration.
    pub fn new(config: &Config, standings: Arc<LiveServingStates>) -> anyhow::Result<Self> {
        Ok(Self {
            policies: ArcSwap::from_pointee(policies(config)?),
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
        let policies = Arc::new(policies(config)?);
        Ok(Box::new(move || self.policies.store(policies)))
    }
}

fn policies(config: &Config) -> anyhow::Result<ConfiguredPolicies> {
    let policies = config.policies(tools::definitions());
    policies.map_err(|faults| anyhow::anyhow!("{faults}"))
}

/// The live external systems of all tenants. A system whose settings did not change is kept, with all it has learned.
pub struct LiveSystems {
    client: reqwest::Client,
    clock: Arc<dyn Clock>,
    built: Mutex<HashMap<SystemKey, BuiltSystem>>,
    systems: ArcSwap<TenantSystems>,
}

/// A system, and the fingerprint of the settings it was built from.
type BuiltSystem = ([u8; 32], Arc<dyn ToolBox>);

impl LiveSystems {
    /// Builds the systems of a configuration.
    pub fn new(config: &Config, clock: Arc<dyn Clock>) -> anyhow::Result<Self> {
        let systems = Self {
            client: http::client()?,
            clock,
            built: Mutex::default(),
            systems: ArcSwap::default(),
        };
        let built = systems.make(config)?;
        systems.take(built);
        Ok(systems)
    }

    fn make(&self, config: &Config) -> anyhow::Result<HashMap<SystemKey, BuiltSystem>> {
        let known = self.built.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all = HashMap::new();
        for tenant in &config.tenants {
            let mut keep = |name: &str, digest: [u8; 32], make: &dyn Fn() -> anyhow::Result<Arc<dyn ToolBox>>| {
                let key = (tenant.id.clone(), name.to_owned());
                let system = match known.get(&key) {
                    Some((same, system)) if *same == digest => Arc::clone(system),
                    _ => make().with_context(|| format!("tenant {}", tenant.id))?,
                };
                all.insert(key, (digest, system));
                anyhow::Ok(())
            };
            if let Some(zendesk) = &tenant.zendesk {
                let secrets = [&zendesk.oauth_token, &zendesk.token];
                let [oauth, token] = secrets.map(exposed);
                let email = zendesk.email.as_deref().unwrap_or_default();
                let digest = fingerprint(&[&zendesk.base_url, email, oauth, token]);
                keep("zendesk", digest, &|| self.zendesk(tenant))?;
            }
            if let Some(slack) = &tenant.slack {
                let digest = fingerprint(&[&slack.base_url, slack.bot_token.expose_secret()]);
                keep("slack", digest, &|| self.slack(tenant))?;
            }
        }
        Ok(all)
    }

    fn take(&self, built: HashMap<SystemKey, BuiltSystem>) {
        let mut systems = TenantSystems::default();
        for ((tenant, name), (_, system)) in &built {
            systems.insert(tenant.clone(), name, Arc::clone(system));
        }
        self.systems.store(Arc::new(systems));
        *self.built.lock().unwrap_or_else(PoisonError::into_inner) = built;
    }

    fn zendesk(&self, tenant: &Tenant) -> anyhow::Result<Arc<dyn ToolBox>> {
        let zendesk = tenant.zendesk.as_ref().context("zendesk is not configured")?;
        let auth = match (&zendesk.oauth_token, &zendesk.email, &zendesk.token) {
            (Some(token), _, _) => ZendeskAuth::OAuth(token.clone()),
            (None, Some(email), Some(token)) => ZendeskAuth::Token {
                email: email.clone(),
                token: token.clone(),
            },
            _ => anyhow::bail!("zendesk needs oauth_token, or email and token"),
        };
        let settings = ZendeskConfig {
            base_url: zendesk.base_url.clone(),
            auth,
        };
        Ok(Arc::new(Zendesk::new(&settings, self.client.clone())?))
    }

    fn slack(&self, tenant: &Tenant) -> anyhow::Result<Arc<dyn ToolBox>> {
        let slack = tenant.slack.as_ref().context("slack is not configured")?;
        let settings = SlackConfig {
            base_url: slack.base_url.clone(),
            token: slack.bot_token.clone(),
        };
        let slack = Slack::new(&settings, self.client.clone(), Arc::clone(&self.clock))?;
        Ok(Arc::new(slack))
    }
}

fn exposed(secret: &Option<SecretString>) -> &str {
    secret.as_ref().map_or("", |secret| secret.expose_secret())
}

impl Systems for LiveSystems {
    fn system(&self, scope: &TenantScope, system: &str) -> Option<Arc<dyn ToolBox>> {
        self.systems.load().system(scope, system)
    }
}

impl Reloadable for LiveSystems {
    fn prepare<'a>(&'a self, config: &Arc<Config>) -> Commit<'a> {
        let built = self.make(config)?;
        Ok(Box::new(move || self.take(built)))
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
