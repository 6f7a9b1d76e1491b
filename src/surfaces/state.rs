//! The state that handlers share.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::extract::FromRef;
use copilotd_actors::actors::conversations::Directory;
use copilotd_actors::actors::shared::Shared;
use copilotd_actors::fairness::share::Shares;
use copilotd_actors::ports::{Clock, EventLog};
use copilotd_gateway::Gateway;
use copilotd_gateway::ledger::UsageStore;
use copilotd_knowledge::facts::FactMemory;
use copilotd_knowledge::library::Library;
use copilotd_knowledge::sync::SourceBook;
use tokio::sync::watch;

use crate::audit::AuditLog;
use crate::http::account::Budgets;
use crate::http::bodies::BodyLimits;
use crate::http::credentials::Authenticator;
use crate::http::probe::StoreProbe;
use crate::jobs::Jobs;
use crate::revocations::Revocations;
use crate::surfaces::conversation_access::ConversationAccess;
use crate::surfaces::file_access::FileAccess;
use crate::telemetry::Render;
use crate::tenants::TenantRegistry;

/// The router's state. Each layer of the router clones it several times per request, so it is one pointer.
#[derive(Clone)]
pub struct AppState(Arc<Services>);

/// What handlers share.
#[derive(Clone)]
pub struct Services {
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
    /// Documents and searches in them.
    pub library: Arc<Library>,
    /// What is known of the sources of documents.
    pub sources: SourceBook,
    /// What is remembered about users.
    pub facts: FactMemory,
    /// Attached files.
    pub files: FileAccess,
    /// Whether PDF documents can be read; none if the configuration names no library for it.
    pub pdf: Option<bool>,
    /// Name of what reads PDF documents.
    pub pdf_reader: Option<&'static str>,
    /// What searches in documents compare: words, or words and meaning.
    pub document_search: &'static str,
    /// Whether the index of documents is a server of its own, whose state `/readyz` reports.
    pub index_is_remote: bool,
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

impl From<Services> for AppState {
    fn from(services: Services) -> Self {
        Self(Arc::new(services))
    }
}

impl Deref for AppState {
    type Target = Services;

    fn deref(&self) -> &Services {
        &self.0
    }
}

impl AppState {
    /// Returns this state with other budgets.
    #[must_use]
    pub fn with_budgets(&self, budgets: Arc<Budgets>) -> Self {
        let services = Services {
            budgets,
            ..Services::clone(&self.0)
        };
        services.into()
    }

    pub fn log(&self) -> &dyn EventLog {
        self.shared.ports.log.as_ref()
    }

    /// Access to conversations and turns.
    pub(crate) fn conversations(&self) -> ConversationAccess {
        ConversationAccess {
            log: Arc::clone(&self.shared.ports.log),
            directory: self.directory.clone(),
            audit: Arc::clone(&self.audit),
        }
    }

    pub fn clock(&self) -> &dyn Clock {
        self.shared.ports.clock.as_ref()
    }
}

/// Lets a handler extract only the part of the state that it needs.
macro_rules! parts {
    ($($part:ty: $read:expr;)+) => {
        $(impl FromRef<AppState> for $part {
            fn from_ref(state: &AppState) -> Self {
                let read: fn(&AppState) -> &$part = $read;
                read(state).clone()
            }
        })+
    };
}

parts! {
    SourceBook: |state| &state.sources;
    Arc<Authenticator>: |state| &state.auth;
    Arc<dyn UsageStore>: |state| &state.usage;
    Arc<AuditLog>: |state| &state.audit;
    Arc<Gateway>: |state| &state.gateway;
    Arc<TenantRegistry>: |state| &state.tenants;
    Arc<Jobs>: |state| &state.jobs;
    Arc<Library>: |state| &state.library;
    FactMemory: |state| &state.facts;
    FileAccess: |state| &state.files;
    Arc<Revocations>: |state| &state.revocations;
    Arc<Shared>: |state| &state.shared;
    Arc<dyn Clock>: |state| &state.shared.ports.clock;
    Arc<Shares>: |state| &state.shared.shares;
    BodyLimits: |state| &state.body;
    Arc<Budgets>: |state| &state.budgets;
    Shutdown: |state| &state.shutdown;
    Render: |state| &state.metrics;
}

impl FromRef<AppState> for ConversationAccess {
    fn from_ref(state: &AppState) -> Self {
        state.conversations()
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
