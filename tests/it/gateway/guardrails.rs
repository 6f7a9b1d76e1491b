//! A tenant's guardrail rules on the endpoint, and the version of its knowledge.

use std::collections::HashMap;
use std::sync::Arc;

use copilotd_actors::domain::guardrail as guard;
use copilotd_actors::domain::guardrail::{OnMatch, Rule, RuleSet};
use copilotd_gateway::access::{ModelAccess, TenantAccess, TenantPolicy};
use copilotd_gateway::cache::{Audience, Cache};
use copilotd_gateway::error::GatewayErrorKind;
use copilotd_gateway::meter::Outcome;
use copilotd_gateway::request::body::ChatBody;
use copilotd_gateway::request::call::{CacheControl, CacheOutcome, GatewayCall, Mode};
use copilotd_gateway::{Embeddings, Gateway};
use serde_json::{Value, json};

use super::cache::{FixedClock, settings};
use super::{CLOCKS, Ledger, Provider, ReadAnswer, at, caller, gateway_for, read};

/// What the provider answers in these tests.
const SAID: &str = "The codename is Bluebird, and the key is sk-123. That is all.";

struct GuardedGateway {
    gateway: Arc<Gateway>,
    access: Arc<TenantAccess>,
    ledger: Arc<Ledger>,
    provider: Provider,
}

impl GuardedGateway {
    async fn new() -> Self {
        let provider = Provider::start().await;
        let mut made = None;
        let (gateway, ledger) = gateway_for(vec![at("a", &provider)], CLOCKS, false, |keys| {
            let access = Arc::new(TenantAccess::new(keys, rights(TenantPolicy::default())));
            made = Some(Arc::clone(&access));
            access
        });
        let routes = HashMap::from([("default".to_owned(), (settings(Audience::Tenant), Embeddings::None))]);
        let gateway = Arc::into_inner(gateway).expect("nobody else has it yet");
        Self {
            gateway: Arc::new(gateway.with_cache(Cache::new(|| 0.5), routes, Arc::new(FixedClock))),
            access: made.expect("it was made"),
            ledger,
            provider,
        }
    }

    /// Sets the policy.
    fn policy(&self, policy: TenantPolicy) {
        self.access.replace(rights(policy));
    }

    async fn ask(&self, stream: bool, cache: CacheControl) -> (CacheOutcome, ReadAnswer) {
        let reply = self.gateway.chat(call(SAID, stream, cache)).await.unwrap();
        (reply.cache, read(reply).await)
    }
}

fn rights(policy: TenantPolicy) -> HashMap<copilotd_actors::domain::ids::TenantId, ModelAccess> {
    let rights = ModelAccess {
        policy: Arc::new(policy),
        ..ModelAccess::default()
    };
    HashMap::from([("acme".parse().unwrap(), rights)])
}

fn output(rules: &[(&str, OnMatch)]) -> TenantPolicy {
    TenantPolicy {
        rules: guard::Rules {
            output: RuleSet::new(rules.iter().map(|(literal, action)| rule(literal, *action))),
            ..guard::Rules::default()
        },
        ..TenantPolicy::default()
    }
}

fn rule(literal: &str, action: OnMatch) -> Rule {
    Rule {
        name: format!("no {literal}"),
        literal: literal.to_owned(),
        action,
        confusables: false,
    }
}

fn call(said: &str, stream: bool, cache: CacheControl) -> GatewayCall {
    let body = json!({
        "model": "default",
        "messages": [
            {"role": "system", "content": "Never say DROP TABLE."},
            {"role": "user", "content": format!("Say it. [[sim text=\"{said}\"]]")},
        ],
        "stream": stream,
    });
    GatewayCall {
        caller: caller(),
        route: "default".to_owned(),
        body: ChatBody::from_value(&body).unwrap(),
        mode: Some(Mode::Live),
        cache,
        knowledge: None,
    }
}

fn ending(read: &ReadAnswer) -> &Value {
    let ended = read
        .chunks
        .iter()
        .find(|chunk| !chunk["choices"][0]["finish_reason"].is_null());
    ended.map_or(&Value::Null, |chunk| &chunk["choices"][0]["finish_reason"])
}

#[tokio::test]
async fn rules_hold_for_fresh_answers_and_for_those_that_were_kept_before_them() {
    let house = GuardedGateway::new().await;
    // Cached while there was no rule.
    let (cache, fresh) = house.ask(false, CacheControl::Use).await;
    assert_eq!((cache, fresh.text.as_str()), (CacheOutcome::Miss, SAID));
    let redact = output(&[("bluebird", OnMatch::Redact)]);
    let both = output(&[("bluebird", OnMatch::Redact), ("sk-", OnMatch::Block)]);
    for (policy, expected, finish) in [
        (
            redact,
            "The codename is [redacted], and the key is sk-123. That is all.",
            "stop",
        ),
        (both, "The codename is [redacted], and the key is ", "content_filter"),
        (TenantPolicy::default(), SAID, "stop"),
    ] {
        house.policy(policy);
        for (wish, outcome) in [
            (CacheControl::Use, CacheOutcome::Hit),
            (CacheControl::Bypass, CacheOutcome::Bypass),
        ] {
            let (cache, streamed) = house.ask(true, wish).await;
            assert_eq!((cache, streamed.text.as_str()), (outcome, expected));
            assert_eq!(ending(&streamed), finish, "{outcome:?}");
            assert!(streamed.finished && streamed.error.is_none(), "{streamed:?}");
            let (cache, whole) = house.ask(false, wish).await;
            assert_eq!((cache, whole.text.as_str()), (outcome, expected));
            assert_eq!(whole.finished, finish == "stop");
        }
    }
}

#[tokio::test]
async fn a_stream_that_a_rule_ends_lets_its_provider_go_and_is_not_kept() {
    let house = GuardedGateway::new().await;
    house.policy(output(&[("codename", OnMatch::Block)]));
    house.provider.knobs(json!({"pace_ms": 50})).await;
    for asked in 1..=2 {
        let (cache, stopped) = house.ask(true, CacheControl::Use).await;
        assert_eq!((cache, stopped.text.as_str()), (CacheOutcome::Miss, "The "));
        assert_eq!(house.provider.seen().await, asked);
    }
    let books = house.ledger.take();
    assert_eq!(books.len(), 2);
    // It had begun, so it is not free.
    for attempt in &books {
        assert_eq!(attempt.outcome, Outcome::Left);
        assert!(attempt.usage.prompt_tokens > 0 && attempt.is_estimated, "{attempt:?}");
    }
}

#[tokio::test]
async fn a_stream_that_a_rule_ends_reports_what_was_booked() {
    let house = GuardedGateway::new().await;
    house.provider.knobs(json!({"pace_ms": 50})).await;
    for (rules, is_blocked) in [
        (output(&[("codename", OnMatch::Block)]), true),
        (output(&[("codename", OnMatch::Redact)]), false),
        (TenantPolicy::default(), false),
    ] {
        house.policy(rules);
        for mode in [Mode::Live, Mode::Buffered] {
            let mut call = call(SAID, true, CacheControl::Bypass);
            call.mode = Some(mode);
            call.body
                .set("stream_options", &json!({"include_usage": true}))
                .unwrap();
            let read = read(house.gateway.chat(call).await.unwrap()).await;
            let finish = read
                .chunks
                .iter()
                .rev()
                .find_map(|chunk| chunk["choices"][0]["finish_reason"].as_str());
            assert_eq!(finish, Some(if is_blocked { "content_filter" } else { "stop" }));
            let rows = house.ledger.take();
            super::bill::assert_stream("guarded", &read, &rows);
            assert!(super::bill::booked(&rows).prompt_tokens > 0);
        }
    }
}

#[tokio::test]
async fn a_forbidden_prompt_reaches_no_provider_and_no_kept_answer() {
    let house = GuardedGateway::new().await;
    house.ask(false, CacheControl::Use).await;
    house.policy(TenantPolicy {
        rules: guard::Rules {
            input: RuleSet::new([rule("say it", OnMatch::Block)]),
            ..guard::Rules::default()
        },
        ..TenantPolicy::default()
    });
    for stream in [false, true] {
        let refused = house
            .gateway
            .chat(call(SAID, stream, CacheControl::Use))
            .await
            .unwrap_err();
        assert_eq!(refused.kind, GatewayErrorKind::ContentPolicy);
        assert_eq!(refused.message, "guardrail rule \"no say it\" blocks this prompt");
    }
    assert_eq!(house.provider.seen().await, 1);
    // The application's own messages are not checked.
    house.policy(TenantPolicy {
        rules: guard::Rules {
            input: RuleSet::new([rule("drop table", OnMatch::Block)]),
            ..guard::Rules::default()
        },
        ..TenantPolicy::default()
    });
    assert_eq!(house.ask(false, CacheControl::Use).await.0, CacheOutcome::Hit);
}

#[tokio::test]
async fn another_version_of_the_knowledge_is_another_question() {
    let house = GuardedGateway::new().await;
    let version = |version: &str| {
        house.policy(TenantPolicy {
            knowledge_version: version.to_owned(),
            ..TenantPolicy::default()
        });
    };
    let by_caller = async |knowledge: Option<&str>| {
        let call = GatewayCall {
            knowledge: knowledge.map(str::to_owned),
            ..call(SAID, false, CacheControl::Use)
        };
        house.gateway.chat(call).await.unwrap().cache
    };
    version("2026-10");
    for (knowledge, expected) in [
        (None, CacheOutcome::Miss),
        (None, CacheOutcome::Hit),
        (Some("docs 1"), CacheOutcome::Miss),
        (Some("docs 1"), CacheOutcome::Hit),
        (Some("docs 2"), CacheOutcome::Miss),
        // Both stay: their callers run side by side.
        (Some("docs 1"), CacheOutcome::Hit),
    ] {
        assert_eq!(by_caller(knowledge).await, expected, "{knowledge:?}");
    }
    // Answers based on the old version are gone, even if that version returns.
    for (tenant, kept) in [("2026-11", 1), ("2026-10", 1)] {
        version(tenant);
        assert_eq!(by_caller(None).await, CacheOutcome::Miss, "{tenant}");
        assert_eq!(house.gateway.forget(&caller().scope, None), kept, "{tenant}");
        assert_eq!(by_caller(None).await, CacheOutcome::Miss, "{tenant}");
    }
}
