//! Admission: work is refused at the door before it queues without bound, and no tenant takes all of a node.
//!
//! A turn that is worked on, or waits behind one that is, holds a *working place*. A turn that only waits for a person holds
//! none, and neither do those behind it: it holds an *approval place*, from the request to the decision, also while its
//! conversation is not in memory.
//!
//! Invariant: a tenant takes a working place only while it holds fewer than are free. So one tenant alone takes at most half of
//! them, two a third each, and there are always some left for another. What was accepted once is never refused: recovery and
//! approvals that run out can pass the bounds, and then the door is closed until the work is done, but to tenants with little.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use dashmap::DashMap;

use crate::domain::ids::{ConversationId, TenantId, UserId};
use crate::shared::Bounds;

/// A tenant with fewer turns than this is admitted to a full node too: what others have resumed beyond the bounds, such as
/// approvals that ran out together, is not its business. The number of tenants bounds what that comes to.
const SMALL: usize = 16;

/// Counts of one process.
#[derive(Debug, Default)]
pub struct Admission {
    open: AtomicUsize,
    working: AtomicUsize,
    busy: AtomicUsize,
    waiting: AtomicUsize,
    queued: AtomicUsize,
    tenants: DashMap<TenantId, usize>,
    approvals: Mutex<Approvals>,
}

/// Which bound is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    /// The process'.
    Node,
    /// The tenant's.
    Tenant,
    /// The user's.
    User,
}

/// Open turns of one conversation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TurnCounts {
    /// All of them.
    pub open: usize,
    /// Those that hold a working place.
    pub working: usize,
    /// Those that wait behind another one.
    pub queued: usize,
    /// Whether one is being worked on.
    pub busy: bool,
    /// Whether one waits for its provider, or for a limit.
    pub waiting: bool,
}

impl Admission {
    /// Takes a working place, if there is one for this tenant. Two that ask at once do not get the same place.
    pub fn admit(&self, tenant: &TenantId, bounds: &Bounds) -> Result<(), Full> {
        let mut held = self.tenants.entry(tenant.clone()).or_default();
        let small = *held < SMALL.min(bounds.node_turns / 1000);
        let full = if *held >= bounds.tenant_turns {
            Some(Full::Tenant)
        } else {
            let mine = *held;
            let mut why = Full::Node;
            let taken = self.working.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |all| {
                let free = if small {
                    usize::MAX
                } else {
                    bounds.node_turns.saturating_sub(all)
                };
                why = if free == 0 { Full::Node } else { Full::Tenant };
                (mine < free).then_some(all + 1)
            });
            taken.err().map(|_| why)
        };
        if full.is_none() {
            *held += 1;
            self.open.fetch_add(1, Ordering::Relaxed);
        }
        let none = *held == 0;
        drop(held);
        if none {
            self.tenants.remove_if(tenant, |_, held| *held == 0);
        }
        full.map_or(Ok(()), Err)
    }

    /// Corrects the counts of one conversation of a tenant.
    pub fn count(&self, tenant: &TenantId, before: TurnCounts, after: TurnCounts) {
        if before == after {
            return;
        }
        // Wrapping arithmetic: the sum over all corrections is what is there.
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
        let mut held = self.tenants.entry(tenant.clone()).or_default();
        *held = held.wrapping_add(after.working).wrapping_sub(before.working);
        let none = *held == 0;
        drop(held);
        if none {
            self.tenants.remove_if(tenant, |_, held| *held == 0);
        }
    }

    /// Takes an approval place for a conversation, if there is one for its user. It keeps the one that it has.
    pub fn take_approval(&self, conversation: ConversationId, owner: (&TenantId, &UserId), bounds: &Bounds) -> bool {
        self.approvals().take(conversation, owner, Some(bounds))
    }

    /// Says that a conversation has a call that waits for a person, or none. What waits already is never refused.
    pub fn set_approval(&self, conversation: ConversationId, owner: (&TenantId, &UserId), waits: bool) {
        if waits {
            self.approvals().take(conversation, owner, None);
        } else {
            self.approvals().release(conversation);
        }
    }

    fn approvals(&self) -> MutexGuard<'_, Approvals> {
        self.approvals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Turns that are being worked on; those that only wait, for a person or for a provider, are not.
    pub fn busy(&self) -> usize {
        self.busy.load(Ordering::Relaxed)
    }

    /// Open turns of the conversations in memory.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Open turns that hold a working place.
    pub fn working(&self) -> usize {
        self.working.load(Ordering::Relaxed)
    }

    /// Conversations with a call that waits for a person, in memory or not.
    pub fn awaiting_approval(&self) -> usize {
        self.approvals().held.len()
    }

    /// Open turns of this process by what they are doing. Taken while they change, so that sums may be off by a few.
    pub fn by_state(&self) -> OpenTurns {
        OpenTurns {
            queued: self.queued.load(Ordering::Relaxed),
            running: self.busy(),
            waiting: self.waiting.load(Ordering::Relaxed),
            awaiting_approval: self.awaiting_approval(),
        }
    }
}

/// Open turns of one process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenTurns {
    /// Those that wait behind another one.
    pub queued: usize,
    /// Those that are being worked on.
    pub running: usize,
    /// Those that wait for their provider, or for a limit.
    pub waiting: usize,
    /// Those with a call that waits for a person.
    pub awaiting_approval: usize,
}

/// Approval places, by conversation: the turns of one are worked on one after the other.
#[derive(Debug, Default)]
struct Approvals {
    held: HashMap<ConversationId, (TenantId, UserId)>,
    tenants: HashMap<TenantId, usize>,
    users: HashMap<(TenantId, UserId), usize>,
}

impl Approvals {
    fn take(
        &mut self,
        conversation: ConversationId,
        (tenant, user): (&TenantId, &UserId),
        bounds: Option<&Bounds>,
    ) -> bool {
        if self.held.contains_key(&conversation) {
            return true;
        }
        let owner = (tenant.clone(), user.clone());
        if let Some(bounds) = bounds {
            let of_tenant = self.tenants.get(tenant).copied().unwrap_or_default();
            let of_user = self.users.get(&owner).copied().unwrap_or_default();
            if of_tenant >= bounds.tenant_approvals || of_user >= bounds.user_approvals {
                return false;
            }
        }
        *self.tenants.entry(tenant.clone()).or_default() += 1;
        *self.users.entry(owner.clone()).or_default() += 1;
        self.held.insert(conversation, owner);
        true
    }

    fn release(&mut self, conversation: ConversationId) {
        if let Some(owner) = self.held.remove(&conversation) {
            one_less(&mut self.tenants, owner.0.clone());
            one_less(&mut self.users, owner);
        }
    }
}

fn one_less<K: Eq + Hash>(counts: &mut HashMap<K, usize>, key: K) {
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

    fn tenant(n: usize) -> TenantId {
        format!("t{n}").parse().unwrap()
    }

    /// Lets a tenant in until it is refused.
    fn flood(admission: &Admission, n: usize, bounds: &Bounds) -> (usize, Full) {
        let mut admitted = 0;
        loop {
            match admission.admit(&tenant(n), bounds) {
                Ok(()) => admitted += 1,
                Err(full) => return (admitted, full),
            }
        }
    }

    #[test]
    fn no_number_of_tenants_takes_the_whole_node() {
        let bounds = Bounds::default();
        let admission = Admission::default();
        assert_eq!(flood(&admission, 0, &bounds), (10_000, Full::Tenant));
        assert_eq!(flood(&admission, 1, &bounds), (5_000, Full::Tenant));
        assert_eq!(flood(&admission, 2, &bounds), (2_500, Full::Tenant));
        for n in 3..300 {
            assert!(flood(&admission, n, &bounds).0 >= 1, "tenant {n}");
        }
        assert!(admission.working() <= bounds.node_turns + 300 * SMALL);
        // However much others resume beyond the bounds, a small tenant is let in.
        let resumed = TurnCounts {
            working: 50_000,
            ..TurnCounts::default()
        };
        admission.count(&tenant(0), TurnCounts::default(), resumed);
        assert_eq!(flood(&admission, 1_000, &bounds), (SMALL, Full::Node));
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
        assert_eq!(flood(&admission, 2, &bounds), (10_000, Full::Tenant));
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
        let take = |n, user: &UserId| admission.take_approval(id(n), (&tenant, user), &bounds);
        assert!(
            take(1, &ada) && take(2, &ada) && take(2, &ada),
            "the one that it has is its own"
        );
        assert!(!take(3, &ada));
        assert!(take(3, &bob));
        assert!(!take(4, &bob), "the tenant has no more");
        // What waits already is counted beyond the bounds.
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
