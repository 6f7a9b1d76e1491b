//! The resources one request holds: bytes of its body, bytes of its response, and a slot among the requests in flight.
//!
//! The router opens an [`Account`] for each request and charges it to the client's address until a credential is
//! verified. The account travels with the response, so it is closed when the last byte is sent or the client
//! disconnects.
//!
//! Invariants: no body is read and no page is built before memory for it is reserved; what a client does not read stays
//! reserved, and counts against its own share only.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::body::{Body, HttpBody as _};
use axum::extract::{ConnectInfo, Request};
use axum::http::{Extensions, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use copilotd_actors::domain::ids::TenantId;
use parking_lot::{Mutex, MutexGuard};

use super::budget::{Budget, Exhausted, Holder, Limits, Reservation};
use super::credentials::{Authenticator, Caller};
use super::peer::Proxies;
use super::problems::{Code, Problem, RateLimit};
use super::server::Connection;
use crate::config;

/// How long a request waits for memory before it is refused.
const WAIT: Duration = Duration::from_secs(1);
/// `Retry-After` for a caller that uses its whole share.
const RETRY: Duration = Duration::from_secs(1);
/// How long a response waits for memory: waiting is cheap, and the work for it is already done.
const ANSWER_WAIT: Duration = Duration::from_secs(5);
/// Responses and frames up to this size are not counted: the limit on requests in flight bounds them.
pub const FREE_BYTES: usize = 8 * 1024;
/// Memory reserved for the response to a request that changes something.
const CHANGE_BYTES: usize = 16 * 1024;
/// Bytes of responses on the admin port: metrics pages.
const ADMIN_BYTES: usize = 32 * 1024 * 1024;
/// Requests in flight on the admin port.
const ADMIN_REQUESTS: usize = 128;
/// Requests in flight: more than there can be open streams.
const REQUESTS: usize = 100_000;

/// Open streams per process; each costs a connection and a few KiB. One tenant may have half of them.
pub const MAX_STREAMS: usize = 50_000;
/// Open streams per user.
pub const USER_STREAMS: usize = 1_024;

/// The budgets that requests share.
#[derive(Debug)]
pub struct Budgets {
    /// Bytes of request bodies and of what was parsed from them.
    pub bodies: Arc<Budget>,
    /// Bytes of responses being built or not yet sent.
    pub answers: Arc<Budget>,
    /// The same for requests that change something: unread pages must not block them.
    pub changes: Arc<Budget>,
    pub requests: Arc<Budget>,
    pub streams: Arc<Budget>,
    proxies: Proxies,
}

impl Budgets {
    /// Creates the budgets of the public port.
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
                // Streams need a credential.
                addresses: 1,
                address: 1,
            }),
            proxies: Proxies::new(&server.trusted_proxies),
        })
    }

    /// Creates the budgets of the admin port. They are separate so that monitoring gets through when clients fill the
    /// public port. No request there has a credential.
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

/// The resources of one request. Cheap to clone; in the extensions of the request and of its response.
#[derive(Debug, Clone)]
pub struct Account(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    budgets: Arc<Budgets>,
    /// Whether the request may change something: then a refusal cannot claim that nothing was done.
    changes: bool,
    connection: Option<Connection>,
    address: Option<Holder>,
    caller: OnceLock<Holder>,
    /// The tenant of the verified credential.
    tenant: OnceLock<TenantId>,
    held: Mutex<HeldReservations>,
}

#[derive(Debug, Default)]
struct HeldReservations {
    /// The slot among the requests in flight.
    _slot: Option<Reservation>,
    body: Option<Reservation>,
    /// Memory for the response to a change; a longer response reserves the rest as `answer`.
    change: Option<Reservation>,
    answer: Option<Reservation>,
}

impl Account {
    /// Opens the account of a new request. A request that did not come over the network is charged to nobody until its
    /// credential is verified.
    pub fn open(budgets: &Arc<Budgets>, request: &Request) -> Result<Self, Problem> {
        let (extensions, headers) = (request.extensions(), request.headers());
        let peer = extensions.get::<ConnectInfo<SocketAddr>>();
        let address = peer.map(|peer| Holder::address(budgets.proxies.client(peer.0.ip(), headers)));
        let slot = match &address {
            Some(address) => match budgets.requests.try_reserve(address, 1) {
                Ok(slot) => Some(slot),
                // A request with a credential is limited as its caller, whatever others send from the same address. It
                // gets a slot of the caller once verified; the connection limits bound those with an invalid
                // credential.
                Err(_full) if shows_credential(request) => None,
                Err(_full) => {
                    let most = budgets.requests.caller_limit(address);
                    return Err(Problem::new(Code::RateLimited)
                        .detail("too many requests in flight without a valid credential from this address")
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
            tenant: OnceLock::new(),
            held: Mutex::new(HeldReservations {
                _slot: slot,
                ..HeldReservations::default()
            }),
        })))
    }

    /// Charges the request to its verified caller instead of its address, and assigns the connection to the caller.
    pub fn admit(extensions: &Extensions, caller: &Caller, auth: &Arc<Authenticator>) -> Result<(), Problem> {
        let Some(Self(account)) = extensions.get::<Self>() else {
            return Ok(());
        };
        if account.caller.get().is_some() {
            return Ok(());
        }
        let _ = account.tenant.set(caller.scope.tenant().clone());
        let holder = Holder::caller(caller);
        let slot = account.budgets.requests.try_reserve(&holder, 1);
        let most = account.budgets.requests.caller_limit(&holder);
        let slot = slot.map_err(|exhausted| refusal(exhausted, &REQUESTS_IN_FLIGHT, most))?;
        if let Some(connection) = &account.connection {
            let (auth, caller) = (Arc::clone(auth), caller.clone());
            let live = move || {
                let end = caller.expires_at;
                end.is_none_or(|end| auth.clock.now() < end) && auth.verifier.is_live(&caller)
            };
            connection.verified(&holder, Box::new(live)).map_err(|_full| {
                let close = HeaderValue::from_static("close");
                refusal(Exhausted::Caller, &CONNECTIONS, connection.connection_limit(&holder))
                    .header(header::CONNECTION, close)
            })?;
        }
        // Reserved before the change is made: afterwards its response must fit.
        let change = match account.changes {
            true => Some(account.budgets.changes.try_reserve(&holder, CHANGE_BYTES)),
            false => None,
        };
        let change = change.transpose();
        let most = account.budgets.changes.caller_limit(&holder);
        let change = change.map_err(|exhausted| refusal(exhausted, &ANSWER_BYTES, most))?;
        *account.held() = HeldReservations {
            _slot: Some(slot),
            change,
            ..HeldReservations::default()
        };
        // Verifications of one request never run concurrently.
        let _ = account.caller.set(holder);
        Ok(())
    }

    /// Reserves more bytes for the request's body.
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

    /// Releases what is reserved for the body beyond `bytes`.
    pub fn shrink_body(&self, bytes: usize) {
        if let Some(body) = &mut self.0.held().body {
            body.shrink_to(bytes);
        }
    }

    /// Returns the tenant of the request's credential, once that is verified.
    pub fn tenant(&self) -> Option<&TenantId> {
        self.0.tenant.get()
    }

    /// Whether the request's credential was verified.
    pub fn is_verified(&self) -> bool {
        self.0.caller.get().is_some()
    }

    /// Reserves memory for a response about to be built, replacing the earlier reservation.
    pub async fn reserve_answer(&self, bytes: usize) -> Result<(), Problem> {
        let Some(holder) = self.0.holder() else { return Ok(()) };
        // Released first: with a small share, the old reservation would block the new one.
        self.0.held().answer = None;
        let room = self.0.budgets.answers.reserve(holder, bytes, ANSWER_WAIT).await;
        let most = self.0.budgets.answers.caller_limit(holder);
        let room = room.map_err(|exhausted| refusal(exhausted, &ANSWER_BYTES, most))?;
        self.0.held().answer = Some(room);
        Ok(())
    }

    /// Reserves memory for a frame of an event stream, replacing the previous frame's. If that fails the stream must
    /// end: the caller's readers are too slow, and this one can resume where it stopped.
    pub fn reserve_frame(&self, bytes: usize) -> Result<(), Exhausted> {
        let Some(holder) = self.0.holder() else { return Ok(()) };
        let mut held = self.0.held();
        held.answer = None;
        held.answer = Some(self.0.budgets.answers.try_reserve(holder, bytes)?);
        Ok(())
    }

    /// Releases the memory of the last frame.
    pub fn release_frame(&self) {
        self.0.held().answer = None;
    }

    /// Adjusts the reservation to the response and attaches the account to it. A response that gets no memory becomes a
    /// 429 or 503.
    pub async fn settle(self, mut response: Response) -> Response {
        let size = response.body().size_hint().exact();
        if size.is_none() {
            // From now on each frame makes its own reservation.
            let mut held = self.0.held();
            (held.change, held.answer) = (None, None);
        }
        if let Some(bytes) = size {
            // A complete response no longer needs the request body; an event stream may.
            self.0.held().body = None;
            let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
            if let Err(exhausted) = self.cover(bytes).await {
                // Dropped first, as there is no memory for it.
                *response.body_mut() = Body::empty();
                self.0.held().answer = None;
                let problem = match self.0.changes {
                    true => Problem::new(Code::Unavailable).detail(
                        "the request may have been carried out, but there is no memory for its response: too many responses \
                         are waiting to be read",
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
            let HeldReservations { change, answer, .. } = &mut *held;
            let mut left = bytes;
            for part in [change, answer].into_iter().flatten() {
                part.shrink_to(left);
                left = left.saturating_sub(part.amount());
            }
            bytes - left
        };
        // A response larger than the whole share gets the whole share.
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
    /// The holder the request is charged to.
    fn holder(&self) -> Option<&Holder> {
        self.caller.get().or(self.address.as_ref())
    }

    fn held(&self) -> MutexGuard<'_, HeldReservations> {
        self.held.lock()
    }
}

/// A shared resource: its description for problem details, and its rate limit policy.
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
    what: "response bytes waiting to be sent",
    policy: "answer-bytes",
};
const BODY_BYTES: Shared = Shared {
    what: "request body bytes in memory",
    policy: "body-bytes",
};

/// A 429 for a caller that uses its whole share of `most`; a 503 when the tenant's or the process's budget is used up.
fn refusal(exhausted: Exhausted, Shared { what, policy }: &Shared, most: usize) -> Problem {
    match exhausted {
        Exhausted::Caller => Problem::new(Code::RateLimited)
            .detail(format!("this caller has too many {what}"))
            .rate_limit(&RateLimit::all_taken(policy, most, RETRY)),
        Exhausted::Shared => {
            Problem::new(Code::Overloaded).detail(format!("this server or tenant has too many {what}"))
        }
    }
}

/// Whether a request carries a credential, valid or not.
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
        // A forged X-Forwarded-For does not give an untrusted peer more slots.
        let held: Vec<_> = ["1.1.1.1", "2.2.2.2"]
            .map(|forwarded| open(&budgets, "203.0.113.1", forwarded))
            .into();
        assert!(held.iter().all(Result::is_ok));
        assert!(open(&budgets, "203.0.113.1", "3.3.3.3").is_err());
        drop(held);
        assert_eq!(budgets.requests.in_use(), 0);
    }
}
