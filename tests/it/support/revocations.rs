//! A revocation store in memory.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use copilotd_actors::domain::access::revocation::{
    Revocation, RevocationId, StoredRevocations, Subject, UnreadableRevocation,
};
use copilotd_actors::domain::ids::TenantId;
use copilotd_actors::ports::{LogError, RevocationStore};
use jiff::Timestamp;
use parking_lot::Mutex;

/// A revocation store in memory.
#[derive(Default)]
pub struct MemoryRevocations {
    stored: Mutex<HashMap<RevocationId, Revocation>>,
    /// Records that cannot be read.
    pub unreadable: Mutex<Vec<UnreadableRevocation>>,
    /// Whether the store fails.
    pub away: AtomicBool,
}

impl MemoryRevocations {
    fn stored<T>(&self, work: impl FnOnce(&mut HashMap<RevocationId, Revocation>) -> T) -> Result<T, LogError> {
        if self.away.load(Ordering::Relaxed) {
            return Err(LogError::Unavailable("it is away".to_owned()));
        }
        Ok(work(&mut self.stored.lock()))
    }
}

#[async_trait]
impl RevocationStore for MemoryRevocations {
    async fn revocations(&self) -> Result<StoredRevocations, LogError> {
        let unreadable = self.unreadable.lock().clone();
        self.stored(|stored| StoredRevocations {
            readable: stored.values().cloned().collect(),
            unreadable,
        })
    }

    async fn put_revocation(&self, revocation: &Revocation) -> Result<(), LogError> {
        self.stored(|stored| _ = stored.insert(revocation.id(), revocation.clone()))
    }

    async fn delete_revocation(&self, tenant: &TenantId, subject: &Subject) -> Result<(), LogError> {
        self.stored(|stored| _ = stored.remove(&RevocationId::of(tenant, subject)))
    }

    async fn delete_expired_revocations(&self, now: Timestamp) -> Result<(), LogError> {
        self.stored(|stored| stored.retain(|_, revocation| revocation.expires_at > now))
    }
}
