//! The HTTP side of a standby: it listens before it has the store, and holds requests until it has taken over.
//!
//! Invariant: a request reaches the product's routes only after [`Standby::serve`], and then unread and unchanged. Held
//! requests are bounded in number, in bytes and in time.

use std::sync::Arc;
use std::time::Duration;

use axum::body::HttpBody as _;
use axum::extract::{Request, State};
use axum::http::{StatusCode, Version};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use axum::{Extension, Router, middleware};
use serde_json::json;
use tokio::sync::{Semaphore, watch};
use tower::Service as _;

use super::error_documents;
use super::operator::operations;
use crate::http::problems::{Code, Problem, Retry};

/// Maximum time that a request is held.
const MAX_HOLD: Duration = Duration::from_secs(5);
/// Maximum number of held requests.
const MAX_HELD: usize = 1024;
/// Maximum bytes of all held requests: their headers, and what of their bodies may be in buffers. No body is read.
const MAX_HELD_BYTES: usize = 32 * 1024 * 1024;
/// Bytes counted per request besides its body.
const HEADER_BYTES: usize = 8 * 1024;
/// Maximum bytes of a body that are buffered before it is read, by protocol.
const HTTP1_BODY: usize = 16 * 1024;
const HTTP2_BODY: usize = 128 * 1024;
/// `Retry-After` of refused requests.
const RETRY: Duration = Duration::from_secs(1);

/// The routes of one listener before and after the takeover.
#[derive(Debug)]
pub struct Standby {
    /// The current phase, which held requests wait on.
    serving: watch::Sender<Phase>,
    slots: Semaphore,
    bytes: Semaphore,
}

#[derive(Debug, Clone)]
enum Phase {
    StandingBy,
    Serving(Router),
    Ending,
}

/// Why a request was not forwarded to the product's routes.
#[derive(Debug, Clone, Copy)]
enum NotServed {
    /// This standby did not take over in time.
    TimedOut,
    /// Too many requests or bytes are held already.
    Full,
    /// The standby exits without having taken over.
    Ending,
}

impl Default for Standby {
    fn default() -> Self {
        Self {
            serving: watch::Sender::new(Phase::StandingBy),
            slots: Semaphore::new(MAX_HELD),
            bytes: Semaphore::new(MAX_HELD_BYTES),
        }
    }
}

impl Standby {
    /// Returns the routes for a listener: every request waits for, and goes to, the routes given to [`Self::serve`].
    pub fn routes(self: &Arc<Self>) -> Router {
        let own = Router::new()
            .route("/healthz", get(operations::healthz))
            .route("/readyz", get(readyz))
            .fallback(|Extension(why): Extension<NotServed>| async move { refused(why) })
            .layer(middleware::from_fn(error_documents::layer));
        let (standby, own) = (Arc::clone(self), own);
        Router::new().fallback(forward).with_state((standby, own))
    }

    /// Serves these routes from now on, starting with the held requests.
    pub fn serve(&self, routes: Router) {
        self.serving.send_replace(Phase::Serving(routes));
    }

    /// Refuses held and new requests: the process exits without having taken over.
    pub fn end(&self) {
        self.serving.send_replace(Phase::Ending);
    }

    /// Waits until there are routes to forward to.
    async fn wait(&self, bytes: u32) -> Result<Router, NotServed> {
        let slot = self.slots.try_acquire().map_err(|_| NotServed::Full)?;
        let bytes = self.bytes.try_acquire_many(bytes);
        let bytes = bytes.map_err(|_| NotServed::Full)?;
        let mut serving = self.serving.subscribe();
        let decided = serving.wait_for(|phase| !matches!(phase, Phase::StandingBy));
        let phase = tokio::time::timeout(MAX_HOLD, decided).await;
        let outcome = match phase {
            Ok(Ok(phase)) => match &*phase {
                Phase::Serving(routes) => Ok(routes.clone()),
                Phase::StandingBy | Phase::Ending => Err(NotServed::Ending),
            },
            Ok(Err(_)) => Err(NotServed::Ending),
            Err(_) => Err(NotServed::TimedOut),
        };
        drop((slot, bytes));
        outcome
    }
}

/// Forwards a request to the product's routes once there are any.
async fn forward(
    State((standby, mut own)): State<(Arc<Standby>, Router)>,
    mut request: Request,
) -> Result<Response, std::convert::Infallible> {
    let serving = match &*standby.serving.borrow() {
        Phase::Serving(routes) => Some(routes.clone()),
        Phase::StandingBy | Phase::Ending => None,
    };
    if let Some(mut routes) = serving {
        return routes.call(request).await;
    }
    if matches!(request.uri().path(), "/healthz" | "/readyz") {
        return own.call(request).await;
    }
    // Held metrics would be out of date.
    let waited = match request.uri().path() {
        "/metrics" => Err(NotServed::TimedOut),
        _ => {
            let bytes = held_bytes(&request);
            standby.wait(bytes).await
        }
    };
    match waited {
        Ok(mut routes) => routes.call(request).await,
        Err(why) => {
            request.extensions_mut().insert(why);
            own.call(request).await
        }
    }
}

async fn readyz() -> Response {
    let body = json!({
        "status": "standby",
        "dependencies": {},
        "store": { "last_write": "pending", "age_s": null },
    });
    (StatusCode::SERVICE_UNAVAILABLE, axum::Json(body)).into_response()
}

fn refused(why: NotServed) -> Response {
    let detail = match why {
        NotServed::TimedOut => "this server is a standby and has not taken over; nothing was done",
        NotServed::Full => {
            "this server is a standby, and too many requests are waiting for it to take over; nothing was done"
        }
        NotServed::Ending => "this server is shutting down; nothing was done",
    };
    Problem::new(Code::Unavailable)
        .detail(detail)
        .retry(Retry::Safe)
        .retry_after(RETRY)
        .into_response()
}

/// The bytes to reserve for holding a request.
fn held_bytes(request: &Request) -> u32 {
    let buffer = if request.version() == Version::HTTP_2 {
        HTTP2_BODY
    } else {
        HTTP1_BODY
    };
    let body = request
        .body()
        .size_hint()
        .upper()
        .and_then(|bytes| usize::try_from(bytes).ok());
    let bytes = HEADER_BYTES + body.map_or(buffer, |bytes| bytes.min(buffer));
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use axum::body::{Body, to_bytes};
    use axum::http::header;
    use futures::future::join_all;
    use serde_json::Value;

    use super::*;

    fn request(path: &str) -> Request {
        Request::builder().uri(path).body(Body::empty()).unwrap()
    }

    async fn answer(routes: &Router, request: Request) -> (u16, Value, Option<String>) {
        let response = routes.clone().call(request).await.unwrap();
        let status = response.status().as_u16();
        let retry = response.headers().get(header::RETRY_AFTER);
        let retry = retry.map(|value| value.to_str().unwrap().to_owned());
        let body = to_bytes(response.into_body(), 1 << 20).await.unwrap();
        (status, serde_json::from_slice(&body).unwrap_or(Value::Null), retry)
    }

    fn product() -> Router {
        Router::new()
            .route("/readyz", get(|| async { axum::Json(json!({ "status": "ok" })) }))
            .fallback(|request: Request| async move {
                let path = request.uri().path().to_owned();
                let body = to_bytes(request.into_body(), 1 << 20).await.unwrap();
                axum::Json(json!([path, body.len()]))
            })
    }

    #[tokio::test(start_paused = true)]
    async fn answers_health_checks_and_holds_other_requests_for_five_seconds() {
        let standby = Arc::new(Standby::default());
        let routes = standby.routes();
        let begun = tokio::time::Instant::now();
        assert_eq!(answer(&routes, request("/healthz")).await.0, 200);
        let (status, body, _) = answer(&routes, request("/readyz")).await;
        assert_eq!((status, &body["status"]), (503, &json!("standby")));
        assert_eq!(answer(&routes, request("/metrics")).await.0, 503);
        assert_eq!(begun.elapsed(), Duration::ZERO);
        let (status, body, retry) = answer(&routes, request("/v1/conversations")).await;
        assert_eq!(
            (status, &body["code"], &body["retry"], retry.as_deref()),
            (503, &json!("unavailable"), &json!("safe"), Some("1"))
        );
        assert_eq!(begun.elapsed(), MAX_HOLD);
        // OpenAI-compatible routes answer in OpenAI's error shape.
        let (status, body, retry) = answer(&routes, request("/v1/models")).await;
        assert_eq!(
            (status, body["error"].is_object(), retry.as_deref()),
            (503, true, Some("1"))
        );
    }

    #[tokio::test(start_paused = true)]
    async fn held_requests_are_served_after_the_takeover() {
        let standby = Arc::new(Standby::default());
        let routes = standby.routes();
        let held = (0..100).map(|n| {
            let routes = routes.clone();
            let body = Body::from(vec![b'x'; 1000 * n]);
            async move { answer(&routes, Request::post(format!("/v1/{n}")).body(body).unwrap()).await }
        });
        let begun = tokio::time::Instant::now();
        let takeover = async {
            tokio::time::sleep(Duration::from_secs(2)).await;
            standby.serve(product());
        };
        let (answers, ()) = tokio::join!(join_all(held), takeover);
        for (n, (status, body, _)) in answers.into_iter().enumerate() {
            assert_eq!((status, body), (200, json!([format!("/v1/{n}"), 1000 * n])));
        }
        assert_eq!(begun.elapsed(), Duration::from_secs(2));
        assert_eq!(answer(&routes, request("/readyz")).await.1["status"], "ok");
        assert_eq!(answer(&routes, request("/v1/x")).await.0, 200);
    }

    #[tokio::test(start_paused = true)]
    async fn held_requests_are_bounded_in_number_and_in_bytes() {
        let count = |body: usize, version: Version, all: usize| async move {
            let standby = Arc::new(Standby::default());
            let routes = standby.routes();
            let held = (0..all).map(|_| {
                let body = Body::from(vec![b'x'; body]);
                let request = Request::post("/v1/x").version(version).body(body).unwrap();
                let routes = routes.clone();
                async move {
                    let begun = tokio::time::Instant::now();
                    let (status, ..) = answer(&routes, request).await;
                    assert_eq!(status, 503);
                    usize::from(begun.elapsed() == MAX_HOLD)
                }
            });
            join_all(held).await.into_iter().sum::<usize>()
        };
        assert_eq!(count(0, Version::HTTP_11, MAX_HELD + 10).await, MAX_HELD);
        assert_eq!(
            count(1 << 20, Version::HTTP_2, 500).await,
            MAX_HELD_BYTES / (HEADER_BYTES + HTTP2_BODY)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn an_ending_standby_refuses_held_requests_at_once() {
        let standby = Arc::new(Standby::default());
        let routes = standby.routes();
        let begun = tokio::time::Instant::now();
        let end = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            standby.end();
        };
        let ((status, body, _), ()) = tokio::join!(answer(&routes, request("/v1/x")), end);
        assert_eq!((status, &body["retry"]), (503, &json!("safe")));
        assert_eq!(answer(&routes, request("/v1/x")).await.0, 503);
        assert_eq!(begun.elapsed(), Duration::from_secs(1));
    }
}
