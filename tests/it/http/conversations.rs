//! Conversations and their messages.

use copilotd_actors::fakes::model::says;
use serde_json::json;
use std::time::Duration;

use super::app::with_app;

#[tokio::test(start_paused = true)]
async fn a_conversation_is_created_read_changed_and_deleted() {
    with_app(async |app| {
        let body = json!({ "title": "Invoices", "metadata": { "case": 7, "deep": { "er": [null] } } });
        let created = app.post("/v1/conversations", body).await.expect(201);
        let location = created.headers["location"].to_str().unwrap().to_owned();
        let created = created.json();
        assert_eq!(location, format!("/v1/conversations/{}", created["id"].as_str().unwrap()));
        assert_eq!(created, json!({
            "id": created["id"], "copilot": "support", "channel": "api", "title": "Invoices", "user": "ada",
            "metadata": { "case": 7, "deep": { "er": [null] } }, "status": "active",
            "created_at": created["created_at"], "updated_at": created["created_at"], "turn_count": 0, "last_seq": 1,
            "usage": { "prompt_tokens": 0, "completion_tokens": 0, "cached_tokens": 0, "cost_usd": 0.0, "models": [] },
        }));
        assert_eq!(app.get(&location).await.expect(200).json(), created);

        app.model.on("hi", &[says(&["hello"], Duration::ZERO)]);
        let turn = app.answered(&location, "hi").await;
        assert_eq!(turn["output"]["text"], "hello");
        let changed = app.ada("PATCH", &location).json(&json!({ "title": "Bills" })).send().await.expect(200).json();
        assert_eq!((&changed["title"], &changed["metadata"]["case"]), (&json!("Bills"), &json!(7)));
        assert_eq!(changed["turn_count"], 1);

        let answer = app.ada("DELETE", &location).send().await.expect(204);
        assert!(answer.body.is_empty());
        let turn = format!("/v1/turns/{}", turn["id"].as_str().unwrap());
        for gone in [&location, &format!("{location}/messages"), &format!("{location}/events"), &turn, &format!("{turn}/events")] {
            app.get(gone).await.problem(404, "not_found");
        }
        app.ada("DELETE", &location).send().await.problem(404, "not_found");
        app.post(&format!("{location}/turns"), json!({ "input": "x" })).await.problem(404, "not_found");
        assert_eq!(app.get("/v1/conversations").await.expect(200).json()["data"], json!([]));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_copy_of_a_creation_answers_with_the_conversation_as_it_is_also_after_it_was_erased() {
    with_app(async |app| {
        let create = |key: &str, title: &str| {
            let call = app.ada("POST", "/v1/conversations").header("idempotency-key", key);
            call.json(&json!({ "title": title, "metadata": { "case": title } }))
        };
        let first = create("k", "secret").send().await.expect(201);
        let location = first.headers["location"].to_str().unwrap().to_owned();
        app.ada("DELETE", &location).send().await.expect(204);
        // Immediately, and once only the tombstone is left.
        for pause in [Duration::ZERO, Duration::from_secs(3_600)] {
            tokio::time::sleep(pause).await;
            let copy = create("k", "secret").send().await.expect(201);
            assert_eq!(copy.headers["location"], location);
            assert_eq!(
                (copy.text("/id"), copy.text("/status")),
                (first.text("/id"), "erased".to_owned())
            );
            assert!(!String::from_utf8_lossy(&copy.body).contains("secret"));
            assert_eq!(app.get("/v1/conversations").await.json()["data"], json!([]));
            app.get(&location).await.problem(404, "not_found");
        }
        assert_ne!(
            create("other", "secret").send().await.expect(201).text("/id"),
            first.text("/id")
        );
        app.clock.step(24 * 3_600_000);
        let next = create("k", "secret").send().await.expect(201);
        assert_eq!(
            (next.text("/status"), next.text("/id") == first.text("/id")),
            ("active".to_owned(), false)
        );
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn own_conversations_are_searched_by_title_and_messages() {
    with_app(async |app| {
        app.model
            .on("fire", &[says(&["Call the fire brigade."], Duration::ZERO)]);
        let first = app.conversation().await;
        app.answered(&first, "My printer is on fire").await;
        let second = app
            .post("/v1/conversations", json!({ "title": "Kaffee f\u{fc}r morgen" }))
            .await
            .expect(201);
        let second = second.headers["location"].to_str().unwrap().to_owned();
        app.answered(&second, "hi").await;
        let found = async |query: &str| {
            let page = app.get(&format!("/v1/conversations?{query}")).await.expect(200).json();
            let data = page["data"].as_array().unwrap().iter();
            let paths: Vec<String> = data
                .map(|found| format!("/v1/conversations/{}", found["id"].as_str().unwrap()))
                .collect();
            (paths, page["next_cursor"].as_str().map(str::to_owned))
        };
        for (query, expected) in [
            ("q=printer", vec![&first]),
            ("q=brigade%20FIRE", vec![&first]),
            ("q=fur", vec![&second]),
            ("q=kaff", vec![&second]),
            ("q=hi", vec![&second]),
            ("q=nothing", vec![]),
            ("q=kaff%20hi", vec![]),
        ] {
            assert_eq!(found(query).await.0.iter().collect::<Vec<_>>(), expected, "{query}");
        }
        let shown = app.get("/v1/conversations?q=kaff").await.json();
        assert_eq!(shown["data"][0], app.get(&second).await.json());
        // Page by page; a cursor belongs to its search.
        let (page, cursor) = found("q=zz&limit=1").await;
        assert_eq!((page.len(), cursor), (0, None));
        app.answered(&second, "and a fire").await;
        let (page, cursor) = found("q=fire&limit=1").await;
        assert_eq!(page, std::slice::from_ref(&second));
        let cursor = cursor.unwrap();
        let (page, _) = found(&format!("q=fire&limit=1&cursor={cursor}")).await;
        assert_eq!(page, std::slice::from_ref(&first));
        for query in [
            format!("q=hi&cursor={cursor}"),
            format!("cursor={cursor}"),
            "q=".to_owned(),
            "q=%3F".to_owned(),
            format!("q={}", "x".repeat(201)),
        ] {
            app.get(&format!("/v1/conversations?{query}"))
                .await
                .problem(422, "invalid");
        }
        // Nobody else finds it, and nobody once it is erased.
        let bob = app
            .call("GET", "/v1/conversations?q=printer")
            .by(&app.token("bob"))
            .send()
            .await;
        assert_eq!(bob.expect(200).json()["data"], json!([]));
        app.ada("DELETE", &first).send().await.expect(204);
        assert_eq!(found("q=printer").await.0, Vec::<String>::new());
    })
    .await;
}
