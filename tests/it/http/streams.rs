//! Event streams: framing, and what connected readers receive.

use std::time::Duration;

use copilotd::http::account::USER_STREAMS;
use copilotd::http::credentials::Scopes;
use copilotd_actors::domain::access::revocation::Subject;
use copilotd_actors::fakes::model::{Act, calls, says};
use jiff::SignedDuration;
use serde_json::json;

use super::app::with_app;
use super::sse::{Block, delta_text, durable};

#[tokio::test(start_paused = true)]
async fn the_framing() {
    with_app(async |app| {
        app.model.on(
            "hi",
            &[vec![
                Act::Wait(Duration::from_secs(29)),
                Act::Text("a\nb\r\nc".into()),
                Act::Finish(copilotd_actors::domain::content::Finish::Stop),
            ]],
        );
        let conversation = app.conversation().await;
        let turn = app.submit(&conversation, "hi").await;
        let call = app
            .ada("GET", &format!("{turn}/events"))
            .header("accept-encoding", "gzip, br, zstd, deflate");
        let mut stream = call.stream().await;
        for (name, value) in [
            ("content-type", "text/event-stream"),
            ("cache-control", "no-cache, no-transform"),
            ("x-accel-buffering", "no"),
        ] {
            assert_eq!(stream.headers[name], value);
        }
        assert!(!stream.headers.contains_key("content-encoding") && !stream.headers.contains_key("content-length"));
        let (mut blocks, mut times) = (Vec::new(), vec![app.now()]);
        while let Some(block) = stream.block().await {
            blocks.push(block);
            times.push(app.now());
        }
        assert!(matches!(blocks[0], Block::Comment(_)), "at once: {:?}", blocks[0]);
        assert_eq!(blocks[1], Block::Retry(2000));
        assert_eq!(times[0], times[2], "before anything happens");
        assert_eq!(
            blocks.iter().filter(|block| matches!(block, Block::Retry(_))).count(),
            1
        );
        let silence = times
            .windows(2)
            .map(|pair| pair[1].duration_since(pair[0]))
            .max()
            .unwrap();
        assert!(silence <= SignedDuration::from_secs(15), "{silence}");
        let events: Vec<_> = blocks
            .into_iter()
            .filter_map(|block| {
                if let Block::Event(event) = block {
                    Some(event)
                } else {
                    None
                }
            })
            .collect();
        assert_eq!(
            durable(&events),
            [
                "turn.queued",
                "turn.started",
                "context.assembled",
                "message.completed",
                "turn.completed"
            ]
        );
        assert_eq!(delta_text(&events), "a\nb\r\nc");
        let ids: Vec<&str> = events.iter().map(|event| event.id.as_str()).collect();
        assert_eq!(ids, ["2", "3", "4", "4.6", "5", "6"]);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn no_stream_is_silent_while_others_are_written_to() {
    with_app(async |app| {
        let pieces: Vec<String> = (0..180).map(|n| format!("{n} ")).collect();
        let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
        // Wake-ups more often than the keep-alive interval, and about as often.
        for pause in [Duration::from_millis(400), Duration::from_millis(9_500)] {
            app.model.on("long", &[says(&pieces[..(120_000 / pause.as_millis() as usize).min(180)], pause)]);
            let conversation = app.conversation().await;
            let running = app.submit(&conversation, "long").await;
            let queued = app.submit(&conversation, "behind it").await;
            let ticket = app
                .post("/v1/stream-tickets", json!({ "conversation_id": conversation.rsplit('/').next() }))
                .await
                .expect(200)
                .text("/ticket");
            let streams = [
                app.ada("GET", &format!("{queued}/events")).stream().await,
                app.ada("GET", &format!("{running}/events")).stream().await,
                app.call("GET", &format!("{queued}/events?ticket={ticket}")).stream().await,
                app.ada("GET", &format!("{conversation}/events")).stream().await,
            ];
            let readers = streams.into_iter().map(async |mut stream| {
                let (mut last, mut longest) = (app.now(), SignedDuration::ZERO);
                while let Some(block) = stream.block().await {
                    longest = longest.max(app.now().duration_since(last));
                    last = app.now();
                    if matches!(&block, Block::Event(event) if event.name == "turn.completed" && event.data["turn_id"] == queued.rsplit('/').next().unwrap()) {
                        break;
                    }
                }
                longest
            });
            let longest = futures::future::join_all(readers).await;
            assert!(longest.iter().all(|silence| *silence <= SignedDuration::from_secs(15)), "{pause:?}: {longest:?}");
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn readers_have_a_pace_and_lose_nothing() {
    with_app(async |app| {
        let pieces: Vec<String> = (0..500).map(|n| format!("{n} ")).collect();
        let whole = pieces.concat();
        let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
        app.model.on("count", &[says(&pieces, Duration::from_millis(1))]);
        let conversation = app.conversation().await;
        let turn = app.submit(&conversation, "count").await;
        let path = format!("{turn}/events");
        let gone = app.ada("GET", &path).stream().await;
        let readers = (0..4_u64).map(async |slowness| {
            let mut stream = app.ada("GET", &path).stream().await;
            let (mut events, mut times) = (Vec::new(), Vec::new());
            while let Some(event) = stream.next().await {
                if event.name == "message.delta" {
                    times.push(app.now());
                }
                events.push(event);
                tokio::time::sleep(Duration::from_millis(slowness * 40)).await;
            }
            assert_eq!(delta_text(&events), whole);
            assert_eq!(*durable(&events).last().unwrap(), "turn.completed");
            times
        });
        drop(gone);
        let times = futures::future::join_all(readers).await;
        for times in &times {
            // The last piece is sent with the end of the message, without delay.
            let gaps = times.windows(2).map(|pair| pair[1].duration_since(pair[0]).as_millis());
            let hasty = gaps.rev().skip(1).filter(|gap| *gap < 10).count();
            assert_eq!(hasty, 0, "at most one in 10 ms");
        }
        let pieces: Vec<usize> = times.iter().map(Vec::len).collect();
        assert!(
            pieces.is_sorted_by(|a, b| a >= b) && pieces[0] > 30 && pieces[3] < 10,
            "{pieces:?}"
        );
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_leaves_stops_nothing() {
    with_app(async |app| {
        app.model
            .on("hi", &[says(&["one ", "two ", "three"], Duration::from_secs(1))]);
        let conversation = app.conversation().await;
        let turn = app.submit(&conversation, "hi").await;
        for path in [format!("{turn}/events"), format!("{conversation}/events?after=0")] {
            let mut stream = app.ada("GET", &path).stream().await;
            stream.until("message.delta").await;
        }
        let view = app.turn_is(&turn, "completed").await;
        assert_eq!(view["output"]["text"], "one two three");
        assert_eq!(app.model.seen().dropped, 0);
        assert_eq!(app.app.state.budgets.streams.in_use(), 0);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_conversation_is_followed_over_its_turns() {
    with_app(async |app| {
        app.model.on("one", &[says(&["a", "b"], Duration::from_secs(1))]);
        let conversation = app.conversation().await;
        let before = app.answered(&conversation, "before").await["id"].clone();
        let mut stream = app.ada("GET", &format!("{conversation}/events")).stream().await;
        let one = app.submit(&conversation, "one").await;
        let mut events = stream.until("message.delta").await;
        let two = app.submit(&conversation, "two").await;
        events.extend(stream.until("turn.completed").await);
        events.extend(stream.until("turn.completed").await);
        assert!(
            events.iter().all(|event| event.data["turn_id"] != before),
            "it starts now"
        );
        assert_eq!(
            durable(&events),
            [
                "turn.queued",
                "turn.started",
                "context.assembled",
                "turn.queued",
                "message.completed",
                "turn.completed",
                "turn.started",
                "context.assembled",
                "message.completed",
                "turn.completed",
            ]
        );
        assert_eq!(delta_text(&events), "abok");
        assert!(events.is_sorted_by(|a, b| a.seq() <= b.seq()));
        for (turn, said) in [(&one, "ab"), (&two, "ok")] {
            let own = app.ada("GET", &format!("{turn}/events")).stream().await.rest().await;
            let id = turn.rsplit('/').next().unwrap();
            assert!(own.iter().all(|event| event.data["turn_id"] == id));
            assert_eq!(delta_text(&own), said);
            let seen: Vec<_> = events
                .iter()
                .filter(|e| e.data["turn_id"] == id && e.name != "message.delta")
                .collect();
            let shown: Vec<_> = own.iter().filter(|e| e.name != "message.delta").collect();
            assert!(
                seen.iter()
                    .zip(&shown)
                    .all(|(a, b)| (a.seq(), &a.data) == (b.seq(), &b.data))
                    && seen.len() == shown.len()
            );
        }
        let erased = app.ada("DELETE", &conversation).send().await.expect(204);
        drop(erased);
        assert_eq!(durable(&stream.rest().await), ["conversation.erased"]);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn erasing_ends_every_stream() {
    with_app(async |app| {
        app.model.on("hi", &[vec![Act::Text("so far".into()), Act::Stall]]);
        let conversation = app.conversation().await;
        let turn = app.submit(&conversation, "hi").await;
        let mut all = app.ada("GET", &format!("{conversation}/events?after=0")).stream().await;
        let mut one = app.ada("GET", &format!("{turn}/events")).stream().await;
        all.until("message.delta").await;
        one.until("message.delta").await;
        app.ada("DELETE", &conversation).send().await.expect(204);
        assert_eq!(
            durable(&all.rest().await),
            ["message.completed", "turn.cancelled", "conversation.erased"]
        );
        assert_eq!(durable(&one.rest().await), ["message.completed", "turn.cancelled"]);
        assert_eq!(app.model.wait_for(|seen| seen.open == 0).await.dropped, 1);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn with_a_schema_nothing_is_shown_before_it_validates() {
    with_app(async |app| {
        let schema = json!({ "type": "object", "required": ["n"], "properties": { "n": { "type": "integer" } } });
        let answer = says(&["{\"n\":", " 7}"], Duration::from_secs(1));
        // Depending on the route, the model is told what was wrong in a separate message.
        app.model.on("default", &[answer]);
        app.model
            .once("default", says(&["{\"n\":", " \"x\"}"], Duration::from_secs(1)));
        let conversation = app.conversation().await;
        let body = json!({ "input": "count", "response_schema": schema });
        let turn = app.post(&format!("{conversation}/turns"), body).await.expect(202);
        let turn = turn.headers["location"].to_str().unwrap().to_owned();
        let begun = app.now();
        let mut stream = app.ada("GET", &format!("{turn}/events")).stream().await;
        let events = stream.until("message.delta").await;
        assert!(
            app.now().duration_since(begun) >= SignedDuration::from_secs(4),
            "after both answers were whole"
        );
        assert_eq!(events.last().unwrap().text(), "{\"n\": 7}");
        let rest = stream.rest().await;
        assert_eq!(durable(&rest), ["message.completed", "turn.completed"]);
        assert_eq!(rest[0].data["text"], "{\"n\": 7}");
        let view = app.get(&turn).await.expect(200).json();
        assert_eq!(view["output"]["structured"], json!({ "n": 7 }));
        let messages = app.get(&format!("{conversation}/messages")).await.expect(200);
        assert!(
            !String::from_utf8_lossy(&messages.body).contains("\\\"x\\\""),
            "what was invalid is no message"
        );
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn every_event_of_a_conversation_with_tools() {
    with_app(async |app| {
        let arguments = json!({ "subject": "A ticket", "body": "Words" });
        app.model.on(
            "please",
            &[
                calls(&[
                    ("zendesk_search_tickets", json!({ "query": "x" })),
                    ("zendesk_create_ticket", arguments),
                ]),
                says(&["done"], Duration::ZERO),
            ],
        );
        app.system("zendesk");
        let conversation = app.conversation().await;
        let mut stream = app.ada("GET", &format!("{conversation}/events")).stream().await;
        app.submit(&conversation, "please").await;
        let asked = stream.until("approval.requested").await.pop().unwrap();
        let path = format!(
            "/v1/turns/{}/approvals/{}",
            asked.data["turn_id"].as_str().unwrap(),
            asked.data["call_id"].as_str().unwrap()
        );
        app.post(&path, json!({ "decision": "approve" })).await.expect(202);
        let rest = stream.until("turn.completed").await;
        let names = durable(&rest);
        for name in [
            "approval.decided",
            "tool.called",
            "tool.finished",
            "context.assembled",
            "message.completed",
        ] {
            assert!(names.contains(&name), "{name} is not in {names:?}");
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn streams_end_with_their_credential() {
    with_app(async |app| {
        app.model.on("hi", &[vec![Act::Text("a".into()), Act::Stall]]);
        let conversation = app.conversation().await;
        let turn = app.submit(&conversation, "hi").await;
        let path = format!("{conversation}/events?after=0");
        let begun = app.now();
        let token = app.token_for("acme", "ada", Scopes::CHAT, SignedDuration::from_secs(100));
        let mut stream = app.call("GET", &path).by(&token).stream().await;
        stream.rest().await;
        let lived = app.now().duration_since(begun);
        assert!(
            lived >= SignedDuration::from_secs(100) && lived < SignedDuration::from_secs(101),
            "{lived}"
        );

        let mut revoked = app.ada("GET", &path).stream().await;
        revoked.until("message.delta").await;
        let verifier = &app.app.state.auth.verifier;
        let caller = verifier.verify(&app.token("ada"), None, app.now()).unwrap();
        let subject = Subject::Token(caller.credential.as_str().to_owned());
        let revocations = &app.app.state.revocations;
        let revoking = revocations.revoke(&caller.scope, subject, "root".to_owned(), None, async { Ok(()) });
        revoking.await.unwrap();
        let begun = app.now();
        assert_eq!(revoked.rest().await, []);
        assert_eq!(app.now(), begun, "at once");
        app.ada("GET", &path).send().await.problem(401, "unauthenticated");
        // Her other token stays valid: time must pass, or it would be the same token.
        tokio::time::advance(Duration::from_secs(1)).await;
        app.ada("POST", &format!("{turn}/cancel")).send().await.expect(202);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn draining_takes_no_new_turns_and_finishes_those_that_run() {
    with_app(async |app| {
        app.model.on("hi", &[says(&["one ", "two"], Duration::from_secs(5))]);
        let conversation = app.conversation().await;
        let turn = app.submit(&conversation, "hi").await;
        let mut stream = app.ada("GET", &format!("{conversation}/events?after=0")).stream().await;
        app.app.state.shutdown.drain();
        let problem = app
            .post(&format!("{conversation}/turns"), json!({ "input": "x" }))
            .await
            .problem(503, "unavailable");
        assert_eq!(problem["retry"], "safe", "nothing was done");
        let problem = app
            .post("/v1/conversations", json!({}))
            .await
            .problem(503, "unavailable");
        assert_eq!(problem["retry"], "safe");
        let ready = app.call("GET", "/readyz").send().await.expect(503).json();
        assert_eq!(ready["status"], "draining");
        assert_eq!(ready["dependencies"], json!({ "sqlite": "ok" }));
        app.call("GET", "/healthz").send().await.expect(200);
        app.get(&turn).await.expect(200);
        stream.until("turn.completed").await;
        app.app.state.shutdown.close();
        assert_eq!(stream.rest().await, [], "and then streams end");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn streams_of_one_user_and_of_one_tenant_leave_room_for_others() {
    with_app(async |app| {
        let conversation = app.conversation().await;
        let path = format!("{conversation}/events");
        let mut open = Vec::new();
        for _ in 0..USER_STREAMS {
            open.push(app.ada("GET", &path).stream().await);
        }
        let refused = app.ada("GET", &path).send().await;
        refused.problem(429, "rate_limited");
        // Other users of the tenant, and other tenants, have their own share.
        assert!(app.app.state.budgets.streams.limit() > 2 * USER_STREAMS);
        let globex = app.token_of("globex", "ada", Scopes::CHAT);
        let made = app
            .call("POST", "/v1/conversations")
            .by(&globex)
            .json(&json!({}))
            .send()
            .await;
        let theirs = format!("/v1/conversations/{}/events", made.expect(201).text("/id"));
        app.call("GET", &theirs).by(&globex).stream().await;
        drop(open);
        app.ada("GET", &path).stream().await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_open_turn_has_a_stream_for_its_user_only_and_until_its_conversation_is_erased() {
    with_app(async |app| {
        app.model.on("hi", &[says(&["Hel", "lo"], Duration::from_secs(10))]);
        let conversation = app.conversation().await;
        let turns = [
            app.submit(&conversation, "hi").await,
            app.submit(&conversation, "hi").await,
        ];
        for turn in &turns {
            let path = format!("{turn}/events");
            for other in [app.token("bob"), app.token_of("globex", "ada", Scopes::CHAT)] {
                let refused = app.call("GET", &path).by(&other).send().await;
                refused.problem(404, "not_found");
            }
            app.ada("GET", &path).stream().await;
        }
        app.ada("DELETE", &conversation).send().await.expect(204);
        for turn in &turns {
            let path = format!("{turn}/events");
            app.ada("GET", &path).send().await.problem(404, "not_found");
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn the_stream_of_a_running_turn_is_not_read_from_the_log() {
    with_app(async |app| {
        app.model.on("hi", &[says(&["Hel", "lo"], Duration::from_secs(1))]);
        let before = app.log.reads();
        let conversation = app.conversation().await;
        let turn = app.submit(&conversation, "hi").await;
        assert_eq!(
            app.log.reads() - before,
            0,
            "the id was made up: there is nothing to read"
        );
        let path = format!("{turn}/events");
        let mut seen = Vec::new();
        // Afterwards the turn and the header of its conversation, which are one read in SQLite, and the log.
        for reads in [0, 3] {
            let before = app.log.reads();
            let mut stream = app.ada("GET", &path).stream().await;
            let mut events = Vec::new();
            while let Some(event) = stream.next().await {
                events.push(event);
            }
            assert_eq!(delta_text(&events), "Hello");
            assert_eq!(app.log.reads() - before, reads);
            seen.push(durable(&events).join(" "));
        }
        assert_eq!(seen[0], seen[1]);
    })
    .await;
}
