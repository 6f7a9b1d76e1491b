//! Builds the gateway from the configuration.

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::Context as _;
use copilotd_actors::domain::hash::fingerprint;
use copilotd_actors::domain::ids::TenantId;
use copilotd_actors::ports::{Clock, ServingState};
use copilotd_gateway::Gateway;
use copilotd_gateway::access::{Key, Keys, ModelAccess, TenantAccess, TenantPolicy};
use copilotd_gateway::ledger::UsageStore;
use copilotd_gateway::limit::{Limiter, Period, TenantLimits};
use copilotd_gateway::provider::Timeouts;
use copilotd_gateway::spending::Spending;
use copilotd_gateway::target::{TargetName, TargetState};
use parking_lot::Mutex;
use secrecy::{ExposeSecret as _, SecretString};

use super::upstream::upstream;
use crate::adapters::llm::provider::ConnectionPool;
use crate::config::{Config, Mode, Provider, Route, Target, Tenant, TenantModels};
use crate::tenants::Reloadable;

/// Builds the gateway for all routes, and the part of it that follows tenant changes.
pub fn gateway(
    config: &Config,
    clock: Arc<dyn Clock>,
    spent: &[Spending],
    ledger: &Arc<dyn UsageStore>,
) -> anyhow::Result<(Gateway, Arc<GatewayTenants>)> {
    let upstreams = UpstreamRegistry::default();
    let shared = upstreams.all_shared(config)?;
    let mut states: HashMap<TargetName, Arc<TargetState>> = HashMap::new();
    let mut routes = Vec::new();
    for route in &config.routes {
        let mut targets = Vec::new();
        for target in &route.targets {
            let name = name_of(target);
            let provider = config
                .provider(&target.provider)
                .with_context(|| format!("route {}: its provider is not configured", route.name))?;
            targets.push(Arc::new(copilotd_gateway::target::Target {
                state: Arc::clone(states.entry(name.clone()).or_default()),
                name,
                region: provider.region.clone(),
                context_tokens: target.context_tokens,
                weight: target.weight,
                tools: target.tools,
                schema: target.schema,
                prefill: target.prefill,
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
    let model_access = upstreams.model_access(config)?;
    let access = Arc::new(TenantAccess::new(shared, model_access));
    let live = limits(config);
    let limiter = super::limiter::limiter(config, live.clone(), Arc::clone(&clock), spent, ledger)?;
    let gateway = Gateway::new(routes, Arc::clone(&access) as _);
    let gateway = gateway.with_limits(Arc::clone(&limiter), config.price_list(), Arc::clone(&clock));
    let gateway = super::embed::with_cache(gateway, config, clock)?;
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
        let shared = self.upstreams.all_shared(&config)?;
        Ok(Box::new(move || self.access.replace_shared(shared)))
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
        let (model_access, limits) = (self.upstreams.model_access(config)?, limits(config));
        Ok(Box::new(move || {
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

/// Builds upstreams. Those of tenants' own keys are built once per key, so that the state of a key survives changes of
/// other settings.
#[derive(Default)]
struct UpstreamRegistry {
    hosts: ConnectionPool,
    own: Mutex<HashMap<[u8; 32], Arc<Key>>>,
    /// The same for keys of the process.
    shared: Mutex<HashMap<[u8; 32], Arc<Key>>>,
}

impl UpstreamRegistry {
    /// Builds the upstreams of all targets that tenants may call with the keys of the process.
    fn all_shared(&self, config: &Config) -> anyhow::Result<HashMap<TargetName, Keys>> {
        let mut known = self.shared.lock();
        let (mut shared, mut kept) = (HashMap::new(), HashMap::new());
        for route in &config.routes {
            for target in &route.targets {
                let name = name_of(target);
                let provider = config
                    .provider(&target.provider)
                    .with_context(|| format!("route {}: its provider is not configured", route.name))?;
                if provider.own_keys_only || shared.contains_key(&name) {
                    continue;
                }
                let mut secrets: Vec<SecretString> = provider.keys().cloned().collect();
                if secrets.is_empty() {
                    secrets.push(SecretString::from(String::new()));
                }
                let mut keys = Vec::new();
                for (n, secret) in secrets.into_iter().enumerate() {
                    let mut parts = vec![name.provider.as_str(), &name.model, secret.expose_secret()];
                    for (header, value) in &provider.headers {
                        parts.extend([header.as_str(), value.expose_secret()]);
                    }
                    let print = fingerprint(&parts);
                    let key = match known.get(&print) {
                        Some(key) => Arc::clone(key),
                        None => {
                            let called = format!("{}#{}", provider.name, n + 1);
                            self.build_key(config, provider, route, target, secret, called)
                                .with_context(|| format!("route {}", route.name))?
                        }
                    };
                    kept.insert(print, Arc::clone(&key));
                    keys.push(key);
                }
                shared.insert(name, keys.into());
            }
        }
        *known = kept;
        Ok(shared)
    }

    /// Returns the model access of each tenant. Suspended and left-out tenants are not included.
    fn model_access(&self, config: &Config) -> anyhow::Result<HashMap<TenantId, ModelAccess>> {
        let mut known = self.own.lock();
        let mut kept = HashMap::new();
        let mut all = HashMap::new();
        let served = |tenant: &&Tenant| tenant.standing() == ServingState::Served;
        for tenant in config.tenants.iter().filter(served) {
            let targets = || {
                let routes = config.routes.iter();
                routes.flat_map(|route| route.targets.iter().map(move |target| (route, target)))
            };
            let allowed = |target: &Target| {
                let region = config
                    .provider(&target.provider)
                    .and_then(|provider| provider.region.as_deref());
                tenant.models.allows(&target.provider, &target.model, region)
            };
            let only = (tenant.models != TenantModels::default()).then(|| {
                let allowed = targets().filter(|(_, target)| allowed(target));
                allowed.map(|(_, target)| name_of(target)).collect()
            });
            let mut own: HashMap<TargetName, Keys> = HashMap::new();
            for given in &tenant.provider_keys {
                let Some(provider) = config.provider(&given.provider) else {
                    continue;
                };
                for (route, target) in targets().filter(|(_, target)| target.provider == given.provider) {
                    let name = name_of(target);
                    if own.contains_key(&name) {
                        continue;
                    }
                    let mut keys = Vec::new();
                    for (n, secret) in given.keys().enumerate() {
                        let parts = [tenant.id.as_str(), &name.provider, &name.model, secret.expose_secret()];
                        let print = fingerprint(&parts);
                        let key = match known.get(&print) {
                            Some(key) => Arc::clone(key),
                            None => {
                                let name = format!("{}/{}#{}", tenant.id, provider.name, n + 1);
                                self.build_key(config, provider, route, target, secret.clone(), name)
                                    .with_context(|| format!("tenant {}", tenant.id))?
                            }
                        };
                        kept.insert(print, Arc::clone(&key));
                        keys.push(key);
                    }
                    own.insert(name, keys.into());
                }
            }
            let policy = Arc::new(TenantPolicy {
                rules: tenant.rules(),
                knowledge_version: tenant.knowledge_version.clone(),
            });
            all.insert(tenant.id.clone(), ModelAccess { only, own, policy });
        }
        *known = kept;
        Ok(all)
    }

    fn build_key(
        &self,
        config: &Config,
        provider: &Provider,
        route: &Route,
        target: &Target,
        secret: SecretString,
        name: String,
    ) -> anyhow::Result<Arc<Key>> {
        let upstream = upstream(config, provider, route, target, secret, &self.hosts)?;
        Ok(Arc::new(Key::new(name, upstream)))
    }
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
