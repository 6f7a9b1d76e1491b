//! A limit on invalid credentials per client address and issuer.
//!
//! It limits what failures cost, never who gets in: valid credentials from an office or proxy behind one address keep
//! working, whatever else comes from there. Beyond the limit a failure is answered 429 instead of 401, and credentials
//! of that address and issuer that are not cached yet are verified one at a time, so forged signatures use one core at
//! most.
//!
//! Invariants: the number of counters is bounded, although clients choose addresses, issuers and keys; and whether an
//! issuer exists makes no difference here, so nobody can find out.

use std::hash::{BuildHasher as _, RandomState};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::ConnectInfo;
use axum::http::{Extensions, HeaderMap};
use copilotd_actors::domain::token_bucket::{TokenBucket, Wait};
use parking_lot::Mutex;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

use super::{api_key, jwt};
use crate::config::Server;
use crate::http::peer::Proxies;
use crate::http::problems::{Code, Problem, RateLimit};

/// Maximum number of counters; the least used are evicted first.
const COUNTERS: u64 = 50_000;
/// Counters per address: issuers and key prefixes are hashed onto them.
const PER_ADDRESS: u64 = 16;
/// Leading characters of an API key that select its counter: the common prefix and as many as may be shown.
const KEY_PREFIX: usize = 8;
/// Window of the limit.
const WINDOW: Duration = Duration::from_secs(60);
/// Minimum time between two warnings about an untrusted proxy.
const WARN_EVERY: Duration = Duration::from_secs(60);

/// The failure counters per address and issuer.
#[derive(Debug)]
pub struct FailureLimit {
    per_minute: u32,
    proxies: Proxies,
    buckets: moka::sync::Cache<FailureSource, Arc<Mutex<TokenBucket>>>,
    /// The moment that the buckets' times are measured from.
    began: Instant,
    hasher: RandomState,
    /// Held while verifying a credential from a source with too many failures.
    one_at_a_time: Semaphore,
    warned: Mutex<Option<Instant>>,
}

/// Where a failure came from: the client's network, and the counter of the issuer or key prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct FailureSource {
    client: IpAddr,
    counter: u64,
}

impl FailureLimit {
    /// Creates the limit from the server's settings.
    pub fn new(server: &Server) -> Self {
        Self {
            per_minute: server.failed_logins_per_minute,
            proxies: Proxies::new(&server.trusted_proxies),
            buckets: moka::sync::Cache::new(COUNTERS),
            began: Instant::now(),
            hasher: RandomState::new(),
            one_at_a_time: Semaphore::new(1),
            warned: Mutex::default(),
        }
    }

    /// Returns the source of a credential; `None` for a request that did not come over the network, or without a limit.
    pub(super) fn source(
        &self,
        extensions: &Extensions,
        headers: &HeaderMap,
        credential: &str,
    ) -> Option<FailureSource> {
        let client = self.client(extensions, headers)?;
        if self.per_minute == 0 {
            return None;
        }
        let hash = if credential.starts_with(api_key::PREFIX) {
            self.hasher.hash_one(credential.get(..KEY_PREFIX).unwrap_or(credential))
        } else {
            self.hasher.hash_one(jwt::issuer(credential).unwrap_or_default())
        };
        let counter = hash % PER_ADDRESS;
        Some(FailureSource { client, counter })
    }

    /// Returns the client's address; `None` for a request that did not come over the network.
    pub(super) fn client(&self, extensions: &Extensions, headers: &HeaderMap) -> Option<IpAddr> {
        let ConnectInfo(peer) = extensions.get::<ConnectInfo<SocketAddr>>()?;
        let peer = peer.ip().to_canonical();
        if headers.contains_key("x-forwarded-for") && !self.proxies.contains(peer) {
            self.warn_of_untrusted_proxy(peer);
        }
        Some(self.proxies.client(peer, headers))
    }

    /// Warns about a possible proxy that is not configured as one, at most once a minute: any client can send the
    /// header.
    fn warn_of_untrusted_proxy(&self, peer: IpAddr) {
        let mut warned = self.warned.lock();
        if warned.is_some_and(|at| at.elapsed() < WARN_EVERY) {
            return;
        }
        *warned = Some(Instant::now());
        tracing::warn!(
            %peer,
            "X-Forwarded-For ignored: the peer is not in server.trusted_proxies, so all clients behind it share one rate \
             limit"
        );
    }

    /// Waits for a turn if this source has too many failures; other sources do not wait.
    pub(super) async fn turn(&self, source: Option<FailureSource>) -> Option<SemaphorePermit<'_>> {
        let bucket = self.buckets.get(&source?)?;
        if bucket.lock().fits(1, self.began.elapsed()).is_ok() {
            return None;
        }
        // Never closed.
        let turn = self.one_at_a_time.acquire().await.ok();
        // Let other tasks run between two waiters.
        tokio::task::yield_now().await;
        turn
    }

    /// Counts a failure. Returns the 429 once there were too many.
    pub(super) fn count(&self, source: FailureSource) -> Result<(), Problem> {
        let now = self.began.elapsed();
        let full = || Arc::new(Mutex::new(TokenBucket::new(self.per_minute.into(), now)));
        let bucket = self.buckets.get_with(source, full);
        let wait = {
            let mut bucket = bucket.lock();
            match bucket.fits(1, now) {
                Ok(()) => {
                    bucket.take(1, now);
                    return Ok(());
                }
                Err(Wait::For(wait)) => wait,
                // No bucket holds less than one failure.
                Err(Wait::Never) => WINDOW,
            }
        };
        metrics::counter!("copilotd_auth_failures_limited_total").increment(1);
        let limit = RateLimit {
            policy: "failed-logins",
            quota: u64::from(self.per_minute),
            window: Some(WINDOW),
            remaining: 0,
            reset: wait,
        };
        Err(Problem::new(Code::RateLimited)
            .detail(
                "invalid credential, and this address has sent too many invalid credentials; wait before trying again",
            )
            .rate_limit(&limit))
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn limit(proxies: &[&str]) -> FailureLimit {
        FailureLimit::new(&Server {
            failed_logins_per_minute: 2,
            trusted_proxies: proxies.iter().map(|network| network.parse().unwrap()).collect(),
            ..Server::default()
        })
    }

    fn source(last: u8, counter: u64) -> FailureSource {
        FailureSource {
            client: IpAddr::from([10, 0, 0, last]),
            counter,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn failures_are_counted_and_forgiven() {
        let limit = limit(&[]);
        let alice = source(1, 0);
        let pass = |seconds| tokio::time::advance(Duration::from_secs(seconds));
        for _ in 0..2 {
            assert!(limit.count(alice).is_ok());
        }
        assert_eq!(limit.count(alice).unwrap_err().code(), Code::RateLimited);
        assert!(limit.count(source(2, 0)).is_ok() && limit.count(source(1, 1)).is_ok());
        pass(29).await;
        // What is answered 429 does not count again: the limit is met twice a minute, however much is sent.
        assert!(limit.count(alice).is_err());
        pass(1).await;
        assert!(limit.count(alice).is_ok());
        assert!(limit.count(alice).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn only_sources_with_too_many_failures_queue() {
        let limit = limit(&[]);
        let (alice, bob) = (source(1, 0), source(2, 0));
        for _ in 0..3 {
            let _ = limit.count(alice);
        }
        let turn = limit.turn(Some(alice)).await;
        assert!(turn.is_some());
        assert!(limit.turn(Some(bob)).await.is_none() && limit.turn(None).await.is_none());
        let mut next = std::pin::pin!(limit.turn(Some(alice)));
        assert!(futures::poll!(&mut next).is_pending());
        drop(turn);
        assert!(next.await.is_some());
    }

    #[test]
    fn the_number_of_counters_has_a_bound() {
        let limit = limit(&[]);
        let mut extensions = Extensions::new();
        extensions.insert(ConnectInfo(SocketAddr::from(([192, 0, 2, 1], 1))));
        let counters = |credentials: Vec<String>| -> std::collections::HashSet<_> {
            let of = |credential: &String| limit.source(&extensions, &HeaderMap::new(), credential).unwrap();
            credentials.iter().map(of).collect()
        };
        let token = |n: usize| {
            use base64::Engine as _;
            let payload = format!("{{\"iss\":\"https://{n}.example\"}}");
            format!(
                "e30.{}.x",
                base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(payload)
            )
        };
        for many in [
            (0..1_000).map(token).collect::<Vec<_>>(),
            (0..1_000).map(|n| format!("cpk_{n:043}")).collect(),
            (0..1_000).map(|n| format!("{n}")).collect(),
        ] {
            assert!(counters(many).len() <= 16);
        }
        assert!(
            counters((0..1_000).map(token).collect()).len() > 4,
            "issuers use different counters"
        );
    }

    #[test]
    fn only_trusted_proxies_are_believed() {
        let limit = limit(&["10.0.0.0/8"]);
        for (peer, forwarded, client) in [
            ("192.0.2.1", "198.51.100.7", "192.0.2.1"),
            ("10.0.0.1", "198.51.100.7", "198.51.100.7"),
            ("10.0.0.1", "1.2.3.4, 198.51.100.7, 10.0.0.9", "198.51.100.7"),
            ("10.0.0.1", "nonsense", "10.0.0.1"),
            ("10.0.0.1", "", "10.0.0.1"),
            ("::ffff:10.0.0.1", "2001:db8::1:2:3:4", "2001:db8::"),
        ] {
            let mut extensions = Extensions::new();
            extensions.insert(ConnectInfo(SocketAddr::new(peer.parse().unwrap(), 1)));
            let mut headers = HeaderMap::new();
            headers.insert("x-forwarded-for", HeaderValue::from_str(forwarded).unwrap());
            assert_eq!(
                limit.client(&extensions, &headers),
                Some(client.parse().unwrap()),
                "{peer} {forwarded}"
            );
        }
        assert_eq!(limit.client(&Extensions::new(), &HeaderMap::new()), None);
    }
}
