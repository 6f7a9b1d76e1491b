//! A queue that owners share fairly by the cost of their items: start-time fair queueing. Pure.
//!
//! Used by the compute pool for its jobs and by schema checks for their permits. Invariants: of two owners that always
//! have items waiting, neither gets ahead of the other by more than the largest items of both; the length is bounded,
//! per owner and in total; a removed item is never served and delays nothing.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::Hash;

/// Empty lanes that are remembered, so that an owner which always has one item in progress is charged for it.
const MAX_IDLE_LANES: usize = 1024;
/// Added to every cost, because taking an item is not free.
pub const BASE_COST: u64 = 4 * 1024;

/// Length limits of a queue.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Items of one owner.
    pub owner: usize,
    /// Items of all owners.
    pub all: usize,
}

/// The queue is full, for this owner or in total.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueFull;

/// Identifies a waiting item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EntryId(u64);

/// Items by owner. Each owner has a virtual time that its items' costs advance; the owner furthest behind is served
/// next.
#[derive(Debug)]
pub struct FairQueue<K, T> {
    bounds: Bounds,
    lanes: HashMap<K, Lane<T>>,
    /// Owners with items, by virtual time.
    order: BTreeSet<(u64, K)>,
    /// Latest virtual time at which an item was taken.
    clock: u64,
    waiting: usize,
    next: u64,
}

#[derive(Debug)]
struct Lane<T> {
    /// Items that go before the owner's others, by id.
    first: BTreeMap<u64, (u64, T)>,
    items: BTreeMap<u64, (u64, T)>,
    /// Virtual time at which the owner's next item starts.
    start: u64,
}

impl<T> Lane<T> {
    fn len(&self) -> usize {
        self.first.len() + self.items.len()
    }

    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn pop(&mut self) -> Option<(u64, T)> {
        let (_, item) = self.first.pop_first().or_else(|| self.items.pop_first())?;
        Some(item)
    }
}

impl<K: Hash + Ord + Clone, T> FairQueue<K, T> {
    /// Creates a queue with these limits.
    pub fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            lanes: HashMap::new(),
            order: BTreeSet::new(),
            clock: 0,
            waiting: 0,
            next: 0,
        }
    }

    /// Adds an item after the owner's others.
    pub fn push(&mut self, owner: K, cost: u64, item: T) -> Result<EntryId, QueueFull> {
        self.add(owner, cost, item, None)
    }

    /// Adds an item before the owner's others but after earlier ones added this way, of which there may be at most
    /// `most`.
    pub fn push_first(&mut self, owner: K, cost: u64, item: T, most: usize) -> Result<EntryId, QueueFull> {
        self.add(owner, cost, item, Some(most))
    }

    fn add(&mut self, owner: K, cost: u64, item: T, first: Option<usize>) -> Result<EntryId, QueueFull> {
        if self.waiting >= self.bounds.all {
            return Err(QueueFull);
        }
        let clock = self.clock;
        let lane = self.lanes.entry(owner.clone()).or_insert_with(|| Lane {
            first: BTreeMap::new(),
            items: BTreeMap::new(),
            start: clock,
        });
        if lane.len() >= self.bounds.owner || first.is_some_and(|most| lane.first.len() >= most) {
            return Err(QueueFull);
        }
        if lane.is_empty() {
            // An idle owner saves up no time.
            lane.start = lane.start.max(clock);
            self.order.insert((lane.start, owner));
        }
        let id = self.next;
        let line = if first.is_some() {
            &mut lane.first
        } else {
            &mut lane.items
        };
        line.insert(id, (cost.saturating_add(BASE_COST), item));
        self.next += 1;
        self.waiting += 1;
        Ok(EntryId(id))
    }

    /// Removes an item that is no longer wanted; `None` if it was taken before.
    pub fn remove(&mut self, owner: &K, EntryId(id): EntryId) -> Option<T> {
        let lane = self.lanes.get_mut(owner)?;
        let (_, item) = lane.first.remove(&id).or_else(|| lane.items.remove(&id))?;
        self.waiting -= 1;
        if lane.is_empty() {
            self.order.remove(&(lane.start, owner.clone()));
        }
        self.forget_idle();
        Some(item)
    }

    /// Takes the next item.
    pub fn pop(&mut self) -> Option<T> {
        self.pop_of(|_| true).map(|(_, item)| item)
    }

    /// Takes the next item among the owners for which `may` is true.
    pub fn pop_of(&mut self, may: impl Fn(&K) -> bool) -> Option<(K, T)> {
        let (start, owner) = self.order.iter().find(|(_, owner)| may(owner))?.clone();
        self.order.remove(&(start, owner.clone()));
        let lane = self.lanes.get_mut(&owner)?;
        let (cost, item) = lane.pop()?;
        self.waiting -= 1;
        self.clock = self.clock.max(start);
        lane.start = start.saturating_add(cost);
        if !lane.is_empty() {
            self.order.insert((lane.start, owner.clone()));
        }
        self.forget_idle();
        Some((owner, item))
    }

    fn forget_idle(&mut self) {
        if self.lanes.len() > self.order.len() + MAX_IDLE_LANES {
            self.lanes.retain(|_, lane| !lane.is_empty());
        }
    }

    /// Returns the number of waiting items.
    pub fn len(&self) -> usize {
        self.waiting
    }

    /// Returns whether no item waits.
    pub fn is_empty(&self) -> bool {
        self.waiting == 0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BOUNDS: Bounds = Bounds { owner: 100, all: 250 };

    /// Pushes `(owner, cost)` in order and returns the owners in the order in which they are served.
    fn served(pushes: &[(&'static str, u64)]) -> Vec<&'static str> {
        let mut queue = FairQueue::new(BOUNDS);
        for (owner, cost) in pushes {
            queue.push(*owner, *cost, *owner).unwrap();
        }
        std::iter::from_fn(|| queue.pop()).collect()
    }

    #[test]
    fn owners_take_turns_and_pay_by_cost() {
        assert_eq!(served(&[("a", 1), ("a", 1), ("a", 1), ("b", 1)]), ["a", "b", "a", "a"]);
        let large = 100 * BASE_COST;
        let many: Vec<_> = std::iter::once(("b", 1))
            .chain([("a", large), ("a", large)])
            .chain(std::iter::repeat_n(("b", 1), 9))
            .collect();
        let order = served(&many);
        let last_large = order.iter().rposition(|owner| *owner == "a");
        assert_eq!(
            last_large,
            Some(11),
            "small items go before a second large one: {order:?}"
        );
    }

    #[test]
    fn nobody_saves_up_time_and_nobody_escapes_its_debt() {
        let mut queue = FairQueue::new(BOUNDS);
        for _ in 0..100 {
            queue.push("a", BASE_COST, "a").unwrap();
            queue.pop();
        }
        // "b" comes late: it is served next, then both alternate.
        for owner in ["a", "a", "b", "b"] {
            queue.push(owner, BASE_COST, owner).unwrap();
        }
        let order: Vec<_> = std::iter::from_fn(|| queue.pop()).collect();
        assert_eq!(order[0], "b");
        assert_eq!(order[2..].iter().filter(|owner| **owner == "a").count(), 1, "{order:?}");
    }

    #[test]
    fn what_waits_is_bounded_by_owner_and_in_all() {
        let mut queue = FairQueue::new(BOUNDS);
        for _ in 0..BOUNDS.owner {
            queue.push(1, 1, ()).unwrap();
        }
        assert_eq!(queue.push(1, 1, ()), Err(QueueFull));
        let last = queue.push(2, 1, ()).unwrap();
        for owner in 3..BOUNDS.all - BOUNDS.owner + 2 {
            queue.push(owner, 1, ()).unwrap();
        }
        assert_eq!(queue.len(), BOUNDS.all);
        assert_eq!(queue.push(usize::MAX, 1, ()), Err(QueueFull));
        // Removing an item makes room.
        assert_eq!(queue.remove(&2, last), Some(()));
        assert_eq!(queue.remove(&2, last), None);
        assert!(queue.push(usize::MAX, 1, ()).is_ok());
        while queue.pop().is_some() {}
        assert!(queue.is_empty());
    }

    #[test]
    fn lanes_are_not_remembered_for_ever() {
        let mut queue = FairQueue::new(BOUNDS);
        for owner in 0..10_000 {
            let id = queue.push(owner, 1, ()).unwrap();
            match owner % 2 {
                0 => queue.pop(),
                _ => queue.remove(&owner, id),
            };
        }
        assert!(queue.lanes.len() <= MAX_IDLE_LANES + 1);
    }

    #[test]
    fn those_that_go_first_have_a_bound_of_their_own() {
        let mut queue = FairQueue::new(BOUNDS);
        queue.push("a", 1, 1).unwrap();
        queue.push_first("a", 1, 2, 2).unwrap();
        let left = queue.push_first("a", 1, 3, 2).unwrap();
        assert_eq!(queue.push_first("a", 1, 4, 2), Err(QueueFull));
        assert!(queue.push_first("b", 1, 5, 2).is_ok());
        queue.remove(&"a", left).unwrap();
        queue.push_first("a", 1, 6, 2).unwrap();
        let of_a: Vec<i32> = std::iter::from_fn(|| Some(queue.pop_of(|owner| *owner == "a")?.1)).collect();
        assert_eq!(of_a, [2, 6, 1]);
    }

    proptest! {
        /// Owners that always wait are served equally, whatever their items cost, whoever leaves, and whatever others
        /// do.
        #[test]
        fn nobody_starves(
            costs in prop::collection::vec((1_u64..64 * BASE_COST, 1_u64..64 * BASE_COST), 1..300),
            noise in prop::collection::vec((2_usize..6, any::<bool>()), 0..100),
        ) {
            let most = 65 * BASE_COST;
            let mut queue = FairQueue::new(Bounds { owner: 1_000, all: 10_000 });
            for (a, b) in &costs {
                queue.push(0, *a, *a).unwrap();
                queue.push(1, *b, *b).unwrap();
            }
            for (owner, leaves) in noise {
                let id = queue.push(owner, 1, 1).unwrap();
                if leaves {
                    queue.remove(&owner, id).unwrap();
                }
            }
            let (mut of_owner, mut left) = ([0_u64; 2], [costs.len(); 2]);
            while let Some((owner, cost)) = queue.pop_of(|_| true) {
                if owner > 1 {
                    continue;
                }
                of_owner[owner] += cost + BASE_COST;
                left[owner] -= 1;
                if left[0] > 0 && left[1] > 0 {
                    prop_assert!(of_owner[0].abs_diff(of_owner[1]) <= 2 * most, "{of_owner:?}");
                }
            }
            prop_assert_eq!((left, queue.len()), ([0, 0], 0));
        }

        /// For any sequence of pushes, removals and pops: the limits hold, and each item that stays is served once, in
        /// its owner's order, and only when its owner may be served.
        #[test]
        fn nothing_is_lost(
            steps in prop::collection::vec((0_usize..4, 0_usize..6, 1_u64..1_000_000), 1..400),
            may_not in 0_usize..5,
        ) {
            let bounds = Bounds { owner: 8, all: 20 };
            let mut queue = FairQueue::new(bounds);
            let mut waiting: Vec<(usize, usize, EntryId)> = Vec::new();
            for (number, (owner, step, cost)) in steps.into_iter().enumerate() {
                match step {
                    0..=2 => {
                        let of_owner = waiting.iter().filter(|(of, ..)| *of == owner).count();
                        match queue.push(owner, cost, number) {
                            Ok(id) => waiting.push((owner, number, id)),
                            Err(QueueFull) => prop_assert!(of_owner == bounds.owner || waiting.len() == bounds.all),
                        }
                    }
                    3 if !waiting.is_empty() => {
                        let at = usize::try_from(cost).unwrap() % waiting.len();
                        let (owner, number, id) = waiting.remove(at);
                        prop_assert_eq!(queue.remove(&owner, id), Some(number));
                    }
                    _ => match queue.pop_of(|owner| *owner != may_not) {
                        Some((owner, number)) => {
                            prop_assert_ne!(owner, may_not);
                            let first = waiting.iter().position(|(of, ..)| *of == owner).unwrap();
                            let (_, expected, id) = waiting.remove(first);
                            prop_assert_eq!(number, expected);
                            prop_assert_eq!(queue.remove(&owner, id), None);
                        }
                        None => prop_assert!(waiting.iter().all(|(owner, ..)| *owner == may_not)),
                    },
                }
                prop_assert_eq!(queue.len(), waiting.len());
            }
            while queue.pop().is_some() {
                prop_assert!(waiting.pop().is_some());
            }
            prop_assert!(waiting.is_empty());
        }
    }
}
