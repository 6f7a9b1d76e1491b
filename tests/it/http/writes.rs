//! Write rate limits, through the router.

use copilotd::http::credentials::Scopes;
use copilotd::surfaces::openapi::document;
use serde_json::{Value, json};

use super::app::with_globex;
use super::client::Answer;

/// Every write of the description, with ids in its path. Not those of the OpenAI-compatible routes, which are limited
/// as model calls.
fn writes() -> Vec<(String, String)> {
    let document: Value = serde_json::to_value(document()).unwrap();
    let mut writes = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for method in ["post", "put", "patch", "delete"] {
            let Some(operation) = item.get(method) else { continue };
            // Searches change nothing and are limited alone.
            let is_search = operation["operationId"] == "search_knowledge";
            if !path.starts_with("/v1/") || operation["tags"] == json!(["gateway"]) || is_search {
                continue;
            }
            let mut filled = path.clone();
            while let (Some(from), Some(to)) = (filled.find('{'), filled.find('}')) {
                filled.replace_range(from..=to, "x");
            }
            writes.push((method.to_uppercase(), filled));
        }
    }
    writes
}

/// A tenant that may have every scope, and one write per minute.
const OPERATORS: &str = r#"
    [[tenants]]
    id = "ops"
    operator = true
    [[tenants.issuers]]
    iss = "https://ops.example"
    alg = "HS256"
    secret = { value = "a secret of ops, at least 32 bytes long" }
    scopes = ["chat", "gateway", "knowledge", "admin", "operator"]
    [[tenants.copilots]]
    name = "support"
    route = "default"
    [tenants.limits.per_user]
    writes_per_minute = 1
"#;

fn everything() -> Scopes {
    ["chat", "gateway", "knowledge", "admin", "operator"]
        .into_iter()
        .map(|name| name.parse::<Scopes>().unwrap())
        .collect()
}

fn is_refused(answer: Answer, whose: &str) {
    assert_eq!(
        answer.headers["ratelimit-policy"].to_str().unwrap(),
        "\"writes\";q=1;w=60",
        "{}",
        answer.said
    );
    assert_eq!(
        answer.headers["ratelimit"].to_str().unwrap(),
        "\"writes\";r=0;t=60",
        "{}",
        answer.said
    );
    assert_eq!(answer.headers["retry-after"], "60", "{}", answer.said);
    let problem = answer.problem(429, "rate_limited");
    let expected = format!("the {whose} has reached its writes_per_minute limit");
    assert_eq!(problem["detail"], expected);
    assert_eq!(problem["retry"], "safe");
}

#[tokio::test(start_paused = true)]
async fn every_write_that_the_description_knows_is_limited() {
    with_globex(OPERATORS, async |app| {
        let token = app.token_of("ops", "ada", everything());
        let call = async |method: &str, path: &str| app.call(method, path).by(&token).send().await;
        // One limited by user, one by credential.
        let post = app.call("POST", "/v1/conversations").by(&token).json(&json!({}));
        post.send().await.expect(201);
        call("DELETE", "/v1/admin/cache").await.expect(200);
        let writes = writes();
        assert!(writes.len() >= 13, "{writes:?}");
        for (method, path) in writes {
            let admin = path.starts_with("/v1/admin/") || path.starts_with("/v1/operator/");
            is_refused(call(&method, &path).await, if admin { "credential" } else { "user" });
        }
        // Reads and other users are not affected.
        call("GET", "/v1/conversations").await.expect(200);
        let bob = app.token_of("ops", "bob", Scopes::CHAT);
        let post = app.call("POST", "/v1/conversations").by(&bob).json(&json!({}));
        post.send().await.expect(201);
        tokio::time::sleep(std::time::Duration::from_secs(60)).await;
        let post = app.call("POST", "/v1/conversations").by(&token).json(&json!({}));
        post.send().await.expect(201);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn searches_are_limited_alone() {
    let limits = "[tenants.limits.per_user]\nwrites_per_minute = 1\nsearches_per_minute = 2";
    with_globex(limits, async |app| {
        let both: Scopes = ["chat", "knowledge"]
            .into_iter()
            .map(|name| name.parse::<Scopes>().unwrap())
            .collect();
        let token = app.token_of("globex", "ada", both);
        let search = async || {
            let call = app.call("POST", "/v1/knowledge/handbook/search").by(&token);
            call.json(&json!({"query": "refunds"})).send().await
        };
        let write = async || {
            let call = app.call("POST", "/v1/conversations").by(&token);
            call.json(&json!({})).send().await
        };
        search().await;
        write().await.expect(201);
        let refused = write().await;
        assert_eq!(refused.headers["ratelimit-policy"], "\"writes\";q=1;w=60");
        assert_ne!(search().await.status, 429, "writes leave searches alone");
        let refused = search().await;
        assert_eq!(refused.headers["ratelimit-policy"], "\"searches\";q=2;w=60");
        let problem = refused.problem(429, "rate_limited");
        assert_eq!(problem["detail"], "the user has reached its searches_per_minute limit");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_write_counts_before_its_body_is_read_and_whatever_becomes_of_it() {
    with_globex("[tenants.limits.per_user]\nwrites_per_minute = 4", async |app| {
        let token = app.token_of("globex", "ada", Scopes::CHAT);
        let post = |body: &'static str| {
            let call = app
                .call("POST", "/v1/conversations")
                .by(&token)
                .header("idempotency-key", "k");
            call.raw("application/json", body).send()
        };
        post("{}").await.expect(201);
        post("{}").await.expect(201);
        post("{\"title\": \"another\"}")
            .await
            .problem(409, "idempotency_key_reused");
        post("not json").await.problem(400, "malformed");
        // An endless body is not waited for.
        let endless = axum::body::Body::from_stream(futures::stream::pending::<std::io::Result<bytes::Bytes>>());
        let call = app
            .call("POST", "/v1/conversations")
            .by(&token)
            .raw("application/json", endless);
        call.send().await.problem(429, "rate_limited");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn all_users_of_a_tenant_share_a_wider_bucket_and_administrators_are_apart() {
    let limits = "[tenants.limits]\nwrites_per_minute = 3\nper_user = { writes_per_minute = 2 }";
    with_globex(limits, async |app| {
        let post = async |tenant: &str, user: &str| {
            let token = app.token_of(tenant, user, Scopes::CHAT);
            app.call("POST", "/v1/conversations")
                .by(&token)
                .json(&json!({}))
                .send()
                .await
        };
        for user in ["ada", "ada", "bob"] {
            post("globex", user).await.expect(201);
        }
        let problem = post("globex", "eve").await.problem(429, "rate_limited");
        assert_eq!(problem["detail"], "the tenant has reached its writes_per_minute limit");
        post("acme", "eve").await.expect(201);
        // Protective requests are not blocked by the users' flood.
        let admin = app.token_of("globex", "ada", Scopes::ADMIN);
        let key = json!({ "name": "n", "scopes": ["chat"] });
        let made = app
            .call("POST", "/v1/admin/api-keys")
            .by(&admin)
            .json(&key)
            .send()
            .await
            .expect(201);
        let path = format!("/v1/admin/api-keys/{}", made.text("/id"));
        app.call("DELETE", &path).by(&admin).send().await.expect(204);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn zero_switches_the_rate_off_and_a_reload_holds_at_once() {
    let limits = "[tenants.limits]\nwrites_per_minute = 0\nper_user = { writes_per_minute = 0 }";
    with_globex(limits, async |app| {
        let token = app.token_of("globex", "ada", Scopes::CHAT);
        let patch = async || {
            app.call("PATCH", "/v1/conversations/x")
                .by(&token)
                .json(&json!({}))
                .send()
                .await
        };
        for _ in 0..300 {
            patch().await.problem(404, "not_found");
        }
        let operator = app.token_of("acme", "root", Scopes::OPERATOR);
        let limits = json!({ "settings": { "limits": { "per_user": { "writes_per_minute": 1 } } } });
        let path = "/v1/operator/tenants/globex";
        app.call("PATCH", path)
            .by(&operator)
            .json(&limits)
            .send()
            .await
            .expect(200);
        patch().await.problem(404, "not_found");
        patch().await.problem(429, "rate_limited");
    })
    .await;
}
