//! Places for work, handed out in turn between tenants.
//!
//! Invariant: places given plus places free are the places there are, and one tenant holds at most its share; a place comes
//! back when it is dropped, also on its way to somebody who has left.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use copilotd_actors::domain::ids::TenantId;
use futures::future::Either;
use tokio::sync::oneshot;

/// See the module.
pub struct FairQueue {
    share: usize,
    state: Mutex<State>,
}

struct State {
    free: usize,
    tenants: HashMap<TenantId, Line>,
    /// Tenants with somebody waiting, the next one first.
    turns: VecDeque<TenantId>,
}

#[derive(Default)]
struct Line {
    held: usize,
    /// Those who go first.
    urgent: VecDeque<oneshot::Sender<Place>>,
    waiting: VecDeque<oneshot::Sender<Place>>,
}

impl Line {
    fn is_empty(&self) -> bool {
        self.held == 0 && self.urgent.is_empty() && self.waiting.is_empty()
    }
}

/// The right to work. Dropped, it goes to the next in line.
pub struct Place {
    queue: Option<Arc<FairQueue>>,
    tenant: TenantId,
}

impl FairQueue {
    /// Makes a queue for so many `places`, of which one tenant holds at most `share`.
    pub fn new(places: usize, share: usize) -> Arc<Self> {
        let state = State {
            free: places.max(1),
            tenants: HashMap::new(),
            turns: VecDeque::new(),
        };
        Arc::new(Self {
            share: share.max(1),
            state: Mutex::new(state),
        })
    }

    /// Waits for a place.
    pub fn place(self: &Arc<Self>, tenant: &TenantId) -> impl Future<Output = Place> + Send + use<> {
        let waiting = self.line_up(tenant, None).map(Either::Left);
        waiting.unwrap_or_else(|| Either::Right(std::future::pending()))
    }

    /// Waits for a place before the tenant's others, but behind those who came this way too; none if these are `most`.
    pub fn place_first(
        self: &Arc<Self>,
        tenant: &TenantId,
        most: usize,
    ) -> Option<impl Future<Output = Place> + Send + use<>> {
        self.line_up(tenant, Some(most))
    }

    fn line_up(
        self: &Arc<Self>,
        tenant: &TenantId,
        most: Option<usize>,
    ) -> Option<impl Future<Output = Place> + Send + use<>> {
        let (sender, receiver) = oneshot::channel();
        let mut state = self.lock();
        let line = state.tenants.entry(tenant.clone()).or_default();
        match most {
            None => line.waiting.push_back(sender),
            Some(most) => {
                // Those who left while they waited are not in the way.
                line.urgent.retain(|waiting| !waiting.is_closed());
                if line.urgent.len() >= most {
                    return None;
                }
                line.urgent.push_back(sender);
            }
        }
        if !state.turns.contains(tenant) {
            state.turns.push_back(tenant.clone());
        }
        self.hand_out(&mut state);
        drop(state);
        Some(async move {
            match receiver.await {
                Ok(place) => place,
                // The queue lives as long as its places and is never closed.
                Err(_closed) => std::future::pending().await,
            }
        })
    }

    /// Gives free places to tenants in turn.
    fn hand_out(self: &Arc<Self>, state: &mut State) {
        let mut passed = 0;
        while state.free > 0 && passed < state.turns.len() {
            let Some(tenant) = state.turns.pop_front() else { return };
            let Some(line) = state.tenants.get_mut(&tenant) else {
                continue;
            };
            if line.held >= self.share {
                state.turns.push_back(tenant);
                passed += 1;
                continue;
            }
            let next = line.urgent.pop_front().or_else(|| line.waiting.pop_front());
            let Some(waiting) = next else {
                if line.is_empty() {
                    state.tenants.remove(&tenant);
                }
                continue;
            };
            let place = Place {
                queue: Some(Arc::clone(self)),
                tenant: tenant.clone(),
            };
            match waiting.send(place) {
                Ok(()) => {
                    line.held += 1;
                    state.free -= 1;
                    passed = 0;
                }
                // It left, and its place was never counted.
                Err(mut place) => place.queue = None,
            }
            state.turns.push_back(tenant);
        }
    }

    fn give_back(self: &Arc<Self>, tenant: &TenantId) {
        let mut state = self.lock();
        state.free += 1;
        if let Some(line) = state.tenants.get_mut(tenant) {
            line.held = line.held.saturating_sub(1);
            if line.is_empty() {
                state.tenants.remove(tenant);
                state.turns.retain(|other| other != tenant);
            }
        }
        self.hand_out(&mut state);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(queue) = self.queue.take() {
            queue.give_back(&self.tenant);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    fn tenant(name: &str) -> TenantId {
        name.parse().unwrap()
    }

    #[test]
    fn tenants_take_turns_and_none_holds_more_than_its_share() {
        let queue = FairQueue::new(2, 1);
        let (a, b, c) = (tenant("a"), tenant("b"), tenant("c"));
        let first = queue.place(&a).now_or_never().expect("all are free");
        let mut waiting: Vec<_> = (0..3).map(|_| Box::pin(queue.place(&a))).collect();
        for place in &mut waiting {
            assert!(place.now_or_never().is_none(), "half of the places are for others");
        }
        let other = queue.place(&b).now_or_never().expect("one is free for another");
        let mut third = Box::pin(queue.place(&c));
        assert!((&mut third).now_or_never().is_none());
        drop(first);
        // One of the tenants in line has it; whoever it is, the next one to come free is the other's.
        drop(other);
        let third = third.now_or_never().expect("its turn");
        let again = waiting.remove(0).now_or_never().expect("its turn");
        drop((third, again));
        assert!(waiting.remove(0).now_or_never().is_some());
    }

    #[test]
    fn who_leaves_takes_no_place_along() {
        let queue = FairQueue::new(1, 1);
        let (a, b) = (tenant("a"), tenant("b"));
        let held = queue.place(&a).now_or_never().expect("free");
        let left: Vec<_> = (0..5).map(|_| Box::pin(queue.place(&a))).collect();
        let mut stays = Box::pin(queue.place(&b));
        drop(left);
        drop(held);
        let place = (&mut stays).now_or_never().expect("its turn");
        // A place that is handed out and never picked up comes back.
        let unpicked = queue.place(&a);
        drop(place);
        drop(unpicked);
        assert!(queue.place(&b).now_or_never().is_some());
        let state = queue.lock();
        assert_eq!((state.free, state.tenants.len()), (1, 0));
    }

    #[test]
    fn a_line_is_bounded_where_it_is_asked_to_be() {
        let queue = FairQueue::new(1, 1);
        let (a, b) = (tenant("a"), tenant("b"));
        let _held = queue.place(&a).now_or_never().expect("free");
        let _patient = queue.place(&a);
        let first = queue.place_first(&a, 1).expect("nobody came this way yet");
        assert!(queue.place_first(&a, 1).is_none());
        assert!(
            queue.place_first(&b, 1).is_some(),
            "another tenant has a line of its own"
        );
        drop(first);
        assert!(queue.place_first(&a, 1).is_some(), "who left is not in the way");
    }

    #[test]
    fn who_goes_first_waits_for_one_place_alone() {
        let queue = FairQueue::new(1, 1);
        let a = tenant("a");
        let held = queue.place(&a).now_or_never().expect("free");
        let patient: Vec<_> = (0..10).map(|_| Box::pin(queue.place(&a))).collect();
        let first = queue.place_first(&a, 1).expect("nobody came this way yet");
        drop(held);
        assert!(first.now_or_never().is_some());
        let served = patient.into_iter().filter_map(|place| place.now_or_never());
        assert_eq!(served.count(), 10, "one after the other");
    }
}
