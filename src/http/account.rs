//! What one request holds of the process: bytes of its body, bytes of its answer, a place among the requests in flight.
//!
//! The router opens an [`Account`] for each request, and charges it to the client's address until a credential was verified. The
//! account travels with the response, so that it is closed when the last byte has left, or the client has.
//!
//! Invariants: nothing of a body is read, and no page is built, before room for it was reserved; what a client does not take
//! stays reserved, and so counts against nobody but its own share.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use axum::body::{Body, HttpBody as _};
use axum::extract::{ConnectInfo, Request};
use axum::http::{Extensions, HeaderValue, header};
use axum::response::{IntoResponse, Response};

use super::auth::{Authenticator, Caller};
use super::budget::{Budget, Exhausted, Holder, Limits, Reservation};
use super::peer::Proxies;
use super::problem::{Code, Problem, RateLimit};
use super::server::Connection;
use crate::config;

/// How long a request waits for room before it is refused.
const WAIT: Duration = Duration::from_secs(1);
/// When a caller that holds its whole share may ask again.
const RETRY: Duration = Duration::from_secs(1);
/// How long an answer waits for room: waiting costs little, and what a finished one has cost is spent already.
const ANSWER_WAIT: Duration = Duration::from_secs(5);
/// Answers and frames up to this size are not counted: the places of requests bound them.
pub const FREE_BYTES: usize = 8 * 1024;
/// Room for the answer to a request that changes something.
const CHANGE_BYTES: usize = 16 * 1024;
/// Bytes of answers of the admin port: pages of metrics.
const ADMIN_BYTES: usize = 32 * 1024 * 1024;
/// Requests in flight on the admin port.
const ADMIN_REQUESTS: usize = 128;
/// Requests in flight: more than there can be streams.
const REQUESTS: usize = 100_000;

/// Open streams of one process; each costs a connection and some KiB. A tenant alone may have half of them.
pub const MAX_STREAMS: usize = 50_000;
/// Open streams of one user.
pub const USER_STREAMS: usize = 1_024;

/// What requests share.
#[derive(Debug)]
pub struct Budgets {
    /// Bytes of request bodies, and what was made of them.
    pub bodies: Arc<Budget>,
    /// Bytes of answers that are built or not yet sent.
    pub answers: Arc<Budget>,
    /// The same for what changes something: pages that nobody reads must not be in its way.
    pub changes: Arc<Budget>,
    /// Requests in flight.
    pub requests: Arc<Budget>,
    /// Open streams.
    pub streams: Arc<Budget>,
    proxies: Proxies,
}

impl Budgets {
    /// Makes them as the configuration says.
    pub fn new(server: &config::Server) -> Arc<Self> {
        Arc::new(Self {
            bodies: Budget::of_bytes(Limits::bytes(server.body_memory_bytes)),
            answers: Budget::of_bytes(Limits::bytes(server.answer_memory_bytes)),
            changes: Budget::of_bytes(Limits::bytes(server.answer_memory_bytes / 2)),
            requests: Budget::of_units(Limits {
                process: REQUESTS,
                tenant: REQUESTS - REQUESTS / 8,
                key: server.connections_per_caller,
                user: server.connections_per_caller,
                addresses: REQUESTS / 8,
                address: server.connections_per_address,
            }),
            streams: Budget::of_units(Limits {
                process: MAX_STREAMS,
                tenant: MAX_STREAMS / 2,
                key: MAX_STREAMS / 2,
                user: USER_STREAMS,
                // Nobody without a credential has a stream.
                addresses: 1,
                address: 1,
            }),
            proxies: Proxies::new(&server.trusted_proxies),
        })
    }

    /// Makes those of the admin port, apart from the public port's: monitoring has to get through when clients fill that. Nobody has
    /// a credential there.
    pub fn of_admin_port() -> Arc<Self> {
        let bytes = Limits {
            process: ADMIN_BYTES,
            tenant: ADMIN_BYTES,
            key: ADMIN_BYTES,
            user: ADMIN_BYTES,
            addresses: ADMIN_BYTES,
            address: ADMIN_BYTES / 2,
        };
        let requests = Limits {
            process: ADMIN_REQUESTS,
            tenant: ADMIN_REQUESTS,
            key: ADMIN_REQUESTS,
            user: ADMIN_REQUESTS,
            addresses: ADMIN_REQUESTS,
            address: ADMIN_REQUESTS / 2,
        };
        Arc::new(Self {
            bodies: Budget::of_bytes(bytes),
            answers: Budget::of_bytes(bytes),
            changes: Budget::of_bytes(bytes),
            requests: Budget::of_units(requests),
            streams: Budget::of_units(requests),
            proxies: Proxies::new(&[]),
        })
    }
}

/// What one request holds. Cheap to clone; in the extensions of the request and of its response.
#[derive(Debug, Clone)]
pub struct Account(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    budgets: Arc<Budgets>,
    /// Whether it may change something: then its answer cannot say that nothing was done.
    changes: bool,
    connection: Option<Connection>,
    address: Option<Holder>,
    caller: OnceLock<Holder>,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    /// Its place among the requests in flight.
    _place: Option<Reservation>,
    body: Option<Reservation>,
    /// Room for the answer to a change; what is longer takes more as an answer.
    change: Option<Reservation>,
    answer: Option<Reservation>,
}

impl Account {
    /// Opens the account of a request that has just arrived. One that did not come over the network is charged to nobody until
    /// its credential was verified.
    pub fn open(budgets: &Arc<Budgets>, request: &Request) -> Result<Self, Problem> {
        let (extensions, headers) = (request.extensions(), request.headers());
        let peer = extensions.get::<ConnectInfo<SocketAddr>>();
        let address = peer.map(|peer| Holder::address(budgets.proxies.client(peer.0.ip(), headers)));
        let place = match &address {
            Some(address) => match budgets.requests.try_reserve(address, 1) {
                Ok(place) => Some(place),
                // Who shows a credential is judged by that, and not by what strangers send from the same address. It takes the
                // caller's place once it was verified; connections bound those whose credential is none.
                Err(_full) if shows_credential(request) => None,
                Err(_full) => {
                    let most = budgets.requests.caller_limit(address);
                    return Err(Problem::new(Code::RateLimited)
                        .detail("too many requests without a valid credential from this address")
                        .rate_limit(&RateLimit::all_taken("requests-of-address", most, RETRY)));
                }
            },
            None => None,
        };
        Ok(Self(Arc::new(Inner {
            budgets: Arc::clone(budgets),
            changes: !request.method().is_safe(),
            connection: extensions.get::<Connection>().cloned(),
            address,
            caller: OnceLock::new(),
            held: Mutex::new(Held {
                _place: place,
                ..Held::default()
            }),
        })))
    }

    /// Charges the request to a caller whose credential has just been verified, instead of its address. Its connection is known
    /// as the caller's from then on.
    pub fn admit(extensions: &Extensions, caller: &Caller, auth: &Arc<Authenticator>) -> Result<(), Problem> {
        let Some(Self(account)) = extensions.get::<Self>() else {
            return Ok(());
        };
        if account.caller.get().is_some() {
            return Ok(());
        }
        let holder = Holder::caller(caller);
        let place = account.budgets.requests.try_reserve(&holder, 1);
        let most = account.budgets.requests.caller_limit(&holder);
        let place = place.map_err(|exhausted| refusal(exhausted, &REQUESTS_IN_FLIGHT, most))?;
        if let Some(connection) = &account.connection {
            let (auth, caller) = (Arc::clone(auth), caller.clone());
            let live = move || {
                let end = caller.expires_at;
                end.is_none_or(|end| auth.clock.now() < end) && auth.verifier.is_live(&caller)
            };
            connection.verified(&holder, Box::new(live)).map_err(|_full| {
                let close = HeaderValue::from_static("close");
                refusal(Exhausted::Caller, &CONNECTIONS, connection.most_of(&holder)).header(header::CONNECTION, close)
            })?;
        }
        // Before anything is done: once it is, the answer has to have room.
        let change = match account.changes {
            true => Some(account.budgets.changes.try_reserve(&holder, CHANGE_BYTES)),
            false => None,
        };
        let change = change.transpose();
        let most = account.budgets.changes.caller_limit(&holder);
        let change = change.map_err(|exhausted| refusal(exhausted, &ANSWER_BYTES, most))?;
        *account.held() = Held {
            _place: Some(place),
            change,
            ..Held::default()
        };
        // Two verifications of one request are one after the other.
        let _ = account.caller.set(holder);
        Ok(())
    }

    /// Reserves room for bytes of the request's body, beside what was reserved for it before.
    pub async fn reserve_body(&self, bytes: usize) -> Result<(), Problem> {
        let Some(holder) = self.0.holder() else { return Ok(()) };
        let more = self.0.budgets.bodies.reserve(holder, bytes, WAIT).await;
        let most = self.0.budgets.bodies.caller_limit(holder);
        let more = more.map_err(|exhausted| refusal(exhausted, &BODY_BYTES, most))?;
        let mut held = self.0.held();
        match &mut held.body {
            Some(body) => body.merge(more),
            None => held.body = Some(more),
        }
        Ok(())
    }

    /// Gives back what was reserved for the body beyond `bytes`.
    pub fn shrink_body(&self, bytes: usize) {
        if let Some(body) = &mut self.0.held().body {
            body.shrink_to(bytes);
        }
    }

    /// Tells whether a valid credential was seen.
    pub fn is_verified(&self) -> bool {
        self.0.caller.get().is_some()
    }

    /// Reserves room for an answer that is going to be built, in place of what was reserved for it before.
    pub async fn reserve_answer(&self, bytes: usize) -> Result<(), Problem> {
        let Some(holder) = self.0.holder() else { return Ok(()) };
        // Given back first: where shares are small, what it holds itself would be in its way.
        self.0.held().answer = None;
        let room = self.0.budgets.answers.reserve(holder, bytes, ANSWER_WAIT).await;
        let most = self.0.budgets.answers.caller_limit(holder);
        let room = room.map_err(|exhausted| refusal(exhausted, &ANSWER_BYTES, most))?;
        self.0.held().answer = Some(room);
        Ok(())
    }

    /// Reserves room for a frame of an event stream, in place of the one before. Without room the stream has to end: its reader
    /// is one of a caller's who take nothing, and comes back where it stopped.
    pub fn reserve_frame(&self, bytes: usize) -> Result<(), Exhausted> {
        let Some(holder) = self.0.holder() else { return Ok(()) };
        let mut held = self.0.held();
        held.answer = None;
        held.answer = Some(self.0.budgets.answers.try_reserve(holder, bytes)?);
        Ok(())
    }

    /// Gives back the room of the last frame.
    pub fn release_frame(&self) {
        self.0.held().answer = None;
    }

    /// Makes the account fit the answer, and lets it travel with it. An answer that no room can be had for becomes a 503.
    pub async fn settle(self, mut response: Response) -> Response {
        let size = response.body().size_hint().exact();
        if size.is_none() {
            // From now on each frame has its own.
            let mut held = self.0.held();
            (held.change, held.answer) = (None, None);
        }
        if let Some(bytes) = size {
            // An event stream goes on with what the body asked for; a whole answer was made of it.
            self.0.held().body = None;
            let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
            if let Err(exhausted) = self.cover(bytes).await {
                // The answer is dropped first: it is what there is no room for.
                *response.body_mut() = Body::empty();
                self.0.held().answer = None;
                let problem = match self.0.changes {
                    true => Problem::new(Code::Unavailable).detail(
                        "what was asked for may have been done, but too many bytes of answers are waiting to be read",
                    ),
                    false => {
                        let most = self
                            .0
                            .holder()
                            .map_or(0, |holder| self.0.budgets.answers.caller_limit(holder));
                        refusal(exhausted, &ANSWER_BYTES, most)
                    }
                };
                response = problem.into_response();
            }
        }
        response.extensions_mut().insert(self);
        response
    }

    async fn cover(&self, bytes: usize) -> Result<(), Exhausted> {
        let Some(holder) = self.0.holder().filter(|_| bytes > FREE_BYTES) else {
            let mut held = self.0.held();
            (held.change, held.answer) = (None, None);
            return Ok(());
        };
        let held = {
            let mut held = self.0.held();
            let Held { change, answer, .. } = &mut *held;
            let mut left = bytes;
            for part in [change, answer].into_iter().flatten() {
                part.shrink_to(left);
                left = left.saturating_sub(part.amount());
            }
            bytes - left
        };
        // What is larger than the whole share has all of it.
        if held >= bytes.min(self.0.budgets.answers.caller_limit(holder)) {
            return Ok(());
        }
        let more = self
            .0
            .budgets
            .answers
            .reserve(holder, bytes - held, ANSWER_WAIT)
            .await?;
        let mut held = self.0.held();
        match &mut held.answer {
            Some(answer) => answer.merge(more),
            None => held.answer = Some(more),
        }
        Ok(())
    }
}

impl Inner {
    /// Whom the request is charged to.
    fn holder(&self) -> Option<&Holder> {
        self.caller.get().or(self.address.as_ref())
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What callers share, in the words of a problem and as the name of a policy.
struct Shared {
    what: &'static str,
    policy: &'static str,
}

const REQUESTS_IN_FLIGHT: Shared = Shared {
    what: "requests in flight",
    policy: "requests-in-flight",
};
const CONNECTIONS: Shared = Shared {
    what: "open connections",
    policy: "connections",
};
const ANSWER_BYTES: Shared = Shared {
    what: "bytes of answers",
    policy: "answer-bytes",
};
const BODY_BYTES: Shared = Shared {
    what: "bytes of request bodies",
    policy: "body-bytes",
};

/// A caller that uses its whole share, of which `most` is its size, is slowed down; when others use up the rest, the server is overloaded.
fn refusal(exhausted: Exhausted, Shared { what, policy }: &Shared, most: usize) -> Problem {
    match exhausted {
        Exhausted::Caller => Problem::new(Code::RateLimited)
            .detail(format!("this caller has too many {what}"))
            .rate_limit(&RateLimit::all_taken(policy, most, RETRY)),
        Exhausted::Shared => Problem::new(Code::Overloaded).detail(format!("too many {what}")),
    }
}

/// Whether a request shows a credential, valid or not.
fn shows_credential(request: &Request) -> bool {
    let has_ticket = |query: &str| query.split('&').any(|pair| pair.starts_with("ticket="));
    request.headers().contains_key(header::AUTHORIZATION) || request.uri().query().is_some_and(has_ticket)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(budgets: &Arc<Budgets>, peer: &str, forwarded: &str) -> Result<Account, Problem> {
        let mut request = Request::new(Body::empty());
        let peer = SocketAddr::new(peer.parse().unwrap(), 1);
        request.extensions_mut().insert(ConnectInfo(peer));
        let forwarded = HeaderValue::from_str(forwarded).unwrap();
        request.headers_mut().insert("x-forwarded-for", forwarded);
        Account::open(budgets, &request)
    }

    #[test]
    fn behind_a_trusted_proxy_each_client_has_its_own_places() {
        let budgets = Budgets::new(&config::Server {
            connections_per_address: 2,
            trusted_proxies: vec!["10.0.0.0/8".parse().unwrap()],
            ..config::Server::default()
        });
        for (peer, first, second) in [
            ("10.0.0.1", "192.0.2.1", "192.0.2.2"),
            ("10.0.0.1", "2001:db8::1", "2001:db8:0:1::1"),
        ] {
            let held = [open(&budgets, peer, first), open(&budgets, "10.0.0.2", first)];
            assert!(held.iter().all(Result::is_ok));
            assert_eq!(open(&budgets, peer, first).unwrap_err().code(), Code::RateLimited);
            assert!(open(&budgets, peer, second).is_ok());
            drop(held);
            assert!(open(&budgets, peer, first).is_ok());
        }
        // What a stranger claims to be forwarded from does not give it more places.
        let held: Vec<_> = ["1.1.1.1", "2.2.2.2"]
            .map(|forwarded| open(&budgets, "203.0.113.1", forwarded))
            .into();
        assert!(held.iter().all(Result::is_ok));
        assert!(open(&budgets, "203.0.113.1", "3.3.3.3").is_err());
        drop(held);
        assert_eq!(budgets.requests.in_use(), 0);
    }
}
