//! Usage reports that providers write in unusual ways: what is recorded, what callers get, and what is learned.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use copilotd_actors::domain::context::tokens;
use copilotd_actors::domain::ids::TenantId;
use copilotd_actors::domain::prices::PriceList;
use copilotd_actors::ports::Clock;
use copilotd_actors::tenancy::TenantScope;
use copilotd_gateway::answer::Answer;
use copilotd_gateway::limit::{ActualUsage, Demand, Lease, LimitRefusal, Limiter, TenantLimits};
use copilotd_gateway::request::call::Mode;
use copilotd_gateway::request::embed::{EmbedBody, EmbedCall};
use copilotd_gateway::spending::Subject;
use jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::bill::{assert_stream, booked, priced, reporting};
use super::{CLOCKS, Protocol, TEXT, TestTarget, caller, gateway, place, read, request};
use crate::model::server::{DONE, Server, UNTIL_CLOSE, event, finish, said};

fn report(usage: &Value) -> String {
    event(json!([]), usage.clone())
}

/// A text with a report beside it.
fn said_with(text: &str, usage: &Value) -> String {
    event(
        json!([{"index": 0, "delta": {"content": text}, "finish_reason": null}]),
        usage.clone(),
    )
}

fn finish_with(usage: &Value) -> String {
    event(
        json!([{"index": 0, "delta": {}, "finish_reason": "stop"}]),
        usage.clone(),
    )
}

#[tokio::test]
async fn odd_reports_are_booked_once_and_told_as_they_are_booked() {
    let usage = |prompt: i64, completion: i64| json!({"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion});
    let prompt = {
        let content = request(true, Mode::Live).body.messages().get().to_owned();
        let messages: Vec<Value> = serde_json::from_str(&content).unwrap();
        tokens::count(messages[0]["content"].as_str().unwrap()) + 6
    };
    let answer = tokens::count(TEXT);
    let mut cached = usage(10, 5);
    cached["prompt_tokens_details"] = json!({"cached_tokens": 400});
    let mut thought = usage(10, 5);
    thought["completion_tokens_details"] = json!({"reasoning_tokens": 400});
    let mut costly = usage(10, 5);
    costly["cost_usd"] = json!(-3.5);
    costly["cost"] = json!(-3.5);
    let mut foreign = usage(10, 5);
    foreign["estimated"] = json!(true);
    let with = |end: String| said(TEXT) + &end + DONE;
    let then = |usage: &Value| with(finish("stop") + &report(usage));
    // Name, the stream, and what is recorded: prompt, answer, whether it is estimated.
    for (what, stream, expected) in [
        ("none", with(finish("stop")), (prompt, answer, true)),
        ("null", then(&Value::Null), (prompt, answer, true)),
        ("nothing", then(&usage(0, 0)), (prompt, answer, true)),
        ("below nothing", then(&usage(-3, 5)), (prompt, answer, true)),
        ("as it should be", then(&usage(10, 5)), (10, 5, false)),
        (
            "twice",
            with(finish("stop") + &report(&usage(10, 3)) + &report(&usage(10, 5))),
            (10, 5, false),
        ),
        (
            "twice the same",
            with(finish("stop") + &report(&usage(10, 5)) + &report(&usage(10, 5))),
            (10, 5, false),
        ),
        ("on the choice only", with(finish_with(&usage(10, 5))), (10, 5, false)),
        (
            "beside each chunk",
            said_with("All is well ", &usage(10, 2))
                + &said_with("that ends well.", &usage(10, 5))
                + &finish("stop")
                + DONE,
            (10, 5, false),
        ),
        (
            "beside each chunk and at the end",
            said_with(TEXT, &usage(10, 2)) + &finish_with(&usage(10, 4)) + &report(&usage(10, 5)) + DONE,
            (10, 5, false),
        ),
        (
            "beside the first chunk only",
            said_with("All is well ", &usage(10, 1)) + &said("that ends well.") + &finish("stop") + DONE,
            (10, answer, true),
        ),
        (
            "before the end",
            said("All is well ") + &report(&usage(10, 2)) + &said("that ends well.") + &finish("stop") + DONE,
            (10, answer, true),
        ),
        ("no prompt", then(&usage(0, 5)), (prompt, 5, true)),
        ("no answer", then(&usage(10, 0)), (10, answer, true)),
        ("less than was streamed", then(&usage(10, 1)), (10, 1, false)),
        ("more cached than sent", then(&cached), (10, 5, false)),
        ("more thought than written", then(&thought), (10, 5, false)),
        ("a price of its own", then(&costly), (10, 5, false)),
        ("an estimate of another gateway", then(&foreign), (10, 5, true)),
        (
            "as texts",
            then(&json!({"prompt_tokens": "10", "completion_tokens": 5.0})),
            (10, 5, false),
        ),
    ] {
        let server = Server::canned(format!("{UNTIL_CLOSE}{stream}")).await;
        let (gateway, ledger) = priced(vec![place("a", server.url.clone())], false);
        let read = read(gateway.chat(reporting(true, Mode::Live)).await.expect(what)).await;
        assert_eq!(read.text, TEXT, "{what}");
        let rows = ledger.take();
        assert_stream(what, &read, &rows);
        let booked = booked(&rows);
        let found = (booked.prompt_tokens, booked.completion_tokens, booked.estimated);
        assert_eq!(found, expected, "{what}");
        assert!(booked.cached_tokens <= booked.prompt_tokens, "{what}: {booked:?}");
        assert!(
            booked.reasoning_tokens <= booked.completion_tokens,
            "{what}: {booked:?}"
        );
        assert_eq!(
            booked.cost,
            booked.prompt_tokens * 1_000 + booked.completion_tokens * 2_000,
            "{what}"
        );
    }
}

#[tokio::test]
async fn a_message_whose_report_at_the_end_is_missing_is_counted() {
    let event = |event: Value| format!("event: {}\ndata: {event}\n\n", event["type"].as_str().unwrap());
    let message = |usage: Value| {
        event(
            json!({"type": "message_start", "message": {"id": "msg_1", "type": "message", "role": "assistant",
            "model": "m", "content": [], "stop_reason": null, "usage": usage}}),
        )
    };
    let text = event(json!({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}))
        + &event(json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": TEXT}}))
        + &event(json!({"type": "content_block_stop", "index": 0}));
    let end = |usage: Value| {
        event(json!({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": usage}))
            + &event(json!({"type": "message_stop"}))
    };
    let begun = json!({"input_tokens": 25, "output_tokens": 1});
    let answer = tokens::count(TEXT);
    for (what, stream, expected) in [
        (
            "both",
            message(begun.clone()) + &text + &end(json!({"output_tokens": 3})),
            (25, 3, false),
        ),
        (
            "no end",
            message(begun.clone()) + &text + &end(Value::Null),
            (25, answer, true),
        ),
        (
            "only the end",
            message(Value::Null) + &text + &end(json!({"input_tokens": 25, "output_tokens": 3})),
            (25, 3, false),
        ),
    ] {
        let server = Server::canned(format!("{UNTIL_CLOSE}{stream}")).await;
        let place = TestTarget {
            speaks: Protocol::Anthropic,
            ..place("a", server.url.clone())
        };
        let (gateway, ledger) = priced(vec![place], false);
        let read = read(gateway.chat(reporting(true, Mode::Live)).await.expect(what)).await;
        let rows = ledger.take();
        assert_stream(what, &read, &rows);
        let booked = booked(&rows);
        let found = (booked.prompt_tokens, booked.completion_tokens, booked.estimated);
        assert_eq!(found, expected, "{what}");
    }
}

#[tokio::test]
async fn a_document_without_a_report_gets_one_that_is_marked() {
    let choice = json!({"index": 0, "message": {"role": "assistant", "content": TEXT}, "finish_reason": "stop"});
    for usage in [
        None,
        Some(Value::Null),
        Some(json!({"prompt_tokens": 0, "completion_tokens": 0})),
    ] {
        let mut document =
            json!({"id": "x", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]});
        if let Some(usage) = usage {
            document["usage"] = usage;
        }
        let document = document.to_string();
        let length = document.len();
        let head = format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n");
        let server = Server::canned(head + &document).await;
        let (gateway, ledger) = priced(vec![place("a", server.url.clone())], false);
        let reply = gateway.chat(reporting(false, Mode::Live)).await.unwrap();
        let Answer::Whole(body) = reply.answer else {
            panic!("a document was asked for")
        };
        let told: Value = serde_json::from_slice(&body).unwrap();
        let booked = booked(&ledger.take());
        assert_eq!(told["usage"]["estimated"], true, "{document}");
        assert_eq!(told["usage"]["prompt_tokens"], booked.prompt_tokens, "{document}");
        assert_eq!(told["usage"]["completion_tokens"], tokens::count(TEXT), "{document}");
        assert_eq!(reply.cost, Some(booked.cost));
        assert!(booked.estimated);
    }
}

#[tokio::test]
async fn embeddings_without_a_report_are_counted_by_the_tokenizer_and_marked() {
    let text = "7 ".repeat(300);
    for (usage, expected, estimated) in [
        (json!({"prompt_tokens": 9, "total_tokens": 9}), 9, false),
        (Value::Null, tokens::count(&text), true),
    ] {
        let list = json!({"object": "list", "model": "m", "usage": usage,
            "data": [{"object": "embedding", "index": 0, "embedding": [0.5]}]});
        let list = list.to_string();
        let length = list.len();
        let head = format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n");
        let server = Server::canned(head + &list).await;
        let (gateway, ledger) = priced(vec![place("a", server.url.clone())], false);
        let call = EmbedCall {
            caller: caller(),
            route: "default".to_owned(),
            body: EmbedBody::of(vec![text.clone()]),
        };
        let reply = gateway.embed(call).await.unwrap();
        let told: Value = serde_json::from_slice(&reply.body).unwrap();
        let rows = ledger.take();
        assert_eq!((reply.usage, reply.usage.prompt_tokens), (booked(&rows), expected));
        assert_eq!(told["usage"]["prompt_tokens"], expected);
        assert_eq!(
            (told["usage"]["estimated"] == true, rows[0].is_estimated),
            (estimated, estimated)
        );
    }
}

/// Records reservations, and limits nothing.
#[derive(Debug, Default)]
struct RecordingLimiter(Mutex<Vec<u64>>);

#[async_trait]
impl Limiter for RecordingLimiter {
    async fn reserve(
        &self,
        scope: &TenantScope,
        subjects: Vec<Subject>,
        demand: Demand,
    ) -> Result<Lease, LimitRefusal> {
        self.0.lock().push(demand.tokens);
        Ok(Lease {
            id: None,
            scope: scope.clone(),
            subjects,
            demand,
            standings: Vec::new(),
        })
    }

    fn settle(&self, _: Lease, _: ActualUsage) {}

    async fn exhausted(&self, _: &TenantScope, _: Vec<Subject>) -> Option<LimitRefusal> {
        None
    }

    fn replace(&self, _: HashMap<TenantId, TenantLimits>) {}
}

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

#[tokio::test]
async fn nothing_is_learned_from_an_estimate() {
    for (report, learns) in [
        (report(&json!({"prompt_tokens": 10, "completion_tokens": 5})), true),
        (String::new(), false),
        // A half-estimated usage is an estimate.
        (report(&json!({"prompt_tokens": 0, "completion_tokens": 5})), false),
    ] {
        let stream = said(TEXT) + &finish("stop") + &report + DONE;
        let server = Server::canned(format!("{UNTIL_CLOSE}{stream}")).await;
        let (gateway, _) = gateway(vec![place("a", server.url.clone())], CLOCKS);
        let limiter = Arc::new(RecordingLimiter::default());
        let gateway = Arc::into_inner(gateway).expect("nobody else has it yet");
        let gateway = gateway.with_limits(limiter.clone(), PriceList::default(), Arc::new(NewYear));
        for _ in 0..30 {
            assert_eq!(
                read(gateway.chat(request(true, Mode::Live)).await.unwrap()).await.text,
                TEXT
            );
        }
        let reserved = limiter.0.lock().clone();
        assert_eq!(reserved.first() != reserved.last(), learns, "{reserved:?}");
    }
}
