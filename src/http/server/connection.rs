//! One connection: its owner, its requests in flight, and its idle timeout.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use tokio::time::{Instant, sleep, sleep_until};

use super::Timeouts;
use super::connections::{ConnectionGauge, Connections};
use crate::http::budget::{Exhausted, Holder, Reservation};

/// Interval for checking that the credential of a connection is still valid.
const RECHECK: Duration = Duration::from_secs(30);

/// Returns whether a credential is still valid.
pub type LivenessCheck = Box<dyn Fn() -> bool + Send + Sync>;

/// A connection. Cheap to clone; in the extensions of its requests.
#[derive(Clone)]
pub struct Connection(Arc<Inner>);

struct Inner {
    all: Arc<Connections>,
    peer: IpAddr,
    /// Whether it counts against its address: a trusted proxy's does not.
    counted: bool,
    started: AtomicBool,
    in_flight: AtomicUsize,
    state: Mutex<State>,
}

struct State {
    owner: Owner,
    last_response: Instant,
}

enum Owner {
    Address {
        _slot: Option<Reservation>,
        _counted: ConnectionGauge,
    },
    Caller {
        live: LivenessCheck,
        _slot: Option<Reservation>,
        _counted: ConnectionGauge,
    },
}

impl Owner {
    fn address(slot: Option<Reservation>) -> Self {
        Self::Address {
            _slot: slot,
            _counted: ConnectionGauge::new("anonymous"),
        }
    }

    fn caller(slot: Option<Reservation>, live: LivenessCheck) -> Self {
        Self::Caller {
            live,
            _slot: slot,
            _counted: ConnectionGauge::new("authenticated"),
        }
    }
}

/// Why a connection should be closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloseReason {
    /// It never sent a request.
    NoRequest,
    /// It has no valid credential and no request in flight.
    Anonymous,
}

impl Connection {
    /// Creates a connection whose address holds `slot`; `None` for a trusted proxy.
    pub fn new(all: Arc<Connections>, peer: IpAddr, slot: Option<Reservation>) -> Self {
        Self(Arc::new(Inner {
            all,
            peer,
            counted: slot.is_some(),
            started: AtomicBool::new(false),
            in_flight: AtomicUsize::new(0),
            state: Mutex::new(State {
                owner: Owner::address(slot),
                last_response: Instant::now(),
            }),
        }))
    }

    /// Counts a request until the guard is dropped, after its response has been sent.
    pub fn request(&self) -> InFlight {
        self.0.started.store(true, Ordering::Relaxed);
        self.0.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlight(self.clone())
    }

    /// Records that a request on it had a valid credential. A connection counts against its first caller; a trusted
    /// proxy's against none.
    pub fn verified(&self, caller: &Holder, live: LivenessCheck) -> Result<(), Exhausted> {
        let mut state = self.0.state();
        let slot = match &mut state.owner {
            Owner::Caller { live: known, .. } => {
                // With several callers (an unconfigured proxy), the last one keeps it open.
                *known = live;
                return Ok(());
            }
            Owner::Address { .. } if !self.0.counted => None,
            Owner::Address { .. } => Some(self.0.all.reserve_for_caller(caller)?),
        };
        state.owner = Owner::caller(slot, live);
        Ok(())
    }

    /// Returns the maximum number of connections of a caller.
    pub fn connection_limit(&self, caller: &Holder) -> usize {
        self.0.all.connection_limit(caller)
    }

    /// Whether a request is in flight.
    pub fn is_busy(&self) -> bool {
        self.0.in_flight.load(Ordering::Relaxed) > 0
    }

    /// Whether a valid credential was seen on it.
    pub fn is_verified(&self) -> bool {
        matches!(self.0.state().owner, Owner::Caller { .. })
    }

    /// Waits until the connection has been idle for too long.
    pub async fn idle(&self, timeouts: Timeouts) -> CloseReason {
        let opened = Instant::now();
        loop {
            if self.is_verified() {
                sleep(RECHECK).await;
                if !self.still_valid() {
                    return CloseReason::Anonymous;
                }
                continue;
            }
            if !self.0.started.load(Ordering::Relaxed) {
                // A trusted proxy may keep connections that it opened in advance as long as any other client.
                sleep_until(opened + timeouts.header).await;
                if !self.0.started.load(Ordering::Relaxed) {
                    return CloseReason::NoRequest;
                }
                continue;
            }
            if self.is_busy() {
                sleep(timeouts.anonymous_idle).await;
                continue;
            }
            let until = self.0.state().last_response + timeouts.anonymous_idle;
            if until > Instant::now() {
                sleep_until(until).await;
            } else if self.0.counted {
                return CloseReason::Anonymous;
            } else {
                // A trusted proxy decides how long it keeps a connection.
                sleep(RECHECK).await;
            }
        }
    }

    /// Checks whether the credential is still valid. If not, the connection is charged to its address again; returns
    /// false if the address has no connection left, and the connection must close.
    fn still_valid(&self) -> bool {
        let mut state = self.0.state();
        let expired = match &state.owner {
            Owner::Caller { live, .. } => !live(),
            Owner::Address { .. } => false,
        };
        if !expired {
            return true;
        }
        let slot = self.0.counted.then(|| self.0.all.reserve_for_address(self.0.peer));
        let Ok(slot) = slot.transpose() else { return false };
        state.owner = Owner::address(slot);
        true
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("peer", &self.0.peer)
            .finish_non_exhaustive()
    }
}

/// A request in flight.
#[derive(Debug)]
pub struct InFlight(Connection);

impl InFlight {
    /// Whether no valid credential was seen on its connection.
    pub fn is_anonymous(&self) -> bool {
        !self.0.is_verified()
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.0.state().last_response = Instant::now();
        self.0.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;
    use crate::config;

    const TIMEOUTS: Timeouts = Timeouts {
        header: Duration::from_secs(5),
        write: Duration::from_secs(30),
        anonymous_idle: Duration::from_secs(10),
    };

    fn connection(caller_places: usize) -> (Arc<Connections>, Connection) {
        let server = config::Server {
            connections_per_caller: caller_places,
            ..config::Server::default()
        };
        let all = Connections::new(&server, 100);
        let peer = IpAddr::from([192, 0, 2, 1]);
        let (_, slot) = all.admit(peer).unwrap();
        let connection = Connection::new(Arc::clone(&all), peer, slot);
        (all, connection)
    }

    fn caller() -> Holder {
        Holder::user_of("acme", "ada")
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_request_it_is_closed_after_the_header_timeout() {
        let (_, connection) = connection(1);
        let begun = Instant::now();
        assert_eq!(connection.idle(TIMEOUTS).await, CloseReason::NoRequest);
        assert_eq!(begun.elapsed(), TIMEOUTS.header);
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_credential_it_is_closed_ten_seconds_after_its_last_response() {
        let (_, connection) = connection(1);
        let request = connection.request();
        let begun = Instant::now();
        let answered = async {
            sleep(Duration::from_secs(60)).await;
            drop(request);
        };
        let (idle, ()) = tokio::join!(connection.idle(TIMEOUTS), answered);
        assert_eq!(idle, CloseReason::Anonymous);
        let closed = begun.elapsed();
        assert!(
            closed >= Duration::from_secs(70) && closed <= Duration::from_secs(80),
            "{closed:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn with_one_it_stays_open_as_long_as_that_is_valid() {
        let (all, connection) = connection(10);
        let valid = Arc::new(AtomicBool::new(true));
        let request = connection.request();
        let looked = Arc::clone(&valid);
        connection
            .verified(&caller(), Box::new(move || looked.load(Ordering::Relaxed)))
            .unwrap();
        drop(request);
        assert_eq!(all.anonymous(), 0);
        assert!(
            timeout(Duration::from_secs(3_600), connection.idle(TIMEOUTS))
                .await
                .is_err()
        );
        valid.store(false, Ordering::Relaxed);
        let begun = Instant::now();
        assert_eq!(connection.idle(TIMEOUTS).await, CloseReason::Anonymous);
        assert!(begun.elapsed() <= RECHECK + TIMEOUTS.anonymous_idle);
        assert_eq!(all.anonymous(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_has_only_so_many() {
        let (all, first) = connection(1);
        let peer = IpAddr::from([192, 0, 2, 2]);
        let second = Connection::new(Arc::clone(&all), peer, all.admit(peer).unwrap().1);
        assert!(first.verified(&caller(), Box::new(|| true)).is_ok());
        assert!(
            first.verified(&caller(), Box::new(|| true)).is_ok(),
            "a connection counts once"
        );
        assert_eq!(second.verified(&caller(), Box::new(|| true)), Err(Exhausted::Caller));
        assert!(
            second
                .verified(&Holder::user_of("acme", "bob"), Box::new(|| true))
                .is_ok()
        );
        assert_eq!(all.anonymous(), 0);
    }
}
