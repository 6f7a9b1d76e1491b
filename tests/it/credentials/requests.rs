//! Credentials on requests, through an in-process router.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, FromRef};
use axum::http::{HeaderMap, Request, header};
use axum::middleware::from_fn;
use axum::routing::get;
use copilotd::http::credentials::{
    Admin, Authenticator, Chat, FailureLimit, Jwks, StreamAccess, Tickets, Verifier, WriteLimits,
};
use copilotd::revocations::Revocations;
use copilotd::surfaces::error_documents;
use copilotd_actors::domain::access::revocation::Subject;
use copilotd_actors::domain::conversation::stream::PositionSuffix as _;
use copilotd_actors::domain::ids::ConversationId;
use copilotd_actors::ports::Clock;
use jiff::Timestamp;
use serde_json::{Value, json};
use tower::ServiceExt;

use super::{KEY, claims, config, later, now, sign};
use crate::support::revocations::MemoryRevocations;

#[derive(Debug, Default)]
pub struct SteppedClock(AtomicI64);

/// A request with a token.
pub fn parts(token: &str) -> axum::http::request::Parts {
    let request = Request::get("/").header("authorization", format!("Bearer {token}"));
    request.body(()).unwrap().into_parts().0
}

impl Clock for SteppedClock {
    fn now(&self) -> Timestamp {
        later(self.0.load(Ordering::SeqCst))
    }

    fn elapsed(&self) -> std::time::Duration {
        std::time::Duration::from_secs(u64::try_from(self.0.load(Ordering::SeqCst)).unwrap())
    }
}

#[derive(Clone)]
struct State(Arc<Authenticator>);

impl FromRef<State> for Arc<Authenticator> {
    fn from_ref(state: &State) -> Self {
        Arc::clone(&state.0)
    }
}

struct App {
    router: Router,
    authenticator: Arc<Authenticator>,
    clock: Arc<SteppedClock>,
    revocations: Arc<Revocations>,
}

fn conversation(n: u32) -> ConversationId {
    format!("conv_{n:032}").parse().unwrap()
}

async fn stream(access: StreamAccess) -> Result<String, copilotd::http::problems::Problem> {
    access.admit(conversation(1))?;
    Ok(access.caller.user.to_string())
}

async fn app() -> App {
    let config = config();
    let clock = Arc::new(SteppedClock(AtomicI64::new(0)));
    let revocations = Revocations::open(Arc::new(MemoryRevocations::default()), clock.clone());
    let revocations = revocations.await.unwrap();
    let authenticator = Arc::new(Authenticator {
        verifier: Verifier::with_revocations(&config, revocations.list()).unwrap(),
        jwks: Jwks::new().unwrap(),
        tickets: Tickets::new(&[7; 32]),
        failures: FailureLimit::new(&config.server),
        writes: WriteLimits::new(&config, clock.clone()),
        clock: clock.clone(),
    });
    let router = Router::new()
        .route("/chat", get(async |Chat(caller): Chat| caller.user.to_string()))
        .route("/admin", get(async |Admin(caller): Admin| caller.user.to_string()))
        .route("/stream", get(stream))
        .layer(from_fn(error_documents::layer))
        .with_state(State(Arc::clone(&authenticator)));
    App {
        router,
        authenticator,
        clock,
        revocations,
    }
}

impl App {
    async fn get(&self, path: &str, headers: &[(&str, &str)]) -> (u16, HeaderMap, String) {
        let mut request = Request::get(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.send(request.body(Body::empty()).unwrap()).await
    }

    async fn send(&self, request: Request<Body>) -> (u16, HeaderMap, String) {
        let (parts, body) = self.router.clone().oneshot(request).await.unwrap().into_parts();
        let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
        (
            parts.status.as_u16(),
            parts.headers,
            String::from_utf8(body.into()).unwrap(),
        )
    }
}

#[tokio::test]
async fn a_request_is_let_in_by_its_credential_and_scope() {
    let app = app().await;
    let token = sign(&claims(json!({})));
    let bearer = format!("Bearer {token}");
    let key = format!("bearer  {KEY}");
    let long = format!("Bearer {}", "x".repeat(9_000));
    for (path, headers, status, code) in [
        ("/chat", vec![("authorization", bearer.as_str())], 200, ""),
        ("/chat", vec![("authorization", key.as_str())], 200, ""),
        (
            "/chat",
            vec![("authorization", &key), ("x-copilotd-user", "bob")],
            200,
            "",
        ),
        (
            "/chat",
            vec![("authorization", &key), ("x-copilotd-user", "key:x")],
            422,
            "invalid",
        ),
        (
            "/chat",
            vec![
                ("authorization", &key),
                ("x-copilotd-user", "a"),
                ("x-copilotd-user", "b"),
            ],
            422,
            "invalid",
        ),
        (
            "/chat",
            vec![("authorization", &bearer), ("x-copilotd-user", "bob")],
            403,
            "forbidden",
        ),
        ("/admin", vec![("authorization", &bearer)], 403, "forbidden"),
        ("/chat", vec![], 401, "unauthenticated"),
        ("/chat", vec![("authorization", &token)], 401, "unauthenticated"),
        ("/chat", vec![("authorization", "Basic YTpi")], 401, "unauthenticated"),
        ("/chat", vec![("authorization", "Bearer ")], 401, "unauthenticated"),
        ("/chat", vec![("authorization", "Bearer a b")], 401, "unauthenticated"),
        ("/chat", vec![("authorization", &long)], 401, "unauthenticated"),
        (
            "/chat",
            vec![("authorization", &bearer), ("authorization", &bearer)],
            401,
            "unauthenticated",
        ),
        ("/chat", vec![("authorization", "Bearer cpk_x")], 401, "unauthenticated"),
    ] {
        let (answered, response, body) = app.get(path, &headers).await;
        assert_eq!(answered, status, "{headers:?}: {body}");
        if status >= 400 {
            let problem: Value = serde_json::from_str(&body).unwrap();
            assert_eq!(problem["code"], code, "{headers:?}");
            assert!(!body.contains(&token) && !body.contains(KEY));
        }
        assert_eq!(
            response.contains_key(header::WWW_AUTHENTICATE),
            status == 401 || path == "/admin",
            "{headers:?}"
        );
    }
    let (_, response, _) = app.get("/admin", &[("authorization", &bearer)]).await;
    assert_eq!(
        response[header::WWW_AUTHENTICATE],
        "Bearer realm=\"copilotd\", error=\"insufficient_scope\", scope=\"admin\""
    );
    let (_, response, _) = app.get("/chat", &[]).await;
    assert_eq!(response[header::WWW_AUTHENTICATE], "Bearer realm=\"copilotd\"");
}

#[tokio::test]
async fn a_ticket_opens_streams_of_its_conversation_and_nothing_else() {
    let app = app().await;
    let caller = app
        .authenticator
        .verifier
        .verify(&sign(&claims(json!({}))), None, now())
        .unwrap();
    let ticket = |n| app.authenticator.tickets.issue(conversation(n), &caller, now()).ticket;
    let path = format!("/stream?after=3&ticket={}", ticket(1));
    let mut id = "17.4".to_owned();
    let admission = app
        .authenticator
        .tickets
        .verify(path.rsplit('=').next().unwrap(), now(), None);
    admission.unwrap().positions.write("17.4", &mut id);
    let resuming = [("last-event-id", id.as_str())];
    assert_eq!(app.get(&path, &[]).await.0, 200);
    assert_eq!(app.get(&format!("/stream?ticket={}", ticket(2)), &[]).await.0, 404);
    assert_eq!(app.get(&format!("/chat?ticket={}", ticket(1)), &[]).await.0, 401);
    assert_eq!(app.get("/stream?ticket=cpt_a.b", &[]).await.0, 401);
    assert_eq!(app.get("/stream", &[]).await.0, 401);
    let key = format!("Bearer {KEY}");
    assert_eq!(
        app.get("/stream?ticket=old", &[("authorization", &key)]).await.2,
        "key:backend"
    );

    app.clock.0.store(3_599, Ordering::SeqCst);
    assert_eq!(app.get(&path, &[]).await.0, 401);
    assert_eq!(app.get(&path, &[("last-event-id", "17.4")]).await.0, 401);
    assert_eq!(app.get(&path, &resuming).await.0, 200);
    let subject = Subject::Token(caller.credential.as_str().to_owned());
    let revocations = &app.revocations;
    let revoked = revocations.revoke(&caller.scope, subject, "root".to_owned(), None, async { Ok(()) });
    revoked.await.unwrap();
    assert_eq!(
        app.get(&path, &resuming).await.0,
        401,
        "revoking the token revokes its tickets"
    );
}

#[tokio::test(start_paused = true)]
async fn what_fails_is_limited_and_what_verifies_never() {
    let forged = |n: u32| sign(&claims(json!({ "jti": n }))) + "x";
    let unknown_key = |n: u32| format!("cpk_AAAA{n:039}");
    let unknown_issuer = |n: u32| sign(&claims(json!({ "iss": "https://nobody.example", "jti": n })));
    let unreadable = |n: u32| format!("a.{n}.c");
    let expired = |n: u32| sign(&claims(json!({ "exp": now().as_second() - 100, "jti": n })));
    let kinds: [&dyn Fn(u32) -> String; 5] = [&forged, &unknown_key, &unknown_issuer, &unreadable, &expired];
    for (kind, wrong) in kinds.into_iter().enumerate() {
        let app = app().await;
        let from = |last: u8, credential: &str| {
            let mut request = Request::get("/chat").header("authorization", format!("Bearer {credential}"));
            let address = SocketAddr::from(([192, 0, 2, last], 4_000));
            request.extensions_mut().unwrap().insert(ConnectInfo(address));
            app.send(request.body(Body::empty()).unwrap())
        };
        for guess in 0..3 {
            assert_eq!(from(1, &wrong(guess)).await.0, 401, "{kind}");
        }
        let (status, headers, _) = from(1, &wrong(4)).await;
        let wait = headers[header::RETRY_AFTER].to_str().unwrap();
        assert_eq!((status, wait), (429, "20"), "{kind}");
        assert_eq!(headers["ratelimit-policy"], "\"failed-logins\";q=3;w=60");
        // However many fail meanwhile, every valid credential is accepted, even on first use.
        for n in 0..50 {
            assert_eq!(from(1, &wrong(100 + n)).await.0, 429, "{kind}");
            let new = sign(&claims(json!({ "jti": format!("new {n}") })));
            assert_eq!(from(1, &new).await.0, 200, "{kind} {n}");
            assert_eq!(from(1, KEY).await.0, 200, "{kind}");
        }
        assert_eq!(from(2, &wrong(5)).await.0, 401, "{kind}: another address");
        tokio::time::advance(std::time::Duration::from_secs(20)).await;
        assert_eq!(from(1, &wrong(6)).await.0, 401, "{kind}");
        assert_eq!(from(1, &wrong(7)).await.0, 429, "{kind}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_forged_tokens_holds_up_no_valid_one() {
    let app = Arc::new(app().await);
    let from = |credential: String| {
        let app = Arc::clone(&app);
        let mut request = Request::get("/chat").header("authorization", format!("Bearer {credential}"));
        let address = SocketAddr::from(([192, 0, 2, 1], 4_000));
        request.extensions_mut().unwrap().insert(ConnectInfo(address));
        tokio::spawn(async move { app.send(request.body(Body::empty()).unwrap()).await.0 })
    };
    let token = |n: u32| sign(&claims(json!({ "jti": n })));
    let all: Vec<_> = (0..400)
        .map(|n| from(if n % 4 == 0 { token(n) } else { token(n) + "x" }))
        .collect();
    for (n, answer) in all.into_iter().enumerate() {
        let status = answer.await.unwrap();
        if n % 4 == 0 {
            assert_eq!(status, 200, "{n}");
        } else {
            assert!(matches!(status, 401 | 429), "{n}: {status}");
        }
    }
}
