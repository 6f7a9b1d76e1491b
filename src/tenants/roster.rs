//! The roster: changes tenants and keys, one change at a time, and tells every part of the process.
//!
//! Invariants: a change is recorded with who asked for it, then stored, then taken, in this order. To suspend a tenant and to revoke a key
//! nothing is needed but the record of that tenant or key: no settings are checked, no secret is fetched, and a part of the
//! process that cannot follow keeps nobody from it.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use copilotd_actors::domain::ids::TenantId;
use copilotd_actors::ports::{Clock, LogError};
use dashmap::DashMap;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::changes;
use super::entry::{Entry, NOT_SETTINGS, Surroundings};
use super::error::{ChangeError, SettingsFault};
use super::patch;
use super::present::{Origin, Present, TenantView};
use super::record::{KeyUse, Requester, StoredTenant, TenantStatus};
use super::seal::Seal;
use super::standings::PresentStandings;
use super::store::TenantStore;
use crate::audit::{Action, AuditLog, Entry as AuditEntry};
use crate::config::{Config, Faults, Globals, KeyHash, Source, keep_operator_to_file};

/// Most tenants of a process.
const MAX_TENANTS: usize = 10_000;

/// What follows the configuration while the process runs.
pub trait Part: Send + Sync {
    /// Makes ready for `config`, and answers with what makes it hold. Must change nothing before that is called.
    fn prepare<'a>(&'a self, config: &Arc<Config>) -> anyhow::Result<Box<dyn FnOnce() + Send + 'a>>;
}

/// What becomes of a tenant's settings.
#[derive(Debug, Clone, PartialEq)]
pub enum SettingsChange {
    /// A merge patch is applied to them.
    Patch(Value),
    /// They are the file's again.
    Reset,
}

/// A change of a tenant.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Change {
    /// Of its settings, if any.
    pub settings: Option<SettingsChange>,
    /// Of its status, if any.
    pub status: Option<TenantStatus>,
}

/// See the module.
pub struct Roster {
    pub(super) store: Arc<dyn TenantStore>,
    pub(super) audit: Arc<AuditLog>,
    seal: Seal,
    pub(super) clock: Arc<dyn Clock>,
    /// What is not a tenant's, as it was at start: it changes with a restart alone.
    pub(super) globals: Globals,
    parts: Mutex<Vec<Arc<dyn Part>>>,
    present: RwLock<Arc<Present>>,
    standings: Arc<PresentStandings>,
    pub(super) uses: Mutex<HashMap<KeyHash, Timestamp>>,
    /// One lock per tenant, whose administrators wait for each other there, and not in front of those of other tenants.
    pub(super) turns: DashMap<TenantId, Arc<tokio::sync::Mutex<()>>>,
    /// Held while a change is made; the file that it is made against.
    pub(super) source: tokio::sync::Mutex<Source>,
}

impl Roster {
    /// Reads what is stored and puts it together with the file. Tenants with a fault are left out and logged.
    ///
    /// # Errors
    /// When the store fails, or what is not a tenant's in the file has a fault.
    pub async fn open(
        source: Source,
        store: Arc<dyn TenantStore>,
        audit: Arc<AuditLog>,
        seal: Seal,
        clock: Arc<dyn Clock>,
    ) -> anyhow::Result<Arc<Self>> {
        let globals = source.globals()?;
        let (tenants, keys) = (store.tenants().await?, store.keys().await?);
        let uses = store.key_uses().await?;
        let around = Surroundings {
            globals: &globals,
            source: &source,
            seal: &seal,
        };
        let present = Present::build(around, tenants, keys, clock.now());
        let roster = Arc::new(Self {
            store,
            audit,
            seal,
            clock,
            globals,
            parts: Mutex::default(),
            standings: Arc::new(PresentStandings::new(&present.config)),
            present: RwLock::new(Arc::new(present)),
            uses: Mutex::new(uses.into_iter().map(|used| (used.hash, used.at)).collect()),
            turns: DashMap::new(),
            source: tokio::sync::Mutex::new(source.clone()),
        });
        roster.report(&source);
        Ok(roster)
    }

    /// Waits until no other administrator of the tenant changes something. Operators do not wait here: suspending a tenant must not
    /// stand behind what its administrators do.
    pub(super) async fn turn(&self, tenant: &TenantId) -> tokio::sync::OwnedMutexGuard<()> {
        let turn = Arc::clone(&self.turns.entry(tenant.clone()).or_default());
        turn.lock_owned().await
    }

    /// Returns the configuration as it holds now.
    pub fn config(&self) -> Arc<Config> {
        Arc::clone(&self.present().config)
    }

    /// Which tenants work is done for, as it changes.
    pub fn standings(&self) -> &Arc<PresentStandings> {
        &self.standings
    }

    /// Tells `part` of every change from now on.
    pub fn follow(&self, part: Arc<dyn Part>) {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner).push(part);
    }

    /// Lists the tenants by id.
    pub fn tenants(&self) -> Vec<TenantView> {
        let present = self.present();
        present
            .tenants
            .keys()
            .filter_map(|id| present.view(id, &self.seal))
            .collect()
    }

    /// Finds a tenant.
    pub fn tenant(&self, id: &TenantId) -> Option<TenantView> {
        self.present().view(id, &self.seal)
    }

    /// Lists what is left out because of a fault: tenants by their ids, and tables of the file without one by their place.
    pub fn left_out(&self) -> Vec<String> {
        let present = self.present();
        let tenants = present.faults.keys().map(ToString::to_string);
        tenants.chain(present.nameless.iter().cloned()).collect()
    }

    /// Whether a tenant's money is limited and some of its models have no price.
    pub fn has_warnings(&self) -> bool {
        !self.present().warnings.is_empty()
    }

    /// Gives a tenant these settings, and makes it if there is none; answers with it, and whether it was made. A status that is
    /// not given stays, or is active.
    pub async fn put(
        &self,
        id: TenantId,
        settings: Value,
        status: Option<TenantStatus>,
        only_new: bool,
        by: &Requester,
    ) -> Result<(TenantView, bool), ChangeError> {
        let source = self.source.lock().await;
        let present = self.read(&source).await?;
        let known = present.tenants.get(&id);
        not_deleting(known.map(AsRef::as_ref))?;
        if known.is_some() && only_new {
            return Err(ChangeError::Exists(format!("a tenant {id}")));
        }
        if known.is_none() && present.tenants.len() >= MAX_TENANTS {
            return Err(ChangeError::Conflict(format!(
                "there are {MAX_TENANTS} tenants already, the most of one process"
            )));
        }
        let mut faults = not_settings(&settings);
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
        let view = self.check_and_take(&source, &present, record, &settings, by).await?;
        Ok((view, is_new))
    }

    /// Changes a tenant.
    pub async fn change(&self, id: &TenantId, change: Change, by: &Requester) -> Result<TenantView, ChangeError> {
        let source = self.source.lock().await;
        let Some(settings_change) = change.settings else {
            return self.set_status(&source, id, change.status, by).await;
        };
        let present = self.read(&source).await?;
        let entry = present.tenants.get(id).ok_or(ChangeError::Missing)?;
        not_deleting(Some(entry))?;
        let file = source.tenant(id.as_str());
        let mut record = self.record_of(id, entry);
        record.status = change.status.unwrap_or(record.status);
        let settings = match settings_change {
            SettingsChange::Reset => {
                let message = "the file has no settings of this tenant to go back to";
                let file = file.ok_or_else(|| ChangeError::Conflict(message.to_owned()))?;
                record.sealed = None;
                file.value().clone()
            }
            SettingsChange::Patch(patch) => {
                let mut faults = not_settings(&patch);
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
        self.check_and_take(&source, &present, record, &settings, by).await
    }

    /// Sets a tenant's status and nothing else. It needs no settings that are fit, of this tenant or of others.
    async fn set_status(
        &self,
        source: &Source,
        id: &TenantId,
        status: Option<TenantStatus>,
        by: &Requester,
    ) -> Result<TenantView, ChangeError> {
        let present = self.read_or_remembered(source).await;
        let entry = present.tenants.get(id).ok_or(ChangeError::Missing)?;
        not_deleting(Some(entry))?;
        let mut record = self.record_of(id, entry);
        let Some(status) = status.filter(|status| *status != entry.status()) else {
            return present.view(id, &self.seal).ok_or(ChangeError::Missing);
        };
        record.status = status;
        let action = match status {
            TenantStatus::Active => Action::TenantResumed,
            TenantStatus::Suspended => Action::TenantSuspended,
        };
        self.record(id, action, id.to_string(), vec!["/status".to_owned()], by)
            .await?;
        self.store.put_tenant(&record).await?;
        let after = present.with_status(&self.globals, record, self.clock.now());
        let view = after.view(id, &self.seal);
        self.take_despite_parts(after);
        view.ok_or(ChangeError::Missing)
    }

    /// Takes the tenants of the file as it is now; what is stored stays in the place of it. One with a fault is left out.
    ///
    /// # Errors
    /// When what is not a tenant's in the file has a fault: everything is as it was then.
    pub async fn reload(&self, source: Source) -> Result<(), ChangeError> {
        let mut held = self.source.lock().await;
        let broken = |faults: Faults| ChangeError::Conflict(format!("the configuration file is not valid: {faults}"));
        source.globals().map_err(broken)?;
        let (tenants, keys) = (self.store.tenants().await?, self.store.keys().await?);
        let present = Present::build(self.around(&source), tenants, keys, self.clock.now());
        let parts = self.parts();
        let commits = prepare(&parts, &present.config)?;
        self.take(present, commits);
        self.report(&source);
        *held = source;
        Ok(())
    }

    /// Checks a tenant's new settings with everything around them, records the change, stores it, and lets it hold.
    async fn check_and_take(
        &self,
        source: &Source,
        before: &Present,
        record: StoredTenant,
        settings: &Value,
        by: &Requester,
    ) -> Result<TenantView, ChangeError> {
        let id = record.id.clone();
        let mut faults = operator_faults(source, &id, &record, settings);
        let after = before.with_tenant(self.around(source), record.clone(), self.clock.now());
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
            tracing::warn!(tenant = %id, %warning, "the tenant's settings were accepted with a warning");
        }
        self.take(after, commits);
        view.ok_or(ChangeError::Missing)
    }

    /// Records a change, in the log and in the changed tenant's audit log, before it is made: what cannot be recorded is not made.
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
            "changing a tenant or one of its API keys"
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

    /// Notes when keys were used last, here and in the store.
    pub async fn note_uses(&self, uses: Vec<(KeyHash, Timestamp)>) -> Result<(), LogError> {
        let fresh: Vec<KeyUse> = {
            let mut known = self.uses.lock().unwrap_or_else(PoisonError::into_inner);
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

    pub(super) fn around<'a>(&'a self, source: &'a Source) -> Surroundings<'a> {
        Surroundings {
            globals: &self.globals,
            source,
            seal: &self.seal,
        }
    }

    /// Reads the store again: a change whose outcome was unknown may have been made after all.
    pub(super) async fn read(&self, source: &Source) -> Result<Present, ChangeError> {
        let (tenants, keys) = (self.store.tenants().await?, self.store.keys().await?);
        let now = self.clock.now();
        Ok(self.present().refreshed(self.around(source), tenants, keys, now))
    }

    /// The same, or what is remembered when the store cannot be read.
    pub(super) async fn read_or_remembered(&self, source: &Source) -> Present {
        match self.read(source).await {
            Ok(present) => present,
            Err(error) => {
                tracing::warn!(%error, "tenants and keys could not be read from the store; using those in memory");
                self.present().copied()
            }
        }
    }

    pub(super) fn parts(&self) -> Vec<Arc<dyn Part>> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn take(&self, present: Present, commits: Vec<Box<dyn FnOnce() + Send + '_>>) {
        let config = Arc::clone(&present.config);
        self.standings.change(&config, || {
            *self.present.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(present);
            for commit in commits {
                commit();
            }
        });
    }

    /// Takes what only takes rights away. A part that cannot follow is named in the log and keeps what it has.
    pub(super) fn take_despite_parts(&self, present: Present) {
        let parts = self.parts();
        let mut commits = Vec::new();
        for part in &parts {
            match part.prepare(&present.config) {
                Ok(commit) => commits.push(commit),
                Err(error) => tracing::error!(
                    error = format!("{error:#}"),
                    "a part of the process cannot follow a suspension or revocation and keeps its previous configuration"
                ),
            }
        }
        self.take(present, commits);
    }

    pub(super) fn present(&self) -> Arc<Present> {
        Arc::clone(&self.present.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Logs faults and warnings; those of the file with their lines.
    fn report(&self, source: &Source) {
        let present = self.present();
        let is_of_file = |id: &TenantId| {
            present
                .tenants
                .get(id)
                .is_some_and(|entry| entry.origin == Origin::File)
        };
        for (id, faults) in &present.faults {
            let told = faults.iter().map(|fault| {
                let line = source.line_of_settings(id.as_str(), &fault.pointer);
                match line.filter(|_| is_of_file(id)) {
                    Some(line) => format!("line {line}: {fault}"),
                    None => fault.to_string(),
                }
            });
            let causes = present.tenants.get(id).map(|entry| entry.causes.join("; "));
            tracing::error!(
                tenant = %id,
                faults = told.collect::<Vec<_>>().join("; "),
                causes,
                "the tenant's settings have a fault: it is left out and its credentials are refused; all others are served"
            );
        }
        for place in &present.nameless {
            tracing::error!(
                place,
                "a tenant of the configuration file has no valid id and is left out"
            );
        }
        for (id, warnings) in &present.warnings {
            let told = warnings.iter().map(|warning| {
                let SettingsFault { pointer, message } = warning;
                let told = source.report_settings(id.as_str(), pointer, message);
                told.filter(|_| is_of_file(id)).unwrap_or_else(|| warning.to_string())
            });
            let warnings = told.collect::<Vec<_>>().join("; ");
            tracing::warn!(tenant = %id, warnings, "the tenant's settings have a warning; it is served");
        }
    }
}

/// Refuses a change of a tenant that is being deleted: it would come too late.
fn not_deleting(entry: Option<&Entry>) -> Result<(), ChangeError> {
    match entry.and_then(Entry::deletion) {
        Some(job) => Err(ChangeError::Conflict(format!(
            "the tenant is being deleted by {job}; its id can be used again once that job has completed"
        ))),
        None => Ok(()),
    }
}

pub(super) fn prepare<'a>(
    parts: &'a [Arc<dyn Part>],
    config: &Arc<Config>,
) -> Result<Vec<Box<dyn FnOnce() + Send + 'a>>, ChangeError> {
    let prepared: anyhow::Result<_> = parts.iter().map(|part| part.prepare(config)).collect();
    prepared.map_err(ChangeError::Part)
}

/// Lists what stands beside the settings and not in them.
fn not_settings(settings: &Value) -> Vec<SettingsFault> {
    let members = NOT_SETTINGS.into_iter().filter(|name| settings.get(name).is_some());
    let fault = |name: &str| SettingsFault {
        pointer: format!("/{name}"),
        message: match name {
            "operator" => "is not one of the settings: only the configuration file says so".to_owned(),
            _ => "is not one of the settings".to_owned(),
        },
    };
    members.map(fault).collect()
}

/// Lists where settings that are to be stored give the scope `operator` and the file does not.
fn operator_faults(source: &Source, id: &TenantId, record: &StoredTenant, settings: &Value) -> Vec<SettingsFault> {
    if record.sealed.is_none() {
        return Vec::new();
    }
    let taken = keep_operator_to_file(&mut settings.clone(), source.tenant(id.as_str()));
    let fault = |pointer| SettingsFault {
        pointer,
        message: "the scope operator is given by the configuration file alone".to_owned(),
    };
    taken.into_iter().map(fault).collect()
}

/// Lists what a change would break: the faults of the changed tenant, and those that others did not have before.
fn new_faults(id: &TenantId, before: &Present, after: &Present) -> Vec<SettingsFault> {
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
            message: format!("tenant {other} would not fit any more: {fault}"),
        }));
    }
    found
}

impl fmt::Debug for Roster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Roster").finish_non_exhaustive()
    }
}
