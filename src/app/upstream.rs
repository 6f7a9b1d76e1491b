//! Builds the upstream of a target in its provider's protocol.

use std::sync::Arc;

use copilotd_gateway::provider::Upstream;
use secrecy::SecretString;

use crate::adapters::llm::anthropic::{self, Anthropic, AnthropicConfig};
use crate::adapters::llm::openai::{Auth, OpenAi, OpenAiConfig};
use crate::adapters::llm::provider::ConnectionPool;
use crate::config::{Config, Provider, ProviderAuth, ProviderKind, Route, Target};

/// Builds the adapter of `target` with one key of its provider.
pub(super) fn upstream(
    config: &Config,
    provider: &Provider,
    route: &Route,
    target: &Target,
    secret: SecretString,
    hosts: &ConnectionPool,
) -> anyhow::Result<Arc<dyn Upstream>> {
    Ok(match provider.kind {
        ProviderKind::Openai => Arc::new(OpenAi::new(openai(config, provider, route, target, secret), hosts)?),
        ProviderKind::Anthropic => {
            let upstream_config = anthropic(config, provider, route, target, secret);
            Arc::new(Anthropic::new(upstream_config, hosts)?)
        }
    })
}

fn openai(config: &Config, provider: &Provider, route: &Route, target: &Target, secret: SecretString) -> OpenAiConfig {
    let mut upstream_config = OpenAiConfig::new(&provider.name, &provider.base_url, secret, &target.model);
    upstream_config.connect = route.timeouts.connect;
    if let Some(auth) = provider.auth {
        upstream_config.auth = match auth {
            ProviderAuth::Bearer => Auth::Bearer,
            ProviderAuth::ApiKey => Auth::ApiKey,
        };
    }
    upstream_config.headers = provider.headers.clone().into_iter().collect();
    upstream_config.dialect.http2_cleartext = provider.http2;
    upstream_config.dialect.stream_usage = provider.stream_options;
    upstream_config.dialect.user = provider.user;
    upstream_config.price = config.price_list().at(&target.model, super::system::now());
    upstream_config
}

fn anthropic(
    config: &Config,
    provider: &Provider,
    route: &Route,
    target: &Target,
    secret: SecretString,
) -> AnthropicConfig {
    let mut upstream_config = AnthropicConfig::new(&provider.name, &provider.base_url, secret, &target.model);
    upstream_config.connect = route.timeouts.connect;
    upstream_config.auth = match provider.auth {
        Some(ProviderAuth::Bearer) => anthropic::Auth::Bearer,
        Some(ProviderAuth::ApiKey) | None => anthropic::Auth::ApiKey,
    };
    upstream_config.headers = provider.headers.clone().into_iter().collect();
    upstream_config.http2_cleartext = provider.http2;
    upstream_config.price = config.price_list().at(&target.model, super::system::now());
    upstream_config.max_tokens = provider.max_tokens.unwrap_or(anthropic::MAX_TOKENS);
    upstream_config
}
