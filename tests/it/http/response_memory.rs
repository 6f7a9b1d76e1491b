//! Invariants of every route: memory for the response is reserved before anything is done, and slow bodies time out.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::{Method, Request};
use axum::response::Response;
use bytes::Bytes;
use copilotd::config::Server;
use copilotd::http::account::Budgets;
use copilotd::surfaces::router::{admin_router, router};
use copilotd::surfaces::state::AppState;
use serde_json::{Value, json};
use tower::ServiceExt as _;

use super::app::{TestApp, with_app};

/// Operations whose responses are small or built from the request, or that reserve memory later: see `surfaces::answer_memory`.
const OWN: [&str; 32] = [
    "DELETE /v1/admin/api-keys/{id}",
    "DELETE /v1/admin/cache",
    "DELETE /v1/admin/revocations/{id}",
    "DELETE /v1/conversations/{id}",
    "DELETE /v1/files/{id}",
    "DELETE /v1/knowledge/{collection}/documents/{external_id}",
    "DELETE /v1/memory/facts/{id}",
    "DELETE /v1/operator/tenants/{id}",
    "GET /healthz",
    "GET /problems/{code}",
    "GET /readyz",
    "GET /v1/admin/knowledge/sources",
    "GET /v1/conversations/{id}/events",
    "GET /v1/files/{id}",
    "GET /v1/jobs/{id}",
    "GET /v1/jobs/{id}/result",
    "GET /v1/models",
    "GET /v1/models/{id}",
    "GET /widget.js",
    "GET /widget/{file}",
    "PATCH /v1/conversations/{id}",
    "PATCH /v1/memory/facts/{id}",
    "POST /v1/admin/api-keys",
    "POST /v1/admin/exports",
    "POST /v1/admin/revocations",
    "POST /v1/chat/completions",
    "POST /v1/conversations",
    "POST /v1/stream-tickets",
    "POST /v1/conversations/{id}/turns",
    "POST /v1/embeddings",
    "POST /v1/files",
    // No credential needed: charged to the address, as the next test shows.
    "GET /metrics",
];
/// An eighth of this is a user's share, and a 64th an address's.
const ANSWERS: usize = 1024 * 1024;

/// A router with little memory for responses.
fn narrow(app: &TestApp) -> (Router, AppState) {
    let server = Server {
        answer_memory_bytes: ANSWERS,
        ..Server::default()
    };
    let state = app.app.state.with_budgets(Budgets::new(&server));
    (router(state.clone()), state)
}

async fn ask(router: &Router, method: &str, path: &str, token: Option<&str>, body: Option<&Value>) -> Response {
    send(router, method, path, token, body, None).await
}

async fn ask_from(router: &Router, address: &str, path: &str) -> Response {
    send(router, "GET", path, None, None, Some(address)).await
}

async fn send(
    router: &Router,
    method: &str,
    path: &str,
    token: Option<&str>,
    body: Option<&Value>,
    address: Option<&str>,
) -> Response {
    let mut request = Request::builder()
        .method(Method::from_bytes(method.as_bytes()).unwrap())
        .uri(path);
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    if body.is_some() {
        request = request
            .header("content-type", "application/json")
            .header("idempotency-key", "one");
    }
    let mut request = request
        .body(body.map_or_else(Body::empty, |body| body.to_string().into()))
        .unwrap();
    if let Some(address) = address {
        let address: SocketAddr = format!("{address}:1").parse().unwrap();
        request.extensions_mut().insert(ConnectInfo(address));
    }
    router.clone().oneshot(request).await.unwrap()
}

/// Ada's token with every scope, and an unread page of hers, which leaves memory for a change but not for a page.
async fn unread_page(app: &TestApp, router: &Router) -> (String, String, Response) {
    let token = app.signed("acme", "ada", "chat gateway knowledge admin operator");
    let conversation = app.conversation().await;
    app.answered(&conversation, &"- ".repeat(30_000)).await;
    let page = ask(router, "GET", &format!("{conversation}/messages"), Some(&token), None).await;
    assert_eq!(page.status(), 200);
    (token, conversation, page)
}

#[tokio::test(start_paused = true)]
async fn every_route_reserves_memory() {
    with_app(async |app| {
        let (router, state) = narrow(app);
        let (token, _, page) = unread_page(app, &router).await;
        let document = app.call("GET", "/openapi.json").send().await.expect(200).json();
        let mut own = BTreeSet::new();
        for (path, operations) in document["paths"].as_object().unwrap() {
            for method in ["GET", "POST", "PUT", "PATCH", "DELETE"] {
                if operations.get(method.to_lowercase()).is_none() || path == "/openapi.json" {
                    continue;
                }
                let called = called(path);
                let answer = ask(&router, method, &called, Some(&token), None).await;
                if answer.status() != 429 {
                    own.insert(format!("{method} {path}"));
                }
            }
        }
        let known: BTreeSet<String> = OWN.iter().map(|&known| known.to_owned()).collect();
        assert_eq!(
            own, known,
            "routes that were not refused without room, and those that need not be"
        );
        drop(page);
        assert_eq!(state.budgets.answers.in_use(), 0);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_needs_no_credential_is_paid_by_its_address() {
    with_app(async |app| {
        let (router, state) = narrow(app);
        let first = ask_from(&router, "192.0.2.1", "/openapi.json").await;
        assert_eq!(first.status(), 200);
        for path in ["/openapi.json", "/metrics"] {
            assert_eq!(ask_from(&router, "192.0.2.1", path).await.status(), 429, "{path}");
            assert_eq!(ask_from(&router, "192.0.2.2", path).await.status(), 200, "{path}");
        }
        assert_eq!(ask_from(&router, "192.0.2.1", "/healthz").await.status(), 200);
        drop(first);
        assert_eq!(ask_from(&router, "192.0.2.1", "/openapi.json").await.status(), 200);
        assert_eq!(state.budgets.answers.in_use(), 0);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn the_copy_of_a_submission_takes_room_for_its_turn() {
    with_app(async |app| {
        let (router, state) = narrow(app);
        let token = app.token("ada");
        let conversation = app.conversation().await;
        let (turns, body) = (format!("{conversation}/turns"), json!({ "input": "- ".repeat(30_000) }));
        let submit = || ask(&router, "POST", &turns, Some(&token), Some(&body));
        let made = submit().await;
        assert_eq!(made.status(), 202);
        let turn = made.headers()["location"].to_str().unwrap().to_owned();
        app.turn_is(&turn, "completed").await;
        drop(made);
        let unread = submit().await;
        assert_eq!(unread.status(), 202);
        let in_use = state.budgets.answers.in_use() + state.budgets.changes.in_use();
        assert!(in_use >= 60_000, "{in_use}");
        // A second page does not fit; nothing was done, and the request can be retried.
        assert_eq!(submit().await.status(), 429);
        drop(unread);
        assert_eq!(submit().await.status(), 202);
        assert_eq!(state.budgets.answers.in_use(), 0);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn the_admin_port_keeps_accounts_of_its_own() {
    with_app(async |app| {
        let (_, state) = narrow(app);
        let admin = admin_router(state.clone());
        let mut unread = Vec::new();
        loop {
            let answer = ask_from(&admin, "192.0.2.1", "/metrics").await;
            if answer.status() != 200 {
                assert_eq!(answer.status(), 429);
                break;
            }
            unread.push(answer);
            assert!(unread.len() < 1_000, "nothing bounds them");
        }
        assert_eq!(ask_from(&admin, "192.0.2.2", "/metrics").await.status(), 200);
        // The public port is not affected, and vice versa.
        assert_eq!(
            (state.budgets.requests.in_use(), state.budgets.answers.in_use()),
            (0, 0)
        );
        drop(unread);
        assert_eq!(ask_from(&admin, "192.0.2.1", "/readyz").await.status(), 200);
    })
    .await;
}

/// The path filled with well-formed ids.
fn called(path: &str) -> String {
    let prefix = match path {
        _ if path.starts_with("/v1/conversations/") => "conv_",
        _ if path.starts_with("/v1/turns/") => "turn_",
        _ if path.starts_with("/v1/jobs/") => "job_",
        _ if path.starts_with("/v1/admin/api-keys/") => "key_",
        _ if path.starts_with("/v1/admin/revocations/") => "rev_",
        _ if path.starts_with("/v1/memory/facts/") => "fact_",
        _ => "",
    };
    path.replace("{id}", &format!("{prefix}01890000000070008000000000000001"))
        .replace("{call_id}", "call_01890000000070008000000000000002")
        .replace("{chunk_id}", "chunk_01890000000070008000000000000003")
        .replace("{collection}", "handbook")
        .replace("{external_id}", "1")
}

/// A body of unknown length that sends a byte every second, for hours.
fn trickle() -> Body {
    let pieces = futures::stream::unfold((), |()| async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        Some((Ok::<_, Infallible>(Bytes::from_static(b" ")), ()))
    });
    Body::from_stream(pieces)
}

#[tokio::test(start_paused = true)]
async fn no_route_waits_for_a_body_that_trickles() {
    with_app(async |app| {
        let router = &app.router;
        let token = app.signed("acme", "ada", "chat gateway knowledge admin operator");
        let document = app.call("GET", "/openapi.json").send().await.expect(200).json();
        let mut timed_out = 0;
        for (path, operations) in document["paths"].as_object().unwrap() {
            for method in ["GET", "POST", "PUT", "PATCH", "DELETE"] {
                let Some(operation) = operations.get(method.to_lowercase()) else {
                    continue;
                };
                let called = called(path);
                let media_type = match path.as_str() {
                    "/v1/files" => "multipart/form-data; boundary=b",
                    _ => "application/json",
                };
                let request = Request::builder()
                    .method(Method::from_bytes(method.as_bytes()).unwrap())
                    .uri(&called)
                    .header("authorization", format!("Bearer {token}"))
                    .header("content-type", media_type)
                    .body(trickle())
                    .unwrap();
                let begun = tokio::time::Instant::now();
                let answer = router.clone().oneshot(request).await.unwrap();
                // The test application allows 20 s per body.
                assert!(
                    begun.elapsed() <= Duration::from_secs(21),
                    "{method} {path}: {:?}",
                    begun.elapsed()
                );
                if operation.get("requestBody").is_some() {
                    assert_eq!(answer.status(), 408, "{method} {path}");
                    timed_out += 1;
                } else {
                    assert_ne!(answer.status(), 408, "{method} {path}");
                    assert!(
                        begun.elapsed() < Duration::from_secs(3),
                        "{method} {path} has no body to wait for"
                    );
                }
            }
        }
        assert!(timed_out >= 10, "{timed_out}");
    })
    .await;
}
