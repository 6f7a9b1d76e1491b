//! The example configuration's own budget, with its own prices.

use copilotd::config::{Env, Source};
use copilotd_actors::domain::access::scopes::Scopes;
use serde_json::json;

use crate::gateway::Provider;
use crate::http::app::{TestApp, with_source};
use crate::http::client::Answer;

/// The example, with the simulated provider instead of the real one, and a budget for one answer instead of a month.
fn example(provider: &Provider) -> Source {
    let mut text = include_str!("../../../copilotd.example.toml").to_owned();
    for (from, to) in [
        ("usd_per_month = 500.0", "usd_per_month = 0.02"),
        ("https://api.openai.com/v1", provider.url().as_str()),
    ] {
        assert!(text.contains(from), "the example does not say {from}");
        text = text.replacen(from, to, 1);
    }
    let names = [
        "OPENAI_API_KEY",
        "ACME_JWT_SECRET",
        "ACME_ZENDESK_TOKEN",
        "ACME_SLACK_TOKEN",
        "ACME_SLACK_SIGNING_SECRET",
    ];
    let env: Env = names
        .map(|name| (name, "a secret of at least thirty-two bytes"))
        .into_iter()
        .collect();
    Source::parse(&text, &env, &crate::tools::kinds()).unwrap_or_else(|faults| panic!("{faults}"))
}

async fn ask(app: &TestApp) -> Answer {
    let message = json!({ "role": "user", "content": "Go on. [[sim tokens=1200 pace_ms=0 chunk=2000]]" });
    let body = json!({ "model": "default", "messages": [message] });
    let token = app.token_of("acme", "ada", Scopes::GATEWAY);
    let answer = app
        .call("POST", "/v1/chat/completions")
        .by(&token)
        .json(&body)
        .send()
        .await;
    app.app.state.gateway.settled().await;
    answer
}

#[tokio::test]
async fn the_example_refuses_what_goes_beyond_its_budget() {
    let provider = Provider::start().await;
    with_source(example(&provider), async |app| {
        let answer = ask(app).await.expect(200).json();
        assert!(answer["usage"]["completion_tokens"].as_u64() > Some(1_000), "{answer}");
        let refused = ask(app).await.expect(429).json();
        assert_eq!(refused["error"]["code"], "insufficient_quota", "{refused}");
    })
    .await;
}
