//! Request bodies in memory: limits per caller and in total.

use std::time::Duration;

use copilotd::config::Server;
use copilotd::http::credentials::Scopes;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::app::{with_app, with_globex};
use super::wire::{Wire, serve, until};

/// Bytes that one user may hold: an eighth of the whole.
const SHARE: usize = 1 << 20;
/// Bytes of a body: the maximum of the test application.
const BODY: usize = 190_000;

fn bounds() -> Server {
    Server {
        body_memory_bytes: 8 * SHARE,
        body_timeout: Duration::from_secs(60),
        ..Server::default()
    }
}

fn head(token: &str, length: &str) -> String {
    format!(
        "POST /v1/conversations HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\ncontent-type: application/json\r\n\
         connection: close\r\n{length}\r\n\r\n"
    )
}

async fn status_line(socket: &mut TcpStream) -> String {
    let mut answer = [0; 13];
    socket.read_exact(&mut answer).await.unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

async fn create(wire: &Wire, token: &str) -> u16 {
    let request = reqwest::Client::new().post(format!("http://{}/v1/conversations", wire.address));
    let request = request.bearer_auth(token).json(&json!({}));
    request.send().await.unwrap().status().as_u16()
}

#[tokio::test]
async fn a_caller_fills_its_share_of_memory_and_no_more() {
    with_app(async |app| {
        serve(app, &bounds(), async |wire| {
            let token = app.token("ada");
            for (length, chunk) in [
                (format!("content-length: {BODY}"), "x".repeat(1000)),
                (
                    "transfer-encoding: chunked".to_owned(),
                    format!("{BODY:x}\r\n{}", "x".repeat(BODY - 1)),
                ),
            ] {
                let mut sockets = Vec::new();
                for _ in 0..20 {
                    let mut socket = wire.connect().await;
                    socket.write_all(head(&token, &length).as_bytes()).await.unwrap();
                    socket.write_all(chunk.as_bytes()).await.unwrap();
                    sockets.push(socket);
                    assert!(
                        wire.budgets.bodies.in_use() <= SHARE,
                        "{}",
                        wire.budgets.bodies.in_use()
                    );
                }
                // Some are refused; other callers are not affected.
                let answers = sockets.iter_mut().map(|socket| Box::pin(status_line(socket)));
                let (first, _, _) = futures::future::select_all(answers).await;
                assert_eq!(first, "HTTP/1.1 429 ");
                assert_eq!(create(wire, &app.token("bob")).await, 201);
                assert!(wire.budgets.bodies.in_use() <= SHARE);
                drop(sockets);
                until("all is given back", || wire.budgets.bodies.in_use() == 0).await;
                assert_eq!(create(wire, &token).await, 201);
            }
        })
        .await;
    })
    .await;
}

#[tokio::test]
async fn without_a_credential_no_body_is_read() {
    with_app(async |app| {
        serve(app, &bounds(), async |wire| {
            let mut socket = wire.connect().await;
            let head = head("wrong", &format!("content-length: {BODY}"));
            socket.write_all(head.as_bytes()).await.unwrap();
            assert_eq!(status_line(&mut socket).await, "HTTP/1.1 401 ");
            assert_eq!(wire.budgets.bodies.in_use(), 0);
        })
        .await;
    })
    .await;
}

#[tokio::test]
async fn a_body_of_too_many_values_is_refused_before_it_is_parsed() {
    with_app(async |app| {
        for value in ["[]", "{}"] {
            let body = format!("[{}{value}]", format!("{value},").repeat(60_000));
            let call = app.ada("POST", "/v1/conversations").raw("application/json", body);
            call.send().await.problem(413, "too_large");
        }
    })
    .await;
}

#[tokio::test]
async fn large_prompts_are_for_tenants_that_ask_for_them() {
    // Globex's limits allow them, acme's do not.
    with_globex("[tenants.limits]\nbody_bytes = 6000000\n", async |app| {
        let body = |bytes: usize| {
            let message = json!({ "role": "user", "content": "x".repeat(bytes) });
            json!({ "model": "nope", "messages": [message] })
        };
        for (tenant, bytes, status, code) in [
            ("acme", 3 << 20, 404, "model_not_found"),
            ("acme", 5 << 20, 413, "too_large"),
            ("globex", 5 << 20, 404, "model_not_found"),
            ("globex", 6_000_000, 413, "too_large"),
        ] {
            let token = app.token_of(tenant, "ada", Scopes::GATEWAY);
            let call = app.call("POST", "/v1/chat/completions").by(&token);
            let answer = call.json(&body(bytes)).send().await;
            let error: Value = answer.json();
            assert_eq!(answer.status, status, "{tenant} {bytes}: {error}");
            assert_eq!(error["error"]["code"], code, "{tenant} {bytes}");
        }
    })
    .await;
}
