//! A tenant store in memory.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use copilotd_actors::domain::access::key_hash::KeyHash;
use copilotd_actors::domain::ids::{JobId, TenantId};
use copilotd_actors::domain::tenant::{KeyUse, StoredKey, StoredTenant};
use copilotd_actors::ports::{LogError, TenantStore};
use parking_lot::Mutex;

/// A tenant store in memory.
#[derive(Default)]
pub struct MemoryTenants {
    kept: Mutex<Kept>,
    /// Whether the store fails.
    pub away: AtomicBool,
    /// Whether reads fail.
    pub unlisted: AtomicBool,
}

#[derive(Default)]
struct Kept {
    tenants: BTreeMap<String, StoredTenant>,
    keys: BTreeMap<[u8; 32], StoredKey>,
    uses: BTreeMap<[u8; 32], KeyUse>,
}

impl MemoryTenants {
    fn kept<T>(&self, work: impl FnOnce(&mut Kept) -> T) -> Result<T, LogError> {
        if self.away.load(Ordering::Relaxed) {
            return Err(LogError::Unavailable("it is away".to_owned()));
        }
        Ok(work(&mut self.kept.lock()))
    }

    /// Deletes a tenant that is marked for deletion by this job.
    pub fn delete_marked(&self, tenant: &TenantId, job: JobId) -> Result<bool, LogError> {
        self.kept(|kept| {
            let marked = kept.tenants.get(tenant.as_str());
            let is_own = marked.is_some_and(|marked| marked.deletion == Some(job));
            is_own && kept.tenants.remove(tenant.as_str()).is_some()
        })
    }

    fn listed<T>(&self, work: impl FnOnce(&mut Kept) -> T) -> Result<T, LogError> {
        if self.unlisted.load(Ordering::Relaxed) {
            return Err(LogError::Corrupt("a row of another tenant".to_owned()));
        }
        self.kept(work)
    }
}

#[async_trait]
impl TenantStore for MemoryTenants {
    async fn tenants(&self) -> Result<Vec<StoredTenant>, LogError> {
        self.listed(|kept| kept.tenants.values().cloned().collect())
    }

    async fn put_tenant(&self, tenant: &StoredTenant) -> Result<(), LogError> {
        self.kept(|kept| _ = kept.tenants.insert(tenant.id.to_string(), tenant.clone()))
    }

    async fn keys(&self) -> Result<Vec<StoredKey>, LogError> {
        let mut keys: Vec<StoredKey> = self.listed(|kept| kept.keys.values().cloned().collect())?;
        keys.sort_by_key(|key| std::cmp::Reverse(key.created_at));
        Ok(keys)
    }

    async fn put_key(&self, key: &StoredKey) -> Result<(), LogError> {
        self.kept(|kept| _ = kept.keys.insert(*key.hash.bytes(), key.clone()))
    }

    async fn delete_keys(&self, hashes: &[KeyHash]) -> Result<(), LogError> {
        self.kept(|kept| {
            for hash in hashes {
                kept.keys.remove(hash.bytes());
                kept.uses.remove(hash.bytes());
            }
        })
    }

    async fn key_uses(&self) -> Result<Vec<KeyUse>, LogError> {
        self.kept(|kept| kept.uses.values().copied().collect())
    }

    async fn put_key_uses(&self, uses: &[KeyUse]) -> Result<(), LogError> {
        self.kept(|kept| {
            for used in uses {
                kept.uses.insert(*used.hash.bytes(), *used);
            }
        })
    }
}
