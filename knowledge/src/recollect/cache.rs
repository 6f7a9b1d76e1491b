//! The conversations that are in memory: a bounded cache, whose entries can be lost at any moment.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use copilotd_actors::domain::ids::{ConversationId, TenantId};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::remembered::Remembered;

/// A conversation of a tenant.
pub(super) type Key = (TenantId, ConversationId);
/// A conversation that several calls work on; never locked across an await.
pub(super) type Shared = Arc<Mutex<Remembered>>;

/// The conversations in memory.
#[derive(Debug)]
pub(super) struct Cache {
    max_bytes: usize,
    idle: Duration,
    entries: Mutex<Entries>,
}

#[derive(Debug, Default)]
struct Entries {
    of: HashMap<Key, Entry>,
    bytes: usize,
}

#[derive(Debug)]
struct Entry {
    conversation: Shared,
    bytes: usize,
    used_at: Instant,
}

impl Cache {
    /// Creates an empty cache of so many bytes, whose entries are dropped after `idle` without use.
    pub(super) fn new(max_bytes: usize, idle: Duration) -> Self {
        Self {
            max_bytes,
            idle,
            entries: Mutex::default(),
        }
    }

    /// Returns a conversation; an empty one if it is not in memory.
    pub(super) fn get(&self, key: &Key) -> Shared {
        let mut entries = self.entries.lock();
        let used_at = Instant::now();
        if let Some(entry) = entries.of.get_mut(key) {
            entry.used_at = used_at;
            return Arc::clone(&entry.conversation);
        }
        let conversation = Shared::default();
        let entry = Entry {
            conversation: Arc::clone(&conversation),
            bytes: 0,
            used_at,
        };
        entries.of.insert(key.clone(), entry);
        conversation
    }

    /// Takes the size of a conversation after work on it, and makes room if there are too many.
    pub(super) fn measured(&self, key: &Key, conversation: &Shared, bytes: usize) {
        let mut entries = self.entries.lock();
        let Some(entry) = entries.of.get_mut(key) else { return };
        // Erased or dropped meanwhile, and read again by another call.
        if !Arc::ptr_eq(&entry.conversation, conversation) {
            return;
        }
        let before = std::mem::replace(&mut entry.bytes, bytes);
        entries.bytes = entries.bytes + bytes - before;
        if entries.bytes > self.max_bytes {
            // Some more than necessary, so that the next calls need not look for the oldest again.
            entries.shrink(self.max_bytes / 8 * 7, key);
        }
    }

    /// Drops what was not used for a while.
    pub(super) fn drop_idle(&self) {
        let mut entries = self.entries.lock();
        let idle = self.idle;
        entries.of.retain(|_, entry| entry.used_at.elapsed() < idle);
        entries.bytes = entries.of.values().map(|entry| entry.bytes).sum();
    }

    /// Drops the conversations that `is_gone` names.
    pub(super) fn remove(&self, is_gone: impl Fn(&Key) -> bool) {
        let mut entries = self.entries.lock();
        entries.of.retain(|key, _| !is_gone(key));
        entries.bytes = entries.of.values().map(|entry| entry.bytes).sum();
    }
}

impl Entries {
    /// Drops the least recently used, but not `kept`, until there are at most `bytes`.
    fn shrink(&mut self, bytes: usize, kept: &Key) {
        let mut by_use: Vec<(Instant, Key)> = self
            .of
            .iter()
            .map(|(key, entry)| (entry.used_at, key.clone()))
            .collect();
        by_use.sort_unstable();
        for (_, key) in by_use.into_iter().filter(|(_, key)| key != kept) {
            if self.bytes <= bytes {
                return;
            }
            self.bytes -= self.of.remove(&key).map_or(0, |entry| entry.bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u128) -> Key {
        ("acme".parse().unwrap(), ConversationId::new(uuid::Uuid::from_u128(n)))
    }

    fn known(cache: &Cache) -> Vec<u128> {
        let entries = cache.entries.lock();
        let mut known: Vec<u128> = entries.of.keys().map(|(_, id)| id.uuid().as_u128()).collect();
        known.sort_unstable();
        assert_eq!(
            entries.bytes,
            entries.of.values().map(|entry| entry.bytes).sum::<usize>()
        );
        known
    }

    #[tokio::test(start_paused = true)]
    async fn the_least_recently_used_make_room_and_the_idle_go() {
        let cache = Cache::new(800, Duration::from_secs(60));
        for n in 1..=4 {
            let conversation = cache.get(&key(n));
            cache.measured(&key(n), &conversation, 200);
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        assert_eq!(known(&cache), [1, 2, 3, 4]);
        let first = cache.get(&key(1));
        tokio::time::advance(Duration::from_secs(1)).await;
        let fifth = cache.get(&key(5));
        cache.measured(&key(5), &fifth, 200);
        assert_eq!(known(&cache), [1, 4, 5]);
        // One that alone is too large stays alone.
        cache.measured(&key(1), &first, 5_000);
        assert_eq!(known(&cache), [1]);
        // A size that comes after the entry was dropped does not count.
        cache.measured(&key(5), &fifth, 300);
        cache.remove(|key| key.1.uuid().as_u128() == 1);
        cache.get(&key(1));
        cache.measured(&key(1), &first, 300);
        assert_eq!(known(&cache), [1]);
        assert_eq!(cache.entries.lock().bytes, 0);
        tokio::time::advance(Duration::from_secs(59)).await;
        cache.drop_idle();
        assert_eq!(known(&cache), [1]);
        tokio::time::advance(Duration::from_secs(2)).await;
        cache.drop_idle();
        assert_eq!(known(&cache), []);
    }
}
