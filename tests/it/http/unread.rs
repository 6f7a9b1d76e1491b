//! Clients that send requests and never read the response: what waits for them is bounded, and dropped after a timeout.

use std::time::Duration;

use bytes::Bytes;
use copilotd::config::Server;
use copilotd_actors::fakes::model::says;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::app::{TestApp, with_app};
use super::wire::{Wire, serve, until};

/// The write timeout.
const WRITE_TIMEOUT: Duration = Duration::from_millis(400);
/// Number of prompts in the long conversation, and the bytes of each.
const PROMPTS: usize = 24;
const PROMPT_BYTES: usize = 60_000;
/// Bytes that one user may hold: an eighth of the whole.
const SHARE: usize = 8 << 20;

fn bounds() -> Server {
    Server {
        write_timeout: WRITE_TIMEOUT,
        answer_memory_bytes: 8 * SHARE,
        ..Server::default()
    }
}

/// A conversation of ada whose messages do not fit on a page.
async fn long_conversation(app: &TestApp) -> String {
    let conversation = app.conversation().await;
    // Few tokens, so that everything fits into the context.
    let prompt = format!("{} ", "-".repeat(31)).repeat(PROMPT_BYTES / 32);
    app.model.on(&prompt, &[says(&["ok"], Duration::ZERO)]);
    for _ in 0..PROMPTS {
        app.answered(&conversation, &prompt).await;
    }
    conversation
}

/// Runs a test against the long conversation.
async fn with_long(test: impl AsyncFnOnce(&TestApp, &Wire, &str, &str)) {
    with_app(async |app| {
        let conversation = long_conversation(app).await;
        let token = app.token("ada");
        serve(app, &bounds(), async |wire| {
            test(app, wire, &conversation, &token).await;
            until("all memory is given back", || {
                wire.budgets.answers.in_use() + wire.budgets.bodies.in_use() == 0
            })
            .await;
        })
        .await;
    })
    .await;
}

#[tokio::test]
async fn pages_are_cut_by_their_bytes_and_nothing_is_left_out() {
    with_app(async |app| {
        let conversation = long_conversation(app).await;
        for order in ["asc", "desc"] {
            let (mut seqs, mut pages, mut cursor) = (Vec::new(), 0, String::new());
            loop {
                let path = format!("{conversation}/messages?limit=100&order={order}{cursor}");
                let answer = app.get(&path).await.expect(200);
                assert!(answer.body.len() <= (1 << 20) + 1_000, "{} bytes", answer.body.len());
                let page = answer.json();
                let data = page["data"].as_array().unwrap();
                assert!(!data.is_empty());
                seqs.extend(data.iter().map(|message| message["seq"].as_u64().unwrap()));
                pages += 1;
                match page["next_cursor"].as_str() {
                    Some(next) => cursor = format!("&cursor={next}"),
                    None => break,
                }
            }
            assert!(pages > 1);
            assert_eq!(seqs.len(), 2 * PROMPTS, "{order}");
            let sorted = if order == "asc" {
                seqs.is_sorted()
            } else {
                seqs.is_sorted_by(|a, b| a > b)
            };
            assert!(sorted, "{order}: {seqs:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn http2_streams_whose_window_stays_closed_are_reset() {
    with_long(async |app, wire, conversation, token| {
        let path = format!("{conversation}/messages?limit=100");
        let mut clients = Vec::new();
        let mut waiting = Vec::new();
        for _ in 0..4 {
            let mut client = wire.http2(0).await;
            for _ in 0..16 {
                client = client.ready().await.unwrap();
                let (response, _) = client.send_request(wire.request(&path, Some(token)), true).unwrap();
                waiting.push(response);
            }
            clients.push(client);
        }
        let (mut built, mut refused) = (Vec::new(), 0);
        for response in waiting {
            let response = response.await.unwrap();
            assert!(
                wire.budgets.answers.in_use() <= SHARE,
                "{}",
                wire.budgets.answers.in_use()
            );
            match response.status().as_u16() {
                200 => built.push(response.into_body()),
                // A caller that holds its whole share gets no more, and nobody else is affected.
                429 => refused += 1,
                other => panic!("{other}"),
            }
            if built.len() == 1 {
                assert_eq!(wire.status("/v1/conversations", &app.token("bob")).await, 200);
            }
        }
        assert!(
            !built.is_empty() && refused > 0,
            "{} built, {refused} refused",
            built.len()
        );
        for mut body in built {
            let error = body.data().await.unwrap().unwrap_err();
            assert!(error.is_reset(), "{error}");
        }
        // The connections themselves stay open.
        until("only they are open", || wire.connections.open() == clients.len()).await;
    })
    .await;
}

#[tokio::test]
async fn http2_streams_that_are_read_too_slowly_are_reset_and_others_beside_them_are_not() {
    with_long(async |_, wire, conversation, token| {
        let path = format!("{conversation}/messages?limit=100");
        let mut client = wire.http2(64).await;
        let (slow, _) = client.send_request(wire.request(&path, Some(token)), true).unwrap();
        let mut slow = slow.await.unwrap().into_body();
        let mut client = client.ready().await.unwrap();
        let (other, _) = client
            .send_request(wire.request("/v1/conversations", Some(token)), true)
            .unwrap();
        let mut other = other.await.unwrap().into_body();
        let mut read = Vec::new();
        while let Some(bytes) = other.data().await {
            let bytes = bytes.unwrap();
            other.flow_control().release_capacity(bytes.len()).unwrap();
            read.extend_from_slice(&bytes);
        }
        assert!(serde_json::from_slice::<serde_json::Value>(&read).unwrap()["data"].is_array());
        let error = loop {
            match slow.data().await.unwrap() {
                Ok(bytes) => slow.flow_control().release_capacity(bytes.len()).unwrap(),
                Err(error) => break error,
            }
            tokio::time::sleep(WRITE_TIMEOUT / 20).await;
        };
        assert!(error.is_reset(), "{error}");
    })
    .await;
}

#[tokio::test]
async fn http1_clients_that_do_not_read_are_cut_off() {
    with_long(async |_, wire, conversation, token| {
        let one = format!(
            "GET {conversation}/messages?limit=100 HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n\r\n"
        );
        let stream =
            format!("GET {conversation}/events?after=0 HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n\r\n");
        // Never reads; sends many requests and never reads; reads a byte now and then; an event stream.
        for (requests, pause) in [
            (one.clone(), None),
            (one.repeat(50), None),
            (one.clone(), Some(WRITE_TIMEOUT / 50)),
            (stream, None),
        ] {
            let mut socket = wire.connect().await;
            socket.write_all(requests.as_bytes()).await.unwrap();
            until("the request has arrived", || wire.connections.open() == 1).await;
            match pause {
                None => until("the connection is closed", || wire.connections.open() == 0).await,
                Some(pause) => {
                    let reads = async {
                        while socket.read_u8().await.is_ok() {
                            tokio::time::sleep(pause).await;
                        }
                    };
                    tokio::select! {
                        () = reads => {}
                        () = until("the connection is closed", || wire.connections.open() == 0) => {}
                    }
                }
            }
            until("nothing is held for it", || wire.budgets.answers.in_use() == 0).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_client_that_closes_its_half_does_not_stay() {
    with_long(async |_, wire, conversation, token| {
        let request = format!(
            "GET {conversation}/messages?limit=100 HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n\r\n"
        );
        let mut socket = wire.connect().await;
        socket.write_all(request.as_bytes()).await.unwrap();
        socket.shutdown().await.unwrap();
        until("the connection is closed", || wire.connections.open() == 0).await;
    })
    .await;
}

#[tokio::test]
async fn http2_event_streams_that_are_not_read_end_and_those_that_wait_do_not() {
    with_long(async |app, wire, conversation, token| {
        let mut unread = wire.http2(0).await;
        let path = format!("{conversation}/events?after=0");
        let (response, _) = unread.send_request(wire.request(&path, Some(token)), true).unwrap();
        let mut unread = response.await.unwrap().into_body();
        let mut client = wire.http2(1 << 20).await;
        let path = format!("{conversation}/events");
        let (response, _) = client.send_request(wire.request(&path, Some(token)), true).unwrap();
        let mut waiting = response.await.unwrap().into_body();
        let error = unread.data().await.unwrap().unwrap_err();
        assert!(error.is_reset(), "{error}");
        // By now the other connection has been idle for as long as the unread one was allowed.
        app.model.on("hi", &[says(&["ok"], Duration::ZERO)]);
        let turn = app.submit(conversation, "hi").await;
        app.turn_is(&turn, "completed").await;
        let mut text = Vec::new();
        while !String::from_utf8_lossy(&text).contains("event: turn.completed") {
            let bytes: Bytes = waiting.data().await.unwrap().unwrap();
            waiting.flow_control().release_capacity(bytes.len()).unwrap();
            text.extend_from_slice(&bytes);
        }
    })
    .await;
}

#[tokio::test]
async fn a_large_page_is_whole_when_it_is_read() {
    with_long(async |app, wire, conversation, token| {
        let path = format!("{conversation}/messages?limit=100");
        let expected = app.get(&path).await.expect(200).json();
        for http2 in [false, true] {
            let client = reqwest::Client::builder();
            let client = if http2 {
                client.http2_prior_knowledge()
            } else {
                client.http1_only()
            };
            let request = client.build().unwrap().get(format!("http://{}{path}", wire.address));
            let answer = request.bearer_auth(token).send().await.unwrap();
            let answer: serde_json::Value = answer.json().await.unwrap();
            assert!(answer["data"] == expected["data"], "the page is not the same");
        }
        let head = reqwest::Client::new().head(format!("http://{}{path}", wire.address));
        assert_eq!(head.bearer_auth(token).send().await.unwrap().status(), 200);
        assert_eq!(app.post("/v1/conversations", json!({})).await.status, 201);
    })
    .await;
}
