//! Similar questions found by the models of a route: charged to the caller, with the caller's access, and what follows
//! when they fail.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use copilotd_actors::domain::usage::Usage;
use copilotd_gateway::cache::{Audience, Cache, Settings};
use copilotd_gateway::limit::{Limits, LocalLimiter, TenantLimits};
use copilotd_gateway::meter::Outcome;
use copilotd_gateway::provider::Timeouts;
use copilotd_gateway::request::body::ChatBody;
use copilotd_gateway::request::call::{CacheControl, CacheOutcome, GatewayCall, Mode, Purpose};
use copilotd_gateway::{Embeddings, Gateway};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::time::Instant;

use super::cache::{FixedClock, settings};
use super::{CLOCKS, Ledger, Provider, TestTarget, caller, gateway, hanging, place, read, refusing};

const ASKED: &str = "How many days of holiday does an employee of the company have";
const NEAR: &str = "How many days of holiday does every employee of the company have";

/// Makes the models of `by` find similar questions on the route `default`.
pub fn finding_near(gateway: Gateway, by: &str) -> Gateway {
    let settings = Settings {
        cut: 0.7,
        ..settings(Audience::Tenant)
    };
    let routes = HashMap::from([("default".to_owned(), (settings, Embeddings::Route(by.into())))]);
    gateway.with_cache(Cache::new(|| 0.5), routes, Arc::new(FixedClock))
}

/// A gateway whose cache finds similar questions with `by`.
fn near(places: Vec<TestTarget<'_>>, by: &str) -> (Gateway, Arc<Ledger>) {
    let patient = Timeouts {
        connect: Duration::from_secs(20),
        first_token: Duration::from_secs(20),
        total: Duration::from_secs(60),
        ..CLOCKS
    };
    let (gateway, ledger) = gateway(places, patient);
    let gateway = Arc::into_inner(gateway).expect("nobody else has it yet");
    (finding_near(gateway, by), ledger)
}

/// Makes a call and returns the cache outcome.
async fn ask(gateway: &Gateway, question: &str) -> CacheOutcome {
    let body = json!({"model": "default", "messages": [{"role": "user", "content": question}]});
    let call = GatewayCall {
        caller: caller(),
        route: "default".to_owned(),
        body: ChatBody::from_value(&body).unwrap(),
        mode: Some(Mode::Live),
        cache: CacheControl::Use,
        knowledge: None,
    };
    let reply = gateway.chat(call).await.unwrap();
    let cache = reply.cache;
    assert!(!read(reply).await.text.is_empty());
    cache
}

#[tokio::test]
async fn a_near_question_is_found_on_the_account_of_who_asks() {
    let (chats, embeds) = (Provider::start().await, Provider::start().await);
    let (gateway, ledger) = near(vec![place("a", chats.url()), place("b", embeds.url())], "b/gpt");
    assert_eq!(ask(&gateway, ASKED).await, CacheOutcome::Miss);
    assert_eq!(ask(&gateway, NEAR).await, CacheOutcome::Hit);
    assert_eq!(chats.seen().await, 1);
    let booked: Vec<_> = ledger
        .take()
        .into_iter()
        .map(|attempt| {
            assert_eq!(attempt.caller.scope, caller().scope);
            let cost = attempt.usage.prompt_tokens > 0;
            (attempt.target.to_string(), attempt.caller.purpose, attempt.cache, cost)
        })
        .collect();
    let lookup = ("b/gpt".to_owned(), Purpose::Lookup, CacheOutcome::Bypass, true);
    let asked = ("a/gpt".to_owned(), Purpose::Endpoint, CacheOutcome::Miss, true);
    let hit = ("a/gpt".to_owned(), Purpose::Endpoint, CacheOutcome::Hit, false);
    assert_eq!(booked, [lookup.clone(), asked, lookup, hit]);
}

#[tokio::test]
async fn without_vectors_the_model_is_asked_as_if_nothing_were_near() {
    let chats = Provider::start().await;
    let (hangs, _kept) = hanging().await;
    // Connections to it are never accepted.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent = format!("http://{}/v1", listener.local_addr().unwrap());
    for (url, was_reached) in [(hangs, None), (silent, Some(true)), (refusing().await, Some(false))] {
        let (gateway, ledger) = near(vec![place("a", chats.url()), place("b", url)], "b/gpt");
        for question in [ASKED, NEAR] {
            let begun = Instant::now();
            assert_eq!(ask(&gateway, question).await, CacheOutcome::Miss);
            assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
        }
        assert_eq!(
            ask(&gateway, NEAR).await,
            CacheOutcome::Hit,
            "the same question needs none"
        );
        // It failed by itself, and its breaker counts that. A provider that was reached and went silent may have
        // worked.
        let attempts = ledger.take();
        let looked_up = || attempts.iter().filter(|attempt| attempt.target.provider == "b");
        if was_reached == Some(true) {
            assert_eq!(
                looked_up().count(),
                2,
                "a question is looked up once, however short its time"
            );
        }
        for attempt in looked_up() {
            assert!(matches!(attempt.outcome, Outcome::Failed(_)), "{attempt:?}");
            let is_booked = attempt.usage != Usage::default();
            assert_eq!(is_booked, was_reached.unwrap_or(is_booked), "{attempt:?}");
            assert_eq!(attempt.is_estimated, is_booked);
        }
    }
}

#[tokio::test]
async fn vectors_of_two_targets_are_never_near() {
    let (first, second) = (Provider::start().await, Provider::start().await);
    let (gateway, _) = near(vec![place("a", first.url()), place("b", second.url())], "default");
    assert_eq!(ask(&gateway, ASKED).await, CacheOutcome::Miss);
    first.knobs(json!({"require_key": "another"})).await;
    assert_eq!(ask(&gateway, NEAR).await, CacheOutcome::Miss);
    assert_eq!(ask(&gateway, &format!("{NEAR}?")).await, CacheOutcome::Hit);
}

#[tokio::test]
async fn a_caller_with_one_call_at_a_time_looks_up_within_it() {
    let (chats, embeds) = (Provider::start().await, Provider::start().await);
    let (gateway, _) = near(vec![place("a", chats.url()), place("b", embeds.url())], "b/gpt");
    let limits = TenantLimits {
        user: Limits {
            concurrent_calls: Some(1),
            requests_per_minute: Some(2),
            ..Limits::default()
        },
        ..TenantLimits::default()
    };
    let limiter = LocalLimiter::new([(caller().scope.tenant().clone(), limits)], Arc::new(FixedClock));
    let gateway = gateway.with_limits(Arc::new(limiter), [].into_iter().collect(), Arc::new(FixedClock));
    assert_eq!(ask(&gateway, ASKED).await, CacheOutcome::Miss);
    assert_eq!(ask(&gateway, NEAR).await, CacheOutcome::Hit);
}
