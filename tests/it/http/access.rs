//! Access control: every route with every kind of invalid credential and with ids that are not the caller's.

use copilotd::http::credentials::Scopes;
use serde_json::{Value, json};

use super::app::{KEY, TestApp, with_app};

/// A route with a valid body.
pub struct Route {
    pub method: &'static str,
    pub path: &'static str,
    body: Option<Value>,
}

pub fn routes() -> Vec<Route> {
    let route = |method, path, body| Route { method, path, body };
    vec![
        route("GET", "/v1/conversations", None),
        route("POST", "/v1/conversations", Some(json!({}))),
        route("GET", "/v1/conversations/{conversation}", None),
        route(
            "PATCH",
            "/v1/conversations/{conversation}",
            Some(json!({ "title": "mine" })),
        ),
        route("DELETE", "/v1/conversations/{conversation}", None),
        route("GET", "/v1/conversations/{conversation}/messages", None),
        route(
            "POST",
            "/v1/conversations/{conversation}/turns",
            Some(json!({ "input": "hello" })),
        ),
        route("GET", "/v1/conversations/{conversation}/events", None),
        route("GET", "/v1/turns/{turn}", None),
        route("POST", "/v1/turns/{turn}/cancel", None),
        route(
            "POST",
            "/v1/turns/{turn}/approvals/{call}",
            Some(json!({ "decision": "approve" })),
        ),
        route(
            "POST",
            "/v1/turns/{turn}/client-tools/{call}",
            Some(json!({ "claim": true })),
        ),
        route("POST", "/v1/turns/{turn}/feedback", Some(json!({ "rating": 1 }))),
        route("GET", "/v1/turns/{turn}/feedback", None),
        route("GET", "/v1/turns/{turn}/events", None),
        route(
            "POST",
            "/v1/stream-tickets",
            Some(json!({ "conversation_id": "{conversation}" })),
        ),
    ]
}

/// Resources of ada of acme.
struct Ids {
    conversation: String,
    turn: String,
    call: String,
}

impl Ids {
    fn fill(&self, text: &str) -> String {
        text.replace("{conversation}", &self.conversation)
            .replace("{turn}", &self.turn)
            .replace("{call}", &self.call)
    }
}

/// A conversation of ada whose only turn waits for an approval.
async fn waiting(app: &TestApp) -> Ids {
    use copilotd_actors::fakes::model::{calls, says};
    let arguments = json!({ "subject": "A ticket", "body": "Words" });
    app.model.on(
        "please",
        &[
            calls(&[("zendesk_create_ticket", arguments)]),
            says(&["done"], std::time::Duration::ZERO),
        ],
    );
    app.system("zendesk");
    let conversation = app.conversation().await;
    let turn = app.submit(&conversation, "please").await;
    let view = app.turn_is(&turn, "awaiting_approval").await;
    Ids {
        conversation: conversation.rsplit('/').next().unwrap().to_owned(),
        turn: turn.rsplit('/').next().unwrap().to_owned(),
        call: view["tool_calls"][0]["id"].as_str().unwrap().to_owned(),
    }
}

async fn send(app: &TestApp, route: &Route, ids: &Ids, credential: Option<&str>) -> super::client::Answer {
    let mut call = app.call(route.method, &ids.fill(route.path));
    if let Some(credential) = credential {
        call = call.by(credential);
    }
    if let Some(body) = &route.body {
        call = call.raw("application/json", ids.fill(&body.to_string()));
    }
    call.send().await
}

#[tokio::test(start_paused = true)]
async fn every_route_refuses_wrong_credentials() {
    with_app(async |app| {
        let ids = waiting(app).await;
        let before = app.log.commits();
        let other = Scopes::GATEWAY | Scopes::KNOWLEDGE | Scopes::OPERATOR;
        for route in routes() {
            let said = format!("{} {}", route.method, route.path);
            let answer = send(app, &route, &ids, None).await;
            assert!(answer.headers.contains_key("www-authenticate"), "{said}");
            answer.problem(401, "unauthenticated");
            send(app, &route, &ids, Some("nonsense"))
                .await
                .problem(401, "unauthenticated");
            let signed_by_another = app.token_of("globex", "ada", Scopes::CHAT).replace('.', ".A");
            send(app, &route, &ids, Some(&signed_by_another))
                .await
                .problem(401, "unauthenticated");
            let scoped = app.token_of("acme", "ada", other);
            let answer = send(app, &route, &ids, Some(&scoped)).await;
            let challenge = answer.headers["www-authenticate"].to_str().unwrap().to_owned();
            assert!(
                challenge.contains("insufficient_scope") && challenge.contains("chat"),
                "{said}"
            );
            answer.problem(403, "forbidden");
        }
        assert_eq!(app.log.commits(), before, "nothing was changed");
        cancel(app, &ids).await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn other_users_resources_are_not_found() {
    with_app(async |app| {
        let ids = waiting(app).await;
        let nowhere = Ids {
            conversation: format!("conv_{}", "0".repeat(32)),
            turn: format!("turn_{}", "0".repeat(32)),
            call: format!("call_{}", "0".repeat(32)),
        };
        let before = app.log.commits();
        for (tenant, user) in [("acme", "bob"), ("globex", "ada"), ("globex", "bob")] {
            let token = app.token_of(tenant, user, Scopes::CHAT);
            for route in routes().iter().filter(|route| route.path != "/v1/conversations") {
                let foreign = send(app, route, &ids, Some(&token)).await;
                let unknown = send(app, route, &nowhere, Some(&token)).await;
                let names = |answer: &super::client::Answer| {
                    let mut names: Vec<String> = answer.headers.keys().map(|name| name.to_string()).collect();
                    names.sort();
                    names
                };
                assert_eq!(names(&foreign), names(&unknown), "{}", foreign.said);
                let (mut foreign, mut unknown) = (foreign.problem(404, "not_found"), unknown.problem(404, "not_found"));
                (foreign["request_id"], unknown["request_id"]) = (Value::Null, Value::Null);
                assert_eq!(foreign, unknown, "the two cannot be told apart");
            }
        }
        assert_eq!(app.log.commits(), before, "nothing was changed");
        cancel(app, &ids).await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_malformed_id_is_not_found() {
    with_app(async |app| {
        let zeros = "0".repeat(32);
        let bad = [
            "x".to_owned(),
            zeros.clone(),
            format!("conv_{}", "0".repeat(31)),
            format!("conv_{}", "0".repeat(33)),
            format!("conv_{}A", "0".repeat(31)),
            format!("turn_{}g", "0".repeat(31)),
            format!("CONV_{zeros}"),
            "conv_00000000-0000-0000-0000-000000000000".to_owned(),
            "%00".to_owned(),
            "%ff%fe".to_owned(),
            "..%2f..%2fetc".to_owned(),
            "'%20or%201=1".to_owned(),
            "{$gt:0}".replace(['{', '}', '$'], "%7b"),
            "a".repeat(5_000),
        ];
        let token = app.token("ada");
        for id in bad {
            let ids = Ids {
                conversation: id.clone(),
                turn: id.clone(),
                call: id.clone(),
            };
            for route in routes().iter().filter(|route| route.path.contains('{')) {
                send(app, route, &ids, Some(&token)).await.problem(404, "not_found");
            }
        }
        assert_eq!(app.log.attempts(), 0);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_administrator_decides_and_reads_but_does_not_act_as_the_user() {
    with_app(async |app| {
        let ids = waiting(app).await;
        let admin = app.token_of("acme", "root", Scopes::CHAT | Scopes::ADMIN);
        let foreign_admin = app.token_of("globex", "root", Scopes::CHAT | Scopes::ADMIN);
        for route in routes().iter().filter(|route| route.path != "/v1/conversations") {
            send(app, route, &ids, Some(&foreign_admin))
                .await
                .problem(404, "not_found");
            let decides = route.path.contains("approvals");
            let reads_turn = route.method == "GET" && route.path == "/v1/turns/{turn}";
            if !decides && !reads_turn {
                send(app, route, &ids, Some(&admin)).await.problem(404, "not_found");
            }
        }
        let only_admin = app.token_of("acme", "root", Scopes::ADMIN);
        let decide = format!("/v1/turns/{}/approvals/{}", ids.turn, ids.call);
        let answer = app
            .call("POST", &decide)
            .by(&only_admin)
            .json(&json!({ "decision": "reject", "reason": "no" }));
        let turn = answer.send().await.expect(202).json();
        assert_eq!(turn["tool_calls"][0]["status"], "rejected");
        app.turn_is(&format!("/v1/turns/{}", ids.turn), "completed").await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_api_key_acts_for_whom_it_names() {
    with_app(async |app| {
        let by_key = |method, path: &str, user: &str| {
            let call = app.call(method, path).by(KEY);
            if user.is_empty() {
                call
            } else {
                call.header("x-copilotd-user", user)
            }
        };
        let create = async |user: &str| by_key("POST", "/v1/conversations", user).json(&json!({})).send().await;
        assert_eq!(create("").await.expect(201).text("/user"), "key:backend");
        let made = create("ada").await.expect(201);
        assert_eq!(made.text("/user"), "ada");
        let path = format!("/v1/conversations/{}", made.text("/id"));
        assert_eq!(app.get(&path).await.expect(200).text("/user"), "ada");
        by_key("GET", &path, "bob").send().await.problem(404, "not_found");
        by_key("GET", &path, "").send().await.problem(404, "not_found");
        for reserved in ["key:backup", "a\u{7}b", &"x".repeat(257)] {
            let call = app.call("GET", &path).by(KEY);
            if let Ok(value) = axum::http::HeaderValue::from_bytes(reserved.as_bytes()) {
                call.header("x-copilotd-user", value.to_str().unwrap())
                    .send()
                    .await
                    .problem(422, "invalid");
            }
        }
        let other = app.ada("GET", &path).header("x-copilotd-user", "bob");
        other.send().await.problem(403, "forbidden");
        app.ada("GET", &path)
            .header("x-copilotd-user", "ada")
            .send()
            .await
            .expect(200);
    })
    .await;
}

async fn cancel(app: &TestApp, ids: &Ids) {
    app.ada("POST", &format!("/v1/turns/{}/cancel", ids.turn))
        .send()
        .await
        .expect(202);
}
