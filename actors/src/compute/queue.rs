//! A queue that several owners share fairly by the cost of their items: start-time fair queueing. Pure.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::hash::Hash;

use super::MAX_WAITING;

/// Lanes without items that are remembered, so that an owner which always has one item under way is charged for it.
const MAX_IDLE_LANES: usize = 1024;
/// Added to every cost: taking an item is not free.
const BASE_COST: u64 = 4 * 1024;

/// Too many items of this owner wait.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct QueueFull;

/// Items by owner. Each owner has a virtual time, which its items' costs move on; the owner that is furthest behind is next.
pub(super) struct FairQueue<K, T> {
    lanes: HashMap<K, Lane<T>>,
    /// Owners with items, by virtual time.
    order: BTreeSet<(u64, K)>,
    /// Virtual time of the item that was taken last.
    clock: u64,
}

struct Lane<T> {
    items: VecDeque<(u64, T)>,
    /// Where its next item starts.
    start: u64,
}

impl<K, T> Default for FairQueue<K, T> {
    fn default() -> Self {
        Self {
            lanes: HashMap::new(),
            order: BTreeSet::new(),
            clock: 0,
        }
    }
}

impl<K: Hash + Ord + Clone, T> FairQueue<K, T> {
    /// Adds an item.
    pub(super) fn push(&mut self, owner: K, cost: u64, item: T) -> Result<(), QueueFull> {
        let clock = self.clock;
        let lane = self.lanes.entry(owner.clone()).or_insert_with(|| Lane {
            items: VecDeque::new(),
            start: clock,
        });
        if lane.items.len() >= MAX_WAITING {
            return Err(QueueFull);
        }
        if lane.items.is_empty() {
            // Who had nothing to do saves nothing up.
            lane.start = lane.start.max(clock);
            self.order.insert((lane.start, owner));
        }
        lane.items.push_back((cost.saturating_add(BASE_COST), item));
        Ok(())
    }

    /// Takes the next item.
    pub(super) fn pop(&mut self) -> Option<T> {
        let (start, owner) = self.order.pop_first()?;
        self.clock = start;
        let lane = self.lanes.get_mut(&owner)?;
        let (cost, item) = lane.items.pop_front()?;
        lane.start = start.saturating_add(cost);
        if !lane.items.is_empty() {
            self.order.insert((lane.start, owner));
        }
        if self.lanes.len() > self.order.len() + MAX_IDLE_LANES {
            self.lanes.retain(|_, lane| !lane.items.is_empty());
        }
        Some(item)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pushes `(owner, cost)` in order and returns the owners in the order in which they are served.
    fn served(pushes: &[(&'static str, u64)]) -> Vec<&'static str> {
        let mut queue = FairQueue::default();
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
        let mut queue = FairQueue::default();
        for _ in 0..100 {
            queue.push("a", BASE_COST, "a").unwrap();
            queue.pop();
        }
        // "b" comes late: it is served next, and then they take turns.
        for owner in ["a", "a", "b", "b"] {
            queue.push(owner, BASE_COST, owner).unwrap();
        }
        let order: Vec<_> = std::iter::from_fn(|| queue.pop()).collect();
        assert_eq!(order[0], "b");
        assert_eq!(order[2..].iter().filter(|owner| **owner == "a").count(), 1, "{order:?}");
    }

    #[test]
    fn what_waits_is_bounded_by_owner() {
        let mut queue = FairQueue::default();
        for _ in 0..MAX_WAITING {
            queue.push(1, 1, ()).unwrap();
        }
        assert_eq!(queue.push(1, 1, ()), Err(QueueFull));
        assert_eq!(queue.push(2, 1, ()), Ok(()));
        for owner in 3..10_000 {
            queue.push(owner, 1, ()).unwrap();
        }
        while queue.pop().is_some() {}
        assert!(queue.lanes.len() <= MAX_IDLE_LANES + 1);
    }
}
