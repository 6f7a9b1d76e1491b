//! A limit on invalid credentials per client address, asked before anything is verified.
//!
//! Only failures are counted: an office behind one address, or a load test, is never slowed down by its valid
//! credentials, and those that are remembered pass without asking.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::ConnectInfo;
use axum::http::{Extensions, HeaderMap};
use jiff::Timestamp;

use crate::config::{IpNet, Server};
use crate::http::problem::{Code, Problem, RateLimit};

/// Most addresses that are remembered; the least used are forgotten first.
const ADDRESSES: u64 = 50_000;

/// Failures per address.
#[derive(Debug)]
pub struct FailureLimit {
    per_minute: u32,
    proxies: Vec<IpNet>,
    buckets: moka::sync::Cache<IpAddr, Arc<Mutex<Bucket>>>,
}

/// How many failures an address has left, as of a moment.
#[derive(Debug)]
struct Bucket {
    left: f64,
    at: Timestamp,
}

impl FailureLimit {
    /// Takes the server's limit and the proxies it believes.
    pub fn new(server: &Server) -> Self {
        Self {
            per_minute: server.failed_logins_per_minute,
            proxies: server.trusted_proxies.clone(),
            buckets: moka::sync::Cache::new(ADDRESSES),
        }
    }

    /// Finds the client's address; none for a request that did not come over the network.
    pub(super) fn client(&self, extensions: &Extensions, headers: &HeaderMap) -> Option<IpAddr> {
        let ConnectInfo(peer) = extensions.get::<ConnectInfo<SocketAddr>>()?;
        let mut client = peer.ip().to_canonical();
        // From the right, each hop was written by the one before it: what a trusted proxy did not write is a claim.
        let hops = headers
            .get_all("x-forwarded-for")
            .iter()
            .rev()
            .filter_map(|value| value.to_str().ok());
        for hop in hops.flat_map(|line| line.rsplit(',')) {
            if !self.proxies.iter().any(|network| network.contains(&client)) {
                break;
            }
            let Ok(address) = hop.trim().parse::<IpAddr>() else {
                break;
            };
            client = address.to_canonical();
        }
        Some(network_of(client))
    }

    /// Refuses an address that has used up its failures.
    pub(super) fn admit(&self, client: Option<IpAddr>, now: Timestamp) -> Result<(), Problem> {
        let Some(bucket) = client
            .filter(|_| self.per_minute > 0)
            .and_then(|client| self.buckets.get(&client))
        else {
            return Ok(());
        };
        let left = bucket
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .refill(self.per_minute, now);
        if left >= 1.0 {
            return Ok(());
        }
        let wait = Duration::from_secs_f64((1.0 - left) * 60.0 / f64::from(self.per_minute));
        let limit = RateLimit {
            policy: "failed-logins",
            quota: u64::from(self.per_minute),
            window: Duration::from_secs(60),
            remaining: 0,
            reset: wait,
        };
        Err(Problem::new(Code::RateLimited)
            .detail("too many invalid credentials")
            .rate_limit(&limit))
    }

    /// Counts a failure of an address.
    pub(super) fn count(&self, client: Option<IpAddr>, now: Timestamp) {
        let Some(client) = client.filter(|_| self.per_minute > 0) else {
            return;
        };
        let full = || {
            Arc::new(Mutex::new(Bucket {
                left: f64::from(self.per_minute),
                at: now,
            }))
        };
        let bucket = self.buckets.get_with(client, full);
        let mut bucket = bucket.lock().unwrap_or_else(PoisonError::into_inner);
        bucket.refill(self.per_minute, now);
        bucket.left = (bucket.left - 1.0).max(0.0);
    }
}

impl Bucket {
    fn refill(&mut self, per_minute: u32, now: Timestamp) -> f64 {
        let passed = now.duration_since(self.at).as_secs_f64().max(0.0);
        self.left = (self.left + passed * f64::from(per_minute) / 60.0).min(f64::from(per_minute));
        self.at = self.at.max(now);
        self.left
    }
}

/// A client has a whole IPv6 network of 64 bits to itself.
fn network_of(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)).into(),
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

    #[test]
    fn failures_are_counted_and_forgiven() {
        let limit = limit(&[]);
        let (alice, bob) = (Some(IpAddr::from([10, 0, 0, 1])), Some(IpAddr::from([10, 0, 0, 2])));
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let later = |seconds| now + jiff::SignedDuration::from_secs(seconds);
        for _ in 0..2 {
            assert!(limit.admit(alice, now).is_ok());
            limit.count(alice, now);
        }
        assert_eq!(limit.admit(alice, now).unwrap_err().code(), Code::RateLimited);
        assert!(limit.admit(bob, now).is_ok() && limit.admit(None, now).is_ok());
        assert!(limit.admit(alice, later(29)).is_err());
        assert!(limit.admit(alice, later(30)).is_ok());
        limit.count(alice, later(30));
        assert!(limit.admit(alice, later(31)).is_err());
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
