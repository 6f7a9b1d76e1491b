//! Admission control: refuses turns before they queue without bound, and keeps one tenant from filling a node.
//!
//! A turn that is running, or queued behind one that is, holds a *turn permit*. A turn that only waits for a
//! person's decision holds none, nor do the turns queued behind it; its conversation holds an *approval permit* from
//! the request to the decision, even while it is not in memory.
//!
//! Invariant: a tenant gets a turn permit only while it holds fewer than are free. One tenant alone therefore gets
//! at most half of them, two get a third each, and some are always left for the next. An accepted turn is never refused
//! later: recovery and expired approvals may exceed the limits, and then new turns are refused until enough work is
//! done, except for tenants with few turns.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;
use std::sync::atomic::{AtomicUsize, Ordering};

use dashmap::DashMap;
use parking_lot::{Mutex, MutexGuard};

use super::shared::Bounds;
use crate::domain::ids::{ConversationId, UserId};
use crate::tenancy::TenantScope;

/// A tenant with fewer turns than this is admitted even when the node is at its limit: turns that others resumed beyond
/// the limits, such as approvals that expired together, must not block it. The number of tenants bounds the excess.
const SMALL_TENANT_TURNS: usize = 16;

/// Turn and approval counts of one process.
#[derive(Debug, Default)]
pub struct Admission {
    open: AtomicUsize,
    working: AtomicUsize,
    busy: AtomicUsize,
    waiting: AtomicUsize,
    queued: AtomicUsize,
    tenants: DashMap<TenantScope, usize>,
    approvals: Mutex<Approvals>,
}

/// The limit that was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TurnLimit {
    /// Of the process.
    Node,
    /// Of the tenant.
    Tenant,
    /// Of the user.
    User,
}

/// Open turns of one conversation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TurnCounts {
    /// All open turns.
    pub open: usize,
    /// Turns that hold a turn permit.
    pub working: usize,
    /// Turns queued behind another one.
    pub queued: usize,
    /// Whether a turn is running.
    pub busy: bool,
    /// Whether a turn waits for its provider or for a limit.
    pub waiting: bool,
}

impl Admission {
    /// Takes a turn permit if the tenant may have one. Atomic: concurrent calls never take the same permit.
    pub(crate) fn admit(&self, scope: &TenantScope, bounds: &Bounds) -> Result<(), TurnLimit> {
        let mut held = self.tenants.entry(scope.clone()).or_default();
        let small = *held < SMALL_TENANT_TURNS.min(bounds.node_turns / 1000);
        let limit = if *held >= bounds.tenant_turns {
            Some(TurnLimit::Tenant)
        } else {
            let mine = *held;
            let mut why = TurnLimit::Node;
            let taken = self.working.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |all| {
                let free = if small {
                    usize::MAX
                } else {
                    bounds.node_turns.saturating_sub(all)
                };
                why = if free == 0 { TurnLimit::Node } else { TurnLimit::Tenant };
                (mine < free).then_some(all + 1)
            });
            taken.err().map(|_| why)
        };
        if limit.is_none() {
            *held += 1;
            self.open.fetch_add(1, Ordering::Relaxed);
        }
        let none = *held == 0;
        drop(held);
        if none {
            self.tenants.remove_if(scope, |_, held| *held == 0);
        }
        limit.map_or(Ok(()), Err)
    }

    /// Replaces one conversation's contribution to the counts.
    pub(crate) fn count(&self, scope: &TenantScope, before: TurnCounts, after: TurnCounts) {
        if before == after {
            return;
        }
        // Wrapping arithmetic: the sum of all corrections is the current count.
        let correct = |sum: &AtomicUsize, before: usize, after: usize| {
            sum.fetch_add(after.wrapping_sub(before), Ordering::Relaxed);
        };
        correct(&self.open, before.open, after.open);
        correct(&self.queued, before.queued, after.queued);
        correct(&self.busy, usize::from(before.busy), usize::from(after.busy));
        correct(&self.waiting, usize::from(before.waiting), usize::from(after.waiting));
        correct(&self.working, before.working, after.working);
        if before.working == after.working {
            return;
        }
        let mut held = self.tenants.entry(scope.clone()).or_default();
        *held = held.wrapping_add(after.working).wrapping_sub(before.working);
        let none = *held == 0;
        drop(held);
        if none {
            self.tenants.remove_if(scope, |_, held| *held == 0);
        }
    }

    /// Takes an approval permit for a conversation if its user and tenant may have one; keeps one that it already
    /// holds.
    pub(crate) fn acquire_approval(
        &self,
        conversation: ConversationId,
        owner: (&TenantScope, &UserId),
        bounds: &Bounds,
    ) -> bool {
        self.approvals().take(conversation, owner, Some(bounds))
    }

    /// Records whether a conversation has a call that waits for approval. Never refused: the call is waiting already.
    pub(crate) fn set_approval(&self, conversation: ConversationId, owner: (&TenantScope, &UserId), waits: bool) {
        if waits {
            self.approvals().take(conversation, owner, None);
        } else {
            self.approvals().release(conversation);
        }
    }

    fn approvals(&self) -> MutexGuard<'_, Approvals> {
        self.approvals.lock()
    }

    /// Returns the number of running turns, without those that wait for a person or a provider.
    pub fn busy(&self) -> usize {
        self.busy.load(Ordering::Relaxed)
    }

    /// Returns the number of open turns of the conversations in memory.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Returns the number of open turns that hold a turn permit.
    pub fn working(&self) -> usize {
        self.working.load(Ordering::Relaxed)
    }

    /// Returns the number of conversations with a call that waits for approval, in memory or not.
    pub fn awaiting_approval(&self) -> usize {
        self.approvals().held.len()
    }

    /// Returns the open turns of this process by state. Read while they change, so sums may be off by a few.
    pub fn by_state(&self) -> OpenTurns {
        OpenTurns {
            queued: self.queued.load(Ordering::Relaxed),
            running: self.busy(),
            waiting: self.waiting.load(Ordering::Relaxed),
            awaiting_approval: self.awaiting_approval(),
        }
    }
}

/// Open turns of one process by state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenTurns {
    /// Turns queued behind another one.
    pub queued: usize,
    /// Running turns.
    pub running: usize,
    /// Turns that wait for their provider or for a limit.
    pub waiting: usize,
    /// Conversations with a call that waits for approval.
    pub awaiting_approval: usize,
}

/// Approval permits, one per conversation because its turns run one after the other.
#[derive(Debug, Default)]
struct Approvals {
    held: HashMap<ConversationId, (TenantScope, UserId)>,
    tenants: HashMap<TenantScope, usize>,
    users: HashMap<(TenantScope, UserId), usize>,
}

impl Approvals {
    fn take(
        &mut self,
        conversation: ConversationId,
        (scope, user): (&TenantScope, &UserId),
        bounds: Option<&Bounds>,
    ) -> bool {
        if self.held.contains_key(&conversation) {
            return true;
        }
        let owner = (scope.clone(), user.clone());
        if let Some(bounds) = bounds {
            let of_tenant = self.tenants.get(scope).copied().unwrap_or_default();
            let of_user = self.users.get(&owner).copied().unwrap_or_default();
            if of_tenant >= bounds.tenant_approvals || of_user >= bounds.user_approvals {
                return false;
            }
        }
        *self.tenants.entry(scope.clone()).or_default() += 1;
        *self.users.entry(owner.clone()).or_default() += 1;
        self.held.insert(conversation, owner);
        true
    }

    fn release(&mut self, conversation: ConversationId) {
        if let Some(owner) = self.held.remove(&conversation) {
            decrement(&mut self.tenants, owner.0.clone());
            decrement(&mut self.users, owner);
        }
    }
}

fn decrement<K: Eq + Hash>(counts: &mut HashMap<K, usize>, key: K) {
    if let Entry::Occupied(mut entry) = counts.entry(key) {
        *entry.get_mut() = entry.get().saturating_sub(1);
        if *entry.get() == 0 {
            entry.remove();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::disallowed_methods, reason = "a test acts as a credential verifier")]
    fn tenant(n: usize) -> TenantScope {
        TenantScope::from_verified(format!("t{n}").parse().unwrap())
    }

    /// Admits turns of a tenant until one is refused.
    fn flood(admission: &Admission, n: usize, bounds: &Bounds) -> (usize, TurnLimit) {
        let mut admitted = 0;
        loop {
            match admission.admit(&tenant(n), bounds) {
                Ok(()) => admitted += 1,
                Err(limit) => return (admitted, limit),
            }
        }
    }

    #[test]
    fn no_number_of_tenants_takes_the_whole_node() {
        let bounds = Bounds::default();
        let admission = Admission::default();
        assert_eq!(flood(&admission, 0, &bounds), (10_000, TurnLimit::Tenant));
        assert_eq!(flood(&admission, 1, &bounds), (5_000, TurnLimit::Tenant));
        assert_eq!(flood(&admission, 2, &bounds), (2_500, TurnLimit::Tenant));
        for n in 3..300 {
            assert!(flood(&admission, n, &bounds).0 >= 1, "tenant {n}");
        }
        assert!(admission.working() <= bounds.node_turns + 300 * SMALL_TENANT_TURNS);
        // A small tenant is admitted however many turns others resumed beyond the limits.
        let resumed = TurnCounts {
            working: 50_000,
            ..TurnCounts::default()
        };
        admission.count(&tenant(0), TurnCounts::default(), resumed);
        assert_eq!(flood(&admission, 1_000, &bounds), (SMALL_TENANT_TURNS, TurnLimit::Node));
    }

    #[test]
    fn what_waits_for_a_person_holds_no_working_place() {
        let bounds = Bounds::default();
        let admission = Admission::default();
        let waiting = TurnCounts {
            open: 1,
            ..TurnCounts::default()
        };
        let admitted = TurnCounts { working: 1, ..waiting };
        for n in 0..2 {
            for _ in 0..10_000 {
                admission.admit(&tenant(n), &bounds).unwrap();
                admission.count(&tenant(n), admitted, waiting);
            }
        }
        assert_eq!((admission.open(), admission.working()), (20_000, 0));
        assert_eq!(flood(&admission, 2, &bounds), (10_000, TurnLimit::Tenant));
        for n in 0..2 {
            (0..10_000).for_each(|_| admission.count(&tenant(n), waiting, TurnCounts::default()));
        }
        assert_eq!((admission.open(), admission.tenants.len()), (10_000, 1));
    }

    #[test]
    fn approval_places_are_bounded_and_come_back() {
        let bounds = Bounds {
            user_approvals: 2,
            tenant_approvals: 3,
            ..Bounds::default()
        };
        let admission = Admission::default();
        let (tenant, ada, bob) = (tenant(0), "ada".parse().unwrap(), "bob".parse().unwrap());
        let id = |n| ConversationId::new(uuid::Uuid::from_u128(n));
        let take = |n, user: &UserId| admission.acquire_approval(id(n), (&tenant, user), &bounds);
        assert!(
            take(1, &ada) && take(2, &ada) && take(2, &ada),
            "a conversation keeps the permit it holds"
        );
        assert!(!take(3, &ada));
        assert!(take(3, &bob));
        assert!(!take(4, &bob), "the tenant's permits are used up");
        // Calls that wait already are counted beyond the limits.
        admission.set_approval(id(5), (&tenant, &bob), true);
        assert_eq!(admission.awaiting_approval(), 4);
        for n in [1, 1, 2, 3, 5, 9] {
            admission.set_approval(id(n), (&tenant, &ada), false);
        }
        let approvals = admission.approvals();
        assert_eq!(
            (approvals.held.len(), approvals.tenants.len(), approvals.users.len()),
            (0, 0, 0)
        );
    }
}
