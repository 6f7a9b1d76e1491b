//! What handlers share.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::extract::FromRef;
use copilotd_actors::actors::conversations::Directory;
use copilotd_actors::actors::shared::Shared;
use copilotd_actors::ports::{Clock, EventLog};
use copilotd_gateway::Gateway;
use copilotd_gateway::ledger::UsageStore;
use tokio::sync::watch;

use super::account::Budgets;
use super::auth::Authenticator;
use super::body::BodyLimits;
use super::probe::StoreProbe;
use crate::audit::AuditLog;
use crate::jobs::Jobs;
use crate::revocations::Revocations;
use crate::telemetry::Render;
use crate::tenants::Roster;

/// The router's state. Cheap to clone.
#[derive(Clone)]
pub struct AppState {
    /// Who is calling.
    pub auth: Arc<Authenticator>,
    /// What model calls used.
    pub usage: Arc<dyn UsageStore>,
    /// What was done in each tenant, and by whom.
    pub audit: Arc<AuditLog>,
    /// The way to models.
    pub gateway: Arc<Gateway>,
    /// Tenants and their keys.
    pub tenants: Arc<Roster>,
    /// Work that outlives its request.
    pub jobs: Arc<Jobs>,
    /// Revoked user tokens.
    pub revocations: Arc<Revocations>,
    /// The way to conversations.
    pub directory: Directory,
    /// Ports, bounds and watched conversations.
    pub shared: Arc<Shared>,
    /// Bounds of request bodies.
    pub body: BodyLimits,
    /// What requests share: bytes of bodies and answers, places.
    pub budgets: Arc<Budgets>,
    /// How far the process is from its end.
    pub shutdown: Shutdown,
    /// Renders `/metrics`.
    pub metrics: Render,
    /// Whether the store takes writes, as tried every few seconds.
    pub probe: Arc<StoreProbe>,
    /// Names of the dependencies that `/readyz` asks besides the store.
    pub store: &'static str,
}

impl AppState {
    /// The log.
    pub fn log(&self) -> &dyn EventLog {
        self.shared.ports.log.as_ref()
    }

    /// The clock.
    pub fn clock(&self) -> &dyn Clock {
        self.shared.ports.clock.as_ref()
    }
}

impl FromRef<AppState> for Arc<Authenticator> {
    fn from_ref(state: &AppState) -> Self {
        Arc::clone(&state.auth)
    }
}

/// The steps of an orderly end.
#[derive(Clone)]
pub struct Shutdown {
    draining: Arc<AtomicBool>,
    handing_over: Arc<AtomicBool>,
    closed: watch::Sender<bool>,
}

impl Default for Shutdown {
    fn default() -> Self {
        Self {
            draining: Arc::default(),
            handing_over: Arc::default(),
            closed: watch::Sender::new(false),
        }
    }
}

impl Shutdown {
    /// No new turns from now on.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// Whether new turns are refused.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// No new requests from now on: a standby takes them within a moment.
    pub fn hand_over(&self) {
        self.drain();
        self.handing_over.store(true, Ordering::Release);
    }

    /// Whether requests are left to the standby.
    pub fn is_handing_over(&self) -> bool {
        self.handing_over.load(Ordering::Acquire)
    }

    /// Ends the streams.
    pub fn close(&self) {
        self.closed.send_replace(true);
    }

    /// Waits until streams have to end.
    pub async fn closed(&self) {
        // The sender lives as long as `self`.
        let _ = self.closed.subscribe().wait_for(|closed| *closed).await;
    }
}
