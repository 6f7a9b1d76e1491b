//! The usage and cost that callers get: what the ledger has for their call, to the token and the nano-dollar.

use std::sync::Arc;
use std::time::Duration;

use copilotd_actors::domain::context::tokens;
use copilotd_actors::domain::prices::PriceList;
use copilotd_actors::domain::usage::{Price, Usage};
use copilotd_actors::ports::{Clock, Model, ModelEvent};
use copilotd_gateway::Gateway;
use copilotd_gateway::answer::Answer;
use copilotd_gateway::limit::LocalLimiter;
use copilotd_gateway::meter::{AttemptRecord, Outcome};
use copilotd_gateway::request::call::{GatewayCall, Mode};
use futures::StreamExt;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{CLOCKS, Ledger, Protocol, Provider, ReadAnswer, TEXT, TestTarget, at, gateway_with, place, read, request};
use crate::model::server::{Exchange, STREAM, Server};

#[derive(Debug)]
struct NewYear;

impl Clock for NewYear {
    fn now(&self) -> Timestamp {
        "2026-01-01T00:00:00Z".parse().unwrap()
    }

    fn elapsed(&self) -> Duration {
        Duration::ZERO
    }
}

/// A gateway whose two models have different prices.
pub fn priced(places: Vec<TestTarget<'_>>, hedged: bool) -> (Arc<Gateway>, Arc<Ledger>) {
    let (gateway, ledger) = gateway_with(places, CLOCKS, hedged);
    let price = |input: u64, output: u64| Price::flat(input * 1_000_000_000, output * 1_000_000_000);
    let prices = [("gpt", price(1, 2)), ("dear", price(30, 70))];
    let prices: PriceList = prices
        .into_iter()
        .map(|(model, price)| (model.to_owned(), Timestamp::MIN, price))
        .collect();
    let clock = Arc::new(NewYear);
    let limiter = Arc::new(LocalLimiter::new([], clock.clone()));
    let gateway = Arc::into_inner(gateway).expect("nobody else has it yet");
    (Arc::new(gateway.with_limits(limiter, prices, clock)), ledger)
}

/// A call that wants its usage reported.
pub fn reporting(stream: bool, mode: Mode) -> GatewayCall {
    let mut call = request(stream, mode);
    if stream {
        call.body
            .set("stream_options", &json!({"include_usage": true}))
            .unwrap();
    }
    call
}

/// What the ledger has for all attempts.
pub fn booked(attempts: &[AttemptRecord]) -> Usage {
    let mut sum = Usage::default();
    attempts.iter().for_each(|attempt| sum += attempt.usage);
    sum
}

/// Asserts that a report equals what was recorded.
pub fn assert_report(what: &str, report: &Value, booked: &Usage) {
    let is = |name: &str, expected: u64| assert_eq!(report[name], expected, "{what}: {name} of {report}");
    is("prompt_tokens", booked.prompt_tokens);
    is("completion_tokens", booked.completion_tokens);
    is("total_tokens", booked.total_tokens());
    let detail = |details: &str, name: &str| report[details][name].as_u64().unwrap_or(0);
    assert_eq!(
        detail("prompt_tokens_details", "cached_tokens"),
        booked.cached_tokens,
        "{what}"
    );
    let nano = report["cost_usd"].as_f64().expect(what) * 1e9;
    assert_eq!(nano.round() as u64, booked.cost, "{what}: {report}");
    assert_eq!(report["estimated"] == true, booked.estimated, "{what}: {report}");
}

/// Asserts that a stream reports once, in its last chunk, what was recorded.
pub fn assert_stream(what: &str, read: &ReadAnswer, attempts: &[AttemptRecord]) {
    assert!(read.error.is_none() && read.finished, "{what}: {read:?}");
    let (last, before) = read.chunks.split_last().expect(what);
    assert!(
        before.iter().all(|chunk| chunk["usage"].is_null()),
        "{what}: {before:#?}"
    );
    assert_report(what, &last["usage"], &booked(attempts));
    for attempt in attempts {
        assert_eq!(attempt.is_estimated, attempt.usage.estimated, "{what}");
    }
}

/// A provider that answers with a head and then nothing, ever.
pub async fn silent() -> Server {
    Server::start(|mut exchange: Exchange| async move {
        exchange.write(STREAM).await;
        exchange.closed().await;
        None
    })
    .await
}

/// A provider that reads the request and closes the connection.
async fn closing() -> Server {
    Server::start(|exchange: Exchange| async move {
        exchange.socket.set_zero_linger().unwrap();
        None
    })
    .await
}

/// The expensive model of a provider.
fn dear<'a>(name: &'a str, provider: &Provider) -> TestTarget<'a> {
    TestTarget {
        model: "dear",
        ..at(name, provider)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_reports_what_the_ledger_holds_for_its_call() {
    let dying = |death: &str| format!("text=\"{TEXT}\" {death}");
    let silent = silent().await;
    for speaks in Protocol::ALL {
        for mode in [Mode::Live, Mode::Buffered] {
            let good = Provider::speaking(speaks).await;
            // Name, state of the first target, attempts, whether a part is estimated.
            for (what, first, attempts, estimated) in [
                ("plain", "", 1, false),
                ("cut", "cut_after=9", 2, true),
                ("without an end", "end_without_finish_after=9", 2, true),
                ("nonsense in the middle", "chunk=9 malformed=1", 2, true),
                ("silent in the middle", "stall_after=9 keepalive_ms=20", 2, true),
                ("refused", "status=500", 3, false),
                ("refused for good", "status=401", 2, false),
                ("silent from the start", "silent", 2, true),
            ] {
                let bad = Provider::faulty(&dying(first)).await;
                let url = if first == "silent" {
                    silent.url.clone()
                } else {
                    bad.url()
                };
                let places = if first.is_empty() {
                    vec![dear("b", &good)]
                } else {
                    vec![place("a", url), dear("b", &good)]
                };
                let what = format!("{what}, {speaks:?}, {mode:?}");
                let (gateway, ledger) = priced(places, false);
                let read = read(gateway.chat(reporting(true, mode)).await.expect(&what)).await;
                assert_eq!(read.text, TEXT, "{what}");
                let rows = ledger.take();
                assert_eq!(rows.len(), attempts, "{what}: {rows:#?}");
                assert_stream(&what, &read, &rows);
                assert_eq!(booked(&rows).estimated, estimated, "{what}: {rows:#?}");
                let first = rows[0].usage;
                assert_eq!(first.prompt_tokens > 0, estimated || attempts == 1, "{what}: {first:?}");
                let cost = |row: &AttemptRecord| match row.target.model.as_str() {
                    "dear" => row.usage.prompt_tokens * 30_000 + row.usage.completion_tokens * 70_000,
                    _ => row.usage.prompt_tokens * 1_000 + row.usage.completion_tokens * 2_000,
                };
                assert!(rows.iter().all(|row| row.usage.cost == cost(row)), "{what}: {rows:#?}");
            }
        }
    }
}

#[tokio::test]
async fn without_a_wish_for_it_no_stream_reports_usage() {
    let provider = Provider::start().await;
    let (gateway, ledger) = priced(vec![at("a", &provider)], false);
    let read = read(gateway.chat(request(true, Mode::Live)).await.unwrap()).await;
    assert!(
        read.finished && read.chunks.iter().all(|chunk| chunk["usage"].is_null()),
        "{read:#?}"
    );
    assert!(booked(&ledger.take()).cost > 0);
}

#[tokio::test]
async fn a_document_and_its_header_tell_what_all_attempts_cost() {
    let closing = closing().await;
    let good = Provider::start().await;
    let (gateway, ledger) = priced(vec![place("a", closing.url.clone()), dear("b", &good)], false);
    let reply = gateway.chat(reporting(false, Mode::Live)).await.unwrap();
    let rows = ledger.take();
    let Answer::Whole(body) = reply.answer else {
        panic!("a document was asked for")
    };
    let mut report: Value = serde_json::from_slice(&body).unwrap();
    let booked = booked(&rows);
    assert_eq!((rows.len(), reply.cost), (3, Some(booked.cost)), "{rows:#?}");
    assert!(rows[0].usage.prompt_tokens > 0 && rows[0].usage.estimated, "{rows:#?}");
    report["usage"]["cost_usd"] = json!(booked.cost as f64 / 1e9);
    assert_report("a document", &report["usage"], &booked);
}

#[tokio::test]
async fn a_turn_is_told_once_what_all_attempts_of_its_call_used() {
    let (cut, good, silent) = (
        Provider::faulty(&format!("text=\"{TEXT}\" cut_after=9")).await,
        Provider::start().await,
        silent().await,
    );
    // Name, the targets, attempts, whether there is an answer.
    for (what, places, attempts, is_answered) in [
        ("plain", vec![at("a", &good)], 1, true),
        (
            "silent first",
            vec![place("a", silent.url.clone()), dear("b", &good)],
            2,
            true,
        ),
        ("cut", vec![at("a", &cut)], 1, false),
        ("silent", vec![place("a", silent.url.clone())], 1, false),
    ] {
        let (gateway, ledger) = priced(places, false);
        let mut events: Vec<_> = gateway
            .stream(crate::model::request())
            .await
            .expect(what)
            .collect()
            .await;
        let end = events.pop().expect(what);
        assert_eq!(end.is_ok(), is_answered, "{what}");
        let used: Vec<Usage> = events
            .iter()
            .filter_map(|event| match event {
                Ok(ModelEvent::Usage(usage)) => Some(*usage),
                _ => None,
            })
            .collect();
        let rows = ledger.take();
        assert!(rows.len() >= attempts, "{what}: {rows:#?}");
        assert_eq!(used, [booked(&rows)], "{what}");
        assert!(used[0].prompt_tokens > 0 && used[0].cost > 0, "{what}: {used:?}");
    }
}

#[tokio::test]
async fn a_call_that_did_no_work_tells_a_turn_nothing() {
    let provider = Provider::faulty("status=400 code=bad").await;
    let (gateway, _) = priced(vec![at("a", &provider)], false);
    assert!(gateway.stream(crate::model::request()).await.is_err());
}

#[tokio::test]
async fn a_caller_that_leaves_pays_for_the_prompt_and_what_arrived_as_counted_by_the_tokenizer() {
    // Digits and blanks: half as many again as at four bytes per token.
    let text = "7 ".repeat(400);
    let provider = Provider::faulty(&format!("text=\"{text}\" chunk=20 pace_ms=2")).await;
    let (gateway, ledger) = priced(vec![at("a", &provider)], false);
    let mut call = reporting(true, Mode::Live);
    // Longer than what is counted inline when an answer is dropped.
    let long = format!("{} [[sim text=\"{text}\"]]", "internationalization ".repeat(2_000));
    call.body
        .set("messages", &json!([{"role": "user", "content": long}]))
        .unwrap();
    let Answer::Stream(mut pieces) = gateway.chat(call).await.unwrap().answer else {
        panic!("a stream was asked for")
    };
    let mut heard = String::new();
    while heard.len() < 200 {
        let piece = pieces.next().await.unwrap().unwrap();
        for event in piece.events {
            if let ModelEvent::Text(text) = event {
                heard.push_str(&text);
            }
        }
    }
    drop(pieces);
    let rows = loop {
        let rows = ledger.take();
        if !rows.is_empty() {
            break rows;
        }
        tokio::task::yield_now().await;
    };
    assert_eq!((rows.len(), rows[0].outcome), (1, Outcome::Left));
    let usage = rows[0].usage;
    assert!(usage.estimated && rows[0].is_estimated);
    let prompt = tokens::count(&long);
    assert!(usage.prompt_tokens.abs_diff(prompt) < 20, "{usage:?} {prompt}");
    let answer = tokens::count(&heard);
    assert!(usage.completion_tokens.abs_diff(answer) <= 20, "{usage:?} {answer}");
    assert!(usage.completion_tokens > heard.len() as u64 / 4 + 20, "{usage:?}");
    assert_eq!(
        usage.cost,
        usage.prompt_tokens * 1_000 + usage.completion_tokens * 2_000
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_calls_at_once_have_a_bill_each() {
    let (cut, good) = (
        Provider::faulty(&format!("text=\"{TEXT}\" cut_after=9")).await,
        Provider::start().await,
    );
    let (gateway, ledger) = priced(vec![at("a", &cut), dear("b", &good)], false);
    let calls = (0..20).map(|_| async { read(gateway.chat(reporting(true, Mode::Live)).await.unwrap()).await });
    let read = futures::future::join_all(calls).await;
    let told: u64 = read
        .iter()
        .map(|read| (read.chunks.last().unwrap()["usage"]["cost_usd"].as_f64().unwrap() * 1e9).round() as u64)
        .sum();
    assert_eq!(told, booked(&ledger.take()).cost);
}
