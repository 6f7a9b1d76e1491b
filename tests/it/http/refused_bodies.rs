//! Responses that are ready before the request's body was read: the next request on the connection is answered, or the
//! response says `Connection: close`.

use std::time::Duration;

use copilotd::config::Server;
use copilotd::http::credentials::Scopes;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::app::{TestApp, with_app};
use super::wire::{Wire, serve, until};

/// Maximum time for a response.
const DEADLINE: Duration = Duration::from_secs(20);
const NEXT: &str = "GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n";

/// The head of a response, and whether the connection closes after it.
#[derive(Debug)]
struct Head {
    status: u16,
    closes: bool,
}

/// Reads one response. A connection reset fails the test.
async fn answer(socket: &mut (impl AsyncRead + Unpin), said: &str) -> Head {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let byte = socket.read_u8().await;
        head.push(byte.unwrap_or_else(|error| panic!("{said}: {error} in {:?}", String::from_utf8_lossy(&head))));
    }
    let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
    let field = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let length: usize = field("content-length:").map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    socket
        .read_exact(&mut body)
        .await
        .unwrap_or_else(|error| panic!("{said}: {error}"));
    Head {
        status: head.split(' ').nth(1).unwrap().parse().unwrap(),
        closes: field("connection:") == Some("close"),
    }
}

/// Requests that are answered before their body is read, each with its status.
fn requests(app: &TestApp) -> Vec<(u16, String)> {
    let token = app.token("ada");
    let ada = format!("authorization: Bearer {token}\r\ncontent-type: application/json\r\n");
    let gateway = app.token_of("acme", "ada", Scopes::GATEWAY);
    let turn = format!("turn_{}", "0".repeat(32));
    let request = |line: &str, headers: &str| format!("{line} HTTP/1.1\r\nhost: x\r\n{headers}");
    vec![
        (
            401,
            request("POST /v1/conversations", "content-type: application/json\r\n"),
        ),
        (
            401,
            request("POST /v1/chat/completions", "authorization: Bearer nobody\r\n"),
        ),
        (403, request("POST /v1/admin/api-keys", &ada)),
        (
            403,
            request(
                "POST /v1/conversations",
                &format!("authorization: Bearer {gateway}\r\n"),
            ),
        ),
        (404, request("POST /nowhere", &ada)),
        (404, request(&format!("POST /v1/turns/{turn}/cancel"), &ada)),
        (405, request("PUT /v1/conversations", &ada)),
        (405, request("POST /healthz", "")),
        (
            415,
            request("POST /v1/conversations", &ada.replace("application/json", "text/plain")),
        ),
        (
            422,
            request(
                "POST /v1/conversations",
                &format!("{ada}idempotency-key: a b\u{e9}\r\n"),
            ),
        ),
        // This request is not refused; it just takes no body.
        (200, request("GET /healthz", "")),
    ]
}

/// A body in both framings.
fn framed(bytes: usize) -> [(String, String); 2] {
    let text = "x".repeat(bytes);
    let chunks =
        (text.as_bytes().chunks(4000)).map(|chunk| format!("{:x}\r\n{}\r\n", chunk.len(), "x".repeat(chunk.len())));
    [
        (format!("content-length: {bytes}\r\n\r\n"), text.clone()),
        (
            "transfer-encoding: chunked\r\n\r\n".to_owned(),
            format!("{}0\r\n\r\n", chunks.collect::<String>()),
        ),
    ]
}

/// Sends a head, then the rest in a later segment directly followed by the next request, and checks the responses.
async fn exchange(wire: &Wire, said: &str, head: &str, rest: String, status: u16) -> Head {
    let mut socket = TcpStream::connect(wire.address).await.unwrap();
    socket.set_nodelay(true).unwrap();
    socket.write_all(head.as_bytes()).await.unwrap();
    if rest.len() < 100_000 {
        // The server waits for this rest, but not for a longer one.
        until("the head has arrived", || wire.budgets.requests.in_use() > 0).await;
    }
    let (mut reads, mut writes) = socket.into_split();
    let sent = tokio::spawn(async move {
        // A server that has announced to close need not read all of it.
        let _ = writes.write_all(format!("{rest}{NEXT}").as_bytes()).await;
        writes
    });
    let exchange = async {
        let first = answer(&mut reads, said).await;
        assert_eq!(first.status, status, "{said}");
        if first.closes {
            let mut more = Vec::new();
            let end = reads.read_to_end(&mut more).await;
            assert!(
                end.is_ok() && more.is_empty(),
                "{said}: {end:?}, {} bytes behind the last answer",
                more.len()
            );
        } else {
            let next = answer(&mut reads, &format!("{said}, the next one")).await;
            assert_eq!(next.status, 200, "{said}, the next one");
        }
        first
    };
    let first = tokio::time::timeout(DEADLINE, exchange).await;
    let first = first.unwrap_or_else(|_| panic!("{said}: no answer"));
    drop(sent.await.unwrap());
    first
}

async fn with_wire(test: impl AsyncFnOnce(&TestApp, &Wire)) {
    with_app(async |app| serve(app, &Server::default(), async |wire| test(app, wire).await).await).await;
}

#[tokio::test]
async fn a_small_body_in_a_later_segment_does_not_cost_the_next_request() {
    with_wire(async |app, wire| {
        for (status, head) in requests(app) {
            for (length, body) in framed(1_000) {
                let said = format!("{status} {} {length:?}", head.lines().next().unwrap());
                let first = exchange(wire, &said, &format!("{head}{length}"), body, status).await;
                assert!(!first.closes, "{said}: it was small enough to be read");
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_large_body_is_not_read_and_the_answer_says_so() {
    with_wire(async |app, wire| {
        for (status, head) in requests(app) {
            for (length, body) in framed(700_000) {
                let said = format!(
                    "{status} {} {}",
                    head.lines().next().unwrap(),
                    length.lines().next().unwrap()
                );
                let first = exchange(wire, &said, &format!("{head}{length}"), body, status).await;
                assert!(first.closes, "{said}: it was too large to be read");
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_body_above_the_bound_is_413_and_the_connection_is_told() {
    with_wire(async |app, wire| {
        let ada = format!(
            "authorization: Bearer {}\r\ncontent-type: application/json\r\n",
            app.token("ada")
        );
        let head = format!("POST /v1/conversations HTTP/1.1\r\nhost: x\r\n{ada}");
        for bytes in [300_000, 17 << 20] {
            for (length, body) in framed(bytes) {
                let said = format!("413 {bytes} {}", length.lines().next().unwrap());
                exchange(wire, &said, &format!("{head}{length}"), body, 413).await;
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_body_that_is_waited_for_in_vain_ends_the_connection() {
    with_wire(async |app, wire| {
        for (status, head) in requests(app) {
            for more in [
                "content-length: 10\r\n\r\n",
                "transfer-encoding: chunked\r\n\r\n",
                "expect: 100-continue\r\ncontent-length: 10\r\n\r\n",
            ] {
                let said = format!("{} {more:?}", head.lines().next().unwrap());
                let mut socket = TcpStream::connect(wire.address).await.unwrap();
                socket.write_all(format!("{head}{more}").as_bytes()).await.unwrap();
                let exchange = async {
                    let first = answer(&mut socket, &said).await;
                    assert!(first.closes && first.status == status, "{said}: {first:?}");
                    assert_eq!(socket.read(&mut [0; 1]).await.unwrap(), 0, "{said}");
                };
                tokio::time::timeout(DEADLINE, exchange)
                    .await
                    .unwrap_or_else(|_| panic!("{said}: no answer"));
            }
        }
    })
    .await;
}
