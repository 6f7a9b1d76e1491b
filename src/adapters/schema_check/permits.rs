//! Permits to work, which tenants wait for in a [`FairQueue`].
//!
//! Invariant: permits given out plus free ones are all permits, and one tenant holds at most its share; a permit is
//! returned when it is dropped, also on its way to a waiter that has left.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use copilotd_actors::domain::ids::TenantId;
use copilotd_actors::fairness::fair_queue::{Bounds, EntryId, FairQueue, QueueFull};
use tokio::sync::oneshot;

/// Limits of the queue: checks of answers and schemas to be compiled.
const WAITING: Bounds = Bounds {
    owner: 16 * 1024,
    all: 64 * 1024,
};
/// Each permit costs the same: how long it is held is bounded, and not known before.
const COST: u64 = 1;

pub struct Places {
    share: usize,
    state: Mutex<State>,
}

struct State {
    free: usize,
    /// Permits by the tenant that holds them.
    held: HashMap<TenantId, usize>,
    queue: FairQueue<TenantId, oneshot::Sender<Place>>,
}

/// The right to work. Dropped, it goes to the next in the queue.
pub struct Place {
    places: Option<Arc<Places>>,
    tenant: TenantId,
}

/// A waiter in the queue. Dropped, it leaves the queue.
struct InLine {
    places: Arc<Places>,
    tenant: TenantId,
    ticket: EntryId,
    receiver: oneshot::Receiver<Place>,
}

impl Places {
    /// Creates `places` permits, of which one tenant holds at most `share`.
    pub fn new(places: usize, share: usize) -> Arc<Self> {
        let state = State {
            free: places.max(1),
            held: HashMap::new(),
            queue: FairQueue::new(WAITING),
        };
        Arc::new(Self {
            share: share.max(1),
            state: Mutex::new(state),
        })
    }

    /// Waits for a permit.
    pub fn place(self: &Arc<Self>, tenant: &TenantId) -> Result<impl Future<Output = Place> + Send + use<>, QueueFull> {
        self.line_up(tenant, None)
    }

    /// Waits for a permit before the tenant's others, but after those queued this way too, of whom there may be `most`.
    pub fn place_first(
        self: &Arc<Self>,
        tenant: &TenantId,
        most: usize,
    ) -> Result<impl Future<Output = Place> + Send + use<>, QueueFull> {
        self.line_up(tenant, Some(most))
    }

    fn line_up(
        self: &Arc<Self>,
        tenant: &TenantId,
        most: Option<usize>,
    ) -> Result<impl Future<Output = Place> + Send + use<>, QueueFull> {
        let (sender, receiver) = oneshot::channel();
        let mut state = self.lock();
        let ticket = match most {
            None => state.queue.push(tenant.clone(), COST, sender)?,
            Some(most) => state.queue.push_first(tenant.clone(), COST, sender, most)?,
        };
        self.hand_out(state);
        let mut in_line = InLine {
            places: Arc::clone(self),
            tenant: tenant.clone(),
            ticket,
            receiver,
        };
        Ok(async move {
            match (&mut in_line.receiver).await {
                Ok(place) => place,
                // The queue lives as long as this and is never closed.
                Err(_closed) => std::future::pending().await,
            }
        })
    }

    /// Gives free permits to those who are next.
    fn hand_out(self: &Arc<Self>, mut state: MutexGuard<'_, State>) {
        while state.free > 0 {
            let State { held, queue, .. } = &mut *state;
            let may = |tenant: &TenantId| held.get(tenant).is_none_or(|held| *held < self.share);
            let Some((tenant, waiting)) = queue.pop_of(may) else {
                return;
            };
            let place = Place {
                places: Some(Arc::clone(self)),
                tenant: tenant.clone(),
            };
            match waiting.send(place) {
                Ok(()) => {
                    *state.held.entry(tenant).or_default() += 1;
                    state.free -= 1;
                }
                // The waiter is just leaving, and its permit was never counted.
                Err(mut place) => place.places = None,
            }
        }
    }

    fn give_back(self: &Arc<Self>, tenant: &TenantId) {
        let mut state = self.lock();
        state.free += 1;
        if let Some(held) = state.held.get_mut(tenant) {
            *held = held.saturating_sub(1);
            if *held == 0 {
                state.held.remove(tenant);
            }
        }
        self.hand_out(state);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(places) = self.places.take() {
            places.give_back(&self.tenant);
        }
    }
}

impl Drop for InLine {
    fn drop(&mut self) {
        let waiting = self.places.lock().queue.remove(&self.tenant, self.ticket);
        drop(waiting);
        // A permit that was given out and never received is returned when the receiver is dropped, which is next.
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    fn tenant(name: &str) -> TenantId {
        name.parse().unwrap()
    }

    /// Queues up; there is space.
    fn place(places: &Arc<Places>, tenant: &TenantId) -> impl Future<Output = Place> + Send + use<> {
        places.place(tenant).unwrap()
    }

    #[test]
    fn tenants_take_turns_and_none_holds_more_than_its_share() {
        let places = Places::new(2, 1);
        let (a, b, c) = (tenant("a"), tenant("b"), tenant("c"));
        let first = place(&places, &a).now_or_never().expect("all are free");
        let mut waiting: Vec<_> = (0..3).map(|_| Box::pin(place(&places, &a))).collect();
        for place in &mut waiting {
            assert!(place.now_or_never().is_none(), "half of the places are for others");
        }
        let other = place(&places, &b).now_or_never().expect("one is free for another");
        let mut third = Box::pin(place(&places, &c));
        assert!((&mut third).now_or_never().is_none());
        drop(first);
        // One of the waiting tenants has it; whichever it is, the next free one is the other's.
        drop(other);
        let third = third.now_or_never().expect("its turn");
        let again = waiting.remove(0).now_or_never().expect("its turn");
        drop((third, again));
        assert!(waiting.remove(0).now_or_never().is_some());
    }

    #[test]
    fn who_leaves_takes_no_place_along() {
        let places = Places::new(1, 1);
        let (a, b) = (tenant("a"), tenant("b"));
        let held = place(&places, &a).now_or_never().expect("free");
        let left: Vec<_> = (0..5).map(|_| Box::pin(place(&places, &a))).collect();
        let mut stays = Box::pin(place(&places, &b));
        drop(left);
        assert_eq!(places.lock().queue.len(), 1);
        drop(held);
        let given = (&mut stays).now_or_never().expect("its turn");
        // A permit that was given out and never received is returned.
        let unpicked = place(&places, &a);
        drop(given);
        drop(unpicked);
        assert!(place(&places, &b).now_or_never().is_some());
        let state = places.lock();
        assert_eq!((state.free, state.held.len(), state.queue.len()), (1, 0, 0));
    }

    #[test]
    fn a_line_is_bounded() {
        let places = Places::new(1, 1);
        let (a, b) = (tenant("a"), tenant("b"));
        let _held = place(&places, &a).now_or_never().expect("free");
        let _patient = place(&places, &a);
        let first = places.place_first(&a, 1).expect("nobody came this way yet");
        assert!(places.place_first(&a, 1).is_err());
        assert!(
            places.place_first(&b, 1).is_ok(),
            "another tenant has a line of its own"
        );
        drop(first);
        assert!(places.place_first(&a, 1).is_ok(), "who left is not in the way");
        let all: Vec<_> = std::iter::from_fn(|| places.place(&a).ok()).take(100_000).collect();
        assert!(all.len() < WAITING.owner);
        assert!(places.place(&b).is_ok());
    }

    #[test]
    fn who_goes_first_waits_for_one_place_alone() {
        let places = Places::new(1, 1);
        let a = tenant("a");
        let held = place(&places, &a).now_or_never().expect("free");
        let patient: Vec<_> = (0..10).map(|_| Box::pin(place(&places, &a))).collect();
        let first = places.place_first(&a, 1).expect("nobody came this way yet");
        drop(held);
        assert!(first.now_or_never().is_some());
        let served = patient.into_iter().filter_map(|place| place.now_or_never());
        assert_eq!(served.count(), 10, "one after the other");
    }
}
