//! The tenants as they stand: what the file says, what is stored, and the configuration that both make.
//!
//! Building one cannot fail: a tenant with a fault is left out, which means that nothing but its id is known to the process, that
//! none of its credentials is accepted, and that its issuers and keys stay its own.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use copilotd_actors::domain::ids::{JobId, TenantId};
use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;

use super::entry::{Entry, Surroundings};
use super::error::SettingsFault;
use super::record::{StoredKey, StoredTenant, TenantStatus};
use super::seal::Seal;
use crate::config::{ApiKey, Config, Globals, KeyHash, LeftOut, Tenant, conflicts};

/// Where a tenant's settings come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// The configuration file.
    File,
    /// The store: made or changed at run time.
    Stored,
}

/// Whether a tenant is served, as an operator sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ShownStatus {
    /// It is.
    Active,
    /// It is not, and nothing of it is deleted.
    Suspended,
    /// It is not, and a job erases it.
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
    /// Its id.
    pub id: TenantId,
    /// Whether it is served.
    pub status: ShownStatus,
    /// The job that deletes it, if one does.
    pub deletion: Option<JobId>,
    /// Where its settings come from.
    pub origin: Origin,
    /// Whether its credentials may grant the scope `operator`; as the configuration file says.
    pub operator: bool,
    /// Its settings; secrets are named, not shown.
    pub settings: Value,
    /// Why it is left out, if it is.
    pub faults: Vec<String>,
    /// What does not keep it from being served and should be known.
    pub warnings: Vec<String>,
    /// When it was made or first changed at run time.
    pub created_at: Option<Timestamp>,
    /// When it was changed last at run time.
    pub updated_at: Option<Timestamp>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Present {
    pub config: Arc<Config>,
    pub tenants: BTreeMap<TenantId, Arc<Entry>>,
    pub keys: Vec<StoredKey>,
    /// Why tenants are left out.
    pub faults: BTreeMap<TenantId, Vec<SettingsFault>>,
    /// What should be known of tenants that are served.
    pub warnings: BTreeMap<TenantId, Vec<SettingsFault>>,
    /// Tables of the file that name no tenant, with their place.
    pub nameless: Vec<String>,
    /// The tenants of the file, in its order.
    order: Vec<TenantId>,
}

impl Present {
    /// Puts the file and what is stored together.
    pub(super) fn build(
        around: Surroundings<'_>,
        stored: Vec<StoredTenant>,
        keys: Vec<StoredKey>,
        now: Timestamp,
    ) -> Self {
        let mut stored: HashMap<TenantId, StoredTenant> =
            stored.into_iter().map(|record| (record.id.clone(), record)).collect();
        let mut present = Self {
            config: Arc::new(around.globals.config().clone()),
            tenants: BTreeMap::new(),
            keys,
            faults: BTreeMap::new(),
            warnings: BTreeMap::new(),
            nameless: Vec::new(),
            order: Vec::new(),
        };
        for (index, table) in around.source.tenants().iter().enumerate() {
            let Some(id) = table.id().and_then(|id| id.parse::<TenantId>().ok()) else {
                present.nameless.push(format!("tenants[{index}].id"));
                continue;
            };
            if present.tenants.contains_key(&id) {
                continue;
            }
            let entry = match stored.remove(&id) {
                Some(record) => Entry::stored(around, Some(table), record),
                None => Entry::of_file(around, &id, table),
            };
            present.order.push(id.clone());
            present.tenants.insert(id, Arc::new(entry));
        }
        for (id, record) in stored {
            present
                .tenants
                .insert(id, Arc::new(Entry::stored(around, None, record)));
        }
        present.assembled(around.globals, now)
    }

    /// Takes the records of the store as they are now. Only tenants whose records are others than before are looked at again, so that
    /// nothing that has gone wrong around another tenant meanwhile is noticed by this one's change.
    pub(super) fn refreshed(
        &self,
        around: Surroundings<'_>,
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
            next.put(around, record);
        }
        next.assembled(around.globals, now)
    }

    /// Returns the same with another record of one tenant, whose settings are checked.
    pub(super) fn with_tenant(&self, around: Surroundings<'_>, record: StoredTenant, now: Timestamp) -> Self {
        let mut next = self.copied();
        next.put(around, record);
        next.assembled(around.globals, now)
    }

    /// Returns the same with another status of one tenant. Depends on nothing but its record.
    pub(super) fn with_status(&self, globals: &Globals, record: StoredTenant, now: Timestamp) -> Self {
        let mut next = self.copied();
        if let Some(entry) = next.tenants.get_mut(&record.id) {
            *entry = Arc::new(entry.with_record(record));
        }
        next.assembled(globals, now)
    }

    /// Returns the same with other keys. Depends on nothing but their records.
    pub(super) fn with_keys(&self, globals: &Globals, keys: Vec<StoredKey>, now: Timestamp) -> Self {
        let mut next = self.copied();
        next.keys = keys;
        next.assembled(globals, now)
    }

    /// Whether the configuration file, as it was read last, has the tenant.
    pub(super) fn is_of_file(&self, id: &TenantId) -> bool {
        self.order.contains(id)
    }

    fn put(&mut self, around: Surroundings<'_>, record: StoredTenant) {
        let id = record.id.clone();
        let file = around.source.tenant(id.as_str());
        self.tenants.insert(id, Arc::new(Entry::stored(around, file, record)));
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

    /// Looks at what tenants have in common and makes the configuration. Reads nothing from outside.
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

    /// Lists the tenants in the order in which claims count: those whose settings are the file's first, then those of the store.
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

    pub(super) fn view(&self, id: &TenantId, seal: &Seal) -> Option<TenantView> {
        let faults = self.faults.get(id).map_or(&[][..], Vec::as_slice);
        let warnings = self.warnings.get(id).map_or(&[][..], Vec::as_slice);
        Some(self.tenants.get(id)?.view(id, faults, warnings, seal))
    }
}

/// The stored keys of each tenant.
struct KeysByTenant<'a> {
    keys: HashMap<&'a TenantId, Vec<&'a StoredKey>>,
    /// The hashes of all of them: a key that is stored, revoked ones too, is its own tenant's, whatever a table says.
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

    /// Makes a tenant of which nothing is accepted, as suspended as it is. Its keys are known by their hashes alone.
    fn left_out(&mut self, id: &TenantId, entry: Option<&Entry>) -> Tenant {
        let suspended = entry.is_some_and(|entry| entry.status() == TenantStatus::Suspended);
        let mut tenant = Tenant::left_out(id.clone(), suspended);
        tenant.api_keys = entry.into_iter().flat_map(Entry::table_keys).collect();
        tenant = self.applied(tenant);
        let api_keys = std::mem::take(&mut tenant.api_keys);
        tenant.left_out = Some(LeftOut { api_keys });
        tenant
    }

    /// Takes what is stored of a tenant's keys in the place of what its table says of the same ones.
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
