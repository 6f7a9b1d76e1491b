//! The tenant registry: changes tenants and API keys, one change at a time, and applies them to every part of the
//! process.
//!
//! Invariants: a change is recorded in the audit log, then stored, then applied, in this order. Suspending a tenant or
//! revoking a key needs only the record of that tenant or key: no settings are checked, no secret is resolved, and a
//! part of the process that cannot apply the change does not prevent it.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use copilotd_actors::domain::access::key_hash::KeyHash;
use copilotd_actors::domain::ids::TenantId;
use copilotd_actors::domain::tenant::{KeyUse, Requester, StoredTenant, TenantStatus};
use copilotd_actors::ports::{Clock, LogError, TenantStore};
use dashmap::DashMap;
use jiff::Timestamp;
use parking_lot::{Mutex, RwLock};
use serde_json::{Value, json};

use super::cipher::Cipher;
use super::current::{LiveTenants, Origin, TenantView};
use super::entry::{CheckContext, Entry, RESERVED_MEMBERS};
use super::error::{ChangeError, SettingsFault};
use super::serving_states::LiveServingStates;
use super::{changes, patch};
use crate::audit::{Action, AuditLog, Entry as AuditEntry};
use crate::config::{Config, Faults, Globals, Source, restrict_operator_to_file};

/// Most tenants of a process.
const MAX_TENANTS: usize = 10_000;

/// A part of the process that follows configuration changes.
pub trait Reloadable: Send + Sync {
    /// Prepares for `config` and returns the function that applies it. Must change nothing before that is called.
    fn prepare<'a>(&'a self, config: &Arc<Config>) -> anyhow::Result<Box<dyn FnOnce() + Send + 'a>>;
}

/// A change of a tenant's settings.
#[derive(Debug, Clone, PartialEq)]
pub enum SettingsChange {
    /// Apply a merge patch.
    Patch(Value),
    /// Go back to the settings of the file.
    Reset,
}

/// A change of a tenant.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Change {
    /// Change of its settings, if any.
    pub settings: Option<SettingsChange>,
    /// New status, if any.
    pub status: Option<TenantStatus>,
}

/// The tenant registry; see the module.
pub struct TenantRegistry {
    pub(super) store: Arc<dyn TenantStore>,
    pub(super) audit: Arc<AuditLog>,
    seal: Cipher,
    pub(super) clock: Arc<dyn Clock>,
    /// The global part of the configuration as it was at start; only a restart changes it.
    pub(super) globals: Globals,
    parts: Mutex<Vec<Arc<dyn Reloadable>>>,
    current: RwLock<Arc<LiveTenants>>,
    standings: Arc<LiveServingStates>,
    pub(super) uses: Mutex<HashMap<KeyHash, Timestamp>>,
    /// One lock per tenant, so that its administrators wait for each other and not for those of other tenants.
    pub(super) turns: DashMap<TenantId, Arc<tokio::sync::Mutex<()>>>,
    /// The configuration file as last read; locked while a change is made.
    pub(super) source: tokio::sync::Mutex<Source>,
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
        let globals = source.globals()?;
        let (tenants, keys) = (store.tenants().await?, store.keys().await?);
        let uses = store.key_uses().await?;
        let check_context = CheckContext {
            globals: &globals,
            source: &source,
            seal: &seal,
        };
        let current = LiveTenants::build(check_context, tenants, keys, clock.now());
        let registry = Arc::new(Self {
            store,
            audit,
            seal,
            clock,
            globals,
            parts: Mutex::default(),
            standings: Arc::new(LiveServingStates::new(&current.config)),
            current: RwLock::new(Arc::new(current)),
            uses: Mutex::new(uses.into_iter().map(|used| (used.hash, used.at)).collect()),
            turns: DashMap::new(),
            source: tokio::sync::Mutex::new(source.clone()),
        });
        registry.report(&source);
        Ok(registry)
    }

    /// Waits until no other administrator of the tenant is making a change. Operators do not wait here: suspending a
    /// tenant must not queue behind its administrators.
    pub(super) async fn turn(&self, tenant: &TenantId) -> tokio::sync::OwnedMutexGuard<()> {
        let turn = Arc::clone(&self.turns.entry(tenant.clone()).or_default());
        turn.lock_owned().await
    }

    /// Returns the live configuration.
    pub fn config(&self) -> Arc<Config> {
        Arc::clone(&self.current().config)
    }

    /// Returns the live standings of tenants.
    pub fn standings(&self) -> &Arc<LiveServingStates> {
        &self.standings
    }

    /// Registers a part, which is prepared for and told of every later change.
    pub fn register(&self, part: Arc<dyn Reloadable>) {
        self.parts.lock().push(part);
    }

    /// Lists the tenants, ordered by id.
    pub fn tenants(&self) -> Vec<TenantView> {
        let current = self.current();
        current
            .tenants
            .keys()
            .filter_map(|id| current.view(id, &self.seal))
            .collect()
    }

    /// Finds a tenant.
    pub fn tenant(&self, id: &TenantId) -> Option<TenantView> {
        self.current().view(id, &self.seal)
    }

    /// Lists what is left out because of a fault: ids of tenants, and paths of the file's tenant tables without a valid
    /// id.
    pub fn left_out(&self) -> Vec<String> {
        let current = self.current();
        let tenants = current.faults.keys().map(ToString::to_string);
        tenants.chain(current.nameless.iter().cloned()).collect()
    }

    /// Whether any tenant has a warning.
    pub fn has_warnings(&self) -> bool {
        !self.current().warnings.is_empty()
    }

    /// Replaces a tenant's settings, or creates it. Returns it and whether it was created. Without `status`, it keeps
    /// its status, or is active if new.
    pub async fn put(
        &self,
        id: TenantId,
        settings: Value,
        status: Option<TenantStatus>,
        only_new: bool,
        by: &Requester,
    ) -> Result<(TenantView, bool), ChangeError> {
        let source = self.source.lock().await;
        let current = self.read(&source).await?;
        let known = current.tenants.get(&id);
        not_deleting(known.map(AsRef::as_ref))?;
        if known.is_some() && only_new {
            return Err(ChangeError::Exists(format!("a tenant {id}")));
        }
        if known.is_none() && current.tenants.len() >= MAX_TENANTS {
            return Err(ChangeError::Conflict(format!(
                "there are already {MAX_TENANTS} tenants, the limit of one process"
            )));
        }
        let mut faults = reserved_faults(&settings);
        let old = known.map_or(Value::Null, |entry| entry.settings());
        let settings = patch::replaced(&old, settings, source.tenant(id.as_str()), &self.seal);
        let settings = settings.unwrap_or_else(|found| {
            faults.extend(found);
            Value::Null
        });
        if !faults.is_empty() {
            return Err(ChangeError::Invalid(faults));
        }
        let now = self.clock.now();
        let record = StoredTenant {
            status: status.unwrap_or(known.map_or(TenantStatus::Active, |entry| entry.status())),
            sealed: Some(self.sealed_of(&id, &settings)),
            created_at: known
                .and_then(|entry| entry.stored.as_ref())
                .map_or(now, |stored| stored.created_at),
            updated_at: now,
            deletion: None,
            id,
        };
        let is_new = known.is_none();
        let view = self.check_and_apply(&source, &current, record, &settings, by).await?;
        Ok((view, is_new))
    }

    /// Changes a tenant.
    pub async fn change(&self, id: &TenantId, change: Change, by: &Requester) -> Result<TenantView, ChangeError> {
        let source = self.source.lock().await;
        let Some(settings_change) = change.settings else {
            return self.set_status(&source, id, change.status, by).await;
        };
        let current = self.read(&source).await?;
        let entry = current.tenants.get(id).ok_or(ChangeError::Missing)?;
        not_deleting(Some(entry))?;
        let file = source.tenant(id.as_str());
        let mut record = self.record_of(id, entry);
        record.status = change.status.unwrap_or(record.status);
        let settings = match settings_change {
            SettingsChange::Reset => {
                let message =
                    "the configuration file does not have this tenant, so its settings cannot be reset to the file's";
                let file = file.ok_or_else(|| ChangeError::Conflict(message.to_owned()))?;
                record.sealed = None;
                file.value().clone()
            }
            SettingsChange::Patch(patch) => {
                let mut faults = reserved_faults(&patch);
                let settings = patch::patched(&entry.settings(), &patch, file, &self.seal);
                let settings = settings.unwrap_or_else(|found| {
                    faults.extend(found);
                    Value::Null
                });
                if !faults.is_empty() {
                    return Err(ChangeError::Invalid(faults));
                }
                record.sealed = Some(self.sealed_of(id, &settings));
                settings
            }
        };
        self.check_and_apply(&source, &current, record, &settings, by).await
    }

    /// Sets only a tenant's status. Works even if settings of this or other tenants have faults.
    async fn set_status(
        &self,
        source: &Source,
        id: &TenantId,
        status: Option<TenantStatus>,
        by: &Requester,
    ) -> Result<TenantView, ChangeError> {
        let current = self.read_or_cached(source).await;
        let entry = current.tenants.get(id).ok_or(ChangeError::Missing)?;
        not_deleting(Some(entry))?;
        let mut record = self.record_of(id, entry);
        let Some(status) = status.filter(|status| *status != entry.status()) else {
            return current.view(id, &self.seal).ok_or(ChangeError::Missing);
        };
        record.status = status;
        let action = match status {
            TenantStatus::Active => Action::TenantResumed,
            TenantStatus::Suspended => Action::TenantSuspended,
        };
        self.record(id, action, id.to_string(), vec!["/status".to_owned()], by)
            .await?;
        self.store.put_tenant(&record).await?;
        let after = current.with_status(&self.globals, record, self.clock.now());
        let view = after.view(id, &self.seal);
        self.apply_despite_failures(after);
        view.ok_or(ChangeError::Missing)
    }

    /// Applies the tenants of a newly read file; stored settings still have precedence. Tenants with a fault are left
    /// out.
    ///
    /// # Errors
    /// When the global part of the file has a fault; nothing is changed.
    pub async fn reload(&self, source: Source) -> Result<(), ChangeError> {
        let mut held = self.source.lock().await;
        let broken = |faults: Faults| ChangeError::Conflict(format!("the configuration file is not valid: {faults}"));
        source.globals().map_err(broken)?;
        let (tenants, keys) = (self.store.tenants().await?, self.store.keys().await?);
        let current = LiveTenants::build(self.check_context(&source), tenants, keys, self.clock.now());
        let parts = self.parts();
        let commits = prepare(&parts, &current.config)?;
        self.apply(current, commits);
        self.report(&source);
        *held = source;
        Ok(())
    }

    /// Checks a tenant's new settings together with all others, then records, stores and applies the change.
    async fn check_and_apply(
        &self,
        source: &Source,
        before: &LiveTenants,
        record: StoredTenant,
        settings: &Value,
        by: &Requester,
    ) -> Result<TenantView, ChangeError> {
        let id = record.id.clone();
        let mut faults = operator_faults(source, &id, &record, settings);
        let after = before.with_tenant(self.check_context(source), record.clone(), self.clock.now());
        faults.extend(new_faults(&id, before, &after));
        if !faults.is_empty() {
            return Err(ChangeError::Invalid(faults));
        }
        let parts = self.parts();
        let commits = prepare(&parts, &after.config)?;
        let (was, is) = (
            before.tenants.get(&id),
            after.tenants.get(&id).ok_or(ChangeError::Missing)?,
        );
        let mut changed = changes::changed(&was.map_or(json!({}), |entry| entry.settings()), &is.settings());
        if was.is_some_and(|was| was.status() != is.status()) {
            changed.push("/status".to_owned());
        }
        let action = if was.is_some() {
            Action::TenantUpdated
        } else {
            Action::TenantCreated
        };
        self.record(&id, action, id.to_string(), changed, by).await?;
        self.store.put_tenant(&record).await?;
        let view = after.view(&id, &self.seal);
        for warning in after.warnings.get(&id).into_iter().flatten() {
            tracing::warn!(tenant = %id, %warning, "tenant settings accepted with a warning");
        }
        self.apply(after, commits);
        view.ok_or(ChangeError::Missing)
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

    /// Records when keys were last used, in memory and in the store.
    pub async fn record_last_uses(&self, uses: Vec<(KeyHash, Timestamp)>) -> Result<(), LogError> {
        let fresh: Vec<KeyUse> = {
            let mut known = self.uses.lock();
            let mut fresh = Vec::new();
            for (hash, at) in uses {
                if known.get(&hash).is_none_or(|before| *before < at) {
                    known.insert(hash, at);
                    fresh.push(KeyUse { hash, at });
                }
            }
            fresh
        };
        if fresh.is_empty() {
            return Ok(());
        }
        self.store.put_key_uses(&fresh).await
    }

    pub(super) fn record_of(&self, id: &TenantId, entry: &Entry) -> StoredTenant {
        let now = self.clock.now();
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

    fn sealed_of(&self, id: &TenantId, settings: &Value) -> Vec<u8> {
        self.seal.seal(id.as_str(), settings.to_string().as_bytes())
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

    /// Like [`TenantRegistry::read`], but falls back to the state in memory if the store cannot be read.
    pub(super) async fn read_or_cached(&self, source: &Source) -> LiveTenants {
        match self.read(source).await {
            Ok(current) => current,
            Err(error) => {
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
                    "a part of the process could not apply a suspension or revocation and keeps its previous configuration"
                ),
            }
        }
        self.apply(current, commits);
    }

    pub(super) fn current(&self) -> Arc<LiveTenants> {
        Arc::clone(&self.current.read())
    }

    /// Logs faults and warnings; those of the file with their lines.
    fn report(&self, source: &Source) {
        let current = self.current();
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
                "tenant of the configuration file left out: its id is missing or invalid"
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

/// Refuses to change a tenant that is being deleted.
fn not_deleting(entry: Option<&Entry>) -> Result<(), ChangeError> {
    match entry.and_then(Entry::deletion) {
        Some(job) => Err(ChangeError::Conflict(format!(
            "the tenant is being deleted (job {job}); its id can be used again once that job has completed"
        ))),
        None => Ok(()),
    }
}

pub(super) fn prepare<'a>(
    parts: &'a [Arc<dyn Reloadable>],
    config: &Arc<Config>,
) -> Result<Vec<Box<dyn FnOnce() + Send + 'a>>, ChangeError> {
    let prepared: anyhow::Result<_> = parts.iter().map(|part| part.prepare(config)).collect();
    prepared.map_err(ChangeError::Reload)
}

/// Returns a fault for each member that is not a setting.
fn reserved_faults(settings: &Value) -> Vec<SettingsFault> {
    let members = RESERVED_MEMBERS.into_iter().filter(|name| settings.get(name).is_some());
    let fault = |name: &str| SettingsFault {
        pointer: format!("/{name}"),
        message: match name {
            "operator" => "cannot be set here: only the configuration file can mark a tenant as operator".to_owned(),
            _ => "is not a setting".to_owned(),
        },
    };
    members.map(fault).collect()
}

/// Returns a fault for each place where new settings grant the scope `operator` and the file does not.
fn operator_faults(source: &Source, id: &TenantId, record: &StoredTenant, settings: &Value) -> Vec<SettingsFault> {
    if record.sealed.is_none() {
        return Vec::new();
    }
    let taken = restrict_operator_to_file(&mut settings.clone(), source.tenant(id.as_str()));
    let fault = |pointer| SettingsFault {
        pointer,
        message: "only the configuration file can grant the scope operator".to_owned(),
    };
    taken.into_iter().map(fault).collect()
}

/// Returns the faults that a change would cause: those of the changed tenant, and new ones of others.
fn new_faults(id: &TenantId, before: &LiveTenants, after: &LiveTenants) -> Vec<SettingsFault> {
    let mut found = Vec::new();
    for (other, faults) in &after.faults {
        if other == id {
            found.extend(faults.iter().cloned());
            continue;
        }
        let known = before.faults.get(other).map_or(&[][..], Vec::as_slice);
        let new = faults.iter().filter(|fault| !known.contains(fault));
        found.extend(new.map(|fault| SettingsFault {
            pointer: String::new(),
            message: format!("this would break tenant {other}: {fault}"),
        }));
    }
    found
}

impl fmt::Debug for TenantRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TenantRegistry").finish_non_exhaustive()
    }
}
