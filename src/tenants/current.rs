//! The live tenants: those of the file and of the store, and the configuration assembled from both.
//!
//! Building cannot fail: a tenant with a fault is left out. Then the process knows only its id, accepts none of its
//! credentials, and still reserves its issuers and keys for it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use copilotd_actors::domain::ids::{JobId, TenantId};
use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;

use super::cipher::Cipher;
use super::entry::{CheckContext, Entry};
use super::error::SettingsFault;
use crate::config::{ApiKey, Config, Globals, LeftOut, Tenant, conflicts};
use copilotd_actors::domain::access::key_hash::KeyHash;
use copilotd_actors::domain::tenant::{StoredKey, StoredTenant, TenantStatus};

/// Where a tenant's settings come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// The configuration file.
    File,
    /// The store: created or changed at run time.
    Stored,
}

/// Whether a tenant is served, as an operator sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ShownStatus {
    /// Served.
    Active,
    /// Not served; nothing is deleted.
    Suspended,
    /// Not served; a job is erasing it.
    Deleting,
}

impl From<TenantStatus> for ShownStatus {
    fn from(status: TenantStatus) -> Self {
        match status {
            TenantStatus::Active => Self::Active,
            TenantStatus::Suspended => Self::Suspended,
        }
    }
}

/// A tenant as an operator sees it.
#[derive(Debug, Clone, Serialize)]
pub struct TenantView {
    /// Id of the tenant.
    pub id: TenantId,
    /// Whether it is served.
    pub status: ShownStatus,
    /// The job that is deleting it, if there is one.
    pub deletion: Option<JobId>,
    /// Where its settings come from.
    pub origin: Origin,
    /// Whether its credentials may grant the scope `operator`, which only the configuration file decides.
    pub operator: bool,
    /// Its settings, with fingerprints in place of secrets.
    pub settings: Value,
    /// Why it is left out, if it is.
    pub faults: Vec<String>,
    /// Warnings, which do not keep it from being served.
    pub warnings: Vec<String>,
    /// When it was created or first changed at run time.
    pub created_at: Option<Timestamp>,
    /// When it was last changed at run time.
    pub updated_at: Option<Timestamp>,
}

/// The live tenants and their configuration; see the module.
#[derive(Debug)]
pub(super) struct LiveTenants {
    pub config: Arc<Config>,
    pub tenants: BTreeMap<TenantId, Arc<Entry>>,
    pub keys: Vec<StoredKey>,
    /// Why tenants are left out.
    pub faults: BTreeMap<TenantId, Vec<SettingsFault>>,
    /// Warnings about tenants that are served.
    pub warnings: BTreeMap<TenantId, Vec<SettingsFault>>,
    /// Paths of the file's tenant tables without a valid id.
    pub nameless: Vec<String>,
    /// The tenants of the file, in its order.
    order: Vec<TenantId>,
}

impl LiveTenants {
    /// Combines the file with the store.
    pub(super) fn build(
        check_context: CheckContext<'_>,
        stored: Vec<StoredTenant>,
        keys: Vec<StoredKey>,
        now: Timestamp,
    ) -> Self {
        let mut stored: HashMap<TenantId, StoredTenant> =
            stored.into_iter().map(|record| (record.id.clone(), record)).collect();
        let mut current = Self {
            config: Arc::new(check_context.globals.config().clone()),
            tenants: BTreeMap::new(),
            keys,
            faults: BTreeMap::new(),
            warnings: BTreeMap::new(),
            nameless: Vec::new(),
            order: Vec::new(),
        };
        for (index, table) in check_context.source.tenants().iter().enumerate() {
            let Some(id) = table.id().and_then(|id| id.parse::<TenantId>().ok()) else {
                current.nameless.push(format!("tenants[{index}].id"));
                continue;
            };
            if current.tenants.contains_key(&id) {
                continue;
            }
            let entry = match stored.remove(&id) {
                Some(record) => Entry::stored(check_context, Some(table), record),
                None => Entry::of_file(check_context, &id, table),
            };
            current.order.push(id.clone());
            current.tenants.insert(id, Arc::new(entry));
        }
        for (id, record) in stored {
            current
                .tenants
                .insert(id, Arc::new(Entry::stored(check_context, None, record)));
        }
        current.assembled(check_context.globals, now)
    }

    /// Updates the records from the store. Only tenants whose records changed are checked again, so that a change of
    /// one tenant does not pick up faults that others have developed meanwhile.
    pub(super) fn refreshed(
        &self,
        check_context: CheckContext<'_>,
        stored: Vec<StoredTenant>,
        keys: Vec<StoredKey>,
        now: Timestamp,
    ) -> Self {
        let mut next = self.copied();
        let others: Vec<StoredTenant> = stored
            .into_iter()
            .filter(|record| self.tenants.get(&record.id).and_then(|entry| entry.stored.as_ref()) != Some(record))
            .collect();
        if others.is_empty() && keys == self.keys {
            return next;
        }
        next.keys = keys;
        for record in others {
            next.put(check_context, record);
        }
        next.assembled(check_context.globals, now)
    }

    /// Returns the same with a new record of one tenant, whose settings are checked.
    pub(super) fn with_tenant(&self, check_context: CheckContext<'_>, record: StoredTenant, now: Timestamp) -> Self {
        let mut next = self.copied();
        next.put(check_context, record);
        next.assembled(check_context.globals, now)
    }

    /// Returns the same with a new status of one tenant. Depends only on its record.
    pub(super) fn with_status(&self, globals: &Globals, record: StoredTenant, now: Timestamp) -> Self {
        let mut next = self.copied();
        if let Some(entry) = next.tenants.get_mut(&record.id) {
            *entry = Arc::new(entry.with_record(record));
        }
        next.assembled(globals, now)
    }

    /// Returns the same with new keys. Depends only on their records.
    pub(super) fn with_keys(&self, globals: &Globals, keys: Vec<StoredKey>, now: Timestamp) -> Self {
        let mut next = self.copied();
        next.keys = keys;
        next.assembled(globals, now)
    }

    /// Whether the configuration file, as last read, has the tenant.
    pub(super) fn is_of_file(&self, id: &TenantId) -> bool {
        self.order.contains(id)
    }

    fn put(&mut self, check_context: CheckContext<'_>, record: StoredTenant) {
        let id = record.id.clone();
        let file = check_context.source.tenant(id.as_str());
        self.tenants
            .insert(id, Arc::new(Entry::stored(check_context, file, record)));
    }

    pub(super) fn copied(&self) -> Self {
        Self {
            config: Arc::clone(&self.config),
            tenants: self.tenants.clone(),
            keys: self.keys.clone(),
            faults: self.faults.clone(),
            warnings: self.warnings.clone(),
            nameless: self.nameless.clone(),
            order: self.order.clone(),
        }
    }

    /// Finds conflicts between tenants and assembles the configuration. Reads nothing from outside.
    fn assembled(mut self, globals: &Globals, now: Timestamp) -> Self {
        let ranked = self.ranked();
        self.faults.clear();
        self.warnings.clear();
        for id in &ranked {
            if let Some(Err(faults)) = self.tenants.get(id).map(|entry| &entry.checked) {
                self.faults.insert(id.clone(), faults.clone());
            }
        }
        let claims = ranked
            .iter()
            .filter_map(|id| Some(self.tenants.get(id)?.claims.as_slice()));
        let place = |owner: usize, path: &str| format!("{path} of tenant {}", ranked[owner]);
        for (index, fault) in conflicts(claims, place) {
            self.faults.entry(ranked[index].clone()).or_default().push(fault.into());
        }
        let mut keys = KeysByTenant::new(&self.keys, now);
        let mut config = globals.config().clone();
        config.has_nameless_tenant = !self.nameless.is_empty();
        let of_file: HashSet<&TenantId> = self.order.iter().collect();
        for id in self
            .order
            .iter()
            .chain(self.tenants.keys().filter(|id| !of_file.contains(id)))
        {
            let checked = self.tenants.get(id).and_then(|entry| entry.checked.as_ref().ok());
            let tenant = match checked {
                Some(tenant) if !self.faults.contains_key(id) => keys.applied((**tenant).clone()),
                _ => keys.left_out(id, self.tenants.get(id).map(AsRef::as_ref)),
            };
            config.tenants.push(tenant);
        }
        for tenant in &config.tenants {
            let warnings = config.tenant_warnings(tenant, now);
            if !warnings.is_empty() {
                let warnings = warnings.into_iter().map(SettingsFault::from);
                self.warnings.insert(tenant.id.clone(), warnings.collect());
            }
        }
        self.config = Arc::new(config);
        self
    }

    /// Returns the tenants in the order of precedence of their claims: first those with settings from the file, then
    /// those of the store, oldest first.
    fn ranked(&self) -> Vec<TenantId> {
        let is_of_file = |id: &&TenantId| self.tenants.get(*id).is_some_and(|entry| entry.origin == Origin::File);
        let known: HashSet<&TenantId> = self.order.iter().collect();
        let of_file: Vec<TenantId> = self.order.iter().filter(is_of_file).cloned().collect();
        let mut of_store: Vec<(Option<Timestamp>, &TenantId)> = self
            .tenants
            .iter()
            .filter(|(id, entry)| entry.origin != Origin::File || !known.contains(id))
            .map(|(id, entry)| (entry.stored.as_ref().map(|record| record.created_at), id))
            .collect();
        of_store.sort();
        of_file
            .into_iter()
            .chain(of_store.into_iter().map(|(_, id)| id.clone()))
            .collect()
    }

    pub(super) fn view(&self, id: &TenantId, seal: &Cipher) -> Option<TenantView> {
        let faults = self.faults.get(id).map_or(&[][..], Vec::as_slice);
        let warnings = self.warnings.get(id).map_or(&[][..], Vec::as_slice);
        Some(self.tenants.get(id)?.view(id, faults, warnings, seal))
    }
}

/// The stored keys of each tenant.
struct KeysByTenant<'a> {
    keys: HashMap<&'a TenantId, Vec<&'a StoredKey>>,
    /// The hashes of all of them: a stored key, even a revoked one, belongs to its tenant whatever a table says.
    hashes: HashSet<&'a KeyHash>,
    now: Timestamp,
}

impl<'a> KeysByTenant<'a> {
    fn new(stored: &'a [StoredKey], now: Timestamp) -> Self {
        let mut keys: HashMap<&TenantId, Vec<&StoredKey>> = HashMap::new();
        for key in stored {
            keys.entry(&key.tenant).or_default().push(key);
        }
        let hashes = stored.iter().map(|key| &key.hash).collect();
        Self { keys, hashes, now }
    }

    /// Returns the entry for a tenant that is left out, which also keeps its suspension. Its keys are known only by
    /// hash.
    fn left_out(&mut self, id: &TenantId, entry: Option<&Entry>) -> Tenant {
        let suspended = entry.is_some_and(|entry| entry.status() == TenantStatus::Suspended);
        let mut tenant = Tenant::left_out(id.clone(), suspended);
        tenant.api_keys = entry.into_iter().flat_map(Entry::table_keys).collect();
        tenant = self.applied(tenant);
        let api_keys = std::mem::take(&mut tenant.api_keys);
        tenant.left_out = Some(LeftOut { api_keys });
        tenant
    }

    /// Replaces the keys of a tenant's table by the stored ones where both have the same key.
    fn applied(&mut self, mut tenant: Tenant) -> Tenant {
        let stored = self.keys.remove(&tenant.id).unwrap_or_default();
        tenant.api_keys.retain(|key| !self.hashes.contains(&key.hash));
        let ended = |key: &StoredKey| key.revoked_at.is_some() || key.expires_at.is_some_and(|end| end <= self.now);
        let live = stored.into_iter().filter(|key| !ended(key));
        tenant.api_keys.extend(live.map(|key| ApiKey {
            name: key.name.clone(),
            hash: key.hash,
            scopes: key.scopes,
            expires_at: key.expires_at,
        }));
        tenant
    }
}
