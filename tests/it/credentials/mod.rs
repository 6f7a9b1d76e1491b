//! Credentials: which are accepted or refused, and what a caller may do with them.

#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests: what cannot be set up fails the test"
)]

mod command;
mod explained;
mod jwks;
mod keys;
mod requests;
mod scopes;
pub mod tickets;
mod tokens;

use copilotd::config::{Config, Env};
use copilotd::http::credentials::{Caller, Refusal, Verifier};
use jiff::{SignedDuration, Timestamp};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};

/// The current time in these tests.
pub fn now() -> Timestamp {
    Timestamp::from_second(1_800_000_000).unwrap()
}

/// The time `seconds` later.
pub fn later(seconds: i64) -> Timestamp {
    now() + SignedDuration::from_secs(seconds)
}

pub const SECRET: &str = "a secret of acme, at least 32 bytes long";
pub const OLD_SECRET: &str = "an older secret of acme, 32 bytes or more";
pub const GLOBEX_SECRET: &str = "a secret of globex, at least 32 bytes long";
/// An API key of acme with the scopes gateway and chat.
pub const KEY: &str = "cpk_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

/// A configuration with every kind of key; `hmac` is the table of acme's HS256 keys.
pub fn config_with(hmac: &str) -> Config {
    let text = format!(
        r#"
        [server]
        failed_logins_per_minute = 3
        [[tenants]]
        id = "acme"
        {hmac}
        [[tenants.issuers]]
        iss = "https://acme.example/ed"
        alg = "EdDSA"
        pem = {{ file = "tests/it/credentials/keys/ed25519.pub.pem" }}
        [[tenants.issuers]]
        iss = "https://acme.example/es"
        alg = "ES256"
        pem = {{ file = "tests/it/credentials/keys/p256.pub.pem" }}
        [[tenants.issuers]]
        iss = "https://acme.example/rs"
        alg = "RS256"
        pem = {{ file = "tests/it/credentials/keys/rsa2048.pub.pem" }}
        [[tenants.api_keys]]
        name = "backend"
        hash = "sha256:{}"
        scopes = ["gateway", "chat"]
        [[tenants]]
        id = "globex"
        [[tenants.issuers]]
        iss = "https://globex.example"
        alg = "HS256"
        secret = {{ value = "{GLOBEX_SECRET}" }}
        "#,
        sha256(KEY)
    );
    Config::parse(&text, &Env::default(), &crate::tools::kinds()).unwrap_or_else(|faults| panic!("{faults}"))
}

pub fn hmac(kid: Option<&str>, secret: &str) -> String {
    let kid = kid.map(|kid| format!("kid = \"{kid}\"")).unwrap_or_default();
    format!(
        "[[tenants.issuers]]\niss = \"https://acme.example\"\nalg = \"HS256\"\n{kid}\nsecret = {{ value = \"{secret}\" }}\n"
    )
}

pub fn config() -> Config {
    config_with(&hmac(None, SECRET))
}

fn sha256(text: &str) -> String {
    use sha2::Digest;
    hex::encode(sha2::Sha256::digest(text))
}

/// Claims of ada at acme, valid for an hour, modified by `change`.
pub fn claims(change: Value) -> Value {
    let mut claims = json!({
        "iss": "https://acme.example",
        "aud": "copilotd",
        "sub": "ada",
        "tenant": "acme",
        "exp": later(3_600).as_second(),
        "scope": "chat",
        "favourite_colour": "green",
    });
    for (name, value) in change.as_object().unwrap() {
        if value.is_null() {
            claims.as_object_mut().unwrap().remove(name);
        } else {
            claims[name] = value.clone();
        }
    }
    claims
}

pub fn sign_with(header: &Header, claims: &Value, key: &EncodingKey) -> String {
    jsonwebtoken::encode(header, claims, key).unwrap()
}

/// Signs with acme's secret.
pub fn sign(claims: &Value) -> String {
    sign_with(
        &Header::new(Algorithm::HS256),
        claims,
        &EncodingKey::from_secret(SECRET.as_bytes()),
    )
}

pub fn verify(token: &str) -> Result<Caller, Refusal> {
    Verifier::new(&config()).unwrap().verify(token, None, now())
}
