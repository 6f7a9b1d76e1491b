//! HTTP clients, by host, shared by all deployments on it.
//!
//! An HTTP/2 server admits about a hundred streams per connection, and the client library keeps one connection per host
//! and *silently queues* what is above. So a host has as many clients (each one connection) as its open streams need,
//! with a limited number of streams each. A [`StreamPermit`] stands for one stream and is returned when dropped. HTTP/1.1
//! opens a connection per stream by itself: plain `http` hosts need one client only.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use reqwest::{Client, Url, redirect};

use super::learned::RejectedParameters;

/// Most connections to one HTTP/2 host.
const MAX_CLIENTS: usize = 1_024;
/// What a peer may send ahead of its reader, per HTTP/2 stream and per connection.
const STREAM_WINDOW: u32 = 64 * 1024;
const CONNECTION_WINDOW: u32 = 2 * 1024 * 1024;

/// All hosts. Cheap to clone.
#[derive(Clone, Default)]
pub struct ConnectionPool {
    hosts: Arc<Mutex<HashMap<Key, Arc<HostPool>>>>,
    /// What was learned about models, by address and name; as long as a deployment of them exists.
    learned: Arc<Mutex<HashMap<String, Weak<RejectedParameters>>>>,
}

impl fmt::Debug for ConnectionPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectionPool").finish_non_exhaustive()
    }
}

/// What distinguishes one kind of connection from another.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    tls: bool,
    host: String,
    port: u16,
    connect: Duration,
    http2_cleartext: bool,
    streams: usize,
}

/// The clients of one host.
#[derive(Debug)]
pub struct HostPool {
    key: Key,
    slots: Mutex<Vec<Slot>>,
}

#[derive(Debug)]
struct Slot {
    client: Client,
    streams: Arc<AtomicUsize>,
}

/// The right to one stream on a connection.
#[derive(Debug)]
pub struct StreamPermit(Arc<AtomicUsize>);

impl Drop for StreamPermit {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum NoClient {
    /// Every allowed connection is full.
    #[error("too many streams to this provider are open")]
    Full,
    /// The HTTP client cannot be set up, for instance without root certificates.
    #[error("cannot set up the HTTP client")]
    Setup(#[source] reqwest::Error),
}

impl ConnectionPool {
    /// Returns the host of `url`, with its own clients for each different way to connect.
    pub fn host(&self, url: &Url, connect: Duration, http2_cleartext: bool, streams: usize) -> Arc<HostPool> {
        let key = Key {
            tls: url.scheme() == "https",
            host: url.host_str().unwrap_or_default().to_owned(),
            port: url.port_or_known_default().unwrap_or_default(),
            connect,
            http2_cleartext,
            streams: streams.max(1),
        };
        let mut hosts = self.hosts.lock();
        let host = hosts.entry(key.clone()).or_insert_with(|| {
            Arc::new(HostPool {
                key,
                slots: Mutex::default(),
            })
        });
        Arc::clone(host)
    }
}

impl ConnectionPool {
    /// Returns what is known about a model, shared by all deployments of it: otherwise each key would learn it
    /// separately.
    pub fn learned(&self, model: &str) -> Arc<RejectedParameters> {
        let mut learned = self.learned.lock();
        learned.retain(|_, known| known.strong_count() > 0);
        let entry = learned.entry(model.to_owned()).or_default();
        entry.upgrade().unwrap_or_else(|| {
            let fresh = Arc::default();
            *entry = Arc::downgrade(&fresh);
            fresh
        })
    }
}

impl HostPool {
    /// Returns a client with capacity for one more stream. Fills the first ones first, so that the last ones become
    /// idle when load falls.
    pub fn client(&self) -> Result<(Client, StreamPermit), NoClient> {
        let multiplexed = self.key.tls || self.key.http2_cleartext;
        let limit = if multiplexed { self.key.streams } else { usize::MAX };
        let mut slots = self.slots.lock();
        // Permits are taken under the lock only, so capacity cannot vanish between the check and the increment.
        if let Some(slot) = slots.iter().find(|slot| slot.streams.load(Ordering::Relaxed) < limit) {
            return Ok(slot.take());
        }
        if slots.len() >= MAX_CLIENTS {
            return Err(NoClient::Full);
        }
        let slot = Slot {
            client: self.key.connect().map_err(NoClient::Setup)?,
            streams: Arc::default(),
        };
        let taken = slot.take();
        slots.push(slot);
        Ok(taken)
    }

    /// Returns the host name and port, for traces.
    pub fn address(&self) -> (&str, u16) {
        (&self.key.host, self.key.port)
    }
}

impl Slot {
    fn take(&self) -> (Client, StreamPermit) {
        self.streams.fetch_add(1, Ordering::Relaxed);
        (self.client.clone(), StreamPermit(Arc::clone(&self.streams)))
    }
}

impl Key {
    fn connect(&self) -> reqwest::Result<Client> {
        let mut builder = Client::builder()
            .user_agent(concat!("copilotd/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(self.connect)
            .tcp_nodelay(true)
            .tcp_keepalive(Duration::from_secs(30))
            // A redirect would send the prompt to an address that nobody configured.
            .redirect(redirect::Policy::none())
            .referer(false)
            .pool_max_idle_per_host(1_024)
            // Common Python servers close idle connections after 5 s; closing first avoids writing into a closing
            // connection.
            .pool_idle_timeout(if self.tls {
                Duration::from_secs(60)
            } else {
                Duration::from_secs(4)
            })
            .http2_initial_stream_window_size(STREAM_WINDOW)
            .http2_initial_connection_window_size(CONNECTION_WINDOW)
            .http2_keep_alive_interval(Duration::from_secs(20))
            .http2_keep_alive_timeout(Duration::from_secs(10));
        if self.http2_cleartext && !self.tls {
            builder = builder.http2_prior_knowledge();
        }
        if !self.tls {
            // Root certificates would be read for nothing, and a machine without any could not even call a local
            // server.
            builder = builder.tls_certs_only([]);
        }
        if is_loopback(&self.host) {
            builder = builder.no_proxy();
        }
        builder.build()
    }
}

/// A proxy of the environment is for remote hosts only.
fn is_loopback(host: &str) -> bool {
    let ip = host
        .trim_start_matches('[')
        .trim_end_matches(']')
        .parse::<std::net::IpAddr>();
    host == "localhost" || ip.is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clients(url: &str, open: usize) -> (usize, Arc<HostPool>, Vec<StreamPermit>) {
        let hosts = ConnectionPool::default();
        let host = hosts.host(&Url::parse(url).unwrap(), Duration::from_secs(1), false, 100);
        let tickets = (0..open).map(|_| host.client().unwrap().1).collect();
        let count = host.slots.lock().len();
        (count, host, tickets)
    }

    #[test]
    fn a_host_that_may_speak_http2_gets_a_client_per_hundred_streams() {
        assert_eq!(clients("http://127.0.0.1:1/v1", 1_000).0, 1);
        let (count, host, mut tickets) = clients("https://127.0.0.1:1/v1", 301);
        assert_eq!(count, 4);
        // A returned permit is used before a new connection is opened.
        tickets.drain(..150);
        tickets.extend((0..249).map(|_| host.client().unwrap().1));
        assert_eq!(host.slots.lock().len(), 4);
    }

    #[test]
    fn deployments_on_one_host_share_its_clients() {
        let hosts = ConnectionPool::default();
        let host = |url: &str| hosts.host(&Url::parse(url).unwrap(), Duration::from_secs(1), false, 100);
        assert!(Arc::ptr_eq(&host("https://h/v1"), &host("https://h:443/v2")));
        assert!(!Arc::ptr_eq(&host("https://h/v1"), &host("http://h/v1")));
    }

    #[test]
    fn loopback_is_recognised() {
        for (host, loopback) in [
            ("127.0.0.1", true),
            ("[::1]", true),
            ("localhost", true),
            ("10.0.0.1", false),
        ] {
            assert_eq!(is_loopback(host), loopback, "{host}");
        }
    }
}
