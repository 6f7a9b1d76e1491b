//! Connection limits. An address gets few connections until it presents a valid credential; callers are counted by
//! credential, so users behind one proxy or office address do not share a limit.
//!
//! Invariant: connections never exceed what [`max_connections`] derives from the open file limit, so that provider
//! calls and the store always get a file descriptor.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use metrics::{counter, gauge};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::config;
use crate::http::budget::{Budget, Exhausted, Holder, Limits, Reservation};
use crate::http::peer::{Proxies, network_of};

/// Minimum time between two log lines about refused connections.
const LOG_EVERY: Duration = Duration::from_secs(60);
/// Minimum and maximum number of file descriptors reserved for everything but connections.
const RESERVED_FILES: (usize, usize) = (64, 16_384);
/// Minimum number of connections, however low the open file limit is.
const MIN_CONNECTIONS: usize = 16;

/// Returns how many connections an open file limit allows: half of it, or all but 16,384. The rest is for providers,
/// external systems and the store: a streaming turn needs a descriptor on each side.
pub fn max_connections(configured: usize, open_files: Option<u64>) -> usize {
    let Some(files) = open_files.and_then(|files| usize::try_from(files).ok()) else {
        return configured;
    };
    let reserved = (files / 2).clamp(RESERVED_FILES.0, RESERVED_FILES.1);
    configured.min(files.saturating_sub(reserved).max(MIN_CONNECTIONS))
}

/// All connections of one listener.
#[derive(Debug)]
pub struct Connections {
    most: usize,
    slots: Arc<Semaphore>,
    addresses: Arc<Budget>,
    callers: Arc<Budget>,
    proxies: Proxies,
    logged: Mutex<Option<Instant>>,
}

/// Why a connection is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// The address has reached its limit for connections without a valid credential.
    Address,
    /// The process has reached its limit.
    Full,
}

/// Counts a connection in the metrics until dropped.
#[derive(Debug)]
pub struct ConnectionGauge(&'static str);

impl ConnectionGauge {
    pub fn new(state: &'static str) -> Self {
        gauge!("copilotd_http_connections", "state" => state).increment(1.0);
        Self(state)
    }
}

impl Drop for ConnectionGauge {
    fn drop(&mut self) {
        gauge!("copilotd_http_connections", "state" => self.0).decrement(1.0);
    }
}

impl Connections {
    /// Allows `most` connections in total, with the other limits from the configuration.
    pub fn new(server: &config::Server, most: usize) -> Arc<Self> {
        let all = |address, caller| Limits {
            process: most,
            tenant: most - most / 8,
            key: caller,
            user: caller,
            addresses: most,
            address,
        };
        let limits = all(server.connections_per_address, server.connections_per_caller);
        Arc::new(Self {
            most,
            slots: Arc::new(Semaphore::new(most)),
            addresses: Budget::of_units(limits),
            callers: Budget::of_units(limits),
            proxies: Proxies::new(&server.trusted_proxies),
            logged: Mutex::default(),
        })
    }

    /// Returns the number of open connections.
    pub fn open(&self) -> usize {
        self.most.saturating_sub(self.slots.available_permits())
    }

    /// Returns the number without a valid credential, not counting trusted proxies.
    pub fn anonymous(&self) -> usize {
        self.addresses.in_use()
    }

    /// Admits a new connection and counts it against its address, unless that is a trusted proxy: proxies carry many
    /// clients, whose requests are counted instead.
    pub fn admit(&self, peer: IpAddr) -> Result<(OwnedSemaphorePermit, Option<Reservation>), Refused> {
        let refused = |why| {
            self.refused(why, peer);
            why
        };
        let slot = Arc::clone(&self.slots).try_acquire_owned();
        let slot = slot.map_err(|_full| refused(Refused::Full))?;
        let anonymous = match self.proxies.contains(peer) {
            true => None,
            false => Some(
                self.reserve_for_address(peer)
                    .map_err(|_full| refused(Refused::Address))?,
            ),
        };
        Ok((slot, anonymous))
    }

    /// Reserves one connection of an address.
    pub fn reserve_for_address(&self, peer: IpAddr) -> Result<Reservation, Exhausted> {
        self.addresses.try_reserve(&Holder::address(network_of(peer)), 1)
    }

    /// Returns the maximum number of connections of a caller.
    pub fn connection_limit(&self, caller: &Holder) -> usize {
        self.callers.caller_limit(caller)
    }

    /// Reserves one connection of a caller.
    pub fn reserve_for_caller(&self, caller: &Holder) -> Result<Reservation, Exhausted> {
        let slot = self.callers.try_reserve(caller, 1);
        if slot.is_err() {
            counter!("copilotd_http_connections_refused_total", "reason" => "caller").increment(1);
            if self.may_log() {
                tracing::warn!(
                    %caller,
                    "requests refused: caller has reached server.connections_per_caller; if a proxy opens these \
                     connections, add it to server.trusted_proxies"
                );
            }
        }
        slot
    }

    /// Waits until all connections are closed.
    pub async fn closed(&self) {
        let all = u32::try_from(self.most).unwrap_or(u32::MAX);
        // Never closed.
        let _ = self.slots.acquire_many(all).await;
    }

    fn refused(&self, why: Refused, peer: IpAddr) {
        let reason = match why {
            Refused::Address => "address",
            Refused::Full => "full",
        };
        counter!("copilotd_http_connections_refused_total", "reason" => reason).increment(1);
        if !self.may_log() {
            return;
        }
        match why {
            Refused::Address => tracing::warn!(
                address = %network_of(peer),
                "connections refused: address has reached server.connections_per_address without a valid credential; \
                 if it is a proxy, add it to server.trusted_proxies"
            ),
            Refused::Full => tracing::warn!(
                open = self.open(),
                anonymous = self.anonymous(),
                "connections refused: the process has reached server.max_connections or its open file limit (ulimit -n)"
            ),
        }
    }

    /// Logs a failed accept, rate-limited: `EMFILE` occurs thousands of times a second.
    pub fn accept_failed(&self, error: &std::io::Error) {
        counter!("copilotd_http_connections_refused_total", "reason" => "accept").increment(1);
        if self.may_log() {
            tracing::warn!(%error, open = self.open(), "accepting a connection failed; the listener keeps accepting");
        }
    }

    fn may_log(&self) -> bool {
        let mut logged = self.logged.lock();
        let due = logged.is_none_or(|at| at.elapsed() >= LOG_EVERY);
        if due {
            *logged = Some(Instant::now());
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connections(most: usize) -> Arc<Connections> {
        let server = config::Server {
            connections_per_address: 2,
            trusted_proxies: vec!["10.0.0.0/8".parse().unwrap()],
            ..config::Server::default()
        };
        Connections::new(&server, most)
    }

    #[test]
    fn files_are_left_for_everything_else() {
        for (files, most) in [
            (Some(64), 16),
            (Some(256), 128),
            (Some(1_024), 512),
            (Some(20_000), 10_000),
            (Some(1_048_576), 60_000),
            (None, 60_000),
        ] {
            assert_eq!(max_connections(60_000, files), most, "{files:?}");
        }
        assert_eq!(max_connections(100, Some(1_048_576)), 100);
    }

    #[test]
    fn an_address_has_a_few_places_and_a_network_of_ipv6_is_one_address() {
        let all = connections(100);
        for (first, same, other) in [
            ("192.0.2.1", "::ffff:192.0.2.1", "192.0.2.2"),
            ("2001:db8::1", "2001:db8::2:3", "2001:db8:0:1::1"),
        ] {
            let [first, same, other] = [first, same, other].map(|text| text.parse().unwrap());
            let held = (all.admit(first).unwrap(), all.admit(same).unwrap());
            assert_eq!(all.admit(same).unwrap_err(), Refused::Address);
            assert!(all.admit(other).is_ok());
            drop(held);
            assert!(all.admit(first).is_ok());
        }
        let proxy = "10.1.2.3".parse().unwrap();
        let held: Vec<_> = (0..50).map(|_| all.admit(proxy).unwrap()).collect();
        assert_eq!((all.open(), all.anonymous()), (50, 0));
        drop(held);
        assert_eq!(all.open(), 0);
    }

    #[test]
    fn the_whole_is_bounded() {
        let all = connections(3);
        let peers = ["192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4"].map(|text| text.parse().unwrap());
        let mut held: Vec<_> = peers[..3].iter().map(|peer| all.admit(*peer).unwrap()).collect();
        assert_eq!(all.admit(peers[3]).unwrap_err(), Refused::Full);
        held.pop();
        assert!(all.admit(peers[3]).is_ok());
    }
}
