//! API keys: created, listed, used and revoked while the process runs.

use std::sync::atomic::Ordering;

use copilotd::http::credentials::Scopes;
use jiff::SignedDuration;
use serde_json::{Value, json};

use super::app::{KEY, TestApp, with_app};

const KEYS: &str = "/v1/admin/api-keys";

fn admin(app: &TestApp) -> String {
    app.token_of("acme", "root", Scopes::ADMIN)
}

async fn made(app: &TestApp, body: Value) -> (String, String) {
    let answer = app
        .call("POST", KEYS)
        .by(&admin(app))
        .json(&body)
        .send()
        .await
        .expect(201);
    assert_eq!(answer.headers["cache-control"], "no-store");
    (answer.text("/key"), answer.text("/id"))
}

async fn listed(app: &TestApp) -> Vec<Value> {
    let page = app.call("GET", KEYS).by(&admin(app)).send().await.expect(200).json();
    page["data"].as_array().unwrap().clone()
}

#[tokio::test(start_paused = true)]
async fn an_unknown_outcome_of_a_key_creation_is_not_safe_to_retry() {
    with_app(async |app| {
        app.tenants.away.store(true, Ordering::Relaxed);
        let body = json!({ "name": "ci", "scopes": ["chat"] });
        let create = app.call("POST", KEYS).by(&admin(app)).json(&body);
        let problem = create.send().await.problem(503, "unavailable");
        assert_eq!(problem["retry"], "unsafe");
        assert!(
            problem["detail"].as_str().unwrap().contains("list the keys"),
            "{problem}"
        );
        app.tenants.away.store(false, Ordering::Relaxed);
        made(app, body).await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_key_is_created_used_and_revoked_at_once() {
    with_app(async |app| {
        let (key, id) = made(app, json!({ "name": "ci", "scopes": ["chat"] })).await;
        let created = app
            .call("POST", "/v1/conversations")
            .by(&key)
            .header("x-copilotd-user", "eve")
            .json(&json!({}))
            .send()
            .await
            .expect(201);
        assert_eq!(created.text("/user"), "eve");
        let path = format!("/v1/conversations/{}/events", created.text("/id"));
        let reading = app.call("GET", &path).by(&key).header("x-copilotd-user", "eve");
        let mut stream = reading.stream().await;
        stream.block().await.unwrap();
        app.call("GET", "/v1/admin/usage")
            .by(&key)
            .send()
            .await
            .problem(403, "forbidden");

        let before = listed(app).await;
        assert_eq!(before[0]["name"], "ci");
        assert_eq!(before[0]["created_by"], "root");
        assert_eq!(before[0]["revoked_at"], Value::Null);
        assert_eq!(before[1]["name"], "backend");
        assert_eq!(before[1]["origin"], "file");
        assert!(!json!(before).to_string().contains(&key[4..]), "a key is shown once");

        let revoke = async |id: &str| app.call("DELETE", &format!("{KEYS}/{id}")).by(&admin(app)).send().await;
        revoke(&id).await.expect(204);
        app.call("GET", "/v1/conversations")
            .by(&key)
            .send()
            .await
            .problem(401, "unauthenticated");
        while stream.block().await.is_some() {}
        revoke(&id).await.expect(204);
        assert_ne!(listed(app).await[0]["revoked_at"], Value::Null);
        revoke(&format!("key_{}", "0".repeat(32)))
            .await
            .problem(404, "not_found");
        revoke("ci").await.problem(404, "not_found");
        // A name is free again once its key is revoked.
        made(app, json!({ "name": "ci", "scopes": ["gateway"] })).await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_key_of_the_file_can_be_revoked() {
    with_app(async |app| {
        app.call("GET", "/v1/conversations").by(KEY).send().await.expect(200);
        let id = listed(app).await[0]["id"].as_str().unwrap().to_owned();
        let path = format!("{KEYS}/{id}");
        // Another tenant's administrator cannot revoke it.
        let foreign = app.token_of("globex", "root", Scopes::ADMIN);
        app.call("DELETE", &path)
            .by(&foreign)
            .send()
            .await
            .problem(404, "not_found");
        app.call("DELETE", &path).by(&admin(app)).send().await.expect(204);
        app.call("GET", "/v1/conversations")
            .by(KEY)
            .send()
            .await
            .problem(401, "unauthenticated");
        assert_eq!(listed(app).await.len(), 1);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_key_ends_at_its_end() {
    with_app(async |app| {
        let end = app.now() + SignedDuration::from_secs(60);
        let (key, _) = made(app, json!({ "name": "short", "scopes": ["chat"], "expires_at": end })).await;
        app.call("GET", "/v1/conversations").by(&key).send().await.expect(200);
        tokio::time::sleep(std::time::Duration::from_secs(61)).await;
        app.call("GET", "/v1/conversations")
            .by(&key)
            .send()
            .await
            .problem(401, "unauthenticated");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn when_a_key_was_used_is_noted() {
    with_app(async |app| {
        let (key, _) = made(app, json!({ "name": "ci", "scopes": ["chat"] })).await;
        app.call("GET", "/v1/conversations").by(&key).send().await.expect(200);
        let used = app.now();
        tokio::time::sleep(std::time::Duration::from_secs(125)).await;
        let noted = listed(app).await[0]["last_used_at"].as_str().unwrap().to_owned();
        assert_eq!(noted.parse::<jiff::Timestamp>().unwrap().as_second(), used.as_second());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn invalid_keys_are_refused() {
    with_app(async |app| {
        let ask = async |by: &str, body: Value| app.call("POST", KEYS).by(by).json(&body).send().await;
        let root = admin(app);
        for body in [
            json!({ "scopes": ["chat"] }),
            json!({ "name": "a b", "scopes": ["chat"] }),
            json!({ "name": "x", "scopes": [] }),
            json!({ "name": "x", "scopes": ["root"] }),
            json!({ "name": "x", "scopes": ["chat"], "expires_at": "tomorrow" }),
            json!({ "name": "x", "scopes": ["chat"], "expires_at": "2001-01-01T00:00:00Z" }),
            json!({ "name": "x", "scopes": ["chat"], "hash": "sha256:0" }),
        ] {
            ask(&root, body).await.problem(422, "invalid");
        }
        ask(&root, json!({ "name": "backend", "scopes": ["chat"] }))
            .await
            .problem(409, "conflict");
        // Nobody can grant more than they have: only operators manage tenants.
        let operator = json!({ "name": "ops", "scopes": ["operator"] });
        ask(&root, operator.clone()).await.problem(403, "forbidden");
        let both = app.token_of("acme", "root", Scopes::ADMIN | Scopes::OPERATOR);
        ask(&both, operator).await.expect(201);
        let chat = app.token("ada");
        ask(&chat, json!({ "name": "y", "scopes": ["chat"] }))
            .await
            .problem(403, "forbidden");

        app.tenants.away.store(true, std::sync::atomic::Ordering::Relaxed);
        ask(&root, json!({ "name": "y", "scopes": ["chat"] }))
            .await
            .problem(503, "unavailable");
        app.tenants.away.store(false, std::sync::atomic::Ordering::Relaxed);
        ask(&root, json!({ "name": "y", "scopes": ["chat"] })).await.expect(201);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn keys_are_listed_in_pages_of_their_own_tenant() {
    with_app(async |app| {
        for n in 0..5 {
            made(app, json!({ "name": format!("k{n}"), "scopes": ["chat"] })).await;
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        let mut names = Vec::new();
        let mut next = String::new();
        loop {
            let path = format!("{KEYS}?limit=2{next}");
            let page = app.call("GET", &path).by(&admin(app)).send().await.expect(200).json();
            let data = page["data"].as_array().unwrap();
            names.extend(data.iter().map(|key| key["name"].as_str().unwrap().to_owned()));
            match page["next_cursor"].as_str() {
                Some(cursor) => next = format!("&cursor={cursor}"),
                None => break,
            }
        }
        assert_eq!(names, ["k4", "k3", "k2", "k1", "k0", "backend"]);
        let foreign = app.token_of("globex", "root", Scopes::ADMIN);
        let page = app.call("GET", KEYS).by(&foreign).send().await.expect(200).json();
        assert_eq!(page["data"], json!([]));
    })
    .await;
}
