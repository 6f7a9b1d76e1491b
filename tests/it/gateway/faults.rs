//! What a provider can do wrong, and the answer that arrives nevertheless while another one is healthy.

use std::time::Duration;

use copilotd_gateway::error::GatewayErrorKind;
use copilotd_gateway::request::call::Mode;
use tokio::time::Instant;

use super::{CLOCKS, Protocol, Provider, ReadAnswer, TEXT, at, gateway, hanging, place, read, refusing, request};

/// How a faulty provider is reached.
#[derive(Debug, Clone, Copy)]
enum Fault {
    Refuses,
    Hangs,
    /// Holds every answer back, including its head.
    Holds,
    /// Follows the directive.
    Says(&'static str),
}

/// Each fault, how many requests the faulty provider may get for one of a caller's, and whether it strikes only after
/// content.
const FAULTS: &[(&str, Fault, u64, bool)] = &[
    ("connection refused", Fault::Refuses, 0, false),
    ("connection hangs", Fault::Hangs, 0, false),
    ("dead key", Fault::Says("status=401"), 1, false),
    ("forbidden", Fault::Says("status=403"), 1, false),
    ("rate limit", Fault::Says("status=429"), 1, false),
    (
        "rate limit with a time",
        Fault::Says("status=429 retry_after=30"),
        1,
        false,
    ),
    (
        "quota used up",
        Fault::Says("status=429 code=insufficient_quota"),
        1,
        false,
    ),
    ("error 500", Fault::Says("status=500"), 2, false),
    ("error 503", Fault::Says("status=503"), 2, false),
    (
        "error 503 with a time",
        Fault::Says("status=503 retry_after=30"),
        1,
        false,
    ),
    ("overloaded", Fault::Says("status=529 code=overloaded_error"), 2, false),
    (
        "context too long",
        Fault::Says("status=400 code=context_length_exceeded"),
        1,
        false,
    ),
    ("no such model", Fault::Says("status=404"), 1, false),
    ("silence", Fault::Holds, 1, false),
    (
        "silence after the head",
        Fault::Says("tokens=9 first_ms=60000"),
        1,
        false,
    ),
    (
        "pings and nothing else",
        Fault::Says("tokens=9 stall_after=0 keepalive_ms=20"),
        1,
        false,
    ),
    (
        "stall in the middle, with pings",
        Fault::Says("tokens=9 pace_ms=1 stall_after=9 keepalive_ms=20"),
        1,
        true,
    ),
    ("cut before content", Fault::Says("tokens=9 cut_after=0"), 1, false),
    (
        "cut in the middle",
        Fault::Says("tokens=9 pace_ms=1 cut_after=9"),
        1,
        true,
    ),
    ("half a chunk", Fault::Says("tokens=9 pace_ms=1 malformed=1"), 1, true),
    (
        "error in the stream",
        Fault::Says("tokens=9 pace_ms=1 stream_error=server_error"),
        2,
        true,
    ),
    (
        "error in a good head",
        Fault::Says(r#"body={"error":{"message":"x","type":"server_error"}}"#),
        2,
        false,
    ),
    (
        "no reason to finish",
        Fault::Says("tokens=9 pace_ms=1 end_without_finish_after=9"),
        1,
        true,
    ),
    (
        "no choices",
        Fault::Says(r#"body={"id":"x","object":"chat.completion","model":"gpt","choices":[]}"#),
        1,
        false,
    ),
    ("not a word", Fault::Says("tokens=0"), 1, false),
    (
        "a page",
        Fault::Says(r#"body="<html><h1>Bad gateway</h1></html>""#),
        1,
        false,
    ),
];

struct Faulty {
    provider: Option<Provider>,
    url: String,
    _kept: Box<dyn AnyGuard>,
}

/// Keeps anything alive.
trait AnyGuard {}
impl<T> AnyGuard for T {}

async fn faulty(fault: Fault, speaks: Protocol) -> Faulty {
    match fault {
        Fault::Refuses => Faulty {
            provider: None,
            url: refusing().await,
            _kept: Box::new(()),
        },
        Fault::Hangs => {
            let (url, kept) = hanging().await;
            Faulty {
                provider: None,
                url,
                _kept: Box::new(kept),
            }
        }
        Fault::Holds | Fault::Says(_) => {
            let provider = Provider::speaking(speaks).await;
            provider
                .knobs(match fault {
                    Fault::Says(fault) => serde_json::json!({ "fault": fault }),
                    _ => serde_json::json!({"hold": true}),
                })
                .await;
            Faulty {
                url: provider.url(),
                provider: Some(provider),
                _kept: Box::new(()),
            }
        }
    }
}

fn assert_whole(what: &str, read: &ReadAnswer) {
    assert!(read.error.is_none(), "{what}: {:?}", read.error);
    assert_eq!(read.text, TEXT, "{what}");
    assert!(read.finished, "{what}");
}

/// Which protocol the faulty provider speaks, and which the healthy one.
const PAIRS: [(Protocol, Protocol); 3] = [
    (Protocol::OpenAi, Protocol::OpenAi),
    (Protocol::Anthropic, Protocol::OpenAi),
    (Protocol::OpenAi, Protocol::Anthropic),
];

/// Every fault in every pair of protocols.
fn cases() -> impl Iterator<Item = (String, Fault, (Protocol, Protocol), u64, bool)> {
    PAIRS.into_iter().flat_map(|pair| {
        let named = move |&(what, fault, most, after): &(&str, Fault, u64, bool)| {
            (format!("{what}, {pair:?}"), fault, pair, most, after)
        };
        FAULTS.iter().map(named)
    })
}

/// Makes a call in one form through a faulty and a healthy provider; returns what was read and what the faulty one saw.
async fn ask(fault: Fault, pair: (Protocol, Protocol), stream: bool, mode: Mode) -> (ReadAnswer, Option<u64>) {
    let (bad, good) = (faulty(fault, pair.0).await, Provider::speaking(pair.1).await);
    let mut second = at("good", &good);
    second.context_tokens = 10_000;
    let mut first = place("bad", bad.url.clone());
    first.speaks = pair.0;
    let (gateway, _) = gateway(vec![first, second], CLOCKS);
    let started = Instant::now();
    let reply = gateway.chat(request(stream, mode)).await.unwrap();
    assert_eq!(reply.model == "good/gpt", reply.attempts > 1);
    let read = read(reply).await;
    // The timeout of the whole call bounds everything.
    assert!(
        started.elapsed() < CLOCKS.total,
        "{fault:?} took {:?}",
        started.elapsed()
    );
    let seen = match &bad.provider {
        Some(provider) => Some(provider.seen().await),
        None => None,
    };
    (read, seen)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_whole_answer_comes_whatever_the_first_provider_does() {
    for (what, fault, pair, most, _) in cases() {
        let (read, seen) = ask(fault, pair, false, Mode::Live).await;
        assert_whole(&what, &read);
        assert!(
            seen.is_none_or(|seen| (1..=most.max(2)).contains(&seen)),
            "{what}: {seen:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_buffered_stream_comes_whatever_the_first_provider_does() {
    for (what, fault, pair, most, _) in cases() {
        let (read, seen) = ask(fault, pair, true, Mode::Buffered).await;
        assert_whole(&what, &read);
        assert!(seen.is_none_or(|seen| (1..=most).contains(&seen)), "{what}: {seen:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_live_stream_comes_unless_content_has_gone_out_and_then_it_ends_with_an_error() {
    for (what, fault, pair, most, after_content) in cases() {
        let (read, seen) = ask(fault, pair, true, Mode::Live).await;
        if after_content {
            let error = read.error.as_ref().unwrap_or_else(|| panic!("{what}: {read:?}"));
            assert!(
                matches!(error.kind, GatewayErrorKind::Cut | GatewayErrorKind::Timeout),
                "{what}: {error:?}"
            );
            assert!(!read.finished && !read.text.is_empty(), "{what}");
            assert!(!read.text.contains(TEXT), "{what}: {}", read.text);
        } else {
            assert_whole(&what, &read);
        }
        assert!(seen.is_none_or(|seen| (1..=most).contains(&seen)), "{what}: {seen:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_faulty_providers_before_a_healthy_one_are_survived() {
    for (at, &(what, fault, ..)) in FAULTS.iter().enumerate() {
        // Each with its neighbour; together they are tried before the healthy one.
        let (other, neighbour, ..) = FAULTS[(at + 7) % FAULTS.len()];
        // Every other time the two speak different protocols.
        let speaks = if at % 2 == 0 {
            Protocol::OpenAi
        } else {
            Protocol::Anthropic
        };
        let first = faulty(fault, Protocol::Anthropic).await;
        let (second, good) = (faulty(neighbour, speaks).await, Provider::start().await);
        let mut last = place("good", good.url());
        last.context_tokens = 10_000;
        let mut places = vec![place("one", first.url.clone()), place("two", second.url.clone()), last];
        (places[0].speaks, places[1].speaks) = (Protocol::Anthropic, speaks);
        let (gateway, ledger) = gateway(places, CLOCKS);
        let reply = gateway.chat(request(true, Mode::Buffered)).await;
        let reply = reply.unwrap_or_else(|error| panic!("{what}, {other}: {error:?} {:?}", ledger.lines()));
        assert!(reply.attempts <= 5, "{what}, {other}: {:?}", ledger.lines());
        assert_whole(&format!("{what}, {other}"), &read(reply).await);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_healthy_provider_the_error_says_why_and_the_attempts_are_bounded() {
    let cases = [
        (Fault::Says("status=401"), GatewayErrorKind::CredentialsExhausted, 1),
        (
            Fault::Says("status=429 retry_after=30"),
            GatewayErrorKind::RateLimited,
            1,
        ),
        (Fault::Says("status=500"), GatewayErrorKind::Unavailable, 2),
        (
            Fault::Says("status=400 code=context_length_exceeded"),
            GatewayErrorKind::ContextTooLong,
            1,
        ),
        (
            Fault::Says("status=400 code=content_filter"),
            GatewayErrorKind::ContentPolicy,
            1,
        ),
        (Fault::Says("status=400"), GatewayErrorKind::Invalid, 1),
        (Fault::Says("status=404"), GatewayErrorKind::Unavailable, 1),
        (Fault::Says("tokens=9 first_ms=60000"), GatewayErrorKind::Timeout, 1),
        (Fault::Says("tokens=9 cut_after=0"), GatewayErrorKind::Unavailable, 2),
        (Fault::Says(r#"body="<html></html>""#), GatewayErrorKind::Unavailable, 2),
    ];
    let both = |case| [Protocol::OpenAi, Protocol::Anthropic].map(|speaks| (case, speaks));
    for ((fault, kind, seen), speaks) in cases.into_iter().flat_map(both) {
        let bad = faulty(fault, speaks).await;
        let mut place = place("bad", bad.url.clone());
        place.speaks = speaks;
        let (gateway, ledger) = gateway(vec![place], CLOCKS);
        let error = gateway.chat(request(true, Mode::Live)).await.unwrap_err();
        assert_eq!(error.kind, kind, "{fault:?}: {error:?}");
        assert!(!error.message.contains("sk-one"), "{fault:?}: {error}");
        assert_eq!(bad.provider.unwrap().seen().await, seen, "{fault:?}");
        assert_eq!(ledger.take().len() as u64, seen, "{fault:?}");
        if kind == GatewayErrorKind::RateLimited {
            assert_eq!(error.retry_after, Some(Duration::from_secs(30)));
        }
    }
}
