//! When keys were last used, in memory and in the store.

use std::collections::HashMap;
use std::sync::Arc;

use copilotd_actors::domain::access::key_hash::KeyHash;
use copilotd_actors::domain::tenant::KeyUse;
use copilotd_actors::ports::{LogError, TenantStore};
use jiff::Timestamp;
use parking_lot::Mutex;

/// The last use of each key.
pub(super) struct LastUses {
    store: Arc<dyn TenantStore>,
    known: Mutex<HashMap<KeyHash, Timestamp>>,
}

impl LastUses {
    /// Reads the stored last uses.
    pub(super) async fn open(store: Arc<dyn TenantStore>) -> Result<Self, LogError> {
        let stored = store.key_uses().await?;
        Ok(Self {
            store,
            known: Mutex::new(stored.into_iter().map(|used| (used.hash, used.at)).collect()),
        })
    }

    /// Returns when a key was last used, to the minute.
    pub(super) fn of(&self, hash: &KeyHash) -> Option<Timestamp> {
        self.known.lock().get(hash).copied()
    }

    /// Records uses that are later than the known ones.
    pub(super) async fn record(&self, uses: Vec<(KeyHash, Timestamp)>) -> Result<(), LogError> {
        let fresh: Vec<KeyUse> = {
            let mut known = self.known.lock();
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

    /// Forgets keys, in memory.
    pub(super) fn forget<'a>(&self, hashes: impl IntoIterator<Item = &'a KeyHash>) {
        let mut known = self.known.lock();
        hashes.into_iter().for_each(|hash| _ = known.remove(hash));
    }
}
