//! The bounded queue of messages to learn from.
//!
//! Invariant: at most [`NODE_PLACES`] messages wait or run, at most [`TENANT_PLACES`] of one tenant; a turn has one place at most.

use std::collections::HashMap;
use std::sync::Arc;

use copilotd_actors::domain::ids::{TenantId, TurnId, UserId};
use parking_lot::Mutex;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

/// Messages that wait or run.
const NODE_PLACES: usize = 1_024;
/// Messages of one tenant that wait or run.
const TENANT_PLACES: usize = 64;
/// Model calls at a time.
const NODE_CALLS: usize = 64;
/// Model calls of one tenant at a time.
const TENANT_CALLS: usize = 8;

type Key = (TenantId, UserId);

/// See the module.
#[derive(Debug)]
pub(super) struct Queue {
    state: Mutex<State>,
    left: Notify,
    calls: Arc<Semaphore>,
}

#[derive(Debug, Default)]
struct State {
    places: usize,
    tenants: HashMap<TenantId, OfTenant>,
    /// The turns that wait or run, by user.
    turns: HashMap<Key, Vec<TurnId>>,
}

#[derive(Debug)]
struct OfTenant {
    places: usize,
    calls: Arc<Semaphore>,
}

/// A place in the queue; left when dropped.
#[derive(Debug)]
pub(super) struct Place {
    queue: Arc<Queue>,
    key: Key,
    turn: TurnId,
    of_tenant: Arc<Semaphore>,
}

/// Why there is no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoPlace {
    /// Too many messages wait.
    Full,
    /// The turn has one.
    Taken,
}

impl Default for Queue {
    fn default() -> Self {
        Self {
            state: Mutex::default(),
            left: Notify::new(),
            calls: Arc::new(Semaphore::new(NODE_CALLS)),
        }
    }
}

impl Queue {
    /// Takes a place.
    pub(super) fn enter(self: &Arc<Self>, tenant: &TenantId, user: &UserId, turn: TurnId) -> Result<Place, NoPlace> {
        let key = (tenant.clone(), user.clone());
        let mut state = self.state.lock();
        if state.turns.get(&key).is_some_and(|turns| turns.contains(&turn)) {
            return Err(NoPlace::Taken);
        }
        let places = state.tenants.get(tenant).map_or(0, |of_tenant| of_tenant.places);
        if state.places >= NODE_PLACES || places >= TENANT_PLACES {
            return Err(NoPlace::Full);
        }
        state.places += 1;
        let of_tenant = state.tenants.entry(tenant.clone()).or_insert_with(|| OfTenant {
            places: 0,
            calls: Arc::new(Semaphore::new(TENANT_CALLS)),
        });
        of_tenant.places += 1;
        let of_tenant = Arc::clone(&of_tenant.calls);
        state.turns.entry(key.clone()).or_default().push(turn);
        Ok(Place {
            queue: Arc::clone(self),
            key,
            turn,
            of_tenant,
        })
    }

    /// Waits until no turn of the user but `except` is being learned from. Turns that come later are not waited for.
    pub(super) async fn settled(&self, tenant: &TenantId, user: &UserId, except: TurnId) {
        let key = (tenant.clone(), user.clone());
        let of_user = |state: &State| state.turns.get(&key).cloned().unwrap_or_default();
        let awaited = {
            let mut turns = of_user(&self.state.lock());
            turns.retain(|turn| *turn != except);
            turns
        };
        loop {
            let left = self.left.notified();
            tokio::pin!(left);
            // Registered before the check, so that no end is missed.
            left.as_mut().enable();
            let open = of_user(&self.state.lock());
            if !awaited.iter().any(|turn| open.contains(turn)) {
                return;
            }
            left.await;
        }
    }
}

impl Place {
    /// Waits for the turn to call the model: the tenant's own calls first, so that its waiting ones take no place of others'.
    pub(super) async fn call(&self) -> Option<(OwnedSemaphorePermit, OwnedSemaphorePermit)> {
        let of_tenant = Arc::clone(&self.of_tenant).acquire_owned().await.ok()?;
        let of_node = Arc::clone(&self.queue.calls).acquire_owned().await.ok()?;
        Some((of_tenant, of_node))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.queue.state.lock();
        state.places -= 1;
        if let Some(of_tenant) = state.tenants.get_mut(&self.key.0) {
            of_tenant.places -= 1;
            if of_tenant.places == 0 {
                state.tenants.remove(&self.key.0);
            }
        }
        if let Some(turns) = state.turns.get_mut(&self.key) {
            turns.retain(|turn| *turn != self.turn);
            if turns.is_empty() {
                state.turns.remove(&self.key);
            }
        }
        drop(state);
        self.queue.left.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turn(n: usize) -> TurnId {
        TurnId::new(uuid::Uuid::from_u128(n as u128))
    }

    #[tokio::test(start_paused = true)]
    async fn places_are_bounded_by_tenant_and_node_and_given_back() {
        let queue = Arc::new(Queue::default());
        let ann: UserId = "ann".parse().unwrap();
        let tenant = |n: usize| -> TenantId { format!("t{n}").parse().unwrap() };
        let mut places = Vec::new();
        for of in 0..NODE_PLACES / TENANT_PLACES {
            for n in 0..TENANT_PLACES {
                places.push(queue.enter(&tenant(of), &ann, turn(n)).unwrap());
            }
            assert_eq!(queue.enter(&tenant(of), &ann, turn(0)).unwrap_err(), NoPlace::Taken);
            assert_eq!(queue.enter(&tenant(of), &ann, turn(9_999)).unwrap_err(), NoPlace::Full);
        }
        assert_eq!(queue.enter(&tenant(9_999), &ann, turn(0)).unwrap_err(), NoPlace::Full);
        drop(places);
        let state = queue.state.lock();
        assert!(
            state.places == 0 && state.tenants.is_empty() && state.turns.is_empty(),
            "{state:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_turn_waits_for_the_users_other_turns_alone() {
        let queue = Arc::new(Queue::default());
        let (acme, ann): (TenantId, UserId) = ("acme".parse().unwrap(), "ann".parse().unwrap());
        let first = queue.enter(&acme, &ann, turn(1)).unwrap();
        let own = queue.enter(&acme, &ann, turn(2)).unwrap();
        let _other = queue.enter(&acme, &"bob".parse().unwrap(), turn(3)).unwrap();
        let settled = queue.settled(&acme, &ann, turn(2));
        tokio::pin!(settled);
        let is_pending = tokio::time::timeout(std::time::Duration::from_secs(1), settled.as_mut()).await;
        assert!(is_pending.is_err());
        // A turn that comes later is not waited for.
        let _later = queue.enter(&acme, &ann, turn(4)).unwrap();
        drop(first);
        settled.await;
        drop(own);
    }
}
