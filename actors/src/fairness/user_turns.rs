//! Open turns of each user, so that one user cannot take all permits of its tenant.

use std::sync::Arc;

use dashmap::DashMap;

use crate::domain::ids::{TenantId, UserId};

type Key = (TenantId, UserId);

/// Counts open turns of this process by user, without those that only wait for people or their pages.
#[derive(Debug, Default)]
pub struct UserTurns(Arc<DashMap<Key, usize>>);

/// Permit of one open turn; returned on drop.
#[derive(Debug)]
pub struct UserTurnPermit {
    key: Key,
    all: Arc<DashMap<Key, usize>>,
}

impl UserTurns {
    /// Takes a permit if the user has fewer than `most`. Atomic: concurrent calls never take the same permit.
    pub fn take(&self, tenant: &TenantId, user: &UserId, most: usize) -> Option<UserTurnPermit> {
        self.permit(tenant, user, most)
    }

    /// Counts a turn that is open already, beyond the limit if need be.
    pub fn count(&self, tenant: &TenantId, user: &UserId) -> Option<UserTurnPermit> {
        self.permit(tenant, user, usize::MAX)
    }

    /// Returns the number of a user's open turns.
    pub fn open(&self, tenant: &TenantId, user: &UserId) -> usize {
        self.0.get(&(tenant.clone(), user.clone())).map_or(0, |open| *open)
    }

    fn permit(&self, tenant: &TenantId, user: &UserId, most: usize) -> Option<UserTurnPermit> {
        let key = (tenant.clone(), user.clone());
        let mut open = self.0.entry(key.clone()).or_default();
        // An entry of zero remains only if `most` is zero.
        if *open >= most {
            return None;
        }
        *open += 1;
        drop(open);
        Some(UserTurnPermit {
            key,
            all: Arc::clone(&self.0),
        })
    }
}

impl Drop for UserTurnPermit {
    fn drop(&mut self) {
        if let Some(mut open) = self.all.get_mut(&self.key) {
            *open -= 1;
        }
        self.all.remove_if(&self.key, |_, open| *open == 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_counted_by_user_and_given_back() {
        let (turns, acme) = (UserTurns::default(), "acme".parse::<TenantId>().unwrap());
        let (ada, bob) = ("ada".parse::<UserId>().unwrap(), "bob".parse::<UserId>().unwrap());
        let taken: Vec<_> = (0..5).map_while(|_| turns.take(&acme, &ada, 3)).collect();
        assert_eq!((taken.len(), turns.open(&acme, &ada)), (3, 3));
        assert!(turns.take(&acme, &bob, 3).is_some());
        let globex = "globex".parse::<TenantId>().unwrap();
        assert!(turns.take(&globex, &ada, 3).is_some());
        // Turns that are open already always count.
        let more = turns.count(&acme, &ada);
        assert_eq!(turns.open(&acme, &ada), 4);
        drop((taken, more));
        assert_eq!(turns.open(&acme, &ada), 0);
        assert!(turns.0.is_empty());
    }
}
