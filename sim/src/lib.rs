//! The outside world on loopback: an OpenAI-compatible provider, an Anthropic, a Zendesk and a Slack.
//!
//! Each simulator is a small HTTP server with its state in memory and a control plane under `/_sim/`. With them
//! copilotd can be run, demonstrated and tested without any account, and a test can ask what happened outside after
//! copilotd was killed. What they accept and answer is checked in `tests/` against the vendors' published descriptions.
//!
//! Control plane, on every simulator (JSON):
//! - `GET /_sim/state`: everything, with counters;
//! - `GET /_sim/requests`: the last 200 requests with their bodies;
//! - `GET /_sim/calls` (model providers): the last 20,000 model calls, with their tokens and outcome;
//! - `POST /_sim/reset`: restores the initial state, knobs included;
//! - `POST /_sim/knobs`: changes the knobs named in the body, leaves the others;
//! - `POST /_sim/release`: releases everything that a `hold` knob holds;
//! - `GET /_sim/changes?after=N` (Zendesk and Slack): a compact view for a page that polls;
//! - `POST /_sim/messages` (Slack): posts what a person wrote, `{channel, user, text, thread_ts?}`.
//!
//! If a vendor has several accounts, `?account=NAME` selects one of them. Without it everything is shown, each entry with
//! the name of its account, and no message is posted.

mod accounts;
pub mod anthropic;
mod http;
mod kept;
mod knobs;
mod model;
mod net;
pub mod openai;
mod service;
pub mod slack;
pub mod zendesk;

use tokio_util::sync::CancellationToken;

pub use accounts::Account;

/// A simulator serving on loopback until dropped.
#[derive(Debug)]
pub struct Running {
    base_url: String,
    shutdown: CancellationToken,
    links: net::Links,
    person: axum::Router,
}

impl Running {
    /// Returns the base URL, `http://127.0.0.1:PORT` without a trailing slash.
    pub fn base_url(&self) -> &str {
        &self.base_url
    }

    /// Returns the routes of a page on which a person uses this vendor: `GET /changes`, and `POST /messages` at Slack, as
    /// below `/_sim/`. Whoever serves them decides who may call them.
    pub fn person_routes(&self) -> axum::Router {
        self.person.clone()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shutdown.cancel();
        // Clients must see the outage at once, not when their request happens to finish.
        self.links.cut_all();
    }
}
