//! In-process requests through a router: every error is answered as a problem with the request id.

use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Method, Request, StatusCode, header};
use axum::middleware::from_fn;
use axum::routing::{get, post};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};
use tower::ServiceExt;

use super::error_documents;
use crate::http::bodies::{BodyLimits, Json};
use crate::http::problems::{Code, Problem};
use crate::http::request_id::X_REQUEST_ID;

#[derive(Deserialize)]
struct SubmitTurn {
    input: Value,
}

crate::request_body!(SubmitTurn, "submit_turn.json");

fn app() -> Router {
    let limits = BodyLimits {
        bytes: 2_000,
        time: Duration::from_millis(100),
        ..BodyLimits::default()
    };
    Router::new()
        .route(
            "/echo",
            post(async |Json(turn): Json<SubmitTurn>| turn.input.to_string()),
        )
        .route("/fine", get(async || "fine"))
        .route("/busy", get(async || Problem::new(Code::Overloaded)))
        .route("/bare", get(async || StatusCode::INTERNAL_SERVER_ERROR))
        .route(
            "/secret",
            get(async || (StatusCode::INTERNAL_SERVER_ERROR, "password=hush")),
        )
        .route(
            "/foreign",
            get(async || (StatusCode::BAD_REQUEST, axum::Json(json!({ "error": {} })))),
        )
        .route("/v1/models", get(async || -> String { panic!("on purpose") }))
        .route("/panic", get(async || -> String { panic!("on purpose") }))
        .layer(axum::Extension(limits))
        .layer(from_fn(error_documents::layer))
}

struct Answer {
    status: u16,
    headers: axum::http::HeaderMap,
    body: Bytes,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

async fn send(request: Request<Body>) -> Answer {
    let response = app().oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
    Answer {
        status: parts.status.as_u16(),
        headers: parts.headers,
        body: axum::body::to_bytes(body, usize::MAX).await.unwrap(),
    }
}

fn request(method: Method, path: &str) -> Request<Body> {
    Request::builder().method(method).uri(path).body(Body::empty()).unwrap()
}

async fn echo(content_type: &str, body: impl Into<Body>) -> Answer {
    let mut request = request(Method::POST, "/echo");
    request
        .headers_mut()
        .insert(header::CONTENT_TYPE, content_type.parse().unwrap());
    *request.body_mut() = body.into();
    send(request).await
}

#[tokio::test]
async fn a_body_that_cannot_be_read_is_named() {
    let nested = |depth: usize| {
        format!(
            "{{\"input\":\"a\",\"metadata\":{}1{}}}",
            "{\"a\":".repeat(depth),
            "}".repeat(depth)
        )
    };
    let json = "application/json";
    for (content_type, body, status, code) in [
        (json, r#"{"input":"hi"}"#.as_bytes().to_vec(), 200, ""),
        ("application/json; charset=utf-8", r#"{"input":"hi"}"#.into(), 200, ""),
        (json, nested(63).into(), 200, ""),
        (json, nested(64).into(), 400, "malformed"),
        (json, "[".repeat(1_999).into(), 400, "malformed"),
        (json, b"".to_vec(), 400, "malformed"),
        (json, b"{".to_vec(), 400, "malformed"),
        (json, b"{\"input\":\"a\"} x".to_vec(), 400, "malformed"),
        (json, b"{\"input\":\"a\",\"input\":\"b\"}".to_vec(), 400, "malformed"),
        (json, b"{\"input\":\"\xff\xfe\"}".to_vec(), 400, "malformed"),
        (json, b"\xff\xfe{\0}\0".to_vec(), 400, "malformed"),
        (json, br#"{"input":"\ud800"}"#.to_vec(), 400, "malformed"),
        (json, br#"{"input":"a\u0000b"}"#.to_vec(), 422, "invalid"),
        (json, b"{\"input\":\"a\nb\"}".to_vec(), 400, "malformed"),
        (json, br#"{"input":1e999}"#.to_vec(), 400, "malformed"),
        (json, b"null".to_vec(), 422, "invalid"),
        (json, b"[]".to_vec(), 422, "invalid"),
        (json, b"{}".to_vec(), 422, "invalid"),
        (json, br#"{"input":""}"#.to_vec(), 422, "invalid"),
        (json, br#"{"input":[]}"#.to_vec(), 422, "invalid"),
        (json, br#"{"input":3}"#.to_vec(), 422, "invalid"),
        (json, br#"{"input":"a","extra":1}"#.to_vec(), 422, "invalid"),
        (json, br#"{"input":[{"type":"image"}]}"#.to_vec(), 422, "invalid"),
        (json, vec![b' '; 2_001], 413, "too_large"),
        (
            "text/plain",
            br#"{"input":"hi"}"#.to_vec(),
            415,
            "unsupported_media_type",
        ),
        (
            "application/json; charset=latin1",
            br#"{"input":"hi"}"#.to_vec(),
            415,
            "unsupported_media_type",
        ),
    ] {
        let shown = String::from_utf8_lossy(&body[..body.len().min(60)]).into_owned();
        let answer = echo(content_type, body).await;
        assert_eq!(answer.status, status, "{shown}: {:?}", answer.body);
        assert!(answer.headers.contains_key(&X_REQUEST_ID));
        if status != 200 {
            assert_eq!(answer.headers[header::CONTENT_TYPE], "application/problem+json");
            let problem = answer.json();
            assert_eq!(problem["code"], code, "{shown}");
            assert_eq!(problem["status"], status);
            assert_eq!(problem["request_id"], answer.headers[&X_REQUEST_ID].to_str().unwrap());
            assert_eq!(problem["retry"], "never");
        }
    }
}

#[tokio::test]
async fn every_fault_of_a_body_has_its_pointer() {
    let body = r#"{"input":[{"type":"text"},{"type":"text","text":1,"x":2}],"when_busy":"hush","odd":0}"#;
    let answer = echo("application/json", body).await;
    assert_eq!(answer.status, 422);
    let mut pointers: Vec<_> = answer.json()["errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|error| error["pointer"].as_str().unwrap().to_owned())
        .collect();
    pointers.sort();
    assert_eq!(
        pointers,
        ["/input/0/text", "/input/1/text", "/input/1/x", "/odd", "/when_busy"]
    );
    assert!(
        !String::from_utf8_lossy(&answer.body).contains("hush"),
        "the response repeats a value of the request"
    );
}

#[tokio::test]
async fn a_large_body_is_refused_before_it_is_sent() {
    let mut request = request(Method::POST, "/echo");
    request
        .headers_mut()
        .insert(header::CONTENT_TYPE, "application/json".parse().unwrap());
    request
        .headers_mut()
        .insert(header::CONTENT_LENGTH, "5000000000".parse().unwrap());
    // The body must not be read: reading it would wait forever and answer 408.
    *request.body_mut() = Body::from_stream(futures::stream::pending::<Result<Bytes, std::io::Error>>());
    assert_eq!(send(request).await.status, 413);
}

#[tokio::test]
async fn a_body_that_trickles_is_not_waited_for() {
    use futures::StreamExt;
    let trickle =
        futures::stream::repeat_with(|| Ok::<_, std::io::Error>(Bytes::from_static(b" "))).then(async |piece| {
            tokio::time::sleep(Duration::from_millis(20)).await;
            piece
        });
    let answer = echo("application/json", Body::from_stream(trickle)).await;
    assert_eq!(answer.status, 408);
    assert_eq!(answer.json()["retry"], "safe");
    let cut = futures::stream::iter([Ok(Bytes::from_static(b"{")), Err(std::io::Error::other("reset"))]);
    assert_eq!(
        echo("application/json", Body::from_stream(cut)).await.json()["code"],
        "malformed"
    );
}

#[tokio::test]
async fn whatever_goes_wrong_is_a_problem_with_the_id_of_the_request() {
    for (method, path, status, code) in [
        (Method::GET, "/nowhere", 404, "not_found"),
        (Method::DELETE, "/fine", 405, "method_not_allowed"),
        (Method::GET, "/busy", 503, "overloaded"),
        (Method::GET, "/bare", 500, "internal"),
        (Method::GET, "/secret", 500, "internal"),
        (Method::GET, "/panic", 500, "internal"),
    ] {
        let mut request = request(method, path);
        request.headers_mut().insert(X_REQUEST_ID, "mine-1".parse().unwrap());
        let answer = send(request).await;
        assert_eq!(answer.status, status, "{path}");
        assert_eq!(answer.headers[&X_REQUEST_ID], "mine-1");
        assert_eq!(answer.headers[header::CONTENT_TYPE], "application/problem+json");
        let problem = answer.json();
        assert_eq!(problem["code"], code, "{path}");
        assert_eq!(problem["request_id"], "mine-1");
        assert_eq!(problem["type"], format!("https://copilotd.dev/problems/{code}"));
        assert!(!problem.to_string().contains("hush") && !problem.to_string().contains("purpose"));
        assert_eq!(answer.headers.contains_key(header::RETRY_AFTER), status == 503);
        assert_eq!(answer.headers.contains_key(header::ALLOW), status == 405);
    }
}

#[tokio::test]
async fn on_openais_paths_it_is_an_error_in_its_shape() {
    for (method, path, status, kind, code) in [
        (Method::GET, "/v1/models", 500, "server_error", "internal"),
        (Method::GET, "/v1/models/x", 404, "invalid_request_error", "not_found"),
        (
            Method::DELETE,
            "/v1/models",
            405,
            "invalid_request_error",
            "method_not_allowed",
        ),
    ] {
        let answer = send(request(method, path)).await;
        assert_eq!(answer.status, status, "{path}");
        assert_eq!(answer.headers[header::CONTENT_TYPE], "application/json");
        assert!(answer.headers.contains_key(&X_REQUEST_ID));
        let error = &answer.json()["error"];
        assert_eq!((&error["type"], &error["code"]), (&json!(kind), &json!(code)));
        assert!(!error.to_string().contains("purpose"), "{error}");
    }
}

#[tokio::test]
async fn other_answers_are_left_alone() {
    let answer = send(request(Method::GET, "/fine")).await;
    assert_eq!((answer.status, answer.body.as_ref()), (200, &b"fine"[..]));
    assert!(answer.headers[&X_REQUEST_ID].to_str().unwrap().starts_with("req_"));

    let answer = send(request(Method::GET, "/foreign")).await;
    assert_eq!((answer.status, answer.json()), (400, json!({ "error": {} })));

    for path in ["/fine", "/busy"] {
        let answer = send(request(Method::HEAD, path)).await;
        assert!(answer.body.is_empty() && answer.headers.contains_key(&X_REQUEST_ID));
    }
}

#[test]
fn every_schema_of_a_body_compiles() {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/schemas/api");
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        // Schemas of responses refer to each other; `openapi` compiles them together.
        if !text.contains("\"title\": \"Body of ") {
            continue;
        }
        crate::shape::Shape::compile(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
}
