//! Which keys a tenant has, by its table and by the store.

use std::collections::{HashMap, HashSet};

use copilotd_actors::domain::access::key_hash::KeyHash;
use copilotd_actors::domain::ids::TenantId;
use copilotd_actors::domain::tenant::{StoredKey, TenantStatus};
use jiff::Timestamp;

use crate::config::{ApiKey, LeftOut, Tenant};
use crate::tenants::entry::Entry;

/// The stored keys of each tenant.
pub(in crate::tenants) struct KeysByTenant<'a> {
    keys: HashMap<&'a TenantId, Vec<&'a StoredKey>>,
    /// The hashes of all of them: a stored key, even a revoked one, belongs to its tenant whatever a table says.
    hashes: HashSet<&'a KeyHash>,
    now: Timestamp,
}

impl<'a> KeysByTenant<'a> {
    pub(in crate::tenants) fn new(stored: &'a [StoredKey], now: Timestamp) -> Self {
        let mut keys: HashMap<&TenantId, Vec<&StoredKey>> = HashMap::new();
        for key in stored {
            keys.entry(&key.tenant).or_default().push(key);
        }
        let hashes = stored.iter().map(|key| &key.hash).collect();
        Self { keys, hashes, now }
    }

    /// Returns the entry for a tenant that is left out, which also keeps its suspension. Its keys are known only by
    /// hash.
    pub(in crate::tenants) fn left_out(&mut self, id: &TenantId, entry: Option<&Entry>) -> Tenant {
        let suspended = entry.is_some_and(|entry| entry.status() == TenantStatus::Suspended);
        let mut tenant = Tenant::left_out(id.clone(), suspended);
        tenant.api_keys = entry.into_iter().flat_map(Entry::table_keys).collect();
        tenant = self.applied(tenant);
        let api_keys = std::mem::take(&mut tenant.api_keys);
        tenant.left_out = Some(LeftOut { api_keys });
        tenant
    }

    /// Replaces the keys of a tenant's table by the stored ones where both have the same key.
    pub(in crate::tenants) fn applied(&mut self, mut tenant: Tenant) -> Tenant {
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
