//! Invalid input: each kind is refused with its problem, and nothing is changed.

use std::time::Duration;

use copilotd_actors::fakes::model::says;
use serde_json::{Value, json};

use super::app::with_app;

#[tokio::test(start_paused = true)]
async fn bodies_that_cannot_be_read() {
    with_app(async |app| {
        let conversation = app.conversation().await;
        let turn = app.answered(&conversation, "hi").await["id"]
            .as_str()
            .unwrap()
            .to_owned();
        let before = app.log.attempts();
        let deep = |depth: usize| format!("{}1{}", "{\"a\":".repeat(depth), "}".repeat(depth)).into_bytes();
        let utf16: Vec<u8> = "{\"input\":\"hi\"}".encode_utf16().flat_map(u16::to_le_bytes).collect();
        let bodies: [(&str, Vec<u8>, u16, &str); 18] = [
            ("application/json", b"".to_vec(), 400, "malformed"),
            ("application/json", b"{".to_vec(), 400, "malformed"),
            ("application/json", b"{\"input\":".to_vec(), 400, "malformed"),
            ("application/json", b"{}{}".to_vec(), 400, "malformed"),
            (
                "application/json",
                b"{\"input\":\"a\",\"input\":\"b\"}".to_vec(),
                400,
                "malformed",
            ),
            ("application/json", b"{\"input\":\"\xff\"}".to_vec(), 400, "malformed"),
            ("application/json", utf16, 400, "malformed"),
            ("application/json", vec![0; 1000], 400, "malformed"),
            ("application/json", deep(65), 400, "malformed"),
            ("application/json", "[".repeat(90_000).into_bytes(), 400, "malformed"),
            (
                "application/json",
                b"{\"input\":\"a\\u0000b\"}".to_vec(),
                422,
                "invalid",
            ),
            ("application/json", b"null".to_vec(), 422, "invalid"),
            ("application/json", vec![b' '; 200_001], 413, "too_large"),
            ("text/plain", b"{}".to_vec(), 415, "unsupported_media_type"),
            (
                "application/json; charset=latin1",
                b"{}".to_vec(),
                415,
                "unsupported_media_type",
            ),
            (
                "multipart/form-data; boundary=x",
                b"--x--".to_vec(),
                415,
                "unsupported_media_type",
            ),
            (
                "application/x-www-form-urlencoded",
                b"input=a".to_vec(),
                415,
                "unsupported_media_type",
            ),
            ("", b"{}".to_vec(), 415, "unsupported_media_type"),
        ];
        for (method, path) in [
            ("POST", "/v1/conversations".to_owned()),
            ("PATCH", conversation.clone()),
            ("POST", format!("{conversation}/turns")),
            ("POST", format!("/v1/turns/{turn}/feedback")),
            ("POST", format!("/v1/turns/{turn}/client-tools/call_{}", "0".repeat(32))),
            ("POST", "/v1/stream-tickets".to_owned()),
        ] {
            for (content_type, body, status, code) in &bodies {
                let call = app.ada(method, &path).raw(content_type, body.clone());
                let problem = call.send().await.problem(*status, code);
                assert_eq!(problem["retry"], "never");
            }
            let encoded = app
                .ada(method, &path)
                .json(&json!({}))
                .header("content-encoding", "gzip");
            encoded.send().await.problem(415, "unsupported_media_type");
        }
        assert_eq!(app.log.attempts(), before, "nothing was changed");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn bodies_that_break_their_schema() {
    with_app(async |app| {
        let conversation = app.conversation().await;
        let turn = format!(
            "/v1/turns/{}",
            app.answered(&conversation, "hi").await["id"].as_str().unwrap()
        );
        let before = app.log.attempts();
        let (turns, tickets) = (format!("{conversation}/turns"), "/v1/stream-tickets".to_owned());
        let feedback = format!("{turn}/feedback");
        let create = "/v1/conversations".to_owned();
        let big = "x".repeat(2_000);
        for (method, path, body, pointers) in [
            ("POST", &create, json!([]), vec![""]),
            ("POST", &create, json!({ "copilot": 3 }), vec!["/copilot"]),
            ("POST", &create, json!({ "copilot": "" }), vec!["/copilot"]),
            ("POST", &create, json!({ "copilot": "nobody" }), vec!["/copilot"]),
            ("POST", &create, json!({ "copilot": "a b" }), vec!["/copilot"]),
            ("POST", &create, json!({ "title": "x".repeat(501) }), vec!["/title"]),
            ("POST", &create, json!({ "metadata": [] }), vec!["/metadata"]),
            ("POST", &create, json!({ "metadata": null }), vec!["/metadata"]),
            (
                "POST",
                &create,
                json!({ "Title": "x", "user": "bob" }),
                vec!["/Title", "/user"],
            ),
            ("PATCH", &conversation, json!({}), vec![""]),
            ("PATCH", &conversation, json!({ "title": null }), vec!["/title"]),
            ("PATCH", &conversation, json!({ "status": "erased" }), vec!["/status"]),
            ("PATCH", &conversation, json!({ "a/b~c": 1 }), vec!["/a~1b~0c"]),
            ("POST", &turns, json!({}), vec!["/input"]),
            ("POST", &turns, json!({ "input": "" }), vec!["/input"]),
            ("POST", &turns, json!({ "input": " \n\t" }), vec!["/input"]),
            ("POST", &turns, json!({ "input": [] }), vec!["/input"]),
            (
                "POST",
                &turns,
                json!({ "input": [{ "type": "text", "text": "" }] }),
                vec!["/input"],
            ),
            (
                "POST",
                &turns,
                json!({ "input": [{ "type": "image", "text": "" }] }),
                vec!["/input/0/type"],
            ),
            (
                "POST",
                &turns,
                json!({ "input": [{ "type": "file" }] }),
                vec!["/input/0/file_id"],
            ),
            (
                "POST",
                &turns,
                json!({ "input": [{ "type": "file", "file_id": "turn_1" }] }),
                vec!["/input/0/file_id"],
            ),
            (
                "POST",
                &turns,
                json!({ "input": [{ "type": "text", "text": "", "file_id": "file_00000000000000000000000000000001" }] }),
                vec!["/input/0/file_id"],
            ),
            (
                "POST",
                &turns,
                json!({ "input": [{ "type": "text" }] }),
                vec!["/input/0/text"],
            ),
            (
                "POST",
                &turns,
                json!({ "input": vec![json!({ "type": "text", "text": "a" }); 65] }),
                vec!["/input"],
            ),
            (
                "POST",
                &turns,
                json!({ "input": "a", "when_busy": "wait" }),
                vec!["/when_busy"],
            ),
            (
                "POST",
                &turns,
                json!({ "input": "a", "response_schema": true }),
                vec!["/response_schema"],
            ),
            (
                "POST",
                &turns,
                json!({ "input": "a", "response_schema": { "type": "objekt" } }),
                vec!["/response_schema/type"],
            ),
            (
                "POST",
                &turns,
                json!({ "input": "a", "response_schema": { "$ref": "http://127.0.0.1/x" } }),
                vec!["/response_schema/$ref"],
            ),
            (
                "POST",
                &turns,
                json!({ "input": "a", "response_schema": { "$ref": "file:///etc/passwd" } }),
                vec!["/response_schema/$ref"],
            ),
            (
                "POST",
                &turns,
                json!({ "input": "a", "response_schema": { "pattern": "(" } }),
                vec!["/response_schema/pattern"],
            ),
            (
                "POST",
                &turns,
                json!({ "input": "a", "response_schema": { "items": { "$ref": "#/$defs/n" }, "$defs": { "n": { "anyOf": [{ "$ref": "#/$defs/n" }] } } } }),
                vec!["/response_schema/$defs/n"],
            ),
            ("POST", &feedback, json!({ "rating": 0 }), vec!["/rating"]),
            ("POST", &feedback, json!({ "rating": "1" }), vec!["/rating"]),
            (
                "POST",
                &feedback,
                json!({ "rating": 1, "comment": "x".repeat(4_001) }),
                vec!["/comment"],
            ),
            (
                "POST",
                &tickets,
                json!({ "conversation_id": 1 }),
                vec!["/conversation_id"],
            ),
        ] {
            let problem = app.ada(method, path).json(&body).send().await.problem(422, "invalid");
            let found: Vec<&str> = problem["errors"]
                .as_array()
                .unwrap()
                .iter()
                .map(|e| e["pointer"].as_str().unwrap())
                .collect();
            assert_eq!(found, pointers, "{body}: {problem:#}");
        }
        // Too large in a way that no schema expresses.
        for (method, path, body) in [
            ("POST", &create, json!({ "metadata": { "big": big } })),
            ("PATCH", &conversation, json!({ "metadata": { "big": big } })),
            ("POST", &turns, json!({ "input": "a", "metadata": { "big": big } })),
            ("POST", &turns, json!({ "input": "x".repeat(70_000) })),
        ] {
            app.ada(method, path).json(&body).send().await.problem(413, "too_large");
        }
        assert_eq!(app.log.attempts(), before, "nothing was changed");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn queries_and_cursors() {
    with_app(async |app| {
        let conversation = app.conversation().await;
        app.conversation().await;
        app.answered(&conversation, "hi").await;
        let list = "/v1/conversations";
        let messages = format!("{conversation}/messages");
        let page = app
            .get(&format!("{list}?limit=1"))
            .await
            .expect(200)
            .text("/next_cursor");
        let ascending = app
            .get(&format!("{messages}?limit=1"))
            .await
            .expect(200)
            .text("/next_cursor");
        let other = app.conversation().await;
        app.answered(&other, "hi").await;
        for query in [
            "limit=0".to_owned(),
            "limit=101".to_owned(),
            "limit=-1".to_owned(),
            "limit=1.5".to_owned(),
            "limit=".to_owned(),
            "limit=99999999999999999999".to_owned(),
            "limit=1&limit=2".to_owned(),
            "Limit=1".to_owned(),
            "x=1".to_owned(),
            "cursor=".to_owned(),
            "cursor=%00".to_owned(),
            "cursor=%ff".to_owned(),
            "cursor=AAAA".to_owned(),
            format!("cursor={}", "A".repeat(5_000)),
            format!("cursor={page}A"),
            format!("cursor={}", page.to_lowercase()),
        ] {
            app.get(&format!("{list}?{query}")).await.problem(422, "invalid");
            app.get(&format!("{messages}?{query}")).await.problem(422, "invalid");
        }
        for foreign in [
            format!("{list}?cursor={ascending}"),
            format!("{messages}?cursor={page}"),
            format!("{messages}?order=desc&cursor={ascending}"),
            format!("{other}/messages?cursor={ascending}"),
            format!("{messages}?order=up"),
            format!("{messages}?order=ASC"),
            format!("{list}?order=asc"),
        ] {
            app.get(&foreign).await.problem(422, "invalid");
        }
        // Another user's and another tenant's cursors.
        for token in [
            app.token("bob"),
            app.token_of("globex", "ada", copilotd::http::credentials::Scopes::CHAT),
        ] {
            let call = app.call("GET", &format!("{list}?cursor={page}")).by(&token);
            call.send().await.problem(422, "invalid");
        }
        app.get(&format!("{list}?limit=100")).await.expect(200);
        app.get(&format!("{list}?limit=1&cursor={page}")).await.expect(200);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn positions_that_were_never_sent_are_not_resumable() {
    with_app(async |app| {
        let text = "näh, ok";
        app.model.on("hi", &[says(&["näh", ", ok"], Duration::ZERO)]);
        let conversation = app.conversation().await;
        let turn = app.answered(&conversation, "hi").await;
        let turn = format!("/v1/turns/{}", turn["id"].as_str().unwrap());
        let last = app.get(&conversation).await.expect(200).json()["last_seq"]
            .as_u64()
            .unwrap();
        let streams = [format!("{conversation}/events"), format!("{turn}/events")];
        for path in &streams {
            // Some clients send an empty header before the first event: it counts as missing.
            let empty = app.ada("GET", path).header("last-event-id", "");
            drop(empty.stream().await);
            for bad in [
                "x",
                "-1",
                "1.",
                ".1",
                "1.2.3",
                "1,2",
                " 1",
                "١",
                "1e3",
                "99999999999999999999",
                "1.-2",
            ] {
                let header = app.ada("GET", path).header("last-event-id", bad);
                header.send().await.problem(422, "invalid");
            }
            for bad in ["", "x", "1.2.3", "99999999999999999999"] {
                app.get(&format!("{path}?after={bad}")).await.problem(422, "invalid");
            }
            let two = app
                .ada("GET", path)
                .header("last-event-id", "1")
                .header("last-event-id", "2");
            two.send().await.problem(422, "invalid");
            for unknown in ["seq=1", "after=1&after=2", "After=1", "limit=1"] {
                app.get(&format!("{path}?{unknown}")).await.problem(422, "invalid");
            }
            for beyond in [
                format!("{}", last + 1),
                format!("{}.1", last + 1),
                "9999999999999999999".to_owned(),
            ] {
                app.ada("GET", path)
                    .header("last-event-id", &beyond)
                    .send()
                    .await
                    .problem(410, "not_resumable");
                app.get(&format!("{path}?after={beyond}"))
                    .await
                    .problem(410, "not_resumable");
            }
        }
        // The segment opens at turn.started, seq 3, and its completion follows.
        let records = app
            .log
            .records(conversation.rsplit('/').next().unwrap().parse().unwrap());
        let started = records
            .iter()
            .find(|record| record.event.name() == "turn.started")
            .unwrap()
            .seq;
        for offset in 0..=text.len() + 1 {
            let call = app
                .ada("GET", &streams[1])
                .header("last-event-id", &format!("{started}.{offset}"));
            if text.is_char_boundary(offset) && offset <= text.len() {
                assert_eq!(
                    super::sse::delta_text(&call.stream().await.rest().await),
                    text[offset..]
                );
            } else {
                call.send().await.problem(410, "not_resumable");
            }
        }
        app.ada("GET", &streams[0])
            .header("last-event-id", &format!("{last}.3"))
            .send()
            .await
            .problem(410, "not_resumable");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn methods_and_representations() {
    with_app(async |app| {
        let conversation = app.conversation().await;
        for (method, path, allow) in [
            ("PUT", "/v1/conversations", "GET,HEAD,POST"),
            ("DELETE", "/v1/conversations", "GET,HEAD,POST"),
            ("POST", conversation.as_str(), "DELETE,GET,HEAD,PATCH"),
            ("GET", "/v1/stream-tickets", "POST"),
            ("POST", "/healthz", "GET,HEAD"),
            ("OPTIONS", "/v1/conversations", "GET,HEAD,POST"),
            ("TRACE", "/metrics", "GET,HEAD"),
        ] {
            let answer = app.ada(method, path).send().await;
            let mut allowed: Vec<&str> = answer.headers["allow"].to_str().unwrap().split(',').collect();
            allowed.sort_unstable();
            assert_eq!(allowed.join(","), allow, "{}", answer.said);
            answer.problem(405, "method_not_allowed");
        }
        for (accept, status) in [
            ("application/json", 200),
            ("*/*", 200),
            ("application/*", 200),
            ("text/html, */*;q=0.1", 200),
            ("text/html", 406),
            ("application/json;q=0", 406),
            ("text/event-stream", 406),
        ] {
            let answer = app
                .ada("GET", "/v1/conversations")
                .header("accept", accept)
                .send()
                .await
                .expect(status);
            if status == 406 {
                answer.problem(406, "not_acceptable");
            }
        }
        let events = format!("{conversation}/events");
        let json_only = app.ada("GET", &events).header("accept", "application/json");
        json_only.send().await.problem(406, "not_acceptable");
        app.ada("GET", &events)
            .header("accept", "text/event-stream")
            .stream()
            .await;

        for path in ["/v1/conversations", conversation.as_str(), "/healthz", "/openapi.json"] {
            let get = app.ada("GET", path).send().await.expect(200);
            let head = app.ada("HEAD", path).send().await.expect(200);
            assert!(head.body.is_empty());
            assert_eq!(head.headers["content-length"], get.body.len().to_string(), "{path}");
            assert_eq!(head.headers["content-type"], get.headers["content-type"]);
        }
        let head = app.ada("HEAD", "/v1/nowhere").send().await.expect(404);
        assert!(head.body.is_empty());
        for nowhere in [
            "/",
            "/v1",
            "/v1/",
            "/v1/conversations/",
            "/V1/conversations",
            "//v1/conversations",
            "/v2/x",
        ] {
            app.get(nowhere).await.problem(404, "not_found");
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn tokens_out_of_their_time() {
    use jiff::SignedDuration;
    with_app(async |app| {
        let token = app.token_for(
            "acme",
            "ada",
            copilotd::http::credentials::Scopes::CHAT,
            SignedDuration::from_secs(100),
        );
        let list = async |step: i64| {
            app.clock.step(step * 1000);
            app.call("GET", "/v1/conversations").by(&token).send().await
        };
        list(0).await.expect(200);
        list(100).await.expect(200);
        list(59).await.expect(200);
        let expired = list(1).await;
        assert!(
            expired.headers["www-authenticate"]
                .to_str()
                .unwrap()
                .contains("invalid_token")
        );
        let problem = expired.problem(401, "unauthenticated");
        assert!(
            problem["detail"]
                .as_str()
                .unwrap()
                .starts_with("the credential has expired"),
            "{problem}"
        );
        // A token that expires more than a day ahead, as after setting the clock back.
        let long = app.token_for(
            "acme",
            "ada",
            copilotd::http::credentials::Scopes::CHAT,
            SignedDuration::from_hours(24),
        );
        app.clock.step(-61_000);
        let problem = app
            .call("GET", "/v1/conversations")
            .by(&long)
            .send()
            .await
            .problem(401, "unauthenticated");
        assert!(
            problem["detail"]
                .as_str()
                .unwrap()
                .starts_with("the token is valid for more than 24 hours"),
            "{problem}"
        );
        for header in [
            "",
            "Bearer",
            "Bearer ",
            "Basic YTpi",
            "bearer x y",
            "Bearer\tx",
            "ticket x",
        ] {
            let call = app.call("GET", "/v1/conversations").header("authorization", header);
            call.send().await.problem(401, "unauthenticated");
        }
        let two = app
            .call("GET", "/v1/conversations")
            .by(&app.token("ada"))
            .by(&app.token("bob"));
        two.send().await.problem(401, "unauthenticated");
        let in_query = format!("/v1/conversations?ticket={}", app.token("ada"));
        app.call("GET", &in_query).send().await.problem(401, "unauthenticated");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn keys_of_requests() {
    with_app(async |app| {
        let conversation = app.conversation().await;
        let turns = format!("{conversation}/turns");
        let submit = |key: &str, body: Value| app.ada("POST", &turns).header("idempotency-key", key).json(&body);
        for bad in ["", "a b", "a\tb", "schlüssel", &"k".repeat(256)] {
            submit(bad, json!({ "input": "a" }))
                .send()
                .await
                .problem(422, "invalid");
        }
        let two = submit("a", json!({ "input": "a" })).header("idempotency-key", "b");
        two.send().await.problem(422, "invalid");

        let first = submit("k", json!({ "input": "a", "metadata": { "x": 1, "y": 2 } }))
            .send()
            .await
            .expect(202);
        let turn = first.headers["location"].to_str().unwrap().to_owned();
        app.turn_is(&turn, "completed").await;
        let again = submit("k", json!({ "metadata": { "y": 2, "x": 1 }, "input": "a" }))
            .send()
            .await
            .expect(202);
        assert_eq!(again.headers["location"], turn);
        assert_eq!(again.json()["status"], "completed", "its present state");
        submit("k", json!({ "input": "b" }))
            .send()
            .await
            .problem(409, "idempotency_key_reused");
        assert_eq!(app.get(&conversation).await.json()["turn_count"], 1);
        // Another user's key of the same name is a different key.
        let create = |user: &str, key: &str, body: Value| {
            app.call("POST", "/v1/conversations")
                .by(&app.token(user))
                .header("idempotency-key", key)
                .json(&body)
        };
        let ada = create("ada", "k", json!({ "title": "t" })).send().await.expect(201);
        let bob = create("bob", "k", json!({ "title": "t" })).send().await.expect(201);
        assert_ne!(ada.text("/id"), bob.text("/id"));
        let copy = create("ada", "k", json!({ "title": "t" })).send().await.expect(201);
        assert_eq!(
            (copy.json(), &copy.headers["location"]),
            (ada.json(), &ada.headers["location"])
        );
        create("ada", "k", json!({}))
            .send()
            .await
            .problem(409, "idempotency_key_reused");
        // After a day the key is free.
        app.clock.step(24 * 3_600_000);
        let next = create("ada", "k", json!({})).send().await.expect(201);
        assert_ne!(next.text("/id"), ada.text("/id"));
        let again = create("ada", "k", json!({})).send().await.expect(201);
        assert_eq!(next.text("/id"), again.text("/id"));
        let turn = submit("k", json!({ "input": "b" })).send().await.expect(202);
        app.turn_is(turn.headers["location"].to_str().unwrap(), "completed")
            .await;
        assert_eq!(app.get(&conversation).await.json()["turn_count"], 2);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn concurrent_copies_have_one_effect() {
    with_app(async |app| {
        let create = || {
            app.ada("POST", "/v1/conversations")
                .header("idempotency-key", "k")
                .json(&json!({}))
        };
        let made = futures::future::join_all((0..4).map(|_| create().send())).await;
        let ids: Vec<String> = made.into_iter().map(|answer| answer.expect(201).text("/id")).collect();
        assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
        let turns = format!("/v1/conversations/{}/turns", ids[0]);
        let submit = || {
            app.ada("POST", &turns)
                .header("idempotency-key", "k")
                .json(&json!({ "input": "a" }))
        };
        let made = futures::future::join_all((0..4).map(|_| submit().send())).await;
        let ids: Vec<String> = made.into_iter().map(|answer| answer.expect(202).text("/id")).collect();
        assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
        app.turn_is(&format!("/v1/turns/{}", ids[0]), "completed").await;
        assert_eq!(app.model.seen().calls, 1);
    })
    .await;
}
