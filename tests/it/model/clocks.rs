//! The deadlines, with short timeouts and real time. Timeouts that must not fire are very long.

use std::time::Duration;

use copilotd_actors::domain::failure::FailureClass;
use copilotd_actors::ports::{Model, ModelEvent};
use copilotd_gateway::provider::Timeouts;
use futures::StreamExt;
use serde_json::json;
use tokio::time::{Instant, interval};

use super::server::{Exchange, STREAM, Server, delta, finish, said};
use super::{PATIENT, ask, model, request, text};

const SHORT: Duration = Duration::from_millis(150);

/// Sends `first`, then `again` every 20 ms until the other side closes, then reports how long that took.
async fn repeating(first: String, again: String) -> (Server, tokio::sync::mpsc::UnboundedReceiver<Duration>) {
    let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
    let server = Server::start(move |mut exchange: Exchange| {
        let (first, again, sender) = (first.clone(), again.clone(), sender.clone());
        async move {
            let started = Instant::now();
            exchange.write(STREAM).await;
            exchange.chunk(&first).await;
            let mut tick = interval(Duration::from_millis(20));
            loop {
                tokio::select! {
                    () = exchange_closed(&exchange) => break,
                    _ = tick.tick() => if !exchange.chunk(&again).await { break },
                }
            }
            sender.send(started.elapsed()).unwrap();
            None
        }
    })
    .await;
    (server, receiver)
}

async fn exchange_closed(exchange: &Exchange) {
    let mut byte = [0];
    while !matches!(exchange.socket.peek(&mut byte).await, Ok(0) | Err(_)) {}
}

#[tokio::test]
async fn a_server_that_does_not_answer_is_silent() {
    for limits in [
        Timeouts {
            first_token: SHORT,
            ..PATIENT
        },
        Timeouts {
            total: SHORT,
            ..PATIENT
        },
    ] {
        let server = Server::start(|mut exchange: Exchange| async move {
            exchange.closed().await;
            None
        })
        .await;
        let started = Instant::now();
        let (_, error) = ask(&model(&server.url, limits), request()).await;
        let error = error.unwrap();
        assert_eq!(error.class, FailureClass::TimedOut);
        assert!(error.message.contains("150ms"), "{error}");
        assert!(started.elapsed() >= SHORT);
    }
}

#[tokio::test]
async fn a_status_counts_even_if_its_body_never_comes() {
    let server = Server::start(|mut exchange: Exchange| async move {
        exchange
            .write("HTTP/1.1 503 Busy\r\ncontent-length: 10\r\n\r\nhalf")
            .await;
        exchange.closed().await;
        None
    })
    .await;
    let limits = Timeouts {
        first_token: 4 * SHORT,
        ..PATIENT
    };
    let (_, error) = ask(&model(&server.url, limits), request()).await;
    assert_eq!(error.unwrap().class, FailureClass::Overload);
}

#[tokio::test]
async fn keep_alives_and_empty_pieces_are_silence() {
    let empty = delta(json!({"role": "assistant", "content": ""}));
    for again in [": keep-alive\n\n".to_owned(), empty] {
        let limits = Timeouts {
            first_token: SHORT,
            ..PATIENT
        };
        let (server, mut closed) = repeating(String::new() + ":\n\n", again.clone()).await;
        let (events, error) = ask(&model(&server.url, limits), request()).await;
        assert_eq!(error.unwrap().class, FailureClass::TimedOut, "{again}");
        assert_eq!(text(&events), "");
        assert!(closed.recv().await.unwrap() < SHORT + Duration::from_secs(2));

        let limits = Timeouts { idle: SHORT, ..PATIENT };
        let (server, mut closed) = repeating(said("a"), again.clone()).await;
        let (events, error) = ask(&model(&server.url, limits), request()).await;
        let error = error.unwrap();
        assert_eq!(error.class, FailureClass::TimedOut, "{again}");
        assert!(error.message.contains("no content for 150ms"), "{error}");
        assert_eq!(text(&events), "a");
        assert!(
            matches!(events.last(), Some(ModelEvent::Usage(_))),
            "the usage is reported"
        );
        closed.recv().await.unwrap();
    }
}

#[tokio::test]
async fn text_reasoning_and_calls_extend_the_idle_deadline_but_not_the_total() {
    let call = delta(json!({"tool_calls": [{"index": 0, "function": {"name": "a", "arguments": "1"}}]}));
    // Far above the pace of the pieces: a busy machine must not look like a silent provider.
    let silence = Duration::from_secs(1);
    let limits = Timeouts {
        first_token: silence,
        idle: silence,
        total: Duration::from_millis(2_500),
        ..PATIENT
    };
    let pieces = [
        said("a"),
        delta(json!({"reasoning_content": "hm"})),
        delta(json!({"reasoning": "hm"})),
        call,
    ];
    let each = pieces.map(|again| async move {
        let (server, _closed) = repeating(again.clone(), again.clone()).await;
        let started = Instant::now();
        let (_, error) = ask(&model(&server.url, limits), request()).await;
        let error = error.unwrap();
        assert_eq!(error.class, FailureClass::TimedOut, "{again}");
        assert!(error.message.contains("longer than 2.5s"), "{again}: {error}");
        assert!(started.elapsed() >= limits.total);
    });
    futures::future::join_all(each).await;
}

#[tokio::test]
async fn a_reader_that_takes_its_time_is_not_the_providers_silence() {
    let (sender, sent) = tokio::sync::oneshot::channel();
    let sender = std::sync::Arc::new(parking_lot::Mutex::new(Some(sender)));
    let server = Server::start(move |mut exchange: Exchange| {
        let sender = sender.lock().take().unwrap();
        async move {
            exchange.write(STREAM).await;
            exchange.chunk(said("a")).await;
            exchange.chunk(":\n\n").await;
            exchange.chunk(said("b") + &finish("stop")).await;
            sender.send(()).unwrap();
            exchange.closed().await;
            None
        }
    })
    .await;
    let limits = Timeouts { idle: SHORT, ..PATIENT };
    let mut stream = model(&server.url, limits).stream(request()).await.unwrap();
    while !matches!(stream.next().await, Some(Ok(ModelEvent::Text(_)))) {}
    sent.await.unwrap();
    // The pause is what is tested.
    tokio::time::sleep(2 * SHORT).await;
    let rest: Vec<_> = stream.map(Result::unwrap).collect().await;
    assert_eq!(text(&rest), "b");
}
