//! A second request in parallel with one whose first token is late.

use std::time::Duration;

use copilotd_gateway::meter::Outcome;
use copilotd_gateway::request::call::Mode;
use serde_json::json;

use super::bill::{assert_stream, priced, reporting};
use super::{CLOCKS, Provider, TEXT, gateway_with, place, read, request};

#[tokio::test]
async fn a_late_first_token_is_hedged_within_the_budget_and_the_loser_is_let_go() {
    let (first, second) = (Provider::start().await, Provider::start().await);
    let clocks = copilotd_gateway::provider::Timeouts {
        first_token: Duration::from_secs(5),
        ..CLOCKS
    };
    let (gateway, ledger) = gateway_with(vec![place("a", first.url()), place("b", second.url())], clocks, true);
    let gateway = &gateway;
    let ask = || async move { read(gateway.chat(request(true, Mode::Live)).await.unwrap()).await.text };
    // The latency must be learned first, and a hedge earned: on a busy machine one may be used on the way.
    let (mut calm, mut rounds) = (0, 0);
    while calm < 25 {
        assert_eq!(ask().await, TEXT);
        let was_hedged = ledger.take().iter().any(|attempt| attempt.target.provider == "b");
        calm = if was_hedged { 0 } else { calm + 1 };
        rounds += 1;
        assert!(rounds < 1_000, "first tokens come in no time that could be learned");
    }
    first.knobs(json!({"first_ms": 4_000})).await;
    assert_eq!(ask().await, TEXT);
    let attempts = ledger.take();
    assert_eq!(attempts.len(), 2);
    assert_eq!(
        (attempts[0].target.provider.as_str(), attempts[0].outcome),
        ("a", Outcome::Left)
    );
    assert_eq!(attempts[1].target.provider, "b");

    // The budget is exhausted: the next call waits for its first target.
    assert_eq!(ask().await, TEXT);
    let attempts = ledger.take();
    assert_eq!(attempts.len(), 1);
    assert_eq!(attempts[0].target.provider, "a");
}

#[tokio::test]
async fn without_a_budget_nothing_is_hedged() {
    let (first, second) = (Provider::start().await, Provider::start().await);
    let (gateway, _) = gateway_with(vec![place("a", first.url()), place("b", second.url())], CLOCKS, false);
    for _ in 0..25 {
        read(gateway.chat(request(true, Mode::Live)).await.unwrap()).await;
    }
    first.knobs(json!({"first_ms": 200})).await;
    read(gateway.chat(request(true, Mode::Live)).await.unwrap()).await;
    assert_eq!(second.seen().await, 0);
}

#[tokio::test]
async fn a_hedges_loser_is_booked_and_is_on_the_bill() {
    let (first, second) = (Provider::start().await, Provider::start().await);
    let (gateway, ledger) = priced(vec![place("a", first.url()), place("b", second.url())], true);
    let gateway = &gateway;
    let ask = || async move { read(gateway.chat(reporting(true, Mode::Live)).await.unwrap()).await };
    let (mut calm, mut rounds) = (0, 0);
    while calm < 25 {
        let read = ask().await;
        let attempts = ledger.take();
        assert_stream("calm", &read, &attempts);
        calm = if attempts.len() > 1 { 0 } else { calm + 1 };
        rounds += 1;
        assert!(rounds < 1_000, "first tokens come in no time that could be learned");
    }
    first.knobs(json!({"first_ms": 4_000})).await;
    let read = ask().await;
    let attempts = ledger.take();
    assert_eq!(attempts.len(), 2, "{attempts:#?}");
    assert_eq!(attempts[0].outcome, Outcome::Left);
    assert!(
        attempts[0].usage.prompt_tokens > 0 && attempts[0].is_estimated,
        "{attempts:#?}"
    );
    assert_stream("hedged", &read, &attempts);
}
