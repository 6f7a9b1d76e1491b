//! Connection limits, and how connections without a valid credential are closed.

use std::time::Duration;

use copilotd::config::Server;
use copilotd::http::server::Timeouts;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::app::with_app;
use super::wire::{Wire, serve, serve_with, until};

/// Sends a request, reads the whole response, and returns its head.
async fn ask(socket: &mut TcpStream, token: &str) -> String {
    let request = format!("GET /v1/conversations HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n\r\n");
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        match socket.read_u8().await {
            Ok(byte) => answer.push(byte),
            Err(_) => break,
        }
    }
    let head = String::from_utf8(answer).unwrap();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
    socket.read_exact(&mut body).await.unwrap();
    head
}

/// Connects and waits until the server has accepted or refused the connection.
async fn connect(wire: &Wire) -> Option<TcpStream> {
    let before = wire.connections.open();
    let mut socket = TcpStream::connect(wire.address).await.unwrap();
    tokio::select! {
        () = until("it is open", || wire.connections.open() > before) => Some(socket),
        // A refused connection is closed at once.
        _ = socket.read_u8() => None,
    }
}

#[tokio::test]
async fn an_address_without_a_credential_gets_few_and_callers_are_counted_by_theirs() {
    with_app(async |app| {
        let server = Server {
            connections_per_address: 4,
            connections_per_caller: 6,
            ..Server::default()
        };
        serve(app, &server, async |wire| {
            let (ada, bob) = (app.token("ada"), app.token("bob"));
            let mut anonymous = Vec::new();
            for _ in 0..4 {
                anonymous.push(connect(wire).await.unwrap());
            }
            assert!(connect(wire).await.is_none(), "the fifth");
            // An invalid credential counts as none.
            assert!(ask(&mut anonymous[0], "wrong").await.starts_with("HTTP/1.1 401 "));
            assert!(connect(wire).await.is_none(), "still the fifth");
            // A valid one frees the address's slot: users behind one address do not share a limit.
            let mut known = Vec::new();
            for socket in &mut anonymous {
                assert!(ask(socket, &ada).await.starts_with("HTTP/1.1 200 "));
            }
            known.append(&mut anonymous);
            for _ in 0..2 {
                let mut socket = connect(wire).await.unwrap();
                assert!(ask(&mut socket, &ada).await.starts_with("HTTP/1.1 200 "));
                known.push(socket);
            }
            let mut socket = connect(wire).await.unwrap();
            let refused = ask(&mut socket, &ada).await;
            assert!(refused.starts_with("HTTP/1.1 429 "), "{refused}");
            assert!(
                refused.contains("retry-after: 1\r\n") && refused.contains("connection: close\r\n"),
                "{refused}"
            );
            until("the refused one is closed", || wire.connections.open() == known.len()).await;
            let mut socket = connect(wire).await.unwrap();
            assert!(ask(&mut socket, &bob).await.starts_with("HTTP/1.1 200 "));
            // A closed connection frees its slot.
            drop((known, socket));
            until("all are closed", || wire.connections.open() == 0).await;
            let mut socket = connect(wire).await.unwrap();
            assert!(ask(&mut socket, &ada).await.starts_with("HTTP/1.1 200 "));
        })
        .await;
    })
    .await;
}

#[tokio::test]
async fn a_trusted_proxy_has_as_many_as_it_needs() {
    with_app(async |app| {
        let server = Server {
            connections_per_address: 2,
            connections_per_caller: 2,
            trusted_proxies: vec!["127.0.0.0/8".parse().unwrap()],
            ..Server::default()
        };
        serve(app, &server, async |wire| {
            let mut sockets = Vec::new();
            for _ in 0..8 {
                let mut socket = connect(wire).await.unwrap();
                assert!(ask(&mut socket, &app.token("ada")).await.starts_with("HTTP/1.1 200 "));
                sockets.push(socket);
            }
            assert_eq!((wire.connections.open(), wire.connections.anonymous()), (8, 0));
        })
        .await;
    })
    .await;
}

#[tokio::test]
async fn the_whole_is_bounded_and_recovers() {
    with_app(async |app| {
        let server = Server {
            max_connections: 5,
            ..Server::default()
        };
        serve(app, &server, async |wire| {
            let mut sockets = Vec::new();
            for _ in 0..5 {
                sockets.push(connect(wire).await.unwrap());
            }
            for _ in 0..20 {
                assert!(connect(wire).await.is_none());
            }
            drop(sockets);
            until("they are closed", || wire.connections.open() == 0).await;
            assert_eq!(wire.status("/v1/conversations", &app.token("ada")).await, 200);
        })
        .await;
    })
    .await;
}

#[tokio::test]
async fn connections_without_a_credential_end_politely_after_their_last_response() {
    with_app(async |app| {
        let server = Server::default();
        let timeouts = Timeouts {
            anonymous_idle: Duration::from_millis(200),
            ..Timeouts::new(&server)
        };
        serve_with(app, &server, timeouts, async |wire| {
            let token = app.token("ada");
            let client = wire.http2(65_535).await;
            let get = async |client: &h2::client::SendRequest<bytes::Bytes>, token: Option<&str>| {
                let mut client = client.clone().ready().await?;
                let (response, _) = client.send_request(wire.request("/v1/conversations", token), true)?;
                Ok::<_, h2::Error>(response.await?.status().as_u16())
            };
            assert_eq!(get(&client, None).await.unwrap(), 401);
            let mut http1 = connect(wire).await.unwrap();
            assert!(ask(&mut http1, "wrong").await.starts_with("HTTP/1.1 401 "));
            let known = wire.http2(65_535).await;
            assert_eq!(get(&known, Some(&token)).await.unwrap(), 200);
            until("only the known one is open", || wire.connections.open() == 1).await;
            // GOAWAY without an error: a request that comes too late can be retried on another connection.
            let error = get(&client, None).await.unwrap_err();
            assert!(
                !error.is_reset() || error.reason() == Some(h2::Reason::NO_ERROR),
                "{error:?}"
            );
            let mut rest = Vec::new();
            http1.read_to_end(&mut rest).await.unwrap();
            assert_eq!(get(&known, None).await.unwrap(), 401);
            assert_eq!(get(&known, Some(&token)).await.unwrap(), 200);
        })
        .await;
    })
    .await;
}

/// An HTTP/2 frame.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

#[tokio::test]
async fn floods_of_http2_frames_end_the_connection_and_take_nobody_along() {
    // :method GET, :scheme http, :path /, by their static table indexes.
    const HEADERS: &[u8] = &[0x82, 0x86, 0x84];
    with_app(async |app| {
        let server = Server {
            header_timeout: Duration::from_secs(60),
            write_timeout: Duration::from_millis(300),
            ..Server::default()
        };
        serve(app, &server, async |wire| {
            let ping = frame(6, 0, 0, &[7; 8]);
            let settings = frame(4, 0, 0, &[0, 2, 0, 0, 0, 0]);
            let mut continuations = frame(1, 0, 1, HEADERS);
            continuations.extend(frame(9, 0, 1, &[]).repeat(200_000));
            let resets: Vec<u8> = (0..5_000_u32)
                .flat_map(|n| [frame(1, 5, 2 * n + 1, HEADERS), frame(3, 0, 2 * n + 1, &[0, 0, 0, 8])].concat())
                .collect();
            let mut huge = frame(1, 0, 1, HEADERS);
            for _ in 0..20 {
                huge.extend(frame(9, 0, 1, &[0; 16_384]));
            }
            for (name, flood) in [
                ("pings", ping.repeat(2_000_000)),
                ("settings", settings.repeat(2_000_000)),
                ("continuations", continuations),
                ("resets", resets),
                ("headers", huge),
            ] {
                let mut socket = wire.connect().await;
                socket.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
                socket.write_all(&frame(4, 0, 0, &[])).await.unwrap();
                until("it is open", || wire.connections.open() == 1).await;
                // Nothing is read: responses to the flood pile up on our side of the socket.
                let flooding = async {
                    let _ = socket.write_all(&flood).await;
                    std::future::pending::<()>().await;
                };
                tokio::select! {
                    () = flooding => {}
                    () = until(name, || wire.connections.open() == 0) => {}
                }
                assert_eq!(wire.status("/v1/conversations", &app.token("ada")).await, 200, "{name}");
                until("the client's is closed", || wire.connections.open() == 0).await;
            }
        })
        .await;
    })
    .await;
}

#[tokio::test]
async fn a_request_for_an_upgrade_is_a_request_like_any_other() {
    with_app(async |app| {
        serve(app, &Server::default(), async |wire| {
            let mut socket = connect(wire).await.unwrap();
            let head = "GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: Upgrade, HTTP2-Settings, close\r\nupgrade: h2c\r\n\
                        http2-settings: AAMAAABkAAQAAP__\r\n\r\n";
            socket.write_all(head.as_bytes()).await.unwrap();
            let mut answer = String::new();
            socket.read_to_string(&mut answer).await.unwrap();
            assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        })
        .await;
    })
    .await;
}
