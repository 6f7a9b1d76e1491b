//! Builds the gateway from the configuration.

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::Context as _;
use copilotd_actors::domain::hash::fingerprint;
use copilotd_actors::domain::ids::TenantId;
use copilotd_actors::ports::{Clock, ServingState};
use copilotd_gateway::Gateway;
use copilotd_gateway::access::{
    self, GivenKey, Keys, KnownKeys, ModelAccess, OfferedTarget, PreparedKeys, TenantAccess, TenantPolicy,
};
use copilotd_gateway::ledger::UsageStore;
use copilotd_gateway::limit::{Limiter, Period, TenantLimits};
use copilotd_gateway::provider::{Timeouts, Upstream};
use copilotd_gateway::spending::Spending;
use copilotd_gateway::target::{TargetName, TargetState};
use parking_lot::Mutex;
use secrecy::{ExposeSecret as _, SecretString};

use super::upstream::upstream;
use crate::adapters::embedding::LocalEmbedder;
use crate::adapters::llm::provider::ConnectionPool;
use crate::config::{Config, Mode, OwnKeys, Provider, Route, Target, Tenant};
use crate::tenants::Reloadable;

/// Builds the gateway for all routes, and the part of it that follows tenant changes. `local` is the embedding model of
/// this process.
pub fn gateway(
    config: &Config,
    clock: Arc<dyn Clock>,
    spent: &[Spending],
    ledger: &Arc<dyn UsageStore>,
    local: Option<&Arc<LocalEmbedder>>,
) -> anyhow::Result<(Gateway, Arc<GatewayTenants>)> {
    let upstreams = UpstreamRegistry::default();
    let mut states: HashMap<TargetName, Arc<TargetState>> = HashMap::new();
    let mut routes = Vec::new();
    for route in &config.routes {
        let mut targets = Vec::new();
        for target in &route.targets {
            let name = name_of(target);
            let provider = provider_of(config, route, target)?;
            targets.push(Arc::new(copilotd_gateway::target::Target {
                state: Arc::clone(states.entry(name.clone()).or_default()),
                name,
                region: provider.region.clone(),
                context_tokens: target.context_tokens,
                weight: target.weight,
                tools: target.tools,
                schema: target.schema,
                prefill: target.prefill,
                reads: target.reads.clone(),
                reasoning: target.reasoning,
            }));
        }
        routes.push(copilotd_gateway::routing::Route {
            name: route.name.clone(),
            targets,
            timeouts: timeouts(route),
            first_token_reasoning: route.timeouts.first_token_reasoning,
            patience: route.patience,
            mode: match route.mode {
                Mode::Live => copilotd_gateway::request::call::Mode::Live,
                Mode::Buffered => copilotd_gateway::request::call::Mode::Buffered,
            },
            hedges: route.hedge.then(Arc::default),
        });
    }
    let (shared, shared_keys) = upstreams.shared_keys(config)?;
    let (model_access, own_keys) = upstreams.model_access(config)?;
    upstreams.shared.replace(shared_keys);
    upstreams.own.replace(own_keys);
    let access = Arc::new(TenantAccess::new(shared, model_access));
    let live = limits(config);
    let limiter = super::limiter::limiter(config, live.clone(), Arc::clone(&clock), spent, ledger)?;
    let gateway = Gateway::new(routes, Arc::clone(&access) as _);
    let gateway = gateway.with_limits(Arc::clone(&limiter), config.price_list(), Arc::clone(&clock));
    let gateway = gateway.with_guardrails(super::detectors::guardrails());
    let gateway = super::embed::with_cache(gateway, config, clock, local)?;
    let tenancy = GatewayTenants {
        upstreams,
        access,
        config: config.clone(),
        limits: LiveLimits {
            limiter,
            ledger: Arc::clone(ledger),
            live: Mutex::new(live),
        },
    };
    Ok((gateway, Arc::new(tenancy)))
}

/// The gateway's settings that differ by tenant.
pub struct GatewayTenants {
    upstreams: UpstreamRegistry,
    access: Arc<TenantAccess>,
    /// The configuration at start: its routes, and the addresses of its providers.
    config: Config,
    limits: LiveLimits,
}

impl GatewayTenants {
    /// Prepares the keys and headers that `new` has for the providers of this process; the returned closure commits
    /// them. A provider whose address differs in `new` keeps its old keys: a key is never sent to an address that it
    /// was not configured for.
    pub fn prepare_keys<'a>(&'a self, new: &Config) -> anyhow::Result<Box<dyn FnOnce() + Send + 'a>> {
        let mut config = self.config.clone();
        for provider in &mut config.providers {
            if let Some(new) = new.provider(&provider.name)
                && provider.is_same_server(new)
            {
                *provider = new.clone();
            }
        }
        let (shared, keys) = self.upstreams.shared_keys(&config)?;
        Ok(Box::new(move || {
            self.upstreams.shared.replace(keys);
            self.access.replace_shared(shared);
        }))
    }
}

struct LiveLimits {
    limiter: Arc<dyn Limiter>,
    ledger: Arc<dyn UsageStore>,
    live: Mutex<HashMap<TenantId, TenantLimits>>,
}

impl LiveLimits {
    /// Applies new limits. Spending under a newly limited account may not have been counted so far, so it is read from
    /// the ledger.
    fn take(&self, limits: HashMap<TenantId, TenantLimits>) {
        let mut live = self.live.lock();
        if *live == limits {
            return;
        }
        live.clone_from(&limits);
        drop(live);
        self.limiter.replace(limits);
        let (limiter, ledger) = (Arc::clone(&self.limiter), Arc::clone(&self.ledger));
        drop(tokio::spawn(async move {
            let now = super::system::now();
            let (day, month) = (Period::Day.around(now).0, Period::Month.around(now).0);
            match ledger.spendings(day, month).await {
                Ok(spent) => limiter.spent(&spent),
                Err(error) => {
                    tracing::error!(
                        %error, "ledger could not be read after a limit change; new budgets ignore earlier spending"
                    )
                }
            }
        }));
    }
}

impl Reloadable for GatewayTenants {
    fn prepare<'a>(&'a self, config: &Arc<Config>) -> anyhow::Result<Box<dyn FnOnce() + Send + 'a>> {
        let (model_access, keys) = self.upstreams.model_access(config)?;
        let limits = limits(config);
        Ok(Box::new(move || {
            self.upstreams.own.replace(keys);
            self.access.replace(model_access);
            self.limits.take(limits);
        }))
    }
}

fn limits(config: &Config) -> HashMap<TenantId, TenantLimits> {
    let tenants = config.tenants.iter();
    tenants
        .map(|tenant| (tenant.id.clone(), tenant.limits.limits()))
        .collect()
}

fn name_of(target: &Target) -> TargetName {
    TargetName {
        provider: target.provider.clone(),
        model: target.model.clone(),
    }
}

/// Builds upstreams. Each is built once per key, so that the state of a key survives changes of other settings.
#[derive(Default)]
struct UpstreamRegistry {
    hosts: ConnectionPool,
    /// Keys of tenants.
    own: KnownKeys,
    /// Keys of the process.
    shared: KnownKeys,
}

/// A target of the configuration, with its route and its provider.
type Place<'a> = (&'a Route, &'a Target, &'a Provider);

impl UpstreamRegistry {
    /// Prepares the shared keys of all targets.
    fn shared_keys(&self, config: &Config) -> anyhow::Result<(HashMap<TargetName, Keys>, PreparedKeys)> {
        let planned = access::shared_keys(&offered(config)?, |(_, _, provider)| keys_of_provider(provider));
        let mut prepared = self.shared.prepare();
        let keys = prepared.keys(planned, |place, secret| self.upstream(config, place, secret))?;
        Ok((keys, prepared))
    }

    /// Prepares the model access of each tenant. Suspended and left-out tenants are not included.
    fn model_access(&self, config: &Config) -> anyhow::Result<(HashMap<TenantId, ModelAccess>, PreparedKeys)> {
        let offered = offered(config)?;
        let mut prepared = self.own.prepare();
        let mut all = HashMap::new();
        let served = |tenant: &&Tenant| tenant.standing() == ServingState::Served;
        for tenant in config.tenants.iter().filter(served) {
            let given = tenant
                .provider_keys
                .iter()
                .map(|own| (own.provider.clone(), own_keys(own)));
            let planned = access::own_keys(&tenant.id, &offered, given);
            let own = prepared
                .keys(planned, |place, secret| self.upstream(config, place, secret))
                .with_context(|| format!("tenant {}", tenant.id))?;
            let policy = Arc::new(TenantPolicy {
                rules: tenant.rules(),
                knowledge_version: tenant.knowledge_version.clone(),
            });
            let only = tenant.models.allowed().only(&offered);
            all.insert(tenant.id.clone(), ModelAccess { only, own, policy });
        }
        Ok((all, prepared))
    }

    fn upstream(
        &self,
        config: &Config,
        (route, target, provider): Place<'_>,
        secret: SecretString,
    ) -> anyhow::Result<Arc<dyn Upstream>> {
        upstream(config, provider, route, target, secret, &self.hosts)
            .with_context(|| format!("route {}: target {}/{}", route.name, target.provider, target.model))
    }
}

/// Lists the targets of all routes.
fn offered(config: &Config) -> anyhow::Result<Vec<OfferedTarget<Place<'_>>>> {
    let mut offered = Vec::new();
    for route in &config.routes {
        for target in &route.targets {
            let provider = provider_of(config, route, target)?;
            offered.push(OfferedTarget {
                name: name_of(target),
                region: provider.region.clone(),
                own_keys_only: provider.own_keys_only,
                of: (route, target, provider),
            });
        }
    }
    Ok(offered)
}

fn provider_of<'a>(config: &'a Config, route: &Route, target: &Target) -> anyhow::Result<&'a Provider> {
    config
        .provider(&target.provider)
        .with_context(|| format!("route {}: its provider is not configured", route.name))
}

/// Returns a provider's keys; an empty one for a server that needs none. With other headers it is another key.
fn keys_of_provider(provider: &Provider) -> Vec<GivenKey<SecretString>> {
    let given = |secret: SecretString| {
        let mut parts = vec![secret.expose_secret()];
        for (header, value) in &provider.headers {
            parts.extend([header.as_str(), value.expose_secret()]);
        }
        GivenKey {
            print: fingerprint(&parts),
            secret,
        }
    };
    let keys: Vec<_> = provider.keys().cloned().map(given).collect();
    if keys.is_empty() {
        return vec![given(SecretString::from(String::new()))];
    }
    keys
}

fn own_keys(own: &OwnKeys) -> Vec<GivenKey<SecretString>> {
    let given = |secret: &SecretString| GivenKey {
        print: fingerprint(&[secret.expose_secret()]),
        secret: secret.clone(),
    };
    own.keys().map(given).collect()
}

fn timeouts(route: &Route) -> Timeouts {
    let clocks = route.timeouts;
    Timeouts {
        connect: clocks.connect,
        first_token: clocks.first_token,
        idle: clocks.idle,
        total: clocks.total,
    }
}
