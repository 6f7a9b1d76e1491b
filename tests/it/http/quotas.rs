//! Storage quotas, through the router.

use copilotd::http::credentials::Scopes;
use serde_json::json;

use super::app::{TestApp, with_globex};
use super::client::Answer;

async fn create(app: &TestApp, token: &str, key: Option<&str>) -> Answer {
    let call = app.call("POST", "/v1/conversations").by(token).json(&json!({}));
    match key {
        Some(key) => call.header("idempotency-key", key),
        None => call,
    }
    .send()
    .await
}

#[tokio::test(start_paused = true)]
async fn conversations_are_kept_up_to_a_quota_and_erasing_gives_back() {
    let limits = "[tenants.limits]\nconversations = 3\nper_user = { conversations = 2 }";
    with_globex(limits, async |app| {
        let [ada, bob] = ["ada", "bob"].map(|user| app.token_of("globex", user, Scopes::CHAT));
        create(app, &ada, None).await.expect(201);
        let second = create(app, &ada, Some("k")).await.expect(201).text("/id");
        let problem = create(app, &ada, None).await.problem(403, "quota_exceeded");
        assert_eq!(problem["retry"], "never");
        assert_eq!(problem["detail"], "the user's conversations quota of 2 is used up");
        // The copy of a request that was accepted is none of a new one.
        assert_eq!(create(app, &ada, Some("k")).await.expect(201).text("/id"), second);
        let path = format!("/v1/conversations/{second}");
        let patch = app.call("PATCH", &path).by(&ada).json(&json!({ "title": "t" }));
        patch.send().await.expect(200);
        let third = create(app, &bob, None).await.expect(201).text("/id");
        let problem = create(app, &bob, None).await.problem(403, "quota_exceeded");
        assert_eq!(problem["detail"], "the tenant's conversations quota of 3 is used up");
        app.call("DELETE", &format!("/v1/conversations/{third}"))
            .by(&bob)
            .send()
            .await
            .expect(204);
        create(app, &bob, None).await.expect(201);
        // Another tenant has its own.
        let other = app.token_of("acme", "ada", Scopes::CHAT);
        create(app, &other, None).await.expect(201);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn bytes_of_the_log_are_kept_up_to_a_quota() {
    with_globex("[tenants.limits.per_user]\nlog_bytes = 20000", async |app| {
        let ada = app.token_of("globex", "ada", Scopes::CHAT);
        let conversation = create(app, &ada, None).await.expect(201).text("/id");
        let path = format!("/v1/conversations/{conversation}");
        let (mut keyed, mut last) = (0, String::new());
        let submit = async |n: usize| {
            let body = json!({ "input": "word ".repeat(100), "when_busy": "interrupt" });
            let call = app.call("POST", &format!("{path}/turns")).by(&ada).json(&body);
            call.header("idempotency-key", &format!("k{n}")).send().await
        };
        let problem = loop {
            let answer = submit(keyed).await;
            if answer.status != 202 {
                break answer.problem(403, "quota_exceeded");
            }
            last = answer.text("/id");
            keyed += 1;
            assert!(keyed < 100, "nothing was refused");
        };
        assert_eq!(problem["detail"], "the user's log_bytes quota of 20000 is used up");
        assert!(keyed > 1);
        // The refused interrupt stopped nothing, and repeating an accepted request still returns it.
        assert_eq!(submit(keyed - 1).await.expect(202).text("/id"), last);
        let turn = format!("/v1/turns/{last}");
        while app.call("GET", &turn).by(&ada).send().await.expect(200).json()["status"] != "completed" {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        let feedback = app.call("POST", &format!("{turn}/feedback")).by(&ada);
        feedback
            .json(&json!({ "rating": 1 }))
            .send()
            .await
            .problem(403, "quota_exceeded");
        let patch = app.call("PATCH", &path).by(&ada).json(&json!({ "title": "t" }));
        patch.send().await.problem(403, "quota_exceeded");
        create(app, &ada, None).await.problem(403, "quota_exceeded");
        // Requests that end or erase something are never refused.
        app.call("POST", &format!("{turn}/cancel"))
            .by(&ada)
            .send()
            .await
            .expect(202);
        app.call("DELETE", &path).by(&ada).send().await.expect(204);
        create(app, &ada, None).await.expect(201);
    })
    .await;
}
