//! Many streams at once.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use axum::response::Response;
use axum::routing::post;
use copilotd::adapters::llm::openai::OpenAi;
use copilotd::adapters::llm::provider::ConnectionPool;
use copilotd_actors::ports::{Model, ModelEvent, ModelStream};
use futures::{Stream, StreamExt, stream};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::sync::{Barrier, Semaphore, mpsc};
use tokio::time::Instant;

use super::server::{DONE, Exchange, STREAM, Server, finish, said};
use super::{Direct, PATIENT, config, model, request, text};

const STREAMS: usize = 1_000;

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

/// Sends nothing to any stream before all are connected, so that one stream waiting for another one's end hangs the
/// test.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_streams_run_side_by_side() {
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

/// Counts requests, one number per connection.
type Counts = Arc<Mutex<HashMap<SocketAddr, Arc<AtomicUsize>>>>;

/// Serves `app` over HTTP/2 and admits a hundred streams per connection, as the large providers do.
async fn http2(app: Router) -> (Direct, Counts) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut config = config(&format!("http://{}/v1", listener.local_addr().unwrap()), PATIENT);
    config.dialect.http2_cleartext = true;
    let all = Counts::default();
    let counts = Arc::clone(&all);
    tokio::spawn(async move {
        while let Ok((socket, peer)) = listener.accept().await {
            let count = Arc::new(AtomicUsize::new(0));
            counts.lock().insert(peer, Arc::clone(&count));
            let counted = app.clone().layer(from_fn(move |request: Request, next: Next| {
                count.fetch_add(1, Ordering::SeqCst);
                next.run(request)
            }));
            tokio::spawn(async move {
                let mut builder = auto::Builder::new(TokioExecutor::new()).http2_only();
                builder.http2().max_concurrent_streams(100);
                let service = TowerToHyperService::new(counted);
                let _ = builder.serve_connection(TokioIo::new(socket), service).await;
            });
        }
    });
    let model = Direct {
        upstream: OpenAi::new(config, &ConnectionPool::default()).unwrap(),
        timeouts: PATIENT,
    };
    (model, all)
}

fn events(pieces: impl Stream<Item = String> + Send + 'static) -> Response {
    let body = Body::from_stream(pieces.map(|piece| Ok::<_, Infallible>(Bytes::from(piece))));
    Response::builder()
        .header("content-type", "text/event-stream")
        .body(body)
        .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http2_streams_never_queue_behind_a_full_connection() {
    let all = Arc::new(Barrier::new(STREAMS));
    let answer = move || {
        let all = Arc::clone(&all);
        async move {
            all.wait().await;
            events(stream::iter([said("a")]).chain(stream::once(async move {
                all.wait().await;
                said("b") + &finish("stop") + DONE
            })))
        }
    };
    let (model, counts) = http2(Router::new().route("/v1/chat/completions", post(answer))).await;
    rest(open(Arc::new(model)).await).await;
    let counts = counts.lock();
    let mut counts: Vec<usize> = counts.values().map(|count| count.load(Ordering::SeqCst)).collect();
    // Two that find all connections full at one moment may open one more than they need.
    counts.retain(|count| *count > 0);
    counts.sort_unstable();
    assert_eq!(counts, [100; 10]);
}

/// Reports when it is dropped.
struct Dropped(mpsc::UnboundedSender<Instant>);

impl Drop for Dropped {
    fn drop(&mut self) {
        let _ = self.0.send(Instant::now());
    }
}

#[tokio::test]
async fn a_dropped_http2_stream_ends_at_once_and_leaves_its_neighbours_alone() {
    let (sender, mut dropped) = mpsc::unbounded_channel();
    let go_on = Arc::new(Semaphore::new(0));
    let allowed = Arc::clone(&go_on);
    let answer = move || {
        let (guard, allowed) = (Dropped(sender.clone()), Arc::clone(&allowed));
        async move {
            events(stream::iter([said("a")]).chain(stream::once(async move {
                let _guard = guard;
                allowed.acquire().await.unwrap().forget();
                said("b") + &finish("stop") + DONE
            })))
        }
    };
    let (model, counts) = http2(Router::new().route("/v1/chat/completions", post(answer))).await;
    let mut streams = Vec::new();
    for _ in 0..2 {
        let mut stream = model.stream(request()).await.unwrap();
        while !matches!(stream.next().await.unwrap().unwrap(), ModelEvent::Text(_)) {}
        streams.push(stream);
    }
    let left = Instant::now();
    drop(streams.remove(0));
    let took = dropped.recv().await.unwrap().saturating_duration_since(left);
    assert!(took < Duration::from_millis(100), "{took:?}");
    go_on.add_permits(1);
    rest(streams).await;
    assert_eq!(counts.lock().len(), 1);
}
