//! JWKS of issuers: rotation, an unreachable address, and tokens with unknown key ids.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use copilotd::http::credentials::{Authenticator, FailureLimit, Jwks, Tickets, Verifier, WriteLimits};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::requests::{SteppedClock, parts};
use super::{claims, config_with, sign_with};

const ISS: &str = "https://acme.example/published";

fn pem(name: &str) -> Vec<u8> {
    std::fs::read(format!("tests/it/credentials/keys/{name}")).unwrap()
}

/// The published form of the P-256 key.
fn es256(kid: &str) -> Value {
    let key = DecodingKey::from_ec_pem(&pem("p256.pub.pem")).unwrap();
    let point = key.try_get_as_bytes().unwrap();
    let coordinate = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    json!({ "kty": "EC", "crv": "P-256", "kid": kid, "use": "sig", "alg": "ES256", "x": coordinate(&point[1..33]), "y": coordinate(&point[33..65]) })
}

/// The published form of the Ed25519 key.
fn ed25519(kid: &str) -> Value {
    let key = DecodingKey::from_ed_pem(&pem("ed25519.pub.pem")).unwrap();
    json!({ "kty": "OKP", "crv": "Ed25519", "kid": kid, "x": URL_SAFE_NO_PAD.encode(key.try_get_as_bytes().unwrap()) })
}

fn token(kid: Option<&str>, change: Value) -> String {
    let mut header = Header::new(Algorithm::ES256);
    header.kid = kid.map(str::to_owned);
    let mut all = claims(change);
    all["iss"] = ISS.into();
    sign_with(&header, &all, &EncodingKey::from_ec_pem(&pem("p256.pem")).unwrap())
}

/// An address that answers what a test sets.
struct Publisher {
    url: String,
    answer: Arc<Mutex<(u16, String)>>,
    asked: Arc<AtomicUsize>,
}

impl Publisher {
    async fn start(keys: Value) -> Self {
        let answer = Arc::new(Mutex::new((200, json!({ "keys": keys }).to_string())));
        let asked = Arc::new(AtomicUsize::new(0));
        let (told, count) = (Arc::clone(&answer), Arc::clone(&asked));
        let serve = move || {
            count.fetch_add(1, Ordering::SeqCst);
            let (status, body) = told.lock().clone();
            async move { (StatusCode::from_u16(status).unwrap(), body) }
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/keys", listener.local_addr().unwrap());
        let router = Router::new().route("/keys", get(serve));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { url, answer, asked }
    }

    fn publish(&self, status: u16, body: &str) {
        *self.answer.lock() = (status, body.to_owned());
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    fn authenticator(&self) -> Arc<Authenticator> {
        let issuer = format!(
            "[[tenants.issuers]]\niss = \"{ISS}\"\nalg = \"ES256\"\njwks_url = \"{}\"\n",
            self.url
        );
        let config = config_with(&issuer);
        Arc::new(Authenticator {
            verifier: Verifier::new(&config).unwrap(),
            jwks: Jwks::new().unwrap(),
            tickets: Tickets::new(&[7; 32]),
            failures: FailureLimit::new(&config.server),
            writes: WriteLimits::new(&config, Arc::new(SteppedClock::default())),
            clock: Arc::new(SteppedClock::default()),
        })
    }
}

async fn accepts(authenticator: &Authenticator, token: &str) -> bool {
    authenticator.authenticate(&parts(token)).await.is_ok()
}

#[tokio::test]
async fn keys_are_fetched_when_a_token_names_one_that_is_not_known() {
    let publisher = Publisher::start(json!([ed25519("other"), es256("one"), { "kty": "oct", "k": "AAAA" }])).await;
    let authenticator = publisher.authenticator();
    let caller = authenticator
        .authenticate(&parts(&token(Some("one"), json!({}))))
        .await
        .unwrap();
    assert_eq!((caller.scope.tenant().as_str(), caller.user.as_str()), ("acme", "ada"));
    assert!(accepts(&authenticator, &token(None, json!({ "sub": "bob" }))).await);
    assert_eq!(publisher.asked(), 1);
    // The other rules apply to these keys too.
    assert!(!accepts(&authenticator, &token(Some("one"), json!({ "tenant": "globex" }))).await);
    assert_eq!(publisher.asked(), 1);
}

#[tokio::test]
async fn a_storm_of_unknown_keys_is_one_fetch() {
    let publisher = Publisher::start(json!([es256("one")])).await;
    let authenticator = publisher.authenticator();
    let storm = (0..2).map(|n| {
        let authenticator = Arc::clone(&authenticator);
        async move { accepts(&authenticator, &token(Some(&format!("forged{n}")), json!({}))).await }
    });
    assert_eq!(futures::future::join_all(storm).await, [false; 2]);
    assert_eq!(publisher.asked(), 1);
    assert!(accepts(&authenticator, &token(Some("one"), json!({}))).await);
    assert_eq!(publisher.asked(), 1);
}

#[tokio::test]
async fn two_issuers_at_one_address_are_fetched_for_each() {
    let publisher = Publisher::start(json!([es256("one")])).await;
    let issuer = |iss: &str| {
        format!(
            "[[tenants.issuers]]\niss = \"{iss}\"\nalg = \"ES256\"\njwks_url = \"{}\"\n",
            publisher.url
        )
    };
    let config = config_with(&(issuer(ISS) + &issuer("https://acme.example/second")));
    let authenticator = Authenticator {
        verifier: Verifier::new(&config).unwrap(),
        jwks: Jwks::new().unwrap(),
        tickets: Tickets::new(&[7; 32]),
        failures: FailureLimit::new(&config.server),
        writes: WriteLimits::new(&config, Arc::new(SteppedClock::default())),
        clock: Arc::new(SteppedClock::default()),
    };
    assert!(accepts(&authenticator, &token(Some("one"), json!({}))).await);
    // A flood of unknown keys of the first issuer does not use up fetches of the second.
    assert!(!accepts(&authenticator, &token(Some("forged"), json!({}))).await);
    let mut header = Header::new(Algorithm::ES256);
    header.kid = Some("one".to_owned());
    let second = claims(json!({ "iss": "https://acme.example/second" }));
    let second = sign_with(&header, &second, &EncodingKey::from_ec_pem(&pem("p256.pem")).unwrap());
    assert!(accepts(&authenticator, &second).await);
    assert_eq!(publisher.asked(), 2);
}

#[tokio::test]
async fn a_key_that_is_not_published_any_more_vouches_for_nothing() {
    let publisher = Publisher::start(json!([es256("one")])).await;
    let authenticator = publisher.authenticator();
    let old = token(Some("one"), json!({}));
    let caller = authenticator.authenticate(&parts(&old)).await.unwrap();
    publisher.publish(200, &json!({ "keys": [es256("two")] }).to_string());
    // What stops the pause between two fetches here is that the new token comes with another process's first look.
    let keeping = Arc::clone(&authenticator);
    let fresh = Jwks::new().unwrap();
    let kept = tokio::spawn(async move { fresh.keep(&keeping.verifier).await });
    tokio::time::timeout(Duration::from_secs(20), authenticator.verifier.ended(&caller))
        .await
        .expect("its streams end");
    kept.abort();
    assert!(!accepts(&authenticator, &old).await);
    assert!(accepts(&authenticator, &token(Some("two"), json!({}))).await);
}

#[tokio::test]
async fn what_cannot_be_read_leaves_the_last_good_keys() {
    let publisher = Publisher::start(json!([es256("one")])).await;
    let authenticator = publisher.authenticator();
    assert!(accepts(&authenticator, &token(Some("one"), json!({}))).await);
    for (status, body) in [
        (500, String::new()),
        (200, "<html>".to_owned()),
        (200, json!({ "keys": [] }).to_string()),
        (200, json!({ "keys": [ed25519("one")] }).to_string()),
        (200, format!("{{\"keys\": [\"{}\"]}}", "x".repeat(300_000))),
        (302, String::new()),
    ] {
        publisher.publish(status, &body);
        let before = publisher.asked();
        let (keeping, fresh) = (Arc::clone(&authenticator), Jwks::new().unwrap());
        let kept = tokio::spawn(async move { fresh.keep(&keeping.verifier).await });
        while publisher.asked() == before {
            tokio::task::yield_now().await;
        }
        let fresh = token(Some("one"), json!({ "sub": format!("user{before}") }));
        assert!(
            accepts(&authenticator, &fresh).await,
            "{status} {}",
            &body[..body.len().min(40)]
        );
        kept.abort();
    }
}
