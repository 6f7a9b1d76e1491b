//! The prompts of a turn, as an administrator sees them: the very messages and tools that the model was sent.

use std::time::Duration;

use copilotd::http::credentials::Scopes;
use copilotd_actors::fakes::model::{calls, says};
use serde_json::{Value, json};

use super::app::{TestApp, with_app};

const REASON: &str = "x-copilotd-reason";

fn admin(app: &TestApp) -> String {
    app.token_of("acme", "root", Scopes::CHAT | Scopes::ADMIN)
}

async fn page(app: &TestApp, path: &str) -> Value {
    let answer = app
        .call("GET", path)
        .by(&admin(app))
        .header(REASON, "audit 7")
        .send()
        .await;
    answer.expect(200).json()
}

#[tokio::test(start_paused = true)]
async fn an_administrator_sees_the_very_prompts_that_were_sent() {
    with_app(async |app| {
        app.model.on(
            "look",
            &[
                calls(&[("zendesk_search_tickets", json!({ "query": "printer" }))]),
                says(&["found"], Duration::ZERO),
            ],
        );
        let conversation = app.conversation().await;
        app.answered(&conversation, "hello").await;
        let before = app.model.requests().len();
        let turn = app.submit(&conversation, "look").await;
        app.turn_is(&turn, "completed").await;
        let sent = app.model.requests().split_off(before);
        assert_eq!(sent.len(), 2);

        let path = format!("{}/prompts", turn.replace("/v1/", "/v1/admin/"));
        let data = page(app, &path).await["data"].as_array().unwrap().clone();
        assert_eq!(data.len(), 2);
        for (shown, sent) in data.iter().zip(&sent) {
            assert_eq!(shown["exact"], true);
            assert_eq!(shown["messages"], json!(*sent.messages));
            assert_eq!(shown["tools"], json!(*sent.tools));
        }
        let steps: Vec<&Value> = data.iter().map(|prompt| &prompt["step"]).collect();
        assert_eq!(steps, [1, 2]);
        let first = &data[0];
        assert_eq!(first["messages"][1], json!({ "role": "user", "text": "hello" }));
        let kinds: Vec<&str> = first["included"]
            .as_array()
            .unwrap()
            .iter()
            .map(|part| part["kind"].as_str().unwrap())
            .collect();
        assert_eq!(kinds, ["instructions", "tool", "message", "message"]);
        assert!(data[1]["messages"].to_string().contains("tool_result"), "{:#}", data[1]);

        // One at a time, with the cursor of the page before.
        let one = page(app, &format!("{path}?limit=1")).await;
        assert_eq!(one["data"], json!([data[0]]));
        let next = one["next_cursor"].as_str().unwrap();
        let other = page(app, &format!("{path}?limit=1&cursor={next}")).await;
        assert_eq!(
            (&other["data"], &other["next_cursor"]),
            (&json!([data[1]]), &Value::Null)
        );
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn prompts_are_for_administrators_with_a_reason_that_is_recorded() {
    with_app(async |app| {
        let conversation = app.conversation().await;
        let turn = app.submit(&conversation, "a private matter").await;
        app.turn_is(&turn, "completed").await;
        let path = format!("{}/prompts", turn.replace("/v1/", "/v1/admin/"));
        let by_admin = app.call("GET", &path).by(&admin(app)).send().await;
        by_admin.problem(422, "invalid");
        let by_owner = app.ada("GET", &path).header(REASON, "curious").send().await;
        by_owner.problem(403, "forbidden");
        let foreign = app.token_of("globex", "root", Scopes::CHAT | Scopes::ADMIN);
        let by_foreigner = app.call("GET", &path).by(&foreign).header(REASON, "why").send().await;
        by_foreigner.problem(404, "not_found");
        let entries = async || {
            let answer = app.call("GET", "/v1/admin/audit").by(&admin(app)).send().await;
            answer.expect(200).json()["data"].as_array().unwrap().clone()
        };
        assert_eq!(entries().await, Vec::<Value>::new());
        page(app, &path).await;
        let entry = &entries().await[0];
        assert_eq!(
            (&entry["action"], &entry["reason"]),
            (&json!("prompts.read"), &json!("audit 7"))
        );
        assert_eq!(entry["target"], turn.rsplit('/').next().unwrap());

        // The owner's stream shows nothing of what is kept.
        let events = app.ada("GET", &format!("{turn}/events")).stream().await.rest().await;
        let assembled = events.iter().find(|event| event.name == "context.assembled").unwrap();
        assert!(!format!("{assembled:?}").contains("hash"), "{assembled:?}");

        app.ada("DELETE", &conversation).send().await.expect(204);
        let erased = app
            .call("GET", &path)
            .by(&admin(app))
            .header(REASON, "why")
            .send()
            .await;
        erased.problem(404, "not_found");
    })
    .await;
}
