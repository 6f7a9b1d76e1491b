//! Every way to fail has its class, and a text that a tenant may read.

use std::time::Duration;

use copilotd::adapters::llm::openai::{OpenAi, OpenAiConfig};
use copilotd::adapters::llm::provider::ConnectionPool;
use copilotd_actors::domain::failure::FailureClass;
use copilotd_actors::ports::{ModelError, ModelEvent};
use copilotd_gateway::provider::Timeouts;
use serde_json::json;
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use super::server::{DONE, Exchange, STREAM, Server, UNTIL_CLOSE, chunked, delta, finish, said, usage};
use super::{KEY, PATIENT, ask, model, request, text};

fn response(status: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\n{headers}content-length: {length}\r\nconnection: close\r\n\r\n{body}")
}

fn check(what: &str, error: &ModelError, class: FailureClass) {
    assert_eq!(error.class, class, "{what}: {error}");
    assert!(error.message.starts_with("model main: "), "{what}: {error}");
    assert!(!error.message.contains(KEY), "{what}: {error}");
    assert!(!error.message.contains("127.0.0.1"), "{what}: {error}");
    assert!(error.message.len() < 2_000, "{what}: {error}");
}

#[tokio::test]
async fn a_refused_request_has_a_class_a_reason_and_a_time_to_ask_again() {
    let message = |message: &str, code: &str| json!({"error": {"message": message, "code": code}}).to_string();
    let json = "content-type: application/json\r\n";
    for (status, headers, body, class, part, retry_after) in [
        (
            "401 No",
            json,
            message(&format!("bad key {KEY}"), "invalid_api_key"),
            FailureClass::Key,
            "credentials",
            None,
        ),
        ("402 Pay", json, String::new(), FailureClass::Key, "credentials", None),
        ("403 No", json, "<html>".into(), FailureClass::Key, "credentials", None),
        (
            "429 Slow",
            "retry-after: 7\r\n",
            message("slow, org-1", "rate_limit_exceeded"),
            FailureClass::Rate,
            "rate limit",
            Some(7),
        ),
        (
            "429 Slow",
            "date: Mon, 23 Nov 2026 18:00:00 GMT\r\nretry-after: Mon, 23 Nov 2026 18:00:30 GMT\r\n",
            String::new(),
            FailureClass::Rate,
            "status 429",
            Some(30),
        ),
        (
            "500 Oh",
            json,
            "stack trace".into(),
            FailureClass::Overload,
            "status 500",
            None,
        ),
        (
            "503 Busy",
            "retry-after: 2\r\n",
            String::new(),
            FailureClass::Overload,
            "overloaded",
            Some(2),
        ),
        (
            "400 No",
            json,
            message("9 tokens are too many", "context_length_exceeded"),
            FailureClass::ContextLength,
            "9 tokens",
            None,
        ),
        (
            "400 No",
            json,
            message("that is not nice", "content_filter"),
            FailureClass::ContentPolicy,
            "not nice",
            None,
        ),
        (
            "400 No",
            json,
            message(&format!("what is {KEY}?"), "unknown_parameter"),
            FailureClass::Rejected,
            "what is ***?",
            None,
        ),
        (
            "404 No",
            json,
            message("no model gpt-test", "model_not_found"),
            FailureClass::Rejected,
            "no model",
            None,
        ),
        (
            "307 There",
            "location: http://127.0.0.1:1/\r\n",
            String::new(),
            FailureClass::Rejected,
            "status 307",
            None,
        ),
        (
            "200 OK",
            json,
            message("engine is down", "server_error"),
            FailureClass::Overload,
            "failing",
            None,
        ),
        (
            "200 OK",
            json,
            "{\"choices\": []}".into(),
            FailureClass::Malformed,
            "stream",
            None,
        ),
        (
            "200 OK",
            "content-type: text/html\r\n",
            "<h1>Welcome</h1>".into(),
            FailureClass::Malformed,
            "stream",
            None,
        ),
        (
            "400 No",
            json,
            "x".repeat(1_000_000),
            FailureClass::Rejected,
            "status 400",
            None,
        ),
    ] {
        let server = Server::canned(response(status, headers, &body)).await;
        let (events, error) = ask(&model(&server.url, PATIENT), request()).await;
        let error = error.unwrap();
        check(status, &error, class);
        assert!(error.message.contains(part), "{status}: {error}");
        assert!(!error.message.contains("org-1"), "{status}: {error}");
        assert_eq!(error.retry_after, retry_after.map(Duration::from_secs), "{status}");
        assert_eq!(events, []);
    }
}

#[tokio::test]
async fn a_failed_stream_keeps_its_content_and_reports_its_usage() {
    let broken = |error: serde_json::Value| said("so far") + &format!("data: {}\n\n", json!({"error": error}));
    let bytes = |text: &str| text.as_bytes().to_vec();
    for (what, body, class) in [
        ("clean end", bytes(&said("so far")), FailureClass::Cut),
        (
            "a reason that is taken back",
            bytes(&(said("so") + &finish("stop") + &said(" far") + DONE)),
            FailureClass::Cut,
        ),
        (
            "a reason that nobody knows",
            bytes(&(said("so far") + &finish("whatever") + DONE)),
            FailureClass::Cut,
        ),
        (
            "a call that the server could not read",
            bytes(&(said("so far") + &finish("MALFORMED_FUNCTION_CALL") + DONE)),
            FailureClass::Malformed,
        ),
        (
            "half an event",
            bytes(&(said("so far") + "data: {\"choices\": [{\"del")),
            FailureClass::Cut,
        ),
        ("abort", bytes(&(said("so far") + &finish("abort"))), FailureClass::Cut),
        (
            "server error",
            bytes(&broken(json!({"message": "oh", "type": "server_error"}))),
            FailureClass::Overload,
        ),
        (
            "rate in mid-stream",
            bytes(&broken(json!({"message": "oh", "code": 429}))),
            FailureClass::Rate,
        ),
        ("bare text", bytes(&broken(json!("oh"))), FailureClass::Overload),
        (
            "content filter",
            bytes(&(said("so far") + &finish("content_filter") + &usage(9, 2, 0))),
            FailureClass::ContentPolicy,
        ),
        (
            "garbage",
            bytes(&(said("so far") + "data: {nonsense\n\n" + &finish("stop"))),
            FailureClass::Malformed,
        ),
        (
            "deep nesting",
            bytes(&(said("so far") + "data: {\"x\":" + &"[".repeat(10_000) + "\n\n")),
            FailureClass::Malformed,
        ),
        (
            "huge line",
            [bytes(&said("so far")), vec![b'x'; 17 * 1024 * 1024]].concat(),
            FailureClass::Malformed,
        ),
        (
            "call without name",
            bytes(
                &(said("so far")
                    + &delta(json!({"tool_calls": [{"index": 0, "function": {"arguments": "{}"}}]}))
                    + &finish("tool_calls")),
            ),
            FailureClass::Malformed,
        ),
        (
            "pieces of calls that nothing tells apart",
            bytes(
                &(said("so far")
                    + &delta(
                        json!({"tool_calls": [{"index": 0, "id": "a", "function": {"name": "x", "arguments": "{"}}]}),
                    )
                    + &delta(
                        json!({"tool_calls": [{"index": 0, "id": "b", "function": {"name": "y", "arguments": "{"}}]}),
                    )
                    + &delta(json!({"tool_calls": [{"index": 0, "function": {"arguments": "}"}}]}))
                    + &finish("tool_calls")),
            ),
            FailureClass::Malformed,
        ),
        (
            "calls announced, none made",
            bytes(&(said("so far") + &finish("tool_calls"))),
            FailureClass::Malformed,
        ),
    ] {
        let server = Server::canned([UNTIL_CLOSE.as_bytes(), &body].concat()).await;
        let (events, error) = ask(&model(&server.url, PATIENT), request()).await;
        check(what, &error.unwrap(), class);
        assert_eq!(text(&events), "so far", "{what}");
        let Some(ModelEvent::Usage(used)) = events.last() else {
            panic!("{what}: {events:?}")
        };
        // Pieces of calls count too.
        assert!((2..20).contains(&used.completion_tokens), "{what}: {used:?}");
        assert!(used.cost > 0, "{what}");
    }
}

#[tokio::test]
async fn a_refusal_where_a_schema_was_asked_for_is_a_failure() {
    let stream = delta(json!({"refusal": "I can't "})) + &delta(json!({"refusal": "help."})) + &finish("stop");
    let server = Server::canned(format!("{UNTIL_CLOSE}{stream}")).await;
    let mut request = request();
    request.response_schema = Some(json!({"type": "object"}));
    let (events, error) = ask(&model(&server.url, PATIENT), request).await;
    let error = error.unwrap();
    check("refusal", &error, FailureClass::ContentPolicy);
    assert!(error.message.contains("I can't help."), "{error}");
    assert_eq!(text(&events), "");
}

#[tokio::test]
async fn a_failure_before_any_content_used_nothing() {
    for body in [
        String::new(),
        ": ping\n\n".to_owned(),
        "data: {\"error\": {}}\n\n".to_owned(),
        finish("stop") + DONE,
    ] {
        let server = Server::canned(format!("{UNTIL_CLOSE}{body}")).await;
        let (events, error) = ask(&model(&server.url, PATIENT), request()).await;
        assert!(error.is_some());
        let used = events.iter().any(|event| matches!(event, ModelEvent::Usage(_)));
        assert!(!used && text(&events).is_empty(), "{events:?}");
    }
}

#[tokio::test]
async fn a_chunked_body_without_its_end_is_a_cut_and_a_reset_is_the_networks() {
    for (class, reset) in [(FailureClass::Cut, false), (FailureClass::Network, true)] {
        let server = Server::start(move |mut exchange: Exchange| async move {
            exchange.write(STREAM).await;
            exchange.write(chunked(said("so far").as_bytes())).await;
            exchange.write("ffff\r\ndata: ").await;
            if reset {
                // Give the bytes time to be read first: a reset discards what is in flight.
                let mut sink = [0];
                let _ = tokio::time::timeout(Duration::from_millis(200), exchange.socket.peek(&mut sink)).await;
                exchange.socket.set_zero_linger().unwrap();
            }
            None
        })
        .await;
        let (events, error) = ask(&model(&server.url, PATIENT), request()).await;
        check("cut", &error.unwrap(), class);
        assert_eq!(text(&events), "so far");
    }
}

#[tokio::test]
async fn a_finished_answer_survives_the_connection() {
    let server = Server::start(|mut exchange: Exchange| async move {
        exchange.write(STREAM).await;
        exchange
            .write(chunked((said("whole") + &finish("stop")).as_bytes()))
            .await;
        exchange.write("ffff\r\nda").await;
        None
    })
    .await;
    let (events, error) = ask(&model(&server.url, PATIENT), request()).await;
    assert!(error.is_none(), "{error:?}");
    assert_eq!(text(&events), "whole");
}

#[tokio::test]
async fn no_connection_is_the_networks() {
    // A port that was just free: nobody listens.
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let (_, error) = ask(&model(&format!("http://{free}/v1"), PATIENT), request()).await;
    check("refused", &error.unwrap(), FailureClass::Network);

    // A connection that is accepted and closed without an answer.
    let server = Server::start(|_| async { None }).await;
    let (_, error) = ask(&model(&server.url, PATIENT), request()).await;
    check("closed", &error.unwrap(), FailureClass::Network);

    // A host name that does not exist (reserved for that).
    let (_, error) = ask(&model("http://nobody.invalid/v1", PATIENT), request()).await;
    check("no name", &error.unwrap(), FailureClass::Network);
}

#[tokio::test]
async fn a_host_that_does_not_accept_the_connection_times_out() {
    // With its queue of unaccepted connections full, Linux drops further ones without an answer.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let mut waiting = Vec::new();
    while let Ok(Ok(connection)) = tokio::time::timeout(Duration::from_millis(300), TcpStream::connect(address)).await {
        waiting.push(connection);
    }
    let timeouts = Timeouts {
        connect: Duration::from_millis(100),
        ..PATIENT
    };
    let (_, error) = ask(&model(&format!("http://{address}/v1"), timeouts), request()).await;
    let error = error.unwrap();
    check("no answer", &error, FailureClass::TimedOut);
    assert!(error.message.contains("timed out"), "{error}");
}

#[test]
fn a_deployment_that_cannot_work_is_refused_at_start_without_its_secrets() {
    for (base_url, key, header, part) in [
        ("ftp://host/v1", "k", ("x", "y"), "base_url"),
        ("http://user:sk-very-secret@host", "k", ("x", "y"), "password"),
        ("http://host", "sk-very-secret\n", ("x", "y"), "api_key"),
        ("http://host", "k", ("a b", "y"), "a b"),
        ("http://host", "k", ("x", "sk-very-secret\n"), "\"x\""),
    ] {
        let mut config = OpenAiConfig::new("main", base_url, key.to_owned().into(), "gpt");
        config.headers = vec![(header.0.to_owned(), header.1.to_owned().into())];
        let error = OpenAi::new(config, &ConnectionPool::default()).unwrap_err().to_string();
        assert!(error.contains(part) && !error.contains(KEY), "{error}");
    }
    let debug = format!("{:?}", model("http://host/v1", PATIENT));
    assert!(!debug.contains(KEY), "{debug}");
}
