//! The conversations that wait to be read and embedded in the background, in order, each once.

use std::collections::{HashMap, VecDeque};

use copilotd_actors::domain::ids::Seq;
use copilotd_actors::tenancy::TenantScope;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::cache::Key;

/// What waits.
#[derive(Debug)]
pub(super) struct Waiting {
    most: usize,
    queue: Mutex<Queue>,
    comes: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    order: VecDeque<Key>,
    work: HashMap<Key, (TenantScope, Seq)>,
    /// Whether a piece of work is being done.
    is_working: bool,
}

impl Waiting {
    /// Creates an empty queue for at most so many conversations.
    pub(super) fn new(most: usize) -> Self {
        Self {
            most,
            queue: Mutex::default(),
            comes: Notify::new(),
        }
    }

    /// Adds a conversation, to be read up to a record. Returns false if too many are waiting.
    pub(super) fn push(&self, scope: &TenantScope, key: Key, upto: Seq) -> bool {
        let mut queue = self.queue.lock();
        if let Some((_, known)) = queue.work.get_mut(&key) {
            *known = upto.max(*known);
            return true;
        }
        if queue.work.len() >= self.most {
            return false;
        }
        queue.order.push_back(key.clone());
        queue.work.insert(key, (scope.clone(), upto));
        drop(queue);
        self.comes.notify_one();
        true
    }

    /// Waits for the next one.
    pub(super) async fn next(&self) -> (TenantScope, Key, Seq) {
        loop {
            if let Some(next) = self.pop() {
                return next;
            }
            self.comes.notified().await;
        }
    }

    fn pop(&self) -> Option<(TenantScope, Key, Seq)> {
        let mut queue = self.queue.lock();
        loop {
            let key = queue.order.pop_front()?;
            if let Some((scope, upto)) = queue.work.remove(&key) {
                queue.is_working = true;
                return Some((scope, key, upto));
            }
        }
    }

    /// Says that the work on what [`next`](Self::next) returned last has ended.
    pub(super) fn done(&self) {
        self.queue.lock().is_working = false;
    }

    /// Returns whether nothing waits and nothing is being done.
    #[cfg(any(test, feature = "fakes"))]
    pub(super) fn is_idle(&self) -> bool {
        let queue = self.queue.lock();
        queue.work.is_empty() && !queue.is_working
    }

    /// Removes the conversations that `is_gone` names.
    pub(super) fn remove(&self, is_gone: impl Fn(&Key) -> bool) {
        let mut queue = self.queue.lock();
        queue.work.retain(|key, _| !is_gone(key));
        queue.order.retain(|key| !is_gone(key));
    }
}
