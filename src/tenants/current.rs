//! The live tenants: those of the file and of the store, and the configuration assembled from both.
//!
//! Building cannot fail: a tenant with a fault is left out. Then the process knows only its id, accepts none of its
//! credentials, and still reserves its issuers and keys for it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use copilotd_actors::domain::ids::TenantId;
use copilotd_actors::domain::tenant::{StoredKey, StoredTenant};
use jiff::Timestamp;

use super::api_keys::KeysByTenant;
use super::cipher::Cipher;
use super::entry::{CheckContext, Entry};
use super::error::SettingsFault;
use super::view::{Origin, TenantView};
use crate::config::{Config, Globals, conflicts};

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
