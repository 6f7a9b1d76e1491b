//! What changes of tenants and of API keys share: the live state, its store, and the way a change is recorded, stored and
//! applied to every part of the process.

use std::fmt;
use std::sync::Arc;

use copilotd_actors::domain::ids::TenantId;
use copilotd_actors::domain::tenant::Requester;
use copilotd_actors::ports::{Clock, TenantStore};
use parking_lot::{Mutex, RwLock};

use super::cipher::Cipher;
use super::current::LiveTenants;
use super::entry::CheckContext;
use super::error::ChangeError;
use super::serving_states::LiveServingStates;
use crate::audit::{Action, AuditLog, Entry as AuditEntry};
use crate::config::{Config, Globals, Source};

/// A part of the process that follows configuration changes.
pub trait Reloadable: Send + Sync {
    /// Prepares for `config` and returns the function that applies it. Must change nothing before that is called.
    fn prepare<'a>(&'a self, config: &Arc<Config>) -> anyhow::Result<Box<dyn FnOnce() + Send + 'a>>;
}

/// The live state of tenants and API keys; see the module.
pub(super) struct Live {
    pub store: Arc<dyn TenantStore>,
    pub audit: Arc<AuditLog>,
    pub seal: Cipher,
    pub clock: Arc<dyn Clock>,
    /// The global part of the configuration as it was at start; only a restart changes it.
    pub globals: Globals,
    pub standings: Arc<LiveServingStates>,
    /// The configuration file as last read; locked while a change is made.
    pub source: tokio::sync::Mutex<Source>,
    parts: Mutex<Vec<Arc<dyn Reloadable>>>,
    current: RwLock<Arc<LiveTenants>>,
}

impl Live {
    /// Reads the stored tenants and keys and combines them with the file.
    pub(super) async fn open(
        source: Source,
        store: Arc<dyn TenantStore>,
        audit: Arc<AuditLog>,
        seal: Cipher,
        clock: Arc<dyn Clock>,
    ) -> anyhow::Result<Self> {
        let globals = source.globals()?;
        let (tenants, keys) = (store.tenants().await?, store.keys().await?);
        let check_context = CheckContext {
            globals: &globals,
            source: &source,
            seal: &seal,
        };
        let current = LiveTenants::build(check_context, tenants, keys, clock.now());
        Ok(Self {
            store,
            audit,
            seal,
            clock,
            globals,
            parts: Mutex::default(),
            standings: Arc::new(LiveServingStates::new(&current.config)),
            current: RwLock::new(Arc::new(current)),
            source: tokio::sync::Mutex::new(source),
        })
    }

    /// Registers a part, which is prepared for and told of every later change.
    pub(super) fn register(&self, part: Arc<dyn Reloadable>) {
        self.parts.lock().push(part);
    }

    /// Records a change in the log and in the changed tenant's audit log before it is made. A change that cannot be
    /// recorded is not made.
    pub(super) async fn record(
        &self,
        tenant: &TenantId,
        action: Action,
        target: String,
        changed: Vec<String>,
        by: &Requester,
    ) -> Result<(), ChangeError> {
        tracing::info!(
            %tenant,
            action = action.as_str(),
            target,
            changed = changed.join(" "),
            actor = by.actor,
            credential = by.credential,
            request_id = by.request_id,
            "tenant or API key change requested"
        );
        let entry = AuditEntry {
            actor: by.actor.clone(),
            credential: by.credential.clone(),
            request_id: by.request_id.clone(),
            action,
            target,
            changed,
            reason: None,
        };
        self.audit.record(tenant, entry).await?;
        Ok(())
    }

    pub(super) fn check_context<'a>(&'a self, source: &'a Source) -> CheckContext<'a> {
        CheckContext {
            globals: &self.globals,
            source,
            seal: &self.seal,
        }
    }

    /// Reads the store again, because a change whose outcome was unknown may have been made.
    pub(super) async fn read(&self, source: &Source) -> Result<LiveTenants, ChangeError> {
        let (tenants, keys) = (self.store.tenants().await?, self.store.keys().await?);
        let now = self.clock.now();
        Ok(self.current().refreshed(self.check_context(source), tenants, keys, now))
    }

    /// Like [`Live::read`], but falls back to the state in memory if the store cannot be read.
    pub(super) async fn read_or_cached(&self, source: &Source) -> LiveTenants {
        match self.read(source).await {
            Ok(current) => current,
            Err(error) => {
                let error = format!("{:#}", anyhow::Error::from(error));
                tracing::warn!(%error, "could not read tenants and API keys from the store; using those in memory");
                self.current().copied()
            }
        }
    }

    pub(super) fn parts(&self) -> Vec<Arc<dyn Reloadable>> {
        self.parts.lock().clone()
    }

    pub(super) fn apply(&self, current: LiveTenants, commits: Vec<Box<dyn FnOnce() + Send + '_>>) {
        let config = Arc::clone(&current.config);
        self.standings.change(&config, || {
            *self.current.write() = Arc::new(current);
            for commit in commits {
                commit();
            }
        });
    }

    /// Applies a change that only revokes access. A part that cannot apply it is logged and keeps its state.
    pub(super) fn apply_despite_failures(&self, current: LiveTenants) {
        let parts = self.parts();
        let mut commits = Vec::new();
        for part in &parts {
            match part.prepare(&current.config) {
                Ok(commit) => commits.push(commit),
                Err(error) => tracing::error!(
                    error = format!("{error:#}"),
                    "a component could not apply a suspension or revocation; it keeps its previous configuration, the others applied it"
                ),
            }
        }
        self.apply(current, commits);
    }

    pub(super) fn current(&self) -> Arc<LiveTenants> {
        Arc::clone(&self.current.read())
    }
}

pub(super) fn prepare<'a>(
    parts: &'a [Arc<dyn Reloadable>],
    config: &Arc<Config>,
) -> Result<Vec<Box<dyn FnOnce() + Send + 'a>>, ChangeError> {
    let prepared: anyhow::Result<_> = parts.iter().map(|part| part.prepare(config)).collect();
    prepared.map_err(ChangeError::Reload)
}

impl fmt::Debug for Live {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Live").finish_non_exhaustive()
    }
}
