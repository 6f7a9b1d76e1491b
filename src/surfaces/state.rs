//! The state that handlers share.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::extract::FromRef;
use copilotd_actors::actors::conversations::Directory;
use copilotd_actors::actors::shared::Shared;
use copilotd_actors::ports::{Clock, EventLog};
use copilotd_gateway::Gateway;
use copilotd_gateway::ledger::UsageStore;
use tokio::sync::watch;

use crate::audit::AuditLog;
use crate::http::account::Budgets;
use crate::http::bodies::BodyLimits;
use crate::http::credentials::Authenticator;
use crate::http::probe::StoreProbe;
use crate::jobs::Jobs;
use crate::revocations::Revocations;
use crate::telemetry::Render;
use crate::tenants::TenantRegistry;

/// The router's state. Cheap to clone.
#[derive(Clone)]
pub struct AppState {
    /// Authenticates callers.
    pub auth: Arc<Authenticator>,
    /// Usage records of model calls.
    pub usage: Arc<dyn UsageStore>,
    /// The tenants' audit logs.
    pub audit: Arc<AuditLog>,
    /// The gateway to models.
    pub gateway: Arc<Gateway>,
    /// Tenants and their keys.
    pub tenants: Arc<TenantRegistry>,
    /// Long-running work that outlives its request.
    pub jobs: Arc<Jobs>,
    pub revocations: Arc<Revocations>,
    /// Looks up conversation actors.
    pub directory: Directory,
    /// Ports, limits and watched conversations.
    pub shared: Arc<Shared>,
    /// Limits of request bodies.
    pub body: BodyLimits,
    /// Budgets for bodies, responses, requests in flight and streams.
    pub budgets: Arc<Budgets>,
    /// The progress of a shutdown.
    pub shutdown: Shutdown,
    /// Renders `/metrics`.
    pub metrics: Render,
    /// Whether the store is writable, as tested every few seconds.
    pub probe: Arc<StoreProbe>,
    /// The store's name in `/readyz`.
    pub store: &'static str,
}

impl AppState {
    pub fn log(&self) -> &dyn EventLog {
        self.shared.ports.log.as_ref()
    }

    pub fn clock(&self) -> &dyn Clock {
        self.shared.ports.clock.as_ref()
    }
}

impl FromRef<AppState> for Arc<Authenticator> {
    fn from_ref(state: &AppState) -> Self {
        Arc::clone(&state.auth)
    }
}

/// The steps of a graceful shutdown.
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
    /// Refuses new turns from now on.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// Whether new turns are refused.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// Refuses new requests from now on: a standby is about to take over.
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

    /// Waits until streams must end.
    pub async fn closed(&self) {
        // The sender lives as long as `self`.
        let _ = self.closed.subscribe().wait_for(|closed| *closed).await;
    }
}
