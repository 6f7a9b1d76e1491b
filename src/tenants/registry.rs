//! The tenant registry: tenants of the file and of the store, one change at a time, and the configuration assembled from
//! them.
//!
//! Invariants: a change is recorded in the audit log, then stored, then applied, in this order. Suspending a tenant or
//! revoking a key needs only the record of that tenant or key: no settings are checked, no secret is resolved, and a
//! part of the process that cannot apply the change does not prevent it.

use std::sync::Arc;

use copilotd_actors::domain::file::{FilePolicy, FileQuota};
use copilotd_actors::domain::ids::TenantId;
use copilotd_actors::domain::tenant::StoredTenant;
use copilotd_actors::ports::{Clock, TenantStore};

use super::api_keys::ApiKeys;
use super::cipher::Cipher;
use super::current::LiveTenants;
use super::entry::Entry;
use super::error::{ChangeError, SettingsFault};
use super::live::{Live, Reloadable, prepare};
use super::serving_states::LiveServingStates;
use super::view::{Origin, TenantView};
use crate::audit::AuditLog;
use crate::config::{Config, Faults, Source};

/// The tenant registry; see the module.
#[derive(Debug)]
pub struct TenantRegistry {
    pub(super) live: Arc<Live>,
    pub(super) api_keys: ApiKeys,
}

impl TenantRegistry {
    /// Reads the stored tenants and combines them with the file. Tenants with a fault are left out and logged.
    ///
    /// # Errors
    /// When the store fails, or the global part of the file has a fault.
    pub async fn open(
        source: Source,
        store: Arc<dyn TenantStore>,
        audit: Arc<AuditLog>,
        seal: Cipher,
        clock: Arc<dyn Clock>,
    ) -> anyhow::Result<Arc<Self>> {
        let live = Live::open(source.clone(), store, audit, seal, clock).await?;
        let live = Arc::new(live);
        let api_keys = ApiKeys::open(Arc::clone(&live)).await?;
        let registry = Arc::new(Self { live, api_keys });
        registry.report(&source);
        Ok(registry)
    }

    /// Returns the live configuration.
    pub fn config(&self) -> Arc<Config> {
        Arc::clone(&self.live.current().config)
    }

    /// Returns what a tenant accepts of attached files; nothing, if it is unknown.
    pub fn file_policy(&self, tenant: &TenantId) -> FilePolicy {
        let config = self.config();
        let known = config.tenants.iter().find(|known| known.id == *tenant);
        known.map_or_else(
            || FilePolicy {
                types: Vec::new(),
                max_bytes: 0,
                quota: FileQuota { tenant: 0, user: 0 },
            },
            |tenant| tenant.files.policy(),
        )
    }

    /// Returns whether pages of an origin may read responses to requests of a tenant; to requests without one, if the
    /// pages of any tenant may.
    pub fn allows_origin(&self, origin: &[u8], tenant: Option<&TenantId>) -> bool {
        let config = self.config();
        let lists = |origins: &[String]| origins.iter().any(|listed| listed.as_bytes() == origin);
        lists(&config.server.allowed_origins)
            || match tenant {
                Some(id) => config
                    .tenant(id.as_str())
                    .is_some_and(|tenant| lists(&tenant.allowed_origins)),
                None => config.tenants.iter().any(|tenant| lists(&tenant.allowed_origins)),
            }
    }

    /// Returns the live standings of tenants.
    pub fn standings(&self) -> &Arc<LiveServingStates> {
        &self.live.standings
    }

    /// Registers a part, which is prepared for and told of every later change.
    pub fn register(&self, part: Arc<dyn Reloadable>) {
        self.live.register(part);
    }

    /// Returns the API keys of all tenants.
    pub fn api_keys(&self) -> &ApiKeys {
        &self.api_keys
    }

    /// Lists the tenants, ordered by id.
    pub fn tenants(&self) -> Vec<TenantView> {
        let current = self.live.current();
        current
            .tenants
            .keys()
            .filter_map(|id| current.view(id, &self.live.seal))
            .collect()
    }

    /// Finds a tenant.
    pub fn tenant(&self, id: &TenantId) -> Option<TenantView> {
        self.live.current().view(id, &self.live.seal)
    }

    /// Lists what is left out because of a fault: ids of tenants, and paths of the file's tenant tables without a valid
    /// id.
    pub fn left_out(&self) -> Vec<String> {
        let current = self.live.current();
        let tenants = current.faults.keys().map(ToString::to_string);
        tenants.chain(current.nameless.iter().cloned()).collect()
    }

    /// Whether any tenant has a warning.
    pub fn has_warnings(&self) -> bool {
        !self.live.current().warnings.is_empty()
    }

    /// Applies the tenants of a newly read file; stored settings still have precedence. Tenants with a fault are left
    /// out.
    ///
    /// # Errors
    /// When the global part of the file has a fault; nothing is changed.
    pub async fn reload(&self, source: Source) -> Result<(), ChangeError> {
        let mut held = self.live.source.lock().await;
        let broken = |faults: Faults| ChangeError::Conflict(format!("the configuration file is not valid: {faults}"));
        source.globals().map_err(broken)?;
        let (tenants, keys) = (self.live.store.tenants().await?, self.live.store.keys().await?);
        let current = LiveTenants::build(self.live.check_context(&source), tenants, keys, self.live.clock.now());
        let parts = self.live.parts();
        let commits = prepare(&parts, &current.config)?;
        self.live.apply(current, commits);
        self.report(&source);
        *held = source;
        Ok(())
    }

    pub(super) fn record_of(&self, id: &TenantId, entry: &Entry) -> StoredTenant {
        let now = self.live.clock.now();
        let mut record = entry.stored.clone().unwrap_or(StoredTenant {
            id: id.clone(),
            status: entry.status(),
            sealed: None,
            created_at: now,
            updated_at: now,
            deletion: None,
        });
        record.updated_at = now;
        record
    }

    /// Logs faults and warnings; those of the file with their lines.
    fn report(&self, source: &Source) {
        let current = self.live.current();
        let is_of_file = |id: &TenantId| {
            current
                .tenants
                .get(id)
                .is_some_and(|entry| entry.origin == Origin::File)
        };
        for (id, faults) in &current.faults {
            let told = faults.iter().map(|fault| {
                let line = source.line_of_settings(id.as_str(), &fault.pointer);
                match line.filter(|_| is_of_file(id)) {
                    Some(line) => format!("line {line}: {fault}"),
                    None => fault.to_string(),
                }
            });
            let causes = current.tenants.get(id).map(|entry| entry.causes.join("; "));
            tracing::error!(
                tenant = %id,
                faults = told.collect::<Vec<_>>().join("; "),
                causes,
                "tenant left out because its settings have faults: its credentials are refused; other tenants are served"
            );
        }
        for place in &current.nameless {
            tracing::error!(
                place,
                "tenant in the configuration file left out because its id is missing or invalid: its credentials are refused"
            );
        }
        for (id, warnings) in &current.warnings {
            let told = warnings.iter().map(|warning| {
                let SettingsFault { pointer, message } = warning;
                let told = source.report_settings(id.as_str(), pointer, message);
                told.filter(|_| is_of_file(id)).unwrap_or_else(|| warning.to_string())
            });
            let warnings = told.collect::<Vec<_>>().join("; ");
            tracing::warn!(tenant = %id, warnings, "tenant settings have warnings; the tenant is served");
        }
    }
}
