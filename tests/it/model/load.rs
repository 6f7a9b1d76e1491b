//! Many streams at once.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use axum::response::Response;
use axum::routing::post;
use copilotd::adapters::openai::{Hosts, OpenAi};
use copilotd_actors::ports::{Model, ModelEvent, ModelStream};
use futures::{StreamExt, stream};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::Barrier;

use super::server::{DONE, Exchange, STREAM, Server, finish, said};
use super::{PATIENT, config, model, request, text};

const STREAMS: usize = 300;

/// Opens all streams; reads each until its first text.
async fn open(model: Arc<dyn Model>) -> Vec<ModelStream> {
    let opening = (0..STREAMS).map(|_| {
        let model = Arc::clone(&model);
        tokio::spawn(async move {
            let mut stream = model.stream(request()).await.unwrap();
            while !matches!(stream.next().await.unwrap().unwrap(), ModelEvent::Text(_)) {}
            stream
        })
    });
    let opened = futures::future::join_all(opening).await;
    opened.into_iter().map(Result::unwrap).collect()
}

async fn rest(streams: Vec<ModelStream>) {
    for stream in streams {
        let events: Vec<_> = stream.map(Result::unwrap).collect().await;
        assert_eq!(text(&events), "b");
        assert!(matches!(events.last(), Some(ModelEvent::Finished(_))));
    }
}

/// Says nothing to anybody before all are there, so that one stream which waits for another one's end hangs the test.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_hundred_streams_run_side_by_side() {
    let all = Arc::new(Barrier::new(STREAMS));
    let server = Server::start(move |mut exchange: Exchange| {
        let all = Arc::clone(&all);
        async move {
            all.wait().await;
            exchange.write(STREAM).await;
            exchange.chunk(said("a")).await;
            all.wait().await;
            exchange.chunk(said("b") + &finish("stop") + DONE).await;
            exchange.write("0\r\n\r\n").await;
            Some(exchange)
        }
    })
    .await;
    let model: Arc<dyn Model> = Arc::new(model(&server.url, PATIENT));
    rest(open(model).await).await;
    assert_eq!(server.connections(), STREAMS);
}

/// A server that admits a hundred streams per HTTP/2 connection, as the large providers do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http2_streams_never_queue_behind_a_full_connection() {
    let all = Arc::new(Barrier::new(STREAMS));
    let answer = move || {
        let all = Arc::clone(&all);
        async move {
            all.wait().await;
            let last = Arc::clone(&all);
            let pieces = stream::iter([said("a")]).chain(stream::once(async move {
                last.wait().await;
                said("b") + &finish("stop") + DONE
            }));
            let body = pieces.map(|piece| Ok::<_, Infallible>(Bytes::from(piece)));
            Response::builder()
                .header("content-type", "text/event-stream")
                .body(Body::from_stream(body))
                .unwrap()
        }
    };
    let per_connection: Arc<std::sync::Mutex<HashMap<SocketAddr, Arc<AtomicUsize>>>> = Arc::default();
    let app = Router::new().route("/v1/chat/completions", post(answer));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    let counts = Arc::clone(&per_connection);
    let server = tokio::spawn(async move {
        while let Ok((socket, peer)) = listener.accept().await {
            let count = Arc::new(AtomicUsize::new(0));
            counts.lock().unwrap().insert(peer, Arc::clone(&count));
            let counted = app.clone().layer(from_fn(move |request: Request, next: Next| {
                count.fetch_add(1, Ordering::SeqCst);
                next.run(request)
            }));
            tokio::spawn(async move {
                let mut builder = auto::Builder::new(TokioExecutor::new()).http2_only();
                builder.http2().max_concurrent_streams(100);
                let _ = builder
                    .serve_connection(TokioIo::new(socket), TowerToHyperService::new(counted))
                    .await;
            });
        }
    });
    let mut config = config(&url, PATIENT);
    config.dialect.http2_cleartext = true;
    let model: Arc<dyn Model> = Arc::new(OpenAi::new(config, &Hosts::default()).unwrap());
    rest(open(model).await).await;
    let mut counts: Vec<usize> = per_connection
        .lock()
        .unwrap()
        .values()
        .map(|count| count.load(Ordering::SeqCst))
        .collect();
    counts.sort_unstable();
    assert_eq!(counts, [100, 100, 100]);
    server.abort();
}
