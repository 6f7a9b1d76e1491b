//! Behaviour that needs a real connection: slow clients, and the bytes on the wire.

use std::net::SocketAddr;
use std::time::Duration;

use copilotd::config::Server;
use copilotd_actors::fakes::model::says;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::app::{TestApp, with_app};
use super::wire;

/// Timeouts for slow clients, short enough for a test.
const DEADLINE: Duration = Duration::from_millis(300);

/// Serves the application on a socket while `test` runs.
async fn served(test: impl AsyncFnOnce(&TestApp, SocketAddr)) {
    with_app(async |app| {
        let server = Server {
            header_timeout: DEADLINE,
            body_timeout: DEADLINE,
            ..Server::default()
        };
        wire::serve(app, &server, async |wire| test(app, wire.address).await).await;
    })
    .await;
}

/// Sends bytes and reads until the server closes.
async fn exchange(address: SocketAddr, request: &str) -> String {
    let mut socket = TcpStream::connect(address).await.unwrap();
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // A reset connection has ended too.
    let _ = tokio::time::timeout(DEADLINE * 20, socket.read_to_end(&mut answer))
        .await
        .expect("the server never closed the connection");
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn a_body_that_does_not_come_is_408() {
    served(async |app, address| {
        let token = app.token("ada");
        let head = format!(
            "POST /v1/conversations HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\ncontent-type: application/json\r\nconnection: close\r\n"
        );
        for body in ["content-length: 20\r\n\r\n{", "transfer-encoding: chunked\r\n\r\n1\r\n{\r\n"] {
            let answer = exchange(address, &format!("{head}{body}")).await;
            assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
            assert!(answer.contains("\"code\":\"timeout\"") && answer.contains("\"retry\":\"safe\""), "{answer}");
        }
        // A request that announces too large a body is refused before it sends it.
        let answer = exchange(address, &format!("{head}expect: 100-continue\r\ncontent-length: 9000000\r\n\r\n")).await;
        assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
        assert_eq!(app.log.attempts(), 0);
    })
    .await;
}

#[tokio::test]
async fn a_client_that_sends_all_before_it_reads_gets_its_413() {
    served(async |app, address| {
        let token = app.token("ada");
        let head = format!(
            "POST /v1/conversations HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\ncontent-type: application/json\r\nconnection: close\r\n"
        );
        let text = "x".repeat(5_000_000);
        let announced = format!("{head}content-length: {}\r\n\r\n{text}", text.len());
        let chunked = format!("{head}transfer-encoding: chunked\r\n\r\n{:x}\r\n{text}\r\n0\r\n\r\n", text.len());
        for request in [announced, chunked] {
            let answer = exchange(address, &request).await;
            assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
        }
        assert_eq!(app.log.attempts(), 0);
    })
    .await;
}

#[tokio::test]
async fn a_head_that_does_not_come_is_not_waited_for() {
    served(async |_, address| {
        for head in ["", "GET /healthz HTTP/1.1\r\nhost: x\r\nx-slow: ", "GET"] {
            let begun = std::time::Instant::now();
            let answer = exchange(address, head).await;
            assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 408 "), "{answer}");
            assert!(begun.elapsed() >= DEADLINE / 2, "not at once");
        }
        let garbage = exchange(address, "\x16\x03\x01 not http\r\n\r\n").await;
        assert!(garbage.is_empty() || garbage.starts_with("HTTP/1.1 400 "), "{garbage}");
        let huge = exchange(
            address,
            &format!("GET / HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n", "y".repeat(100_000)),
        )
        .await;
        assert!(huge.is_empty() || huge.starts_with("HTTP/1.1 431 "), "{huge}");
        let fine = exchange(address, "GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
        assert!(fine.starts_with("HTTP/1.1 200 "), "{fine}");
    })
    .await;
}

#[tokio::test]
async fn both_versions_are_told_by_their_first_bytes_however_these_come() {
    served(async |_, address| {
        for pieces in [["G", "ET"], ["P", "OST"], ["PR", "OPFIND"]] {
            let mut socket = TcpStream::connect(address).await.unwrap();
            socket.set_nodelay(true).unwrap();
            for piece in pieces {
                socket.write_all(piece.as_bytes()).await.unwrap();
                tokio::task::yield_now().await;
            }
            socket
                .write_all(b" /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
                .await
                .unwrap();
            let mut answer = String::new();
            socket.read_to_string(&mut answer).await.unwrap();
            assert!(
                answer.starts_with("HTTP/1.1 200 ") || answer.starts_with("HTTP/1.1 405 "),
                "{answer}"
            );
        }
        let client = reqwest::Client::builder().http2_prior_knowledge().build().unwrap();
        let answer = client.get(format!("http://{address}/healthz")).send().await.unwrap();
        assert_eq!(
            (answer.version(), answer.status()),
            (reqwest::Version::HTTP_2, reqwest::StatusCode::OK)
        );
    })
    .await;
}

#[tokio::test]
async fn a_stream_on_the_wire() {
    served(async |app, address| {
        app.model.on("hi", &[says(&["a", "b"], Duration::from_millis(20))]);
        let conversation = app.conversation().await;
        let body = json!({ "input": "hi" });
        let turn = app.post(&format!("{conversation}/turns"), body).await.expect(202).text("/id");
        let head = format!(
            "GET /v1/turns/{turn}/events HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\naccept-encoding: gzip\r\nconnection: close\r\n\r\n",
            app.token("ada")
        );
        let answer = exchange(address, &head).await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        assert!(head.contains("content-type: text/event-stream\r\n") && !head.contains("content-encoding"), "{head}");
        // The first chunk is the comment, sent at once.
        assert!(body.split_once("\r\n").unwrap().1.starts_with(": "), "{body}");
        assert!(body.contains("event: turn.completed\n") && body.ends_with("0\r\n\r\n"), "{body}");
    })
    .await;
}
