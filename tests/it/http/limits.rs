//! Responses while the store of shared limits is unreachable.

use copilotd::http::credentials::Scopes;
use serde_json::json;

use super::app::with_globex;

#[tokio::test]
async fn a_budget_that_cannot_be_checked_refuses_the_call() {
    // Nothing listens there.
    let change = r#"
        [tenants.limits]
        usd_per_day = 10.0
        [limits]
        store = "redis"
        url = { value = "redis://127.0.0.1:1" }
    "#;
    with_globex(change, async |app| {
        // Other processes would be affected too, so this one stays ready.
        let ready = app.call("GET", "/readyz").send().await.expect(200).json();
        assert_eq!(ready["dependencies"]["limits"], "unavailable");
        let token = app.token_of("globex", "ada", Scopes::CHAT);
        let post = |path: &str, body| app.call("POST", path).by(&token).json(&body).send();
        let made = post("/v1/conversations", json!({})).await.expect(201);
        let turns = format!("/v1/conversations/{}/turns", made.text("/id"));
        let refused = post(&turns, json!({ "input": "hi" })).await;
        assert_eq!(refused.headers["retry-after"], "1");
        let problem = refused.problem(503, "unavailable");
        assert_eq!(problem["detail"], "the budget cannot be checked at the moment");
        // Tenants without limits are not affected.
        let made = app.post("/v1/conversations", json!({})).await.expect(201);
        let turns = format!("/v1/conversations/{}/turns", made.text("/id"));
        app.post(&turns, json!({ "input": "hi" })).await.expect(202);
        let gateway = app.token_of("globex", "ada", Scopes::GATEWAY);
        let body = json!({ "model": "default", "messages": [{ "role": "user", "content": "x" }] });
        let chat = app.call("POST", "/v1/chat/completions").by(&gateway).json(&body);
        let refused = chat.send().await.expect(503);
        assert_eq!(refused.json()["error"]["code"], "unavailable");
        assert_eq!(refused.headers["retry-after"], "1");
    })
    .await;
}
