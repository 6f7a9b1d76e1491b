//! The cache in a call: what the provider sees, and what callers get.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use copilotd_actors::ports::Clock;
use copilotd_actors::tenancy::TenantScope;
use copilotd_gateway::cache::{Audience, Cache, Rules, Settings};
use copilotd_gateway::request::body::ChatBody;
use copilotd_gateway::request::call::{CacheControl, CacheOutcome, Caller, GatewayCall, Mode};
use copilotd_gateway::{Embeddings, Gateway};
use jiff::Timestamp;
use serde_json::json;

use super::{CLOCKS, Ledger, Provider, TEXT, caller, gateway, place, read};

#[derive(Debug)]
pub struct FixedClock;

impl Clock for FixedClock {
    fn now(&self) -> Timestamp {
        Timestamp::UNIX_EPOCH
    }

    fn elapsed(&self) -> Duration {
        Duration::ZERO
    }
}

/// A cache for few answers, without embeddings.
pub fn settings(audience: Audience) -> Settings {
    Settings {
        rules: Rules {
            audience,
            max_temperature: 1.0,
        },
        life: Duration::from_secs(60),
        max_entries: 10,
        max_error: 0.02,
        cut: 1.0,
        margin: 0.0,
        audit_share: 0.0,
    }
}

/// A gateway to `provider` that caches answers to identical questions.
fn keeping(provider: &Provider) -> Arc<Gateway> {
    booked(provider).0
}

/// The same, with its ledger.
fn booked(provider: &Provider) -> (Arc<Gateway>, Arc<Ledger>) {
    let (gateway, ledger) = gateway(vec![place("a", provider.url())], CLOCKS);
    let gateway = Arc::into_inner(gateway).expect("nobody else has it yet");
    let settings = settings(Audience::User);
    let settings = HashMap::from([("default".to_owned(), (settings, Embeddings::None))]);
    let gateway = gateway.with_cache(Cache::new(|| 0.5), settings, Arc::new(FixedClock));
    (Arc::new(gateway), ledger)
}

#[tokio::test]
async fn a_hit_names_the_original_target_and_is_recorded_at_no_cost() {
    let provider = Provider::start().await;
    let (gateway, ledger) = booked(&provider);
    for stream in [true, true, false] {
        let reply = gateway.chat(ask(caller(), stream)).await.unwrap();
        assert_eq!(reply.model, "a/gpt");
        let read = read(reply).await;
        if stream {
            let report = &read.chunks.last().unwrap()["usage"];
            assert!(report["cost_usd"].is_number(), "{report}");
            let rows = ledger.rows();
            super::bill::assert_stream("cached", &read, rows.last().map_or(&[], std::slice::from_ref));
        }
    }
    let booked: Vec<_> = ledger
        .take()
        .into_iter()
        .map(|attempt| {
            (
                attempt.target.to_string(),
                attempt.cache,
                attempt.usage.total_tokens() > 0,
            )
        })
        .collect();
    let line = |cache, paid| ("a/gpt".to_owned(), cache, paid);
    let hit = line(CacheOutcome::Hit, false);
    assert_eq!(booked, [line(CacheOutcome::Miss, true), hit.clone(), hit]);
}

fn ask(caller: Caller, stream: bool) -> GatewayCall {
    let prompt = format!("Say it. [[sim text=\"{TEXT}\"]]");
    let body = json!({
        "model": "default",
        "messages": [{"role": "user", "content": prompt}],
        "stream": stream,
        "stream_options": if stream { json!({"include_usage": true}) } else { json!(null) },
    });
    GatewayCall {
        caller,
        route: "default".to_owned(),
        body: ChatBody::from_value(&body).unwrap(),
        mode: Some(Mode::Live),
        cache: CacheControl::Use,
        knowledge: None,
    }
}

#[tokio::test]
async fn a_question_is_asked_once_and_answered_in_either_form() {
    let provider = Provider::start().await;
    let gateway = keeping(&provider);
    for (stream, expected) in [
        (true, CacheOutcome::Miss),
        (true, CacheOutcome::Hit),
        (false, CacheOutcome::Hit),
    ] {
        let reply = gateway.chat(ask(caller(), stream)).await.unwrap();
        assert_eq!(reply.cache, expected);
        assert_eq!(reply.attempts, u32::from(expected == CacheOutcome::Miss));
        let read = read(reply).await;
        assert!(read.finished && read.error.is_none(), "{read:?}");
        assert_eq!(read.text, TEXT);
        if stream {
            let report = &read.chunks.last().unwrap()["usage"];
            assert_eq!(
                report["total_tokens"].as_u64() > Some(0),
                expected == CacheOutcome::Miss,
                "{report}"
            );
        }
    }
    assert_eq!(provider.seen().await, 1);
    // After deletion the provider is called again; so it is when the caller bypasses the cache.
    assert_eq!(gateway.forget(&caller().scope, None), 1);
    let bypass = GatewayCall {
        cache: CacheControl::Bypass,
        ..ask(caller(), false)
    };
    for (call, expected) in [
        (ask(caller(), false), CacheOutcome::Miss),
        (bypass, CacheOutcome::Bypass),
    ] {
        assert_eq!(gateway.chat(call).await.unwrap().cache, expected);
    }
    assert_eq!(provider.seen().await, 3);
}

#[tokio::test]
async fn another_tenant_and_another_user_ask_for_themselves() {
    let provider = Provider::start().await;
    let gateway = keeping(&provider);
    let other_user = Caller {
        user: "bob".parse().unwrap(),
        ..caller()
    };
    let other_tenant = Caller {
        scope: TenantScope::from_verified("globex".parse().unwrap()),
        ..caller()
    };
    for asking in [caller(), other_user, other_tenant] {
        let reply = gateway.chat(ask(asking, false)).await.unwrap();
        assert_eq!(reply.cache, CacheOutcome::Miss);
    }
    assert_eq!(provider.seen().await, 3);
}

#[tokio::test]
async fn identical_questions_at_once_reach_the_provider_once() {
    let provider = Provider::start().await;
    provider.knobs(json!({"first_ms": 100})).await;
    let gateway = keeping(&provider);
    let asked = (0..20).map(|n| {
        let gateway = Arc::clone(&gateway);
        async move { read(gateway.chat(ask(caller(), n % 2 == 0)).await.unwrap()).await.text }
    });
    for text in futures::future::join_all(asked).await {
        assert_eq!(text, TEXT);
    }
    assert_eq!(provider.seen().await, 1);
}

#[tokio::test]
async fn an_answer_that_was_cut_off_is_not_kept() {
    let provider = Provider::start().await;
    let gateway = keeping(&provider);
    provider.knobs(json!({"fault": "cut_after=5"})).await;
    let cut = gateway.chat(ask(caller(), true)).await;
    if let Ok(reply) = cut {
        assert!(read(reply).await.error.is_some());
    }
    provider.knobs(json!({"fault": null})).await;
    let reply = gateway.chat(ask(caller(), true)).await.unwrap();
    assert_eq!(reply.cache, CacheOutcome::Miss);
    assert_eq!(read(reply).await.text, TEXT);
}
