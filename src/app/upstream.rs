//! Builds the upstream of a target in its provider's protocol.

use std::sync::Arc;

use copilotd_gateway::provider::Upstream;
use secrecy::SecretString;

use crate::adapters::llm::anthropic::{self, Anthropic, AnthropicConfig};
use crate::adapters::llm::openai::{Auth, OpenAi, OpenAiConfig};
use crate::adapters::llm::provider::Hosts;
use crate::config::{Config, Provider, ProviderAuth, ProviderKind, Route, Target};

/// Builds the adapter of `target` with one key of its provider.
pub(super) fn upstream(
    config: &Config,
    provider: &Provider,
    route: &Route,
    target: &Target,
    secret: SecretString,
    hosts: &Hosts,
) -> anyhow::Result<Arc<dyn Upstream>> {
    Ok(match provider.kind {
        ProviderKind::Openai => Arc::new(OpenAi::new(openai(config, provider, route, target, secret), hosts)?),
        ProviderKind::Anthropic => {
            let deployment = anthropic(config, provider, route, target, secret);
            Arc::new(Anthropic::new(deployment, hosts)?)
        }
    })
}

fn openai(config: &Config, provider: &Provider, route: &Route, target: &Target, secret: SecretString) -> OpenAiConfig {
    let mut deployment = OpenAiConfig::new(&provider.name, &provider.base_url, secret, &target.model);
    deployment.connect = route.timeouts.connect;
    if let Some(auth) = provider.auth {
        deployment.auth = match auth {
            ProviderAuth::Bearer => Auth::Bearer,
            ProviderAuth::ApiKey => Auth::ApiKey,
        };
    }
    deployment.headers = provider.headers.clone().into_iter().collect();
    deployment.dialect.http2_cleartext = provider.http2;
    deployment.dialect.stream_usage = provider.stream_options;
    deployment.dialect.user = provider.user;
    deployment.price = config.price_list().at(&target.model, super::system::now());
    deployment
}

fn anthropic(
    config: &Config,
    provider: &Provider,
    route: &Route,
    target: &Target,
    secret: SecretString,
) -> AnthropicConfig {
    let mut deployment = AnthropicConfig::new(&provider.name, &provider.base_url, secret, &target.model);
    deployment.connect = route.timeouts.connect;
    deployment.auth = match provider.auth {
        Some(ProviderAuth::Bearer) => anthropic::Auth::Bearer,
        Some(ProviderAuth::ApiKey) | None => anthropic::Auth::ApiKey,
    };
    deployment.headers = provider.headers.clone().into_iter().collect();
    deployment.http2_cleartext = provider.http2;
    deployment.price = config.price_list().at(&target.model, super::system::now());
    deployment.max_tokens = provider.max_tokens.unwrap_or(anthropic::MAX_TOKENS);
    deployment
}
