//! The roster: changes tenants and keys, one change at a time, and tells every part of the process.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use copilotd_actors::domain::ids::TenantId;
use copilotd_actors::ports::{Clock, LogError};
use copilotd_actors::tenancy::TenantScope;
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use super::error::{ChangeError, SettingsFault};
use super::patch;
use super::present::{Entry, Origin, Present, TenantView};
use super::record::{KeyId, KeyUse, StoredKey, StoredTenant, TenantStatus};
use super::seal::Seal;
use super::store::TenantStore;
use crate::config::{Config, KeyHash, Source};
use crate::scopes::Scopes;

/// Most tenants of a process.
const MAX_TENANTS: usize = 10_000;
/// Most keys of a tenant that are neither taken back nor at their end.
const MAX_KEYS: usize = 500;
/// How long a key that has ended is still listed.
const ENDED: SignedDuration = SignedDuration::from_hours(30 * 24);

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

/// An API key to be made.
#[derive(Debug, Clone)]
pub struct NewKey {
    /// Hash of the key.
    pub hash: KeyHash,
    /// Its name.
    pub name: String,
    /// What it allows.
    pub scopes: Scopes,
    /// Who makes it.
    pub by: String,
    /// Its end, if it has one.
    pub expires_at: Option<Timestamp>,
}

/// An API key as an administrator sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyView {
    /// Its id.
    pub id: KeyId,
    /// Its name.
    pub name: String,
    /// What it allows.
    pub scopes: Scopes,
    /// Where it stands.
    pub origin: Origin,
    /// When it was made, and by whom; the file does not tell.
    pub made: Option<(Timestamp, String)>,
    /// Its end, if it has one.
    pub expires_at: Option<Timestamp>,
    /// When it was taken back, if it was.
    pub revoked_at: Option<Timestamp>,
    /// When it was used last, to a minute.
    pub last_used_at: Option<Timestamp>,
}

/// See the module.
pub struct Roster {
    store: Arc<dyn TenantStore>,
    seal: Seal,
    clock: Arc<dyn Clock>,
    parts: Mutex<Vec<Arc<dyn Part>>>,
    present: RwLock<Arc<Present>>,
    uses: Mutex<HashMap<KeyHash, Timestamp>>,
    /// Held while a change is made; the file that it is made against.
    source: tokio::sync::Mutex<Source>,
}

impl Roster {
    /// Reads what is stored and puts it together with the file.
    ///
    /// # Errors
    /// When the store fails, or the file is not valid by itself.
    pub async fn open(
        source: Source,
        store: Arc<dyn TenantStore>,
        seal: Seal,
        clock: Arc<dyn Clock>,
    ) -> anyhow::Result<Arc<Self>> {
        let (tenants, keys) = (store.tenants().await?, store.keys().await?);
        let uses = store.key_uses().await?;
        let present = Present::build(&source, tenants, keys, &seal, clock.now())?;
        let roster = Arc::new(Self {
            store,
            seal,
            clock,
            parts: Mutex::default(),
            present: RwLock::new(Arc::new(present)),
            uses: Mutex::new(uses.into_iter().map(|used| (used.hash, used.at)).collect()),
            source: tokio::sync::Mutex::new(source),
        });
        roster.report_left_out();
        Ok(roster)
    }

    /// Returns the configuration as it holds now.
    pub fn config(&self) -> Arc<Config> {
        Arc::clone(&self.present().config)
    }

    /// Tells `part` of every change from now on.
    pub fn follow(&self, part: Arc<dyn Part>) {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner).push(part);
    }

    /// Lists the tenants by id.
    pub fn tenants(&self) -> Vec<TenantView> {
        let present = self.present();
        let tenants = present.tenants.iter();
        tenants.map(|(id, entry)| entry.view(id, &self.seal)).collect()
    }

    /// Finds a tenant.
    pub fn tenant(&self, id: &TenantId) -> Option<TenantView> {
        Some(self.present().tenants.get(id)?.view(id, &self.seal))
    }

    /// Lists the ids of tenants that are left out because their settings do not fit.
    pub fn left_out(&self) -> Vec<TenantId> {
        let present = self.present();
        let faulty = present.tenants.iter().filter(|(_, entry)| !entry.faults.is_empty());
        faulty.map(|(id, _)| id.clone()).collect()
    }

    /// Gives a tenant these settings, and makes it if there is none; answers with it, and whether it was made. A status that is
    /// not given stays, or is active.
    pub async fn put(
        &self,
        id: TenantId,
        mut settings: Value,
        status: Option<TenantStatus>,
        only_new: bool,
    ) -> Result<(TenantView, bool), ChangeError> {
        let source = self.source.lock().await;
        let present = self.read(&source).await?;
        let known = present.tenants.get(&id);
        if known.is_some() && only_new {
            return Err(ChangeError::Exists(format!("a tenant {id}")));
        }
        if known.is_none() && present.tenants.len() >= MAX_TENANTS {
            return Err(ChangeError::Conflict(format!(
                "there are {MAX_TENANTS} tenants already, the most of one process"
            )));
        }
        let old = known.map_or(Value::Null, Entry::settings);
        let mut faults = patch::restore(&mut settings, &old, &self.seal);
        faults.extend(not_settings(&settings));
        let now = self.clock.now();
        let record = StoredTenant {
            status: status.unwrap_or(known.map_or(TenantStatus::Active, Entry::status)),
            sealed: Some(self.sealed_of(id.as_str(), &settings)),
            created_at: known
                .and_then(|entry| entry.stored.as_ref())
                .map_or(now, |stored| stored.created_at),
            updated_at: now,
            id,
        };
        let is_new = known.is_none();
        let view = self.store_and_take(&source, &present, record, faults).await?;
        Ok((view, is_new))
    }

    /// Changes a tenant.
    pub async fn change(&self, id: &TenantId, change: Change) -> Result<TenantView, ChangeError> {
        let source = self.source.lock().await;
        let present = self.read(&source).await?;
        let entry = present.tenants.get(id).ok_or(ChangeError::Missing)?;
        let now = self.clock.now();
        let mut record = entry.stored.clone().unwrap_or(StoredTenant {
            id: id.clone(),
            status: entry.status(),
            sealed: None,
            created_at: now,
            updated_at: now,
        });
        record.updated_at = now;
        record.status = change.status.unwrap_or(record.status);
        let mut faults = Vec::new();
        match change.settings {
            None => {}
            Some(SettingsChange::Reset) if source.tenant(id.as_str()).is_none() => {
                let message = "the file has no settings of this tenant to go back to";
                return Err(ChangeError::Conflict(message.to_owned()));
            }
            Some(SettingsChange::Reset) => record.sealed = None,
            Some(SettingsChange::Patch(mut patch)) => {
                let mut settings = entry.settings();
                faults = patch::restore(&mut patch, &settings, &self.seal);
                faults.extend(not_settings(&patch));
                patch::merge(&mut settings, &patch);
                record.sealed = Some(self.sealed_of(id.as_str(), &settings));
            }
        }
        self.store_and_take(&source, &present, record, faults).await
    }

    /// Takes the file as it is now in place of how it was; what is stored stays in the place of it.
    pub async fn reload(&self, source: Source) -> Result<(), ChangeError> {
        let mut held = self.source.lock().await;
        let present = self.read(&source).await?;
        let parts = self.parts();
        let commits = prepare(&parts, &present.config)?;
        *held = source;
        self.take(present, commits);
        self.report_left_out();
        Ok(())
    }

    /// Checks a changed tenant with everything around it, stores it, and lets it hold.
    async fn store_and_take(
        &self,
        source: &Source,
        before: &Present,
        record: StoredTenant,
        mut faults: Vec<SettingsFault>,
    ) -> Result<TenantView, ChangeError> {
        let id = record.id.clone();
        let mut stored: Vec<StoredTenant> = before
            .tenants
            .values()
            .filter_map(|entry| entry.stored.clone())
            .filter(|known| known.id != id)
            .collect();
        stored.push(record.clone());
        let now = self.clock.now();
        let built = Present::build(source, stored, before.keys.clone(), &self.seal, now);
        match &built {
            Ok(after) => faults.extend(new_faults(&id, before, after)),
            Err(others) => faults.extend(others.iter().map(|fault| SettingsFault {
                pointer: String::new(),
                message: fault.to_string(),
            })),
        }
        let after = match built {
            Ok(after) if faults.is_empty() => after,
            _ => return Err(ChangeError::Invalid(faults)),
        };
        let parts = self.parts();
        let commits = prepare(&parts, &after.config)?;
        self.store.put_tenant(&record).await?;
        tracing::info!(tenant = %id, status = ?record.status, "a tenant was changed by an operator");
        let view = after.tenants.get(&id).map(|entry| entry.view(&id, &self.seal));
        self.take(after, commits);
        view.ok_or(ChangeError::Missing)
    }

    /// Lists a tenant's keys, the newest first, those of the file last.
    pub fn keys(&self, scope: &TenantScope) -> Vec<KeyView> {
        let present = self.present();
        let uses = self.uses.lock().unwrap_or_else(PoisonError::into_inner);
        let tenant = scope.tenant();
        let stored = present.keys.iter().filter(|key| key.tenant == *tenant);
        let mut views: Vec<KeyView> = stored.clone().map(|key| view_of(key, &uses)).collect();
        let tenants = present.config.tenants.iter().filter(|known| known.id == *tenant);
        for key in tenants.flat_map(|known| &known.api_keys) {
            if !stored.clone().any(|known| known.hash == key.hash) {
                views.push(KeyView {
                    id: KeyId::of(&key.hash),
                    name: key.name.clone(),
                    scopes: key.scopes,
                    origin: Origin::File,
                    made: None,
                    expires_at: key.expires_at,
                    revoked_at: None,
                    last_used_at: uses.get(&key.hash).copied(),
                });
            }
        }
        views
    }

    /// Makes a key. It is accepted once this returns.
    pub async fn create_key(&self, scope: &TenantScope, new: NewKey) -> Result<KeyView, ChangeError> {
        let source = self.source.lock().await;
        let present = self.read(&source).await?;
        let now = self.clock.now();
        let tenant = scope.tenant();
        let known = present.config.tenants.iter().find(|known| known.id == *tenant);
        let live = known.map_or(&[][..], |known| &known.api_keys);
        if live.iter().any(|key| key.name == new.name) {
            return Err(ChangeError::Exists(format!("a key named {:?}", new.name)));
        }
        if live.len() >= MAX_KEYS {
            let message = format!("the tenant has {MAX_KEYS} keys already; take back one that is not used");
            return Err(ChangeError::Conflict(message));
        }
        let key = StoredKey {
            tenant: tenant.clone(),
            hash: new.hash,
            name: new.name,
            scopes: new.scopes,
            created_at: now,
            created_by: Some(new.by),
            expires_at: new.expires_at,
            revoked_at: None,
        };
        let ended: Vec<KeyHash> = present
            .keys
            .iter()
            .filter(|key| is_past(key, now))
            .map(|key| key.hash)
            .collect();
        let kept = present.keys.iter().filter(|key| !ended.contains(&key.hash)).cloned();
        let keys = std::iter::once(key.clone()).chain(kept).collect();
        let after = self.rebuilt(&source, &present, keys)?;
        let parts = self.parts();
        let commits = prepare(&parts, &after.config)?;
        self.store.put_key(&key).await?;
        if !ended.is_empty() {
            self.store.delete_keys(&ended).await?;
        }
        tracing::info!(%tenant, key = %KeyId::of(&key.hash), by = key.created_by.as_deref(), "an API key was made");
        self.take(after, commits);
        Ok(view_of(&key, &HashMap::new()))
    }

    /// Takes a key back. It is refused once this returns, and its streams end. One that was taken back stays so.
    pub async fn revoke_key(&self, scope: &TenantScope, id: KeyId, by: &str) -> Result<(), ChangeError> {
        let source = self.source.lock().await;
        let present = self.read(&source).await?;
        let now = self.clock.now();
        let tenant = scope.tenant();
        let stored = present
            .keys
            .iter()
            .find(|key| key.tenant == *tenant && KeyId::of(&key.hash) == id);
        if stored.is_some_and(|key| key.revoked_at.is_some()) {
            return Ok(());
        }
        let of_file = || {
            let known = present.config.tenants.iter().find(|known| known.id == *tenant)?;
            let key = known.api_keys.iter().find(|key| KeyId::of(&key.hash) == id)?;
            Some(StoredKey {
                tenant: tenant.clone(),
                hash: key.hash,
                name: key.name.clone(),
                scopes: key.scopes,
                created_at: now,
                created_by: None,
                expires_at: key.expires_at,
                revoked_at: None,
            })
        };
        let mut key = stored.cloned().or_else(of_file).ok_or(ChangeError::Missing)?;
        key.revoked_at = Some(now);
        let others = present.keys.iter().filter(|known| known.hash != key.hash).cloned();
        let keys = std::iter::once(key.clone()).chain(others).collect();
        let after = self.rebuilt(&source, &present, keys)?;
        let parts = self.parts();
        let commits = prepare(&parts, &after.config)?;
        self.store.put_key(&key).await?;
        tracing::info!(%tenant, key = %id, by, "an API key was taken back");
        self.take(after, commits);
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

    fn sealed_of(&self, id: &str, settings: &Value) -> Vec<u8> {
        self.seal.seal(id, settings.to_string().as_bytes())
    }

    /// Reads the store anew: a change whose outcome was unknown may have been made after all.
    async fn read(&self, source: &Source) -> Result<Present, ChangeError> {
        let (tenants, keys) = (self.store.tenants().await?, self.store.keys().await?);
        let built = Present::build(source, tenants, keys, &self.seal, self.clock.now());
        built.map_err(|faults| ChangeError::Conflict(format!("the configuration file is not valid: {faults}")))
    }

    fn rebuilt(&self, source: &Source, before: &Present, keys: Vec<StoredKey>) -> Result<Present, ChangeError> {
        let stored = before
            .tenants
            .values()
            .filter_map(|entry| entry.stored.clone())
            .collect();
        let built = Present::build(source, stored, keys, &self.seal, self.clock.now());
        built.map_err(|faults| ChangeError::Conflict(format!("the configuration file is not valid: {faults}")))
    }

    fn parts(&self) -> Vec<Arc<dyn Part>> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn take(&self, present: Present, commits: Vec<Box<dyn FnOnce() + Send + '_>>) {
        *self.present.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(present);
        for commit in commits {
            commit();
        }
    }

    fn present(&self) -> Arc<Present> {
        Arc::clone(&self.present.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn report_left_out(&self) {
        for (id, entry) in &self.present().tenants {
            if !entry.faults.is_empty() {
                let faults = entry.view(id, &self.seal).faults.join("; ");
                tracing::error!(tenant = %id, faults, "a stored tenant does not fit the configuration and is left out");
            }
        }
    }
}

fn prepare<'a>(
    parts: &'a [Arc<dyn Part>],
    config: &Arc<Config>,
) -> Result<Vec<Box<dyn FnOnce() + Send + 'a>>, ChangeError> {
    let prepared: anyhow::Result<_> = parts.iter().map(|part| part.prepare(config)).collect();
    prepared.map_err(ChangeError::Part)
}

/// Lists what stands beside the settings and not in them.
fn not_settings(settings: &Value) -> Vec<SettingsFault> {
    let members = ["id", "suspended"]
        .into_iter()
        .filter(|name| settings.get(name).is_some());
    let fault = |name: &str| SettingsFault {
        pointer: format!("/{name}"),
        message: "is not one of the settings".to_owned(),
    };
    members.map(fault).collect()
}

/// Lists what a change would break: the faults of the changed tenant, and those that others did not have before.
fn new_faults(id: &TenantId, before: &Present, after: &Present) -> Vec<SettingsFault> {
    let mut found = Vec::new();
    for (other, entry) in &after.tenants {
        if other == id {
            found.extend(entry.faults.iter().cloned());
            continue;
        }
        let known = before.tenants.get(other).map_or(&[][..], |entry: &Entry| &entry.faults);
        let new = entry.faults.iter().filter(|fault| !known.contains(fault));
        found.extend(new.map(|fault| SettingsFault {
            pointer: String::new(),
            message: format!(
                "tenant {other} would not fit any more: {}: {}",
                fault.pointer, fault.message
            ),
        }));
    }
    found
}

fn is_past(key: &StoredKey, now: Timestamp) -> bool {
    let long_ago = |end: Option<Timestamp>| end.is_some_and(|end| now.duration_since(end) > ENDED);
    // One of the file's that was taken back has to be remembered for as long as it stands there.
    key.created_by.is_some() && (long_ago(key.revoked_at) || long_ago(key.expires_at))
}

fn view_of(key: &StoredKey, uses: &HashMap<KeyHash, Timestamp>) -> KeyView {
    KeyView {
        id: KeyId::of(&key.hash),
        name: key.name.clone(),
        scopes: key.scopes,
        origin: match key.created_by {
            Some(_) => Origin::Stored,
            None => Origin::File,
        },
        made: key.created_by.clone().map(|by| (key.created_at, by)),
        expires_at: key.expires_at,
        revoked_at: key.revoked_at,
        last_used_at: uses.get(&key.hash).copied(),
    }
}

impl fmt::Debug for Roster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Roster").finish_non_exhaustive()
    }
}
