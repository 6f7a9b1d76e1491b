//! A small load balancer over two servers: a request that one refuses with 503, or does not accept, goes to the other.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::Response;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

/// The balancer; it stops when it is dropped.
pub struct Balancer {
    /// Its address, for clients.
    pub address: watch::Receiver<Option<SocketAddr>>,
    _kept: watch::Sender<Option<SocketAddr>>,
    _task: AbortOnDropHandle<()>,
}

struct Targets {
    http: reqwest::Client,
    all: [watch::Receiver<Option<SocketAddr>>; 2],
    /// The server that answered last.
    preferred: AtomicUsize,
}

impl Balancer {
    pub async fn start(all: [watch::Receiver<Option<SocketAddr>>; 2]) -> Self {
        let targets = Arc::new(Targets {
            http: reqwest::Client::builder().no_proxy().build().unwrap(),
            all,
            preferred: AtomicUsize::new(0),
        });
        let routes = Router::new().fallback(forward).with_state(targets);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (kept, address) = watch::channel(listener.local_addr().ok());
        let task = tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() });
        Self {
            address,
            _kept: kept,
            _task: AbortOnDropHandle::new(task),
        }
    }
}

async fn forward(
    State(targets): State<Arc<Targets>>,
    method: Method,
    uri: Uri,
    mut headers: HeaderMap,
    body: Bytes,
) -> Response {
    headers.remove("host");
    let first = targets.preferred.load(Ordering::Relaxed);
    let mut answer = None;
    for target in [first, 1 - first] {
        let Some(address) = *targets.all[target].borrow() else {
            continue;
        };
        let request = targets
            .http
            .request(method.clone(), format!("http://{address}{uri}"))
            .headers(headers.clone())
            .body(body.clone());
        match request.send().await {
            Ok(refused) if refused.status() == StatusCode::SERVICE_UNAVAILABLE => answer = Some(refused),
            Ok(answered) => {
                targets.preferred.store(target, Ordering::Relaxed);
                answer = Some(answered);
                break;
            }
            Err(_) => {}
        }
    }
    let Some(answer) = answer else {
        let refused = Response::builder()
            .status(StatusCode::SERVICE_UNAVAILABLE)
            .header("retry-after", "1");
        return refused.body(Body::empty()).unwrap();
    };
    let mut response = Response::builder().status(answer.status());
    for (name, value) in answer.headers().iter().filter(|(name, _)| *name != "transfer-encoding") {
        response = response.header(name, value);
    }
    response.body(Body::from_stream(answer.bytes_stream())).unwrap()
}
