//! Keys, breakers, waiting, choosing, leaving.

use std::sync::Arc;
use std::time::Duration;

use copilotd_actors::domain::tool::breaker::THRESHOLD;
use copilotd_gateway::answer::Answer;
use copilotd_gateway::error::GatewayErrorKind;
use copilotd_gateway::meter::Outcome;
use copilotd_gateway::provider::Timeouts;
use copilotd_gateway::request::call::Mode;
use futures::StreamExt;
use serde_json::json;
use tokio::time::Instant;

use super::{CLOCKS, Provider, TEXT, TestTarget, gateway, place, read, request};

#[tokio::test]
async fn a_dead_key_is_rotated_at_once_and_left_alone_afterwards() {
    let provider = Provider::start().await;
    provider.knobs(json!({"require_key": "sk-two"})).await;
    let mut one = place("a", provider.url());
    one.keys = vec!["sk-one", "sk-two"];
    let (gateway, ledger) = gateway(vec![one], CLOCKS);
    for attempts in [2, 1, 1] {
        let reply = gateway.chat(request(false, Mode::Live)).await.unwrap();
        assert_eq!(reply.attempts, attempts);
        assert_eq!(read(reply).await.text, TEXT);
    }
    let keys: Vec<String> = ledger.take().into_iter().map(|attempt| attempt.key).collect();
    assert_eq!(keys, ["sk-one", "sk-two", "sk-two", "sk-two"]);
}

#[tokio::test]
async fn when_every_key_is_dead_it_says_so_and_the_providers_status_stays_inside() {
    let provider = Provider::start().await;
    provider.knobs(json!({"require_key": "another"})).await;
    let mut one = place("a", provider.url());
    one.keys = vec!["sk-one", "sk-two"];
    let (gateway, _) = gateway(vec![one], CLOCKS);
    let error = gateway.chat(request(true, Mode::Live)).await.unwrap_err();
    assert_eq!(error.kind, GatewayErrorKind::CredentialsExhausted);
    assert_eq!(error.kind.status(), 502);
    assert_eq!((error.attempts, provider.seen().await), (2, 2));
}

#[tokio::test]
async fn a_rate_limit_is_waited_for_when_there_is_nothing_else() {
    let provider = Provider::faulty("status=429 retry_after=1 fail_times=1").await;
    let (gateway, _) = gateway(vec![place("a", provider.url())], CLOCKS);
    let started = Instant::now();
    let reply = gateway.chat(request(false, Mode::Live)).await.unwrap();
    assert_eq!(reply.attempts, 2);
    assert!(started.elapsed() >= Duration::from_secs(1));
}

#[tokio::test]
async fn a_resting_key_is_not_asked_while_another_target_is_there() {
    let (bad, good) = (
        Provider::faulty("status=429 retry_after=30").await,
        Provider::start().await,
    );
    let (gateway, _) = gateway(vec![place("a", bad.url()), place("b", good.url())], CLOCKS);
    for _ in 0..5 {
        assert_eq!(
            read(gateway.chat(request(true, Mode::Live)).await.unwrap()).await.text,
            TEXT
        );
    }
    assert_eq!((bad.seen().await, good.seen().await), (1, 5));
}

#[tokio::test]
async fn a_target_that_keeps_failing_is_left_alone_and_probed_once() {
    let (bad, good) = (Provider::faulty("status=500").await, Provider::start().await);
    let (gateway, _) = gateway(vec![place("a", bad.url()), place("b", good.url())], CLOCKS);
    let gateway = &gateway;
    let ask = || async move { read(gateway.chat(request(true, Mode::Live)).await.unwrap()).await.text };
    // Two attempts each, until the breaker opens.
    for _ in 0..20 {
        assert_eq!(ask().await, TEXT);
    }
    let before = bad.seen().await;
    assert!(before <= u64::from(THRESHOLD) + 1, "{before}");
    assert_eq!(good.seen().await, 20);

    // Healthy again: after the pause one request probes it, and then more and more return.
    bad.knobs(json!({"fault": null})).await;
    tokio::time::sleep(copilotd_actors::domain::tool::breaker::FIRST_PAUSE).await;
    let answers = futures::future::join_all((0..20).map(|_| ask())).await;
    assert!(answers.iter().all(|text| text == TEXT));
    assert!(bad.seen().await > before);
}

#[tokio::test]
async fn with_every_breaker_open_the_best_candidate_is_tried_anyway() {
    let provider = Provider::faulty("status=500").await;
    let (gateway, _) = gateway(vec![place("a", provider.url())], CLOCKS);
    for _ in 0..5 {
        gateway.chat(request(true, Mode::Live)).await.unwrap_err();
    }
    provider.knobs(json!({"fault": null})).await;
    assert_eq!(
        read(gateway.chat(request(true, Mode::Live)).await.unwrap()).await.text,
        TEXT
    );
}

#[tokio::test]
async fn a_prompt_that_is_too_long_goes_to_a_larger_model_only() {
    let (small, same, large) = (
        Provider::start().await,
        Provider::start().await,
        Provider::start().await,
    );
    for provider in [&small, &same] {
        provider.knobs(json!({"context_tokens": 1})).await;
    }
    let mut last = place("large", large.url());
    last.context_tokens = 2_000;
    let (gateway, _) = gateway(
        vec![place("small", small.url()), place("same", same.url()), last],
        CLOCKS,
    );
    let reply = gateway.chat(request(false, Mode::Live)).await.unwrap();
    assert_eq!((reply.model.as_str(), reply.attempts), ("large/gpt", 2));
    assert_eq!(same.seen().await, 0);
}

#[tokio::test]
async fn equals_share_the_load_and_the_slow_one_gets_less() {
    let (fast, slow) = (Provider::start().await, Provider::start().await);
    slow.knobs(json!({"first_ms": 60})).await;
    let mut places = vec![
        place("fast", fast.url()),
        place("slow", slow.url()),
        place("slow2", slow.url()),
    ];
    places.iter_mut().for_each(|place| place.weight = Some(1));
    let (gateway, _) = gateway(places, CLOCKS);
    for _ in 0..60 {
        assert_eq!(
            read(gateway.chat(request(true, Mode::Live)).await.unwrap()).await.text,
            TEXT
        );
    }
    let (fast, slow) = (fast.seen().await, slow.seen().await);
    assert!(fast > slow && slow >= 2, "{fast} {slow}");
}

#[tokio::test]
async fn a_caller_that_leaves_ends_the_upstream_call_and_the_ledger_records_it() {
    let provider = Provider::faulty("tokens=1000 pace_ms=20").await;
    let (gateway, ledger) = gateway(vec![place("a", provider.url())], CLOCKS);
    let Answer::Stream(mut pieces) = gateway.chat(request(true, Mode::Live)).await.unwrap().answer else {
        panic!("a stream was asked for")
    };
    while !pieces.next().await.unwrap().unwrap().content {}
    assert_eq!(provider.state().await["open_streams"], 1);
    let left = Instant::now();
    drop(pieces);
    while provider.state().await["open_streams"] != 0 {
        assert!(left.elapsed() < Duration::from_secs(5), "the stream is never closed");
    }
    assert!(left.elapsed() < Duration::from_millis(100), "{:?}", left.elapsed());
    let attempts = ledger.take();
    assert_eq!(attempts.len(), 1);
    assert_eq!(attempts[0].outcome, Outcome::Left);
    assert!(attempts[0].is_estimated && attempts[0].usage.prompt_tokens > 0);
    assert!(attempts[0].usage.completion_tokens > 0, "{:?}", attempts[0].usage);
}

#[tokio::test]
async fn a_caller_that_leaves_before_the_answer_ends_the_upstream_call_too() {
    for (stream, mode) in [(false, Mode::Live), (true, Mode::Live), (true, Mode::Buffered)] {
        let provider = Provider::faulty("tokens=9 first_ms=60000").await;
        let clocks = copilotd_gateway::provider::Timeouts {
            first_token: Duration::from_secs(60),
            total: Duration::from_secs(60),
            ..CLOCKS
        };
        let (gateway, ledger) = gateway(vec![place("a", provider.url())], clocks);
        let mut asked = Box::pin(gateway.chat(request(stream, mode)));
        while provider.state().await["open_streams"] != 1 {
            assert!(
                tokio::time::timeout(Duration::from_millis(5), &mut asked)
                    .await
                    .is_err()
            );
        }
        let left = Instant::now();
        drop(asked);
        while provider.state().await["open_streams"] != 0 {
            assert!(left.elapsed() < Duration::from_secs(5), "the call is never closed");
        }
        assert_eq!(ledger.lines(), ["a/gpt left"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_over_a_failing_and_a_limited_provider_loses_no_answer() {
    let (limited, flaky, healthy) = (
        Provider::faulty("status=429 retry_after=1").await,
        Provider::start().await,
        Provider::start().await,
    );
    flaky.knobs(json!({"error_rate": 0.5})).await;
    let places = vec![
        place("a", limited.url()),
        place("b", flaky.url()),
        place("c", healthy.url()),
    ];
    // Three hundred at once on a busy machine: slow is not silent here.
    let patient = Timeouts {
        connect: Duration::from_secs(5),
        first_token: Duration::from_secs(10),
        idle: Duration::from_secs(10),
        total: Duration::from_secs(60),
    };
    let (gateway, _) = gateway(places, patient);
    let asks = (0..300).map(|n| {
        let gateway = Arc::clone(&gateway);
        tokio::spawn(async move {
            let reply = gateway.chat(request(n % 2 == 0, Mode::Live)).await.unwrap();
            read(reply).await.text
        })
    });
    for text in futures::future::join_all(asks).await {
        assert_eq!(text.unwrap(), TEXT);
    }
}

#[tokio::test]
async fn an_unknown_model_is_told_apart_from_a_failing_one() {
    let provider = Provider::start().await;
    let (gateway, _) = gateway(vec![place("a", provider.url())], CLOCKS);
    for (route, kind) in [
        ("nothing", GatewayErrorKind::UnknownRoute),
        ("a/other", GatewayErrorKind::UnknownRoute),
    ] {
        let mut call = request(false, Mode::Live);
        call.route = route.to_owned();
        assert_eq!(gateway.chat(call).await.unwrap_err().kind, kind, "{route}");
    }
    let mut call = request(false, Mode::Live);
    call.route = "a/gpt".to_owned();
    assert_eq!(read(gateway.chat(call).await.unwrap()).await.text, TEXT);
    let cards: Vec<String> = gateway
        .models(&super::caller().scope)
        .into_iter()
        .map(|card| card.id)
        .collect();
    assert_eq!(cards, ["a/gpt", "default"]);
}

#[tokio::test]
async fn a_prefilled_answer_goes_to_a_target_that_supports_prefill() {
    let (first, second) = (Provider::start().await, Provider::start().await);
    let going_on = |prefill| TestTarget {
        prefill,
        ..place("b", second.url())
    };
    let mut begun = request(false, Mode::Live);
    let messages = json!([
        {"role": "user", "content": format!("Say it. [[sim text=\"{TEXT}\"]]")},
        {"role": "assistant", "content": "All is"},
    ]);
    begun.body.set("messages", &messages).unwrap();
    let ends = request(false, Mode::Live);
    for (prefill, call, expected) in [
        (true, &begun, "b/gpt"),
        (true, &ends, "a/gpt"),
        (false, &begun, "a/gpt"),
    ] {
        let (gateway, _) = gateway(vec![place("a", first.url()), going_on(prefill)], CLOCKS);
        assert_eq!(gateway.chat(call.clone()).await.unwrap().model, expected, "{prefill}");
    }
}
