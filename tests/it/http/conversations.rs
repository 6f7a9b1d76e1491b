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
