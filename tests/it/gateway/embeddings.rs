//! Embeddings fail over like chats.

use copilotd_gateway::error::GatewayErrorKind;
use copilotd_gateway::request::call::Purpose;
use copilotd_gateway::request::embed::{EmbedBody, EmbedCall};
use serde_json::{Value, json};

use super::{CLOCKS, Provider, caller, gateway, hanging, place, refusing};

fn call() -> EmbedCall {
    let body = json!({"model": "default", "input": ["one", "two"]}).to_string();
    EmbedCall {
        caller: copilotd_gateway::request::call::Caller {
            purpose: Purpose::Embedding,
            ..caller()
        },
        route: "default".to_owned(),
        body: EmbedBody::parse(body.as_bytes()).unwrap(),
    }
}

#[tokio::test]
async fn embeddings_fail_over_to_the_next_provider() {
    let good = Provider::start().await;
    let (hangs, _kept) = hanging().await;
    let places = vec![place("a", refusing().await), place("b", hangs), place("c", good.url())];
    let (gateway, ledger) = gateway(places, CLOCKS);
    let reply = gateway.embed(call()).await.unwrap();
    assert_eq!(reply.model, "c/gpt");
    assert!(reply.usage.prompt_tokens > 0);
    let body: Value = serde_json::from_slice(&reply.body).unwrap();
    assert_eq!(body["data"].as_array().unwrap().len(), 2);
    assert_eq!(ledger.lines().last().unwrap(), "c/gpt ok");
}

#[tokio::test]
async fn a_rejected_key_is_reported_as_such() {
    let provider = Provider::start().await;
    provider.knobs(json!({"require_key": "another"})).await;
    let (gateway, _) = gateway(vec![place("a", provider.url())], CLOCKS);
    let error = gateway.embed(call()).await.unwrap_err();
    assert_eq!(error.kind, GatewayErrorKind::CredentialsExhausted);
}
