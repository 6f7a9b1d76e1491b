//! Serves a simulated vendor: reads a request, applies the knobs, journals it, answers.
//!
//! Invariant: a received request is carried out even if its client goes away, as on a real server. Tests with killed
//! clients rely on it.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{ConnectInfo, DefaultBodyLimit, State};
use axum::http::{HeaderMap, Method, Uri, header};
use axum::response::Response;
use axum::routing::{get, post};
use parking_lot::Mutex;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::accounts::AccountView;
use crate::http::{Content, Reply, Request, form_pairs, percent_decode};
use crate::knobs::{Fault, Knobs};
use crate::net::{self, Switch};
use crate::{Running, kept};

/// Number of journal entries; older requests are forgotten.
const JOURNAL_LENGTH: usize = 100_000;
/// Number of requests whose body is stored too, if it is not too large.
const MAX_STORED_BODIES: usize = 200;
const MAX_STORED_BODY_BYTES: usize = 64 * 1024;
const MAX_BODY_BYTES: usize = 8 * 1024 * 1024;
/// Largest body with which a person's page posts a message.
const MAX_WRITTEN_BYTES: usize = 64 * 1024;

/// A vendor as a plain state machine: one request, one answer.
pub(crate) trait Vendor: Send + 'static {
    /// Name of the vendor in messages of the control plane.
    const NAME: &'static str;
    fn handle(&mut self, request: &Request, knobs: &Knobs) -> Reply;
    /// Returns the vendor's reply for a failure with this status.
    fn failure(status: u16, retry_after: Option<u64>) -> Reply;
    /// Returns how many requests to such paths are answered per minute, if they have a limit of their own.
    fn own_limit(_path: &str, _knobs: &Knobs) -> Option<u64> {
        None
    }
    /// Adds the vendor's rate limit headers.
    fn rate_headers(reply: Reply, path: &str, limit: u64, remaining: u64, reset: u64) -> Reply;
    /// Returns everything, for `GET /_sim/state`.
    fn state(&self) -> Value;
    /// Returns the number of changes.
    fn version(&self) -> u64;
    /// Returns the compact view for a page that polls.
    fn changes(&self) -> Value;
    /// Returns one of several accounts by its name.
    fn account(&self, _name: &str) -> Option<&dyn AccountView> {
        None
    }
    /// Adds what a person wrote in the vendor's own app; `account` names one of several. Returns the new message.
    fn write(&mut self, _account: Option<&str>, _message: &Value) -> Result<Value, NotWritten> {
        Err(NotWritten::NotFound(format!(
            "nobody writes messages at the simulated {}",
            Self::NAME
        )))
    }
    fn reset(&mut self);
    /// Returns the whole state, to be stored in a file; empty for a vendor without one.
    fn kept(&self) -> serde_json::Result<Vec<u8>> {
        Ok(Vec::new())
    }
}

/// Why a person's message was not added.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum NotWritten {
    /// There is no such account, channel, person or thread.
    NotFound(String),
    /// The message cannot be posted as it is.
    Invalid(String),
}

struct Served<V> {
    vendor: Mutex<V>,
    /// File in which the state survives a restart, if any.
    file: Option<PathBuf>,
    control: Mutex<Control>,
    /// Number of releases; held requests wait for the next one.
    released: watch::Sender<u64>,
}

#[derive(Default)]
struct Control {
    knobs: Knobs,
    journal: VecDeque<Entry>,
    /// The last requests with their bodies, so that a test can check them against the vendor's description.
    bodies: VecDeque<Value>,
    /// Number of the last request; not reset, so that requests in progress do not mark others' entries.
    sequence: u64,
    received: u64,
    held: u64,
    minute: Option<Window>,
    /// The same for paths with a limit of their own.
    own_minute: Option<Window>,
}

/// When a minute began, and the requests in it.
type Window = (tokio::time::Instant, u64);

/// One request in the journal.
#[derive(Clone, Serialize)]
struct Entry {
    n: u64,
    method: String,
    path: String,
    query: String,
    idempotency_key: Option<String>,
    /// Whether it changed the vendor's state.
    applied: bool,
    /// Status that was answered; `null` while in progress or if the connection was cut.
    status: Option<u16>,
    outcome: &'static str,
    at: String,
}

/// Serves `vendor` until the returned handle is dropped.
pub(crate) async fn start<V: Vendor>(listen: SocketAddr, vendor: V, file: Option<PathBuf>) -> std::io::Result<Running> {
    let served = Arc::new(Served {
        vendor: Mutex::new(vendor),
        file,
        control: Mutex::new(Control::default()),
        released: watch::Sender::new(0),
    });
    let person = Router::new()
        .route("/changes", get(changes::<V>))
        .route("/messages", post(write::<V>))
        .layer(DefaultBodyLimit::max(MAX_WRITTEN_BYTES))
        .with_state(Arc::clone(&served));
    let app = Router::new()
        .route("/_sim/state", get(state::<V>))
        .route("/_sim/requests", get(requests::<V>))
        .route("/_sim/reset", post(reset::<V>))
        .route("/_sim/knobs", post(set_knobs::<V>).get(show_knobs::<V>))
        .route("/_sim/release", post(release::<V>))
        .route("/_sim/changes", get(changes::<V>))
        .route("/_sim/messages", post(write::<V>))
        .fallback(api::<V>)
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .with_state(served);
    let mut running = net::serve(listen, app).await?;
    running.person = person;
    Ok(running)
}

async fn api<V: Vendor>(
    State(served): State<Arc<Served<V>>>,
    ConnectInfo(switch): ConnectInfo<Switch>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let request = Request {
        method,
        path: percent_decode(uri.path()),
        query: form_pairs(uri.query().unwrap_or_default()),
        headers,
        body,
    };
    let query = uri.query().unwrap_or_default().to_owned();
    // In its own task: the request continues if the client leaves.
    let outcome = tokio::spawn(async move { served.carry_out(request, query).await }).await;
    match outcome {
        Ok(Some(reply)) => reply.into_response(),
        Ok(None) => {
            switch.cut();
            std::future::pending().await
        }
        Err(error) => {
            tracing::error!(%error, "simulated {} panicked while handling a request", V::NAME);
            V::failure(500, None).into_response()
        }
    }
}

impl<V: Vendor> Served<V> {
    /// Returns the reply, or `None` if the connection is to be cut.
    async fn carry_out(&self, request: Request, query: String) -> Option<Reply> {
        // Before the knobs are read: a release in between must not be missed.
        let mut released = self.released.subscribe();
        let (n, fault, hold, knobs) = {
            let mut control = self.control.lock();
            let n = control.note(&request, query);
            let fault = control.knobs.take_fault(&request.method, &request.path);
            let hold = control.knobs.hold_for(&request.method, &request.path);
            (n, fault, hold, control.knobs.clone())
        };
        if knobs.latency_ms > 0 {
            tokio::time::sleep(Duration::from_millis(knobs.latency_ms)).await;
        }
        let budget = {
            let mut control = self.control.lock();
            let own = V::own_limit(&request.path, &knobs).map(|limit| spend(&mut control.own_minute, limit));
            let shared = knobs
                .rate_limit_per_minute
                .map(|limit| spend(&mut control.minute, limit));
            own.filter(|own| own.exceeded).or(shared)
        };
        if let Some(Budget {
            exceeded: true, reset, ..
        }) = budget
        {
            return self.finish(n, V::failure(429, Some(reset)), budget, &request, "refused");
        }
        let apply_now = hold.as_ref().is_none_or(|hold| hold.apply_first);
        if !apply_now {
            self.wait(&mut released, n).await;
        }
        let applied = match &fault {
            Some(Fault {
                apply: false,
                torn: false,
                ..
            }) => None,
            _ => Some(self.apply(n, &request, &knobs)),
        };
        if hold.is_some() && apply_now {
            self.wait(&mut released, n).await;
        }
        match (fault, applied) {
            (Some(Fault { torn: true, .. }), Some(reply)) => self.finish(n, torn(reply), budget, &request, "torn"),
            (Some(Fault { status: None, .. }), _) => {
                self.control.lock().mark(n, |entry| entry.outcome = "cut");
                None
            }
            (
                Some(Fault {
                    status: Some(status),
                    retry_after,
                    ..
                }),
                _,
            ) => self.finish(n, V::failure(status, retry_after), budget, &request, "failed"),
            (None, Some(reply)) => self.finish(n, reply, budget, &request, "answered"),
            (None, None) => unreachable!("only a fault keeps a request from being applied"),
        }
    }

    fn apply(&self, n: u64, request: &Request, knobs: &Knobs) -> Reply {
        let reply = {
            let mut vendor = self.vendor.lock();
            let reply = vendor.handle(request, knobs);
            if reply.effect {
                self.keep(&vendor);
            }
            reply
        };
        self.control.lock().mark(n, |entry| {
            entry.applied = reply.effect;
            entry.outcome = "under_way";
        });
        reply
    }

    /// Stores a change before it is answered, as a vendor does.
    fn keep(&self, vendor: &V) {
        let Some(file) = &self.file else { return };
        let kept = vendor.kept().map_err(std::io::Error::from);
        if let Err(error) = kept.and_then(|state| kept::write(file, &state)) {
            tracing::error!(%error, "could not store the state of the simulated {}", V::NAME);
        }
    }

    async fn wait(&self, released: &mut watch::Receiver<u64>, n: u64) {
        {
            let mut control = self.control.lock();
            control.held += 1;
            control.mark(n, |entry| entry.outcome = "held");
        }
        // The sender lives as long as `self`, so this ends with a release.
        let _ = released.changed().await;
        self.control.lock().held -= 1;
    }

    fn finish(
        &self,
        n: u64,
        reply: Reply,
        budget: Option<Budget>,
        request: &Request,
        outcome: &'static str,
    ) -> Option<Reply> {
        self.control.lock().mark(n, |entry| {
            entry.status = Some(reply.status.as_u16());
            entry.outcome = outcome;
        });
        let Budget {
            limit,
            remaining,
            reset,
            ..
        } = budget.unwrap_or_default();
        Some(V::rate_headers(reply, &request.path, limit, remaining, reset))
    }
}

struct Budget {
    limit: u64,
    remaining: u64,
    /// Seconds until the budget is full again.
    reset: u64,
    exceeded: bool,
}

impl Default for Budget {
    /// What is reported if no limit is set: a plan that nobody exhausts.
    fn default() -> Self {
        Self {
            limit: 700,
            remaining: 699,
            reset: 60,
            exceeded: false,
        }
    }
}

impl Control {
    fn note(&mut self, request: &Request, query: String) -> u64 {
        self.received += 1;
        self.sequence += 1;
        if self.bodies.len() == MAX_STORED_BODIES {
            self.bodies.pop_front();
        }
        self.bodies.push_back(json!({
            "n": self.sequence,
            "method": request.method.as_str(),
            "path": request.path,
            "query": query,
            "content_type": request.header("content-type"),
            "body": shown_body(&request.body),
        }));
        if self.journal.len() == JOURNAL_LENGTH {
            self.journal.pop_front();
        }
        self.journal.push_back(Entry {
            n: self.sequence,
            method: request.method.to_string(),
            path: request.path.clone(),
            query,
            idempotency_key: request.header("idempotency-key").map(str::to_owned),
            applied: false,
            status: None,
            outcome: "received",
            at: jiff::Timestamp::now().to_string(),
        });
        self.sequence
    }

    fn mark(&mut self, n: u64, change: impl FnOnce(&mut Entry)) {
        let Some(first) = self.journal.front().map(|entry| entry.n) else {
            return;
        };
        let at = n.checked_sub(first).and_then(|at| usize::try_from(at).ok());
        if let Some(entry) = at.and_then(|at| self.journal.get_mut(at)) {
            change(entry);
        }
    }
}

/// Spends one request of a fixed one-minute window.
fn spend(minute: &mut Option<Window>, limit: u64) -> Budget {
    let now = tokio::time::Instant::now();
    let window = Duration::from_secs(60);
    let (start, used) = match *minute {
        Some((start, used)) if now.duration_since(start) < window => (start, used + 1),
        _ => (now, 1),
    };
    *minute = Some((start, used));
    Budget {
        limit,
        remaining: limit.saturating_sub(used),
        reset: (window - now.duration_since(start)).as_secs().max(1),
        exceeded: used > limit,
    }
}

/// Returns an answer of which half is missing.
fn torn(mut reply: Reply) -> Reply {
    if let Content::Json(body) = &reply.body {
        let text = body.to_string();
        let half = text.char_indices().map(|(at, _)| at).nth(text.chars().count() / 2);
        reply.body = Content::Text(text[..half.unwrap_or_default()].to_owned());
    }
    reply
}

/// Shows a body as JSON if it is JSON, else as text; omits one that is too large.
fn shown_body(body: &[u8]) -> Value {
    if body.len() > MAX_STORED_BODY_BYTES {
        return Value::Null;
    }
    serde_json::from_slice(body).unwrap_or_else(|_| json!(String::from_utf8_lossy(body)))
}

/// Without headers for other origins: a web page on another site must not read the control plane. The demo's page asks its
/// own server, which uses [`Running::person_routes`].
fn control_reply(status: u16, body: Value) -> Response {
    Reply::json(status, body)
        .with_header("cache-control", "no-store")
        .into_response()
}

/// Looks at the account named in the query, else at the whole vendor; an unknown account is an error.
fn look<V: Vendor, T>(
    served: &Served<V>,
    uri: &Uri,
    look: impl FnOnce(&dyn AccountView) -> T,
) -> Result<T, Box<Response>> {
    let vendor = served.vendor.lock();
    let Some(name) = parameter(uri, "account") else {
        return Ok(look(&*vendor));
    };
    let unknown = || {
        let error = format!("no account {name:?} at the simulated {}", V::NAME);
        Box::new(control_reply(404, json!({"error": error})))
    };
    vendor.account(&name).map(look).ok_or_else(unknown)
}

fn parameter(uri: &Uri, name: &str) -> Option<String> {
    let pairs = form_pairs(uri.query().unwrap_or_default());
    pairs
        .into_iter()
        .find(|(known, _)| known == name)
        .map(|(_, value)| value)
}

async fn state<V: Vendor>(State(served): State<Arc<Served<V>>>, uri: Uri) -> Response {
    let (mut state, version) = match look(&served, &uri, |vendor| (vendor.state(), vendor.version())) {
        Ok(shown) => shown,
        Err(refusal) => return *refusal,
    };
    let control = served.control.lock();
    state["version"] = json!(version);
    state["held"] = json!(control.held);
    state["requests"] = json!(control.received);
    state["knobs"] = json!(control.knobs);
    state["journal"] = json!(control.journal);
    drop(control);
    control_reply(200, state)
}

async fn requests<V: Vendor>(State(served): State<Arc<Served<V>>>) -> Response {
    let bodies = json!(served.control.lock().bodies);
    control_reply(200, json!({"requests": bodies}))
}

async fn changes<V: Vendor>(State(served): State<Arc<Served<V>>>, uri: Uri) -> Response {
    let after = parameter(&uri, "after").and_then(|value| value.parse().ok());
    let shown = look(&served, &uri, |vendor| {
        let version = vendor.version();
        let mut body = if after == Some(version) {
            json!({"changed": false})
        } else {
            let mut changes = vendor.changes();
            changes["changed"] = json!(true);
            changes
        };
        body["version"] = json!(version);
        body
    });
    match shown {
        Ok(body) => control_reply(200, body),
        Err(refusal) => *refusal,
    }
}

/// Posts a person's message. Only JSON is accepted: a page on another site cannot send it without asking first, and is
/// never allowed to.
async fn write<V: Vendor>(State(served): State<Arc<Served<V>>>, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    let media_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let is_json = media_type.is_some_and(|value| value.split(';').next().map(str::trim) == Some("application/json"));
    if !is_json {
        return control_reply(415, json!({"error": "the content type must be application/json"}));
    }
    let message: Value = match serde_json::from_slice(&body) {
        Ok(message) => message,
        Err(error) => return control_reply(400, json!({"error": error.to_string()})),
    };
    let account = parameter(&uri, "account");
    let mut vendor = served.vendor.lock();
    match vendor.write(account.as_deref(), &message) {
        Ok(posted) => {
            served.keep(&vendor);
            drop(vendor);
            control_reply(201, posted)
        }
        Err(NotWritten::NotFound(error)) => control_reply(404, json!({"error": error})),
        Err(NotWritten::Invalid(error)) => control_reply(422, json!({"error": error})),
    }
}

async fn reset<V: Vendor>(State(served): State<Arc<Served<V>>>) -> Response {
    served.released.send_modify(|count| *count += 1);
    {
        let mut vendor = served.vendor.lock();
        vendor.reset();
        served.keep(&vendor);
    }
    let mut control = served.control.lock();
    *control = Control {
        held: control.held,
        sequence: control.sequence,
        ..Control::default()
    };
    drop(control);
    control_reply(200, json!({"ok": true}))
}

async fn show_knobs<V: Vendor>(State(served): State<Arc<Served<V>>>) -> Response {
    let knobs = json!(served.control.lock().knobs);
    control_reply(200, knobs)
}

async fn set_knobs<V: Vendor>(State(served): State<Arc<Served<V>>>, body: Bytes) -> Response {
    let merged = serde_json::from_slice(&body)
        .map_err(|error| error.to_string())
        .and_then(|changes| {
            let mut control = served.control.lock();
            control.knobs.merge(&changes)?;
            if changes.get("rate_limit_per_minute").is_some() {
                control.minute = None;
            }
            if changes.get("exports_per_minute").is_some() {
                control.own_minute = None;
            }
            Ok(json!(control.knobs))
        });
    match merged {
        Ok(knobs) => control_reply(200, knobs),
        Err(error) => control_reply(400, json!({"error": error})),
    }
}

/// Ends the hold and releases everything; with `{"keep": true}` later requests are held again.
async fn release<V: Vendor>(State(served): State<Arc<Served<V>>>, body: Bytes) -> Response {
    let keep = serde_json::from_slice::<Value>(&body).is_ok_and(|body| body["keep"] == true);
    let mut control = served.control.lock();
    if !keep {
        control.knobs.hold = None;
    }
    let held = control.held;
    drop(control);
    served.released.send_modify(|count| *count += 1);
    control_reply(200, json!({"released": held}))
}
