//! Dropping a stream closes the upstream connection at once, whatever the provider is doing.

use std::sync::Arc;
use std::time::Duration;

use copilotd_actors::ports::{Model, ModelEvent};
use copilotd_gateway::provider::Timeouts;
use futures::StreamExt;
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

use super::server::{Exchange, STREAM, Server, UNTIL_CLOSE, said};
use super::{PATIENT, model, request};

/// Required upper bound.
const LIMIT: Duration = Duration::from_millis(100);

type Slot<T> = Arc<Mutex<Option<oneshot::Sender<T>>>>;

fn slot<T>() -> (Slot<T>, oneshot::Receiver<T>) {
    let (sender, receiver) = oneshot::channel();
    (Arc::new(Mutex::new(Some(sender))), receiver)
}

fn tell<T>(slot: &Slot<T>, value: T) {
    if let Some(sender) = slot.lock().take() {
        let _ = sender.send(value);
    }
}

/// Sends `opening` and is silent; reports when the request came and when the connection was closed.
async fn silent_after(opening: Vec<u8>) -> (Server, oneshot::Receiver<()>, oneshot::Receiver<Instant>) {
    let ((came, has_come), (closed, is_closed)) = (slot(), slot());
    let server = Server::start(move |mut exchange: Exchange| {
        let (opening, came, closed) = (opening.clone(), Arc::clone(&came), Arc::clone(&closed));
        async move {
            exchange.write(&opening).await;
            tell(&came, ());
            exchange.closed().await;
            tell(&closed, Instant::now());
            None
        }
    })
    .await;
    (server, has_come, is_closed)
}

async fn assert_closed(dropped: Instant, closed: oneshot::Receiver<Instant>) {
    let closed = timeout(Duration::from_secs(5), closed)
        .await
        .expect("the connection is never closed")
        .unwrap();
    let took = closed.saturating_duration_since(dropped);
    println!("closed after {took:?}");
    assert!(took < LIMIT, "closed after {took:?}");
}

#[tokio::test]
async fn a_dropped_stream_closes_a_silent_connection() {
    for head in [STREAM, UNTIL_CLOSE] {
        let text = said("a");
        let body = if head == STREAM {
            super::server::chunked(text.as_bytes())
        } else {
            text.into_bytes()
        };
        let (server, _, closed) = silent_after([head.as_bytes(), &body].concat()).await;
        let model = model(&server.url, PATIENT);
        let mut stream = model.stream(request()).await.unwrap();
        while !matches!(stream.next().await, Some(Ok(ModelEvent::Text(_)))) {}
        // The reader is in the middle of waiting when it is dropped.
        assert!(futures::poll!(stream.next()).is_pending());
        let dropped = Instant::now();
        drop(stream);
        assert_closed(dropped, closed).await;
    }
}

#[tokio::test]
async fn a_dropped_stream_that_was_never_read_closes_too() {
    let (server, _, closed) = silent_after(STREAM.as_bytes().to_vec()).await;
    let stream = model(&server.url, PATIENT).stream(request()).await.unwrap();
    let dropped = Instant::now();
    drop(stream);
    assert_closed(dropped, closed).await;
}

#[tokio::test]
async fn a_call_that_is_dropped_before_the_answer_begins_closes_too() {
    let (server, came, closed) = silent_after(Vec::new()).await;
    let model = model(&server.url, PATIENT);
    let mut call = model.stream(request());
    tokio::select! {
        _ = &mut call => panic!("nobody answers"),
        came = came => came.unwrap(),
    }
    let dropped = Instant::now();
    drop(call);
    assert_closed(dropped, closed).await;
}

#[tokio::test]
async fn a_dropped_stream_closes_a_connection_that_is_talking() {
    let (closed, is_closed) = slot();
    let server = Server::start(move |mut exchange: Exchange| {
        let closed = Arc::clone(&closed);
        async move {
            exchange.write(STREAM).await;
            while exchange.chunk(said("word ")).await {
                tokio::task::yield_now().await;
            }
            tell(&closed, Instant::now());
            None
        }
    })
    .await;
    let mut stream = model(&server.url, PATIENT).stream(request()).await.unwrap();
    for _ in 0..100 {
        stream.next().await.unwrap().unwrap();
    }
    let dropped = Instant::now();
    drop(stream);
    assert_closed(dropped, is_closed).await;
}

#[tokio::test]
async fn a_failed_stream_closes_before_it_is_dropped_and_its_connection_is_not_used_again() {
    let (server, _, closed) =
        silent_after([STREAM.as_bytes(), &super::server::chunked(said("a").as_bytes())].concat()).await;
    let limits = Timeouts {
        idle: Duration::from_millis(100),
        ..PATIENT
    };
    let model = model(&server.url, limits);
    let mut stream = model.stream(request()).await.unwrap();
    while !matches!(stream.next().await, Some(Err(_))) {}
    assert_closed(Instant::now(), closed).await;
    let _second = model.stream(request()).await.unwrap();
    assert_eq!(server.connections(), 2);
    drop(stream);
}
