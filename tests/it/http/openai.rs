//! OpenAI's protocol as its clients see it when something is wrong. What goes well is shown by those clients themselves
//! (`tests/clients/test_gateway.py`).

use copilotd::http::auth::Scopes;
use serde_json::{Value, json};

use super::app::{TestApp, with_app};
use super::client::Answer;

/// The routes of the protocol, as they are described.
pub const ROUTES: [(&str, &str); 4] = [
    ("POST", "/v1/chat/completions"),
    ("POST", "/v1/embeddings"),
    ("GET", "/v1/models"),
    ("GET", "/v1/models/{id}"),
];

impl Answer {
    fn error(&self, status: u16, code: &str) -> Value {
        assert_eq!(self.status, status, "{}", self.json());
        let error = self.json()["error"].take();
        assert_eq!(error["code"], code, "{error}");
        error
    }
}

async fn chat(app: &TestApp, credential: &str, body: impl ToString) -> Answer {
    let call = app.call("POST", "/v1/chat/completions").by(credential);
    call.raw("application/json", body.to_string()).send().await
}

#[tokio::test(start_paused = true)]
async fn every_error_has_the_protocols_shape() {
    with_app(async |app| {
        let chats = app.token("ada");
        for (method, path) in ROUTES {
            let path = path.replace("{id}", "default");
            let call = || app.call(method, &path).raw("application/json", "{}".to_owned());
            call().send().await.error(401, "invalid_api_key");
            call().by("nonsense").send().await.error(401, "invalid_api_key");
            call().by(&chats).send().await.error(403, "insufficient_permissions");
        }
        let token = app.token_of("acme", "ada", Scopes::GATEWAY);
        let wrong = app.call("DELETE", "/v1/chat/completions").by(&token).send().await;
        wrong.error(405, "method_not_allowed");
        for (body, param) in [
            ("{".to_owned(), Value::Null),
            ("[]".to_owned(), Value::Null),
            (
                r#"{"model":"default","model":"default","messages":[]}"#.to_owned(),
                Value::Null,
            ),
            (json!({ "messages": [] }).to_string(), json!("model")),
            (json!({ "model": "default" }).to_string(), json!("messages")),
            (
                json!({ "model": "default", "messages": [], "stream": "yes" }).to_string(),
                json!("stream"),
            ),
            (json!({ "model": 5, "messages": [] }).to_string(), json!("model")),
        ] {
            let answer = chat(app, &token, &body).await;
            assert_eq!(answer.status, 400, "{body}");
            assert_eq!(answer.json()["error"]["param"], param, "{body}");
        }
        chat(app, &token, json!({ "model": "nope", "messages": [] }))
            .await
            .error(404, "model_not_found");
        let huge = json!({ "model": "default", "messages": [{ "role": "user", "content": "x".repeat(17 << 20) }] });
        chat(app, &token, huge).await.error(413, "too_large");
        let by = |path: &str| app.call("GET", path).by(&token);
        by("/v1/models/nope").send().await.error(404, "model_not_found");
        by("/v1/models/main/nope").send().await.error(404, "model_not_found");
        let named = by("/v1/models/main/fake-1").send().await;
        assert_eq!(named.json()["id"], "main/fake-1");
        let listed = by("/v1/models").send().await;
        let list = listed.json();
        let ids: Vec<&str> = list["data"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(|m| m["id"].as_str())
            .collect();
        assert_eq!(ids, ["default", "main/fake-1"]);
        assert_eq!(listed.headers["cache-control"], "no-store");
    })
    .await;
}

#[tokio::test]
async fn a_provider_that_is_not_there_is_a_503_for_streams_too() {
    with_app(async |app| {
        let token = app.token_of("acme", "ada", Scopes::GATEWAY);
        for stream in [false, true] {
            let body =
                json!({ "model": "default", "stream": stream, "messages": [{ "role": "user", "content": "x" }] });
            let answer = chat(app, &token, body).await;
            let error = answer.error(503, "upstream_unavailable");
            assert_eq!(error["type"], "server_error");
            assert!(!error.to_string().contains("127.0.0.1"), "{error}");
        }
    })
    .await;
}
