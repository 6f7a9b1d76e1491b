//! A target without permission is never called, neither by a first attempt nor by a fallback.

use std::collections::HashMap;
use std::sync::Arc;

use copilotd::adapters::llm::openai::{OpenAi, OpenAiConfig};
use copilotd::adapters::llm::provider::ConnectionPool;
use copilotd_actors::tenancy::TenantScope;
use copilotd_gateway::Gateway;
use copilotd_gateway::access::{Access, Key};
use copilotd_gateway::error::GatewayErrorKind;
use copilotd_gateway::request::call::Mode;
use copilotd_gateway::routing::Route;
use copilotd_gateway::target::{Target, TargetName, TargetState};

use super::{CLOCKS, Provider, TEXT, read, request};

/// Each tenant has keys of its own; without one nothing can be called.
#[derive(Debug)]
struct OwnKeys(HashMap<(String, TargetName), Arc<[Arc<Key>]>>);

impl Access for OwnKeys {
    fn keys(&self, scope: &TenantScope, target: &Target) -> Option<Arc<[Arc<Key>]>> {
        self.0
            .get(&(scope.tenant().as_str().to_owned(), target.name.clone()))
            .cloned()
    }
}

fn name(provider: &str) -> TargetName {
    TargetName {
        provider: provider.to_owned(),
        model: "gpt".to_owned(),
    }
}

#[tokio::test]
async fn a_fallback_stays_within_the_tenants_model_access() {
    let (broken, public) = (Provider::faulty("status=500").await, Provider::start().await);
    let key = |provider: &str, url: String| -> Arc<[Arc<Key>]> {
        let config = OpenAiConfig::new(provider, &url, "sk-one".to_owned().into(), "gpt");
        let upstream = Arc::new(OpenAi::new(config, &ConnectionPool::default()).unwrap());
        Arc::new([Arc::new(Key::new(provider.to_owned(), upstream))])
    };
    let own = ("acme".to_owned(), name("own"));
    let access = OwnKeys(HashMap::from([
        (own, key("own", broken.url())),
        (("globex".to_owned(), name("own")), key("own", broken.url())),
        (("globex".to_owned(), name("public")), key("public", public.url())),
    ]));
    let target = |provider: &str| {
        Arc::new(Target {
            name: name(provider),
            region: None,
            context_tokens: 1_000,
            weight: None,
            tools: true,
            schema: true,
            prefill: false,
            reads: Vec::new(),
            reasoning: false,
            state: Arc::new(TargetState::default()),
        })
    };
    let route = |route: &str, targets| Route {
        name: route.to_owned(),
        targets,
        timeouts: CLOCKS,
        first_token_reasoning: CLOCKS.total,
        patience: std::time::Duration::ZERO,
        mode: Mode::Live,
        hedges: None,
    };
    let routes = vec![
        route("default", vec![target("own"), target("public")]),
        route("outside", vec![target("public")]),
    ];
    let gateway = Gateway::new(routes, Arc::new(access));

    let error = gateway.chat(request(false, Mode::Live)).await.unwrap_err();
    assert_eq!(error.kind, GatewayErrorKind::Unavailable);
    let mut call = request(false, Mode::Live);
    call.caller.scope = TenantScope::from_verified("globex".parse().unwrap());
    assert_eq!(read(gateway.chat(call).await.unwrap()).await.text, TEXT);
    assert_eq!(public.seen().await, 1);

    for route in ["outside", "public/gpt"] {
        let mut call = request(false, Mode::Live);
        call.route = route.to_owned();
        assert_eq!(
            gateway.chat(call).await.unwrap_err().kind,
            GatewayErrorKind::Forbidden,
            "{route}"
        );
    }
    assert_eq!(public.seen().await, 1);
    let cards = gateway.models(&super::caller().scope);
    let ids: Vec<&str> = cards.iter().map(|card| card.id.as_str()).collect();
    assert_eq!(ids, ["default", "own/gpt"]);
}
