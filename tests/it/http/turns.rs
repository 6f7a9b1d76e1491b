//! Turns: what happens when another turn is busy, and what callers can do with a running turn.

use std::time::Duration;

use copilotd::http::credentials::Scopes;
use copilotd_actors::domain::failure::FailureClass;
use copilotd_actors::fakes::log::Fault;
use copilotd_actors::fakes::model::{Act, calls, says};
use copilotd_actors::ports::SchemaError;
use jiff::SignedDuration;
use serde_json::{Value, json};

use super::app::{TestApp, with_app, with_bounds};
use super::client::Answer;

/// A prompt whose answer begins and never ends.
const LONG: &str = "go on for ever";

fn with_long_answers(app: &TestApp) {
    app.model.on(LONG, &[vec![Act::Text("once upon".into()), Act::Stall]]);
}

async fn submit(app: &TestApp, conversation: &str, input: &str, when_busy: &str) -> Answer {
    let body = json!({ "input": input, "when_busy": when_busy });
    app.post(&format!("{conversation}/turns"), body).await
}

fn id(answer: &Answer) -> String {
    format!("/v1/turns/{}", answer.text("/id"))
}

#[tokio::test(start_paused = true)]
async fn a_202_shows_the_turn_and_what_follows_it_sees_it() {
    with_app(async |app| {
        let conversation = app.conversation().await;
        let input = json!([{ "type": "text", "text": "a" }, { "type": "text", "text": "b" }]);
        let body = json!({ "input": input, "metadata": { "m": [1] } });
        let turn = app.post(&format!("{conversation}/turns"), body).await.expect(202).json();
        assert_eq!(
            turn,
            json!({
                "id": turn["id"], "conversation_id": conversation.rsplit('/').next(), "status": "running", "attempt": 1,
                "queue_position": null, "waiting": null, "input": input, "metadata": { "m": [1] }, "output": null,
                "tool_calls": [], "guardrails": [], "error": null,
                "usage": { "prompt_tokens": 0, "completion_tokens": 0, "cached_tokens": 0, "cost_usd": 0.0, "models": [] },
                "created_at": turn["created_at"], "started_at": turn["created_at"], "finished_at": null,
                "first_token_ms": null,
            })
        );
        let messages = app.get(&format!("{conversation}/messages")).await.expect(200).json();
        assert_eq!(messages["data"][0]["content"], input);
        assert_eq!(app.get(&conversation).await.json()["turn_count"], 1);
        let done = app.turn_is(&format!("/v1/turns/{}", turn["id"].as_str().unwrap()), "completed").await;
        assert_eq!((&done["output"]["text"], &done["input"]), (&json!("ok"), &input));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn enqueue_waits_in_order_up_to_a_bound() {
    with_app(async |app| {
        with_long_answers(app);
        let conversation = app.conversation().await;
        let busy = submit(app, &conversation, LONG, "enqueue").await.expect(202);
        let first = submit(app, &conversation, "one", "enqueue").await.expect(202);
        let second = submit(app, &conversation, "two", "enqueue").await.expect(202);
        for (turn, position) in [(&first, 1), (&second, 2)] {
            for shown in [turn.json(), app.get(&id(turn)).await.json()] {
                assert_eq!(
                    (&shown["status"], &shown["queue_position"]),
                    (&json!("queued"), &json!(position))
                );
                assert_eq!((&shown["attempt"], &shown["started_at"]), (&json!(0), &Value::Null));
            }
        }
        let full = submit(app, &conversation, "three", "enqueue").await;
        assert_eq!(full.headers["ratelimit-policy"], "\"queued-turns\";q=2");
        assert_eq!(full.headers["ratelimit"], "\"queued-turns\";r=0;t=5");
        let full = full.problem(429, "queue_full");
        assert_eq!(full["retry"], "safe");
        let cancelled = app
            .ada("POST", &format!("{}/cancel", id(&first)))
            .send()
            .await
            .expect(202)
            .json();
        assert_eq!(
            (&cancelled["status"], &cancelled["output"]),
            (&json!("cancelled"), &Value::Null)
        );
        assert_eq!(app.get(&id(&second)).await.json()["queue_position"], 1);
        app.ada("POST", &format!("{}/cancel", id(&busy)))
            .send()
            .await
            .expect(202);
        app.turn_is(&id(&second), "completed").await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn reject_is_refused_while_anything_is_open() {
    with_app(async |app| {
        with_long_answers(app);
        let conversation = app.conversation().await;
        let busy = submit(app, &conversation, LONG, "reject").await.expect(202);
        let problem = submit(app, &conversation, "now", "reject")
            .await
            .problem(409, "turn_running");
        assert_eq!(problem["retry"], "safe");
        let queued = submit(app, &conversation, LONG, "enqueue").await.expect(202);
        submit(app, &conversation, "now", "reject")
            .await
            .problem(409, "turn_running");
        for turn in [&busy, &queued] {
            app.ada("POST", &format!("{}/cancel", id(turn)))
                .send()
                .await
                .expect(202);
        }
        let free = submit(app, &conversation, "now", "reject").await.expect(202);
        app.turn_is(&id(&free), "completed").await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn interrupt_keeps_what_was_said_and_runs_next() {
    with_app(async |app| {
        with_long_answers(app);
        let conversation = app.conversation().await;
        let busy = submit(app, &conversation, LONG, "enqueue").await.expect(202);
        let waiting = submit(app, &conversation, "later", "enqueue").await.expect(202);
        app.ada("GET", &format!("{}/events", id(&busy)))
            .stream()
            .await
            .until("message.delta")
            .await;
        let next = submit(app, &conversation, "now", "interrupt").await.expect(202);
        let stopped = app.get(&id(&busy)).await.json();
        assert_eq!(
            (&stopped["status"], &stopped["output"]["text"]),
            (&json!("cancelled"), &json!("once upon"))
        );
        let next = app.turn_is(&id(&next), "completed").await;
        let waiting = app.turn_is(&id(&waiting), "completed").await;
        let started = |turn: &Value| turn["started_at"].as_str().unwrap().to_owned();
        assert!(started(&next) <= started(&waiting));
        assert_eq!(app.model.seen().open, 0, "the provider's stream was closed");
        let messages = app.get(&format!("{conversation}/messages?limit=100")).await.json();
        let roles: Vec<&str> = messages["data"]
            .as_array()
            .unwrap()
            .iter()
            .map(|m| m["role"].as_str().unwrap())
            .collect();
        assert_eq!(roles.iter().filter(|role| **role == "assistant").count(), 3);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn cancel_is_idempotent_and_stops_the_provider() {
    with_app(async |app| {
        with_long_answers(app);
        let conversation = app.conversation().await;
        let turn = app.submit(&conversation, LONG).await;
        let mut stream = app.ada("GET", &format!("{turn}/events")).stream().await;
        stream.until("message.delta").await;
        let cancel = || app.ada("POST", &format!("{turn}/cancel"));
        let first = cancel().send().await.expect(202).json();
        assert_eq!(first["status"], "cancelled");
        assert_eq!(app.model.wait_for(|seen| seen.open == 0).await.dropped, 1);
        let rest = stream.rest().await;
        assert_eq!(super::sse::durable(&rest), ["message.completed", "turn.cancelled"]);
        assert_eq!(rest[0].data["finish"], "cancelled");
        assert!(first["usage"]["completion_tokens"].as_u64().unwrap() > 0, "{first:#}");
        assert_eq!(cancel().send().await.expect(202).json(), first);
        let done = app.answered(&conversation, "hi").await;
        let done = format!("/v1/turns/{}", done["id"].as_str().unwrap());
        let before = app.log.commits();
        let kept = app
            .ada("POST", &format!("{done}/cancel"))
            .send()
            .await
            .expect(202)
            .json();
        assert_eq!((&kept["status"], app.log.commits()), (&json!("completed"), before));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_page_of_messages_tells_of_its_turns() {
    with_app(async |app| {
        let conversation = app.conversation().await;
        let mut turns = Vec::new();
        for n in 0..4 {
            let body = json!({ "input": format!("question {n}"), "metadata": { "n": n } });
            let answer = app.post(&format!("{conversation}/turns"), body).await.expect(202);
            turns.push(app.turn_is(&id(&answer), "completed").await);
        }
        let path = format!("/v1/turns/{}/feedback", turns[1]["id"].as_str().unwrap());
        for (rating, comment) in [(1, "fine"), (-1, "no, wrong")] {
            app.post(&path, json!({ "rating": rating, "comment": comment }))
                .await
                .expect(204);
        }
        let page = app
            .get(&format!("{conversation}/messages?limit=100"))
            .await
            .expect(200)
            .json();
        let shown = page["turns"].as_array().unwrap();
        assert_eq!(shown.len(), turns.len());
        for (n, (shown, turn)) in shown.iter().zip(&turns).enumerate() {
            for (member, value) in shown
                .as_object()
                .unwrap()
                .iter()
                .filter(|(member, _)| *member != "feedback")
            {
                assert_eq!(value, &turn[member], "{member} of turn {n}");
            }
            let expected = match n {
                1 => json!({ "rating": -1, "comment": "no, wrong" }),
                _ => Value::Null,
            };
            assert_eq!(shown["feedback"], expected);
            assert!(shown.get("input").is_none() && shown.get("output").is_none());
        }
        // A page that starts or ends within a turn includes it, and each page includes only its own turns.
        let (mut seen, mut cursor) = (Vec::new(), String::new());
        loop {
            let path = format!("{conversation}/messages?limit=3&order=desc{cursor}");
            let page = app.get(&path).await.expect(200).json();
            let ids = |list: &Value, member: &str| -> Vec<Value> {
                let mut ids: Vec<Value> = list
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|entry| entry[member].clone())
                    .collect();
                ids.dedup();
                ids
            };
            assert_eq!(ids(&page["turns"], "id"), ids(&page["data"], "turn_id"));
            seen.extend(ids(&page["turns"], "id"));
            match page["next_cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => break,
            }
        }
        seen.dedup();
        assert_eq!(seen.len(), turns.len());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn feedback_is_kept_and_shows_nothing() {
    with_app(async |app| {
        let conversation = app.conversation().await;
        let turn = app.answered(&conversation, "hi").await;
        let path = format!("/v1/turns/{}/feedback", turn["id"].as_str().unwrap());
        app.get(&path).await.problem(404, "not_found");
        for (body, comment) in [
            (json!({ "rating": 1 }), Value::Null),
            (json!({ "rating": -1, "comment": "no" }), json!("no")),
        ] {
            assert!(app.post(&path, body.clone()).await.expect(204).body.is_empty());
            let given = app.get(&path).await.expect(200).json();
            assert_eq!(
                given,
                json!({ "rating": body["rating"], "comment": comment, "at": given["at"] })
            );
        }
        let bob = app.call("GET", &path).by(&app.token("bob")).send().await;
        bob.problem(404, "not_found");
        // The same again changes nothing.
        app.post(&path, json!({ "rating": -1, "comment": "no" }))
            .await
            .expect(204);
        let records = app
            .log
            .records(conversation.rsplit('/').next().unwrap().parse().unwrap());
        assert_eq!(
            records
                .iter()
                .filter(|record| record.event.name() == "turn.feedback")
                .count(),
            2
        );
        for n in 2..20 {
            app.post(&path, json!({ "rating": 1, "comment": n.to_string() }))
                .await
                .expect(204);
        }
        let full = app.post(&path, json!({ "rating": 1 })).await;
        full.problem(409, "conflict");
        let nobody = format!("/v1/turns/turn_{}/feedback", "0".repeat(32));
        app.post(&nobody, json!({ "rating": 1 }))
            .await
            .problem(404, "not_found");
        app.get(&nobody).await.problem(404, "not_found");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_schema_that_cannot_be_compiled_now_or_at_all_is_refused() {
    with_app(async |app| {
        let turns = format!("{}/turns", app.conversation().await);
        for (error, status, code) in [
            (SchemaError::TooExpensive, 422, "invalid"),
            (SchemaError::Busy, 429, "rate_limited"),
            (
                SchemaError::Unavailable("fork: secret detail".into()),
                503,
                "unavailable",
            ),
        ] {
            app.schemas.refuse(error);
            let body = json!({ "input": "hi", "response_schema": { "type": "object" } });
            let problem = app.post(&turns, body).await.problem(status, code);
            assert!(!problem.to_string().contains("secret detail"), "{problem}");
            if status == 422 {
                assert_eq!(problem["errors"][0]["pointer"], "/response_schema");
            }
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn failures_are_told_without_internals() {
    with_app(async |app| {
        let conversation = app.conversation().await;
        app.model.on("key", &[vec![Act::Fail(FailureClass::Key, None)]]);
        let turn = app.submit(&conversation, "key").await;
        let view = app.turn_is(&turn, "failed").await;
        assert_eq!(view["error"]["code"], "provider_rejected");
        let events = app.ada("GET", &format!("{turn}/events")).stream().await.rest().await;
        assert_eq!(events.last().unwrap().name, "turn.failed");
        let schema = json!({ "type": "object", "required": ["n"], "properties": { "n": { "type": "integer" } } });
        app.model
            .on("count", &[says(&["{\"n\":", " \"x\"}"], Duration::from_millis(20))]);
        let body = json!({ "input": "count", "response_schema": schema });
        let turn = id(&app.post(&format!("{conversation}/turns"), body).await.expect(202));
        let events = app.ada("GET", &format!("{turn}/events")).stream().await.rest().await;
        assert!(
            events
                .iter()
                .all(|event| event.name != "message.delta" && event.name != "message.completed")
        );
        assert_eq!(app.get(&turn).await.json()["error"]["code"], "schema_failed");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn approvals_are_decided_once() {
    with_app(async |app| {
        let arguments = json!({ "subject": "A ticket", "body": "Words" });
        app.model.on(
            "please",
            &[
                calls(&[("zendesk_create_ticket", arguments.clone())]),
                says(&["done"], Duration::ZERO),
            ],
        );
        let zendesk = app.system("zendesk");
        let conversation = app.conversation().await;
        let waiting = async || {
            let turn = app.submit(&conversation, "please").await;
            let view = app.turn_is(&turn, "awaiting_approval").await;
            let call = view["tool_calls"][0].clone();
            assert_eq!(
                (&call["status"], &call["arguments"]),
                (&json!("awaiting_approval"), &arguments)
            );
            assert!(call["expires_at"].is_string());
            (
                turn.clone(),
                format!("{turn}/approvals/{}", call["id"].as_str().unwrap()),
            )
        };
        let (turn, path) = waiting().await;
        let nobody = format!("{turn}/approvals/call_{}", "0".repeat(32));
        app.post(&nobody, json!({ "decision": "approve" }))
            .await
            .problem(404, "not_found");
        for (body, pointer) in [
            (json!({}), "/decision"),
            (json!({ "decision": "maybe" }), "/decision"),
            (json!({ "decision": "approve", "arguments": [] }), "/arguments"),
            (
                json!({ "decision": "approve", "arguments": { "subject": 3, "body": "b" } }),
                "/arguments/subject",
            ),
            (json!({ "decision": "reject", "arguments": arguments }), "/arguments"),
            (json!({ "decision": "approve", "by": "bob" }), "/by"),
        ] {
            let problem = app.post(&path, body.clone()).await.problem(422, "invalid");
            let found = problem["errors"].as_array().unwrap();
            assert!(
                found.iter().any(|error| error["pointer"] == pointer),
                "{body}: {problem:#}"
            );
        }
        assert_eq!(zendesk.seen().calls, 0);
        let edited = json!({ "subject": "Another", "body": "Words" });
        let approve = json!({ "decision": "approve", "arguments": edited, "reason": "better" });
        app.post(&path, approve.clone()).await.expect(202);
        app.turn_is(&turn, "completed").await;
        assert_eq!(zendesk.requests()[0].1.arguments, edited);
        app.post(&path, approve).await.expect(202);
        for other in [
            json!({ "decision": "approve" }),
            json!({ "decision": "approve", "arguments": arguments }),
            json!({ "decision": "reject" }),
        ] {
            app.post(&path, other).await.problem(409, "not_waiting");
        }
        assert_eq!(zendesk.seen().effects, 1);

        let (turn, path) = waiting().await;
        let reject = json!({ "decision": "reject", "reason": "not now" });
        app.post(&path, reject.clone()).await.expect(202);
        app.turn_is(&turn, "completed").await;
        app.post(&path, reject).await.expect(202);
        app.post(&path, json!({ "decision": "approve" }))
            .await
            .problem(409, "not_waiting");

        // Without a decision within the hour the call is rejected and the turn continues.
        let (turn, path) = waiting().await;
        let token = app.token_for("acme", "ada", Scopes::CHAT, SignedDuration::from_hours(2));
        let mut stream = app.call("GET", &format!("{turn}/events")).by(&token).stream().await;
        let events = stream.until("approval.decided").await;
        assert_eq!(events.last().unwrap().data["decision"], "expired");
        app.turn_is(&turn, "completed").await;
        app.post(&path, json!({ "decision": "reject" }))
            .await
            .problem(409, "not_waiting");
        app.post(&path, json!({ "decision": "approve" }))
            .await
            .problem(409, "not_waiting");
        assert_eq!(zendesk.seen().effects, 1);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn turns_are_refused_when_too_many_are_open() {
    use copilotd_actors::actors::shared::Bounds;
    let tenant = Bounds {
        tenant_turns: 1,
        ..Bounds::default()
    };
    let node = Bounds {
        node_turns: 1,
        ..Bounds::default()
    };
    for (bounds, status, code) in [(tenant, 429, "rate_limited"), (node, 503, "overloaded")] {
        with_bounds(bounds, async |app| {
            with_long_answers(app);
            let (one, two) = (app.conversation().await, app.conversation().await);
            let busy = submit(app, &one, LONG, "enqueue").await.expect(202);
            // The busy turn goes on appending to its own conversation.
            let stored = || app.log.records(two.rsplit('/').next().unwrap().parse().unwrap()).len();
            let before = stored();
            assert_eq!(
                submit(app, &two, "hi", "enqueue").await.problem(status, code)["retry"],
                "safe"
            );
            assert_eq!(stored(), before);
            app.ada("POST", &format!("{}/cancel", id(&busy)))
                .send()
                .await
                .expect(202);
            let turn = submit(app, &two, "hi", "enqueue").await.expect(202);
            app.turn_is(&id(&turn), "completed").await;
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_away_is_a_503_that_says_so() {
    with_app(async |app| {
        let conversation = app.conversation().await;
        let turns = format!("{conversation}/turns");
        for fault in [Fault::Before, Fault::After] {
            let own = format!("{}/turns", app.conversation().await);
            app.log.fail_append(1, fault);
            let problem = app
                .post(&own, json!({ "input": "x" }))
                .await
                .problem(503, "unavailable");
            assert_eq!(problem["retry"], "unsafe", "it may have been stored: {fault:?}");
        }
        app.log.set_down(true);
        let problem = app.get(&conversation).await.problem(503, "unavailable");
        assert_eq!(problem["retry"], "safe", "a read changes nothing");
        assert!(
            !problem.to_string().contains("switched off"),
            "internal words stay inside"
        );
        // It was passivated meanwhile, and its log cannot be read.
        let problem = app
            .post(&turns, json!({ "input": "x" }))
            .await
            .problem(503, "unavailable");
        assert_eq!(problem["retry"], "safe", "nothing was stored");
        app.post("/v1/conversations", json!({}))
            .await
            .problem(503, "unavailable");
        let ready = app.call("GET", "/readyz").send().await.expect(503).json();
        assert_eq!(ready["status"], "unavailable");
        assert_eq!(ready["dependencies"], json!({ "sqlite": "unavailable" }));
        app.call("GET", "/healthz").send().await.expect(200);
        app.log.set_down(false);
        app.call("GET", "/readyz").send().await.expect(200);
        app.answered(&conversation, "hi").await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn the_last_turn_is_replaced_by_a_new_one() {
    with_app(async |app| {
        with_long_answers(app);
        let conversation = app.conversation().await;
        let turns = format!("{conversation}/turns");
        let replacing = |input: &str, replaced: &str| json!({ "input": input, "replaces": replaced });
        let first = app.answered(&conversation, "first").await;
        let second = app.answered(&conversation, "second").await;
        let (first, second) = (first["id"].as_str().unwrap(), second["id"].as_str().unwrap());
        let refused = app.post(&turns, replacing("x", first)).await.problem(409, "conflict");
        assert!(
            refused["detail"].as_str().unwrap().contains("not the last turn"),
            "{refused}"
        );
        app.post(&turns, replacing("x", "turn_1")).await.problem(422, "invalid");
        let unknown = format!("turn_{}", "0".repeat(32));
        app.post(&turns, replacing("x", &unknown))
            .await
            .problem(409, "conflict");

        // Two copies of one request are one replacement.
        let submit = || {
            app.ada("POST", &turns)
                .header("idempotency-key", "again")
                .json(&replacing(LONG, second))
        };
        let third = submit().send().await.expect(202).text("/id");
        assert_eq!(submit().send().await.expect(202).text("/id"), third);
        let running = app.post(&turns, replacing("x", &third)).await.problem(409, "conflict");
        assert!(
            running["detail"].as_str().unwrap().contains("has not ended"),
            "{running}"
        );
        app.ada("POST", &format!("/v1/turns/{third}/cancel"))
            .send()
            .await
            .expect(202);
        let fourth = app
            .post(&turns, replacing("fourth", &third))
            .await
            .expect(202)
            .text("/id");
        app.turn_is(&format!("/v1/turns/{fourth}"), "completed").await;

        let page = app.get(&format!("{conversation}/messages")).await.expect(200).json();
        let replaced: Vec<(&str, Option<&str>)> = page["turns"]
            .as_array()
            .unwrap()
            .iter()
            .map(|turn| (turn["id"].as_str().unwrap(), turn["replaced_by"].as_str()))
            .collect();
        assert_eq!(
            replaced,
            [
                (first, None),
                (second, Some(&*third)),
                (&*third, Some(&*fourth)),
                (&*fourth, None)
            ]
        );
        assert_eq!(
            app.get(&format!("/v1/turns/{second}")).await.json()["replaced_by"],
            json!(third)
        );
        // The model was asked as if the others had never been.
        let asked = app.model.requests();
        let texts = asked
            .last()
            .unwrap()
            .messages
            .iter()
            .filter_map(|message| message.text());
        assert_eq!(texts.skip(1).collect::<Vec<_>>(), ["first", "fourth"]);
    })
    .await;
}
