//! Errors of the OpenAI-compatible API. Successful calls are tested with real clients
//! (`tests/clients/test_gateway.py`).

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use copilotd::config::Server;
use copilotd::http::credentials::Scopes;
use copilotd_actors::fakes::model::says;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::app::{TestApp, with_app, with_globex};
use super::client::Answer;
use super::wire;

/// Time after which a test has failed.
const DEADLINE: Duration = Duration::from_secs(20);

/// The OpenAI-compatible routes of the description.
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
        let huge = json!({ "model": "default", "messages": [{ "role": "user", "content": "x".repeat(5 << 20) }] });
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
            assert!(
                answer.headers["x-copilotd-attempts"]
                    .to_str()
                    .unwrap()
                    .parse::<u32>()
                    .unwrap()
                    > 0
            );
            assert!(!error.to_string().contains("127.0.0.1"), "{error}");
        }
    })
    .await;
}

#[tokio::test]
async fn limits_are_told_in_the_headers_of_both_worlds() {
    let limits = "[tenants.limits]\nrequests_per_minute = 3\ntokens_per_minute = 1000\n";
    with_globex(limits, async |app| {
        let token = app.token_of("globex", "ada", Scopes::GATEWAY);
        let body = |content: &str, max: u64| json!({ "model": "default", "max_tokens": max, "messages": [{ "role": "user", "content": content }] });
        // A request that can never fit its limit is refused at once.
        let huge = chat(app, &token, body("x", 5_000)).await;
        huge.error(400, "quota_exceeded");
        assert!(!huge.headers.contains_key("retry-after"));
        for _ in 0..3 {
            chat(app, &token, body("x", 10)).await.error(503, "upstream_unavailable");
        }
        let refused = chat(app, &token, body("x", 10)).await;
        refused.error(429, "rate_limit_exceeded");
        assert_eq!(refused.headers["retry-after"], "20");
        assert_eq!(refused.headers["x-ratelimit-limit-requests"], "3");
        assert_eq!(refused.headers["x-ratelimit-remaining-requests"], "0");
        assert_eq!(refused.headers["ratelimit-policy"], "\"requests\";q=3;w=60");
        // Another tenant has its own limits, and a header cannot change one's tenant.
        let other = app.token_of("acme", "ada", Scopes::GATEWAY);
        chat(app, &other, body("x", 5_000)).await.error(503, "upstream_unavailable");
        for (credential, claimed, status) in [(&token, "acme", 429), (&other, "globex", 503)] {
            let mut call = app.call("POST", "/v1/chat/completions").by(credential);
            for name in ["x-tenant-id", "x-copilotd-tenant", "openai-organization", "openai-project"] {
                call = call.header(name, claimed);
            }
            assert_eq!(call.json(&body("x", 10)).send().await.status, status, "{claimed}");
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn turns_count_against_request_limits() {
    let limits = "[tenants.limits.per_user]\nrequests_per_minute = 2\n";
    with_globex(limits, async |app| {
        app.model.on("hi", &[says(&["hello"], Duration::ZERO)]);
        for (user, allowed) in [("ada", 2), ("bob", 2)] {
            let token = app.token_of("globex", user, Scopes::CHAT);
            let made = app
                .call("POST", "/v1/conversations")
                .by(&token)
                .json(&json!({}))
                .send()
                .await;
            let turns = format!("/v1/conversations/{}/turns", made.expect(201).text("/id"));
            let submit = || {
                app.call("POST", &turns)
                    .by(&token)
                    .json(&json!({ "input": "hi" }))
                    .send()
            };
            for _ in 0..allowed {
                submit().await.expect(202);
            }
            let refused = submit().await;
            assert_eq!(refused.headers["retry-after"], "30");
            assert_eq!(refused.headers["ratelimit"], "\"requests\";r=0;t=60");
            refused.problem(429, "rate_limited");
        }
    })
    .await;
}

/// A simulated provider, and the application behind a socket, whose route `sim` leads there.
async fn served(test: impl AsyncFnOnce(&TestApp, SocketAddr, &str)) {
    let provider = copilotd_sim::openai::start((Ipv4Addr::LOCALHOST, 0).into())
        .await
        .unwrap();
    let url = provider.base_url();
    let route = format!(
        r#"
        [[providers]]
        name = "sim"
        kind = "openai"
        base_url = "{url}/v1"
        api_key = {{ value = "none" }}
        [[routes]]
        name = "sim"
        targets = [{{ provider = "sim", model = "gpt", context_tokens = 128000 }}]
        timeouts = {{ first_token_ms = 60000, idle_ms = 60000, total_ms = 60000 }}
        [[routes]]
        name = "kept"
        targets = [{{ provider = "sim", model = "gpt", context_tokens = 128000 }}]
        cache = {{ mode = "exact", audience = "role" }}
        "#
    );
    with_globex(&route, async |app| {
        let server = Server {
            header_timeout: DEADLINE,
            ..Server::default()
        };
        wire::serve(app, &server, async |wire| test(app, wire.address, url).await).await;
    })
    .await;
}

#[tokio::test]
async fn a_client_that_leaves_takes_the_providers_work_along() {
    served(async |app, address, provider| {
        let token = app.token_of("acme", "ada", Scopes::GATEWAY);
        let state = async || -> Value {
            let answer = reqwest::get(format!("{provider}/_sim/state")).await.unwrap();
            answer.json().await.unwrap()
        };
        let (silent, stalled) = ("first_ms=60000 text=a", "stall_after=2 text=a b c d");
        for (number, (stream, mode, says, reads)) in [
            (false, "live", silent, false),
            (true, "live", silent, false),
            (true, "buffered", silent, false),
            (true, "buffered", stalled, false),
            (true, "live", stalled, true),
        ]
        .into_iter()
        .enumerate()
        {
            let body = json!({ "model": "sim", "stream": stream, "messages": [{ "role": "user", "content": format!("[[sim {says}]]") }] })
                .to_string();
            let request = format!(
                "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\nx-copilotd-mode: {mode}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
                body.len()
            );
            let mut socket = TcpStream::connect(address).await.unwrap();
            socket.write_all(request.as_bytes()).await.unwrap();
            let mut read = Vec::new();
            while reads && !String::from_utf8_lossy(&read).contains("\"content\":\"a") {
                assert_ne!(socket.read_buf(&mut read).await.unwrap(), 0, "{}", String::from_utf8_lossy(&read));
            }
            let waits = async |done: &dyn Fn(&Value) -> bool| {
                tokio::time::timeout(DEADLINE, async { while !done(&state().await) {} }).await
            };
            waits(&|state| state["open_streams"] == 1).await.expect("the provider is asked");
            drop(socket);
            let closed = |state: &Value| state["open_streams"] == 0 && state["closed_by_client"]["count"] == number + 1;
            waits(&closed).await.expect("the provider is let go");
        }
    })
    .await;
}

#[tokio::test]
async fn who_may_do_the_same_shares_answers_to_the_same_knowledge() {
    served(async |app, _, provider| {
        let by = |user: &str, scopes| app.token_of("acme", user, scopes);
        let (ada, bob) = (by("ada", Scopes::GATEWAY), by("bob", Scopes::GATEWAY));
        let root = by("root", Scopes::GATEWAY | Scopes::ADMIN);
        let question = json!([{ "role": "user", "content": "What is our policy? [[sim text=Be kind]]" }]);
        let body = json!({ "model": "kept", "messages": question }).to_string();
        for (who, version, expected) in [
            (&ada, None, "miss"),
            (&ada, None, "hit"),
            (&bob, None, "hit"),
            (&root, None, "miss"),
            (&root, Some("docs 7"), "miss"),
            (&root, Some("docs 7"), "hit"),
            (&bob, Some("docs 7"), "miss"),
            (&bob, None, "hit"),
        ] {
            let mut call = app.call("POST", "/v1/chat/completions").by(who);
            if let Some(version) = version {
                call = call.header("x-copilotd-knowledge-version", version);
            }
            let answer = call.raw("application/json", body.clone()).send().await;
            assert_eq!(answer.headers["x-copilotd-cache"], expected, "{version:?}");
            assert_eq!(answer.expect(200).json()["choices"][0]["message"]["content"], "Be kind");
        }
        let state: Value = reqwest::get(format!("{provider}/_sim/state"))
            .await
            .unwrap()
            .json()
            .await
            .unwrap();
        assert_eq!(state["requests"], 4, "{state}");
        let long = "x".repeat(129);
        let call = app.call("POST", "/v1/chat/completions").by(&ada);
        let call = call.header("x-copilotd-knowledge-version", &long);
        let error = call.raw("application/json", body).send().await;
        assert_eq!(
            (error.status, &error.json()["error"]["param"]),
            (400, &json!("x-copilotd-knowledge-version"))
        );
    })
    .await;
}
