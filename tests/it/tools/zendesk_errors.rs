use std::time::Duration;

use copilotd_actors::ports::{RateHint, ToolBox, ToolError, ToolErrorKind};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::stub::{Say, Stub, json as say, raw};
use super::{request, zendesk, zendesk_at};

async fn answered(answer: Say) -> ToolError {
    let stub = Stub::start(move |_| answer.clone()).await;
    let call = request("zendesk_get_ticket", json!({ "ticket_id": 1 }));
    zendesk(&stub).call(&call).await.unwrap_err()
}

#[tokio::test]
async fn each_answer_says_what_is_known_of_the_effect() {
    use ToolErrorKind::{OutcomeUnknown, RateLimited, Refused};
    let error = json!({ "error": "RecordInvalid", "description": "No", "details": { "status": [{ "error": "X" }] } });
    for (answer, kind, text) in [
        (
            say(400, json!({ "error": { "title": "Bad", "message": "so bad" } })),
            Refused,
            "zendesk answered 400: Bad: so bad",
        ),
        (
            say(401, json!({ "error": "Couldn't authenticate you" })),
            Refused,
            "credentials are not accepted",
        ),
        (raw(403, ""), Refused, "zendesk answered 403"),
        (
            say(404, json!({ "error": "RecordNotFound", "description": "Not found" })),
            Refused,
            "404: RecordNotFound: Not found",
        ),
        (say(422, error), Refused, "RecordInvalid: No: {\"status\""),
        (
            raw(302, "").header("location", "https://elsewhere.test/"),
            Refused,
            "base_url is not",
        ),
        (raw(429, "Rate limit exceeded"), RateLimited, "429"),
        (raw(408, ""), OutcomeUnknown, "408"),
        (raw(500, "<html>"), OutcomeUnknown, "500"),
        (
            say(503, json!({ "error": "DatabaseError" })),
            OutcomeUnknown,
            "503: DatabaseError",
        ),
        (raw(200, "<html>"), OutcomeUnknown, "not JSON"),
        (
            say(200, json!({ "ticket": { "id": "x" } })),
            OutcomeUnknown,
            "unusable ticket",
        ),
        (raw(200, vec![b' '; 5 << 20]), OutcomeUnknown, "more than 4194304 bytes"),
    ] {
        let error = answered(answer).await;
        assert_eq!(error.kind, kind, "{error}");
        assert!(error.message.contains(text), "{error}");
        assert!(error.message.len() < 800);
    }
}

#[tokio::test]
async fn retry_after_and_rate_figures_reach_the_connector() {
    let limited = raw(429, "x")
        .header("retry-after", "17")
        .header("ratelimit-remaining", "0");
    let error = answered(limited).await;
    assert_eq!(error.retry_after, Some(Duration::from_secs(17)));
    assert_eq!(error.rate.remaining, Some(0));
    let error = answered(raw(503, "").header("retry-after", "3")).await;
    assert_eq!(error.retry_after, Some(Duration::from_secs(3)));

    let stub = Stub::start(|_| {
        say(200, json!({ "ticket": { "id": 1 } }))
            .header("x-rate-limit", "700")
            .header("x-rate-limit-remaining", "512")
    })
    .await;
    let call = request("zendesk_get_ticket", json!({ "ticket_id": 1 }));
    let expected = RateHint {
        limit: Some(700),
        remaining: Some(512),
        reset: None,
    };
    assert_eq!(zendesk(&stub).call(&call).await.unwrap().rate, expected);
}

/// A server that does the same to each connection after it has read the request's head.
async fn rude(answer: &'static [u8], stay: bool) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut head = [0; 4096];
                let _ = socket.read(&mut head).await;
                let _ = socket.write_all(answer).await;
                if stay {
                    std::future::pending::<()>().await;
                }
            });
        }
    });
    url
}

#[tokio::test]
async fn no_connection_means_nothing_was_changed_and_a_cut_means_an_unknown_outcome() {
    let create = || request("zendesk_create_ticket", json!({ "subject": "a", "body": "b" }));
    let unused = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let error = zendesk_at(&format!("http://{unused}"))
        .call(&create())
        .await
        .unwrap_err();
    assert_eq!(error.kind, ToolErrorKind::Unreachable, "{error}");

    let cut = rude(b"", false).await;
    let error = zendesk_at(&cut).call(&create()).await.unwrap_err();
    assert_eq!(error.kind, ToolErrorKind::OutcomeUnknown, "{error}");

    let half = rude(b"HTTP/1.1 201 Created\r\ncontent-length: 100\r\n\r\n{\"tick", false).await;
    let error = zendesk_at(&half).call(&create()).await.unwrap_err();
    assert_eq!(error.kind, ToolErrorKind::OutcomeUnknown, "{error}");

    let silent = rude(b"", true).await;
    let mut call = create();
    call.timeout = Duration::from_millis(100);
    let error = zendesk_at(&silent).call(&call).await.unwrap_err();
    assert_eq!(error.kind, ToolErrorKind::OutcomeUnknown, "{error}");
    assert!(error.message.contains("0.1 s"), "{error}");
    assert!(!error.message.contains("secret"));
}

#[tokio::test]
async fn an_unknown_tool_is_refused() {
    let stub = Stub::start(|_| raw(200, "")).await;
    let mut call = request("zendesk_get_ticket", json!({ "ticket_id": 1 }));
    call.tool = "zendesk_delete_everything".into();
    let error = zendesk(&stub).call(&call).await.unwrap_err();
    assert_eq!(error.kind, ToolErrorKind::Refused);
    assert!(stub.seen().is_empty());
}
