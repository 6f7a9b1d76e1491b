//! Models and external systems out of the configuration.

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::Context as _;
use copilotd_actors::ports::Clock;
use secrecy::SecretString;

use crate::adapters::provider::{Hosts, Timeouts};
use crate::adapters::slack::{Slack, SlackConfig};
use crate::adapters::systems::TenantSystems;
use crate::adapters::tools::http;
use crate::adapters::zendesk::{Zendesk, ZendeskAuth, ZendeskConfig};
use crate::config::{Config, Mode, Route, Target};
use crate::gateway::ledger::Spending;
use crate::gateway::limit::LocalLimiter;
use crate::gateway::route::{Key, Keys, SharedKeys, TargetName, TargetState};
use crate::gateway::{self, Gateway};

use super::upstream::upstream;

/// The gateway to the models of all routes.
pub fn gateway(config: &Config, clock: Arc<dyn Clock>, spent: &[Spending]) -> anyhow::Result<Gateway> {
    let hosts = Hosts::default();
    let mut keys = HashMap::new();
    let mut states: HashMap<TargetName, Arc<TargetState>> = HashMap::new();
    let mut routes = Vec::new();
    for route in &config.routes {
        let mut targets = Vec::new();
        for target in &route.targets {
            let name = TargetName {
                provider: target.provider.clone(),
                model: target.model.clone(),
            };
            if !keys.contains_key(&name) {
                let made =
                    deployments(config, route, target, &hosts).with_context(|| format!("route {}", route.name))?;
                keys.insert(name.clone(), made);
            }
            targets.push(Arc::new(gateway::route::Target {
                state: Arc::clone(states.entry(name.clone()).or_default()),
                name,
                region: config
                    .provider(&target.provider)
                    .and_then(|provider| provider.region.clone()),
                context_tokens: target.context_tokens,
                weight: target.weight,
                tools: target.tools,
                schema: target.schema,
            }));
        }
        routes.push(gateway::route::Route {
            name: route.name.clone(),
            targets,
            timeouts: timeouts(route),
            mode: match route.mode {
                Mode::Live => gateway::call::Mode::Live,
                Mode::Buffered => gateway::call::Mode::Buffered,
            },
            hedges: route.hedge.then(Arc::default),
        });
    }
    let limits = config
        .tenants
        .iter()
        .map(|tenant| (tenant.id.clone(), tenant.limits.limits()));
    let limiter = LocalLimiter::new(limits, Arc::clone(&clock));
    limiter.spent(spent);
    let gateway = Gateway::new(routes, Arc::new(SharedKeys::new(keys)));
    let gateway = gateway.with_limits(Arc::new(limiter), config.price_list(), Arc::clone(&clock));
    super::embed::with_cache(gateway, config, clock)
}

/// One deployment for each key of the target's provider.
fn deployments(config: &Config, route: &Route, target: &Target, hosts: &Hosts) -> anyhow::Result<Keys> {
    let provider = config
        .provider(&target.provider)
        .context("its provider is not configured")?;
    let mut secrets: Vec<SecretString> = provider.keys().cloned().collect();
    if secrets.is_empty() {
        secrets.push(SecretString::from(String::new()));
    }
    let mut keys = Vec::new();
    for (n, secret) in secrets.into_iter().enumerate() {
        let name = format!("{}#{}", provider.name, n + 1);
        let upstream = upstream(config, provider, route, target, secret, hosts)?;
        keys.push(Arc::new(Key::new(name, upstream)));
    }
    Ok(keys.into())
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

/// The external systems of all tenants.
pub fn systems(config: &Config, clock: Arc<dyn Clock>) -> anyhow::Result<TenantSystems> {
    let client = http::client()?;
    let mut systems = TenantSystems::default();
    for tenant in &config.tenants {
        if let Some(zendesk) = &tenant.zendesk {
            let auth = match (&zendesk.oauth_token, &zendesk.email, &zendesk.token) {
                (Some(token), _, _) => ZendeskAuth::OAuth(token.clone()),
                (None, Some(email), Some(token)) => ZendeskAuth::Token {
                    email: email.clone(),
                    token: token.clone(),
                },
                _ => anyhow::bail!("tenant {}: zendesk needs oauth_token, or email and token", tenant.id),
            };
            let settings = ZendeskConfig {
                base_url: zendesk.base_url.clone(),
                auth,
            };
            let zendesk = Zendesk::new(&settings, client.clone()).with_context(|| format!("tenant {}", tenant.id))?;
            systems.insert(tenant.id.clone(), "zendesk", Arc::new(zendesk));
        }
        if let Some(slack) = &tenant.slack {
            let settings = SlackConfig {
                base_url: slack.base_url.clone(),
                token: slack.bot_token.clone(),
            };
            let slack = Slack::new(&settings, client.clone(), Arc::clone(&clock))
                .with_context(|| format!("tenant {}", tenant.id))?;
            systems.insert(tenant.id.clone(), "slack", Arc::new(slack));
        }
    }
    Ok(systems)
}
