//! JWKS of issuers (RFC 7517): fetched at start, every few minutes, and when a token names an unknown key.
//!
//! Invariants: an issuer's URL has one fetch in flight at most and is fetched at most once per [`MIN_FETCH_INTERVAL`], however many
//! tokens name unknown keys; a fetch never serves another issuer, even if both name the same URL; a failed fetch leaves
//! the last valid keys in place for a day; a key is used only with its issuer's configured algorithm.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use copilotd_actors::domain::hash::PartHasher;
use copilotd_actors::domain::ids::TenantId;
use copilotd_actors::jitter::jitter;
use jsonwebtoken::DecodingKey;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, PublicKeyUse};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::Verifier;
use super::keys::{IssuerKey, JwksIssuer};
use crate::config::Alg;
use crate::response_body;

/// Interval of periodic fetches.
const FETCH_INTERVAL: Duration = Duration::from_secs(300);
/// Minimum time between two fetches of one issuer's URL.
const MIN_FETCH_INTERVAL: Duration = Duration::from_secs(10);
/// Timeout of one fetch.
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);
/// How long cached keys are used while fetches fail.
const MAX_KEY_AGE: Duration = Duration::from_secs(24 * 60 * 60);
/// Maximum size of a JWKS, in bytes and keys.
const MAX_BYTES: usize = 256 * 1024;
const MAX_KEYS: usize = 100;

/// Fetches JWKS and publishes their keys to the [`Verifier`].
pub struct Jwks {
    client: reqwest::Client,
    fetch_states: Mutex<HashMap<FetchKey, Arc<tokio::sync::Mutex<FetchState>>>>,
}

/// Tenant, `iss` and JWKS URL.
type FetchKey = (TenantId, String, Arc<str>);

/// The fetch state of one issuer's JWKS URL.
#[derive(Debug, Default)]
struct FetchState {
    fetched_at: Option<Instant>,
    succeeded_at: Option<Instant>,
    /// Number of fetches, so that a task that waited for one does not start another.
    fetches: u64,
    is_failing: bool,
}

impl Jwks {
    /// Creates the HTTP client. Fetches nothing yet.
    ///
    /// # Errors
    /// When the HTTP client cannot be set up, for instance without root certificates.
    pub fn new() -> reqwest::Result<Self> {
        let client = reqwest::Client::builder()
            .user_agent(concat!("copilotd/", env!("CARGO_PKG_VERSION")))
            .timeout(FETCH_TIMEOUT)
            // A redirect could lead to someone else's keys.
            .redirect(reqwest::redirect::Policy::none())
            .build()?;
        Ok(Self {
            client,
            fetch_states: Mutex::default(),
        })
    }

    /// Fetches all JWKS periodically, for as long as it is polled.
    pub async fn keep(&self, verifier: &Verifier) {
        loop {
            let published = verifier.published();
            self.prune(&published);
            futures::future::join_all(
                published
                    .iter()
                    .map(|place| self.fetch(verifier, place, FETCH_INTERVAL / 2)),
            )
            .await;
            tokio::time::sleep(FETCH_INTERVAL.mul_f64(0.9) + jitter(FETCH_INTERVAL / 5)).await;
        }
    }

    /// Fetches the keys of `published` unless that was done a few seconds ago; returns whether there may be new ones.
    pub async fn refresh(&self, verifier: &Verifier, published: &JwksIssuer) -> bool {
        self.fetch(verifier, published, MIN_FETCH_INTERVAL).await
    }

    async fn fetch(&self, verifier: &Verifier, published: &JwksIssuer, pause: Duration) -> bool {
        let place = {
            let mut fetch_states = self.fetch_states.lock();
            Arc::clone(fetch_states.entry(fetch_key(published)).or_default())
        };
        let before = match place.try_lock() {
            Ok(place) => place.fetches,
            // Another task is fetching: use its result.
            Err(_) => {
                drop(place.lock().await);
                return true;
            }
        };
        let mut place = place.lock().await;
        if place.fetches != before {
            return true;
        }
        if place.fetched_at.is_some_and(|fetched_at| fetched_at.elapsed() < pause) {
            return false;
        }
        place.fetched_at = Some(Instant::now());
        place.fetches += 1;
        match self.get(published).await {
            Ok(keys) => {
                place.succeeded_at = Some(Instant::now());
                place.is_failing = false;
                verifier.publish(published, keys);
                true
            }
            Err(reason) => {
                if !std::mem::replace(&mut place.is_failing, true) {
                    tracing::warn!(
                        iss = %published.iss, url = %published.url, %reason,
                        "JWKS fetch failed; cached keys stay valid for up to 24 h"
                    );
                }
                if place
                    .succeeded_at
                    .is_some_and(|succeeded_at| succeeded_at.elapsed() > MAX_KEY_AGE)
                {
                    place.succeeded_at = None;
                    tracing::error!(
                        iss = %published.iss, url = %published.url,
                        "JWKS unreachable for 24 h; cached keys discarded, all tokens of this issuer are refused"
                    );
                    verifier.publish(published, Vec::new());
                }
                false
            }
        }
    }

    /// Drops the state of issuers that are no longer configured.
    fn prune(&self, published: &[JwksIssuer]) {
        let named: HashSet<FetchKey> = published.iter().map(fetch_key).collect();
        let mut fetch_states = self.fetch_states.lock();
        fetch_states.retain(|place, _| named.contains(place));
    }

    async fn get(&self, published: &JwksIssuer) -> Result<Vec<IssuerKey>, String> {
        let mut response = self
            .client
            .get(&*published.url)
            .header("accept", "application/json")
            .send()
            .await
            .map_err(|error| error.without_url().to_string())?;
        if !response.status().is_success() {
            return Err(format!("status {}", response.status().as_u16()));
        }
        let body = response_body::read(&mut response, MAX_BYTES).await;
        read(&body.map_err(|error| error.to_string())?, published)
    }
}

fn fetch_key(published: &JwksIssuer) -> FetchKey {
    (
        published.tenant.clone(),
        published.iss.clone(),
        Arc::clone(&published.url),
    )
}

impl fmt::Debug for Jwks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Jwks").finish_non_exhaustive()
    }
}

/// Parses the keys usable with the issuer's algorithm; ignores others.
fn read(body: &[u8], published: &JwksIssuer) -> Result<Vec<IssuerKey>, String> {
    #[derive(serde::Deserialize)]
    struct Set {
        keys: Vec<serde_json::Value>,
    }
    let set: Set = serde_json::from_slice(body).map_err(|_| "the response is not a JWKS".to_owned())?;
    let keys: Vec<IssuerKey> = set
        .keys
        .into_iter()
        .take(MAX_KEYS)
        .filter_map(|key| serde_json::from_value::<Jwk>(key).ok())
        .filter_map(|key| issuer_key(&key, published))
        .collect();
    if keys.is_empty() {
        return Err(format!(
            "the JWKS contains no key for the issuer's algorithm {:?}",
            published.alg.algorithm()
        ));
    }
    Ok(keys)
}

fn issuer_key(jwk: &Jwk, published: &JwksIssuer) -> Option<IssuerKey> {
    let common = &jwk.common;
    if !matches!(common.public_key_use, None | Some(PublicKeyUse::Signature)) {
        return None;
    }
    let wanted = published.alg.algorithm();
    if common
        .key_algorithm
        .is_some_and(|alg| alg.to_string() != format!("{wanted:?}"))
    {
        return None;
    }
    let fits = match (published.alg, &jwk.algorithm) {
        (Alg::EdDsa, AlgorithmParameters::OctetKeyPair(pair)) => pair.curve == EllipticCurve::Ed25519,
        (Alg::Es256, AlgorithmParameters::EllipticCurve(point)) => point.curve == EllipticCurve::P256,
        // A modulus of 2048 bits is 342 characters of base64url.
        (Alg::Rs256, AlgorithmParameters::RSA(rsa)) => rsa.n.len() >= 342,
        _ => false,
    };
    if !fits {
        return None;
    }
    let settings = PartHasher::new()
        .parts([published.tenant.as_str(), &published.iss, &published.url])
        .parts(published.role_claims.iter());
    let hash = settings.finish_with(serde_json::to_vec(jwk).ok()?);
    Some(IssuerKey {
        tenant: published.tenant.clone(),
        alg: published.alg,
        kid: common.key_id.clone(),
        key: DecodingKey::from_jwk(jwk).ok()?,
        source: format!("jwt:{}", hex::encode(&hash[..8])).into(),
        role_claims: Arc::clone(&published.role_claims),
        published: Some(Arc::clone(&published.url)),
    })
}

#[cfg(test)]
mod tests {
    use copilotd_actors::domain::access::scopes::Scopes;

    use super::*;

    #[test]
    fn the_id_of_a_key_is_in_audit_logs_and_stays() {
        let published = JwksIssuer {
            tenant: "acme".parse().unwrap(),
            iss: "https://id.example".to_owned(),
            alg: Alg::EdDsa,
            url: "https://id.example/jwks".into(),
            role_claims: ["scope".to_owned(), "roles".to_owned()].into(),
            scopes: Scopes::ALL,
        };
        let body =
            br#"{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"k1","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;
        let keys = read(body, &published).unwrap();
        assert_eq!(&*keys[0].source, "jwt:f5c114968c4fd142");
    }
}
