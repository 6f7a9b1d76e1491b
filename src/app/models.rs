//! Models and external systems out of the configuration.

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::Context as _;
use copilotd_actors::ports::{Clock, Model};
use secrecy::SecretString;

use crate::adapters::models::{Models, RouteKey};
use crate::adapters::openai::{Hosts, OpenAi, OpenAiConfig, Timeouts};
use crate::adapters::slack::{Slack, SlackConfig};
use crate::adapters::systems::TenantSystems;
use crate::adapters::tools::http;
use crate::adapters::zendesk::{Zendesk, ZendeskAuth, ZendeskConfig};
use crate::config::{Config, ProviderKind, Route};

/// The models of all routes.
pub fn models(config: &Config) -> anyhow::Result<Models> {
    let hosts = Hosts::default();
    let mut routes = HashMap::new();
    for route in &config.routes {
        let model = model(config, route, &hosts).with_context(|| format!("route {}", route.name))?;
        routes.insert(
            RouteKey {
                tenant: None,
                route: route.name.clone(),
            },
            model,
        );
    }
    Ok(Models::new(routes))
}

fn model(config: &Config, route: &Route, hosts: &Hosts) -> anyhow::Result<Arc<dyn Model>> {
    let target = route.targets.first().context("it has no target")?;
    let provider = config
        .provider(&target.provider)
        .context("its provider is not configured")?;
    if provider.kind != ProviderKind::Openai {
        anyhow::bail!(
            "provider {} speaks a protocol that this release does not",
            provider.name
        );
    }
    let key = provider
        .keys()
        .next()
        .cloned()
        .unwrap_or_else(|| SecretString::from(String::new()));
    let mut deployment = OpenAiConfig::new(&provider.name, &provider.base_url, key, &target.model);
    let clocks = route.timeouts;
    deployment.timeouts = Timeouts {
        connect: clocks.connect,
        first_token: clocks.first_token,
        idle: clocks.idle,
        total: clocks.total,
    };
    deployment.price = config.price_list().at(&target.model, super::system::now());
    Ok(Arc::new(OpenAi::new(deployment, hosts)?))
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
