//! Permits to work, which tenants wait for in a [`FairQueue`].
//!
//! Invariant: permits given out plus free ones are all permits, and one tenant holds at most its share; a permit is
//! returned when it is dropped, also on its way to a waiter that has left.

use std::collections::HashMap;
use std::sync::Arc;

use copilotd_actors::domain::ids::TenantId;
use copilotd_actors::fairness::fair_queue::{Bounds, EntryId, FairQueue, QueueFull};
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::oneshot;

/// Limits of the queue: checks of answers and schemas to be compiled.
const WAITING: Bounds = Bounds {
    owner: 16 * 1024,
    all: 64 * 1024,
};
/// Each permit costs the same: how long it is held is bounded, and not known before.
const COST: u64 = 1;

pub struct Permits {
    share: usize,
    state: Mutex<State>,
}

struct State {
    free: usize,
    /// Permits by the tenant that holds them.
    held: HashMap<TenantId, usize>,
    queue: FairQueue<TenantId, oneshot::Sender<Permit>>,
}

/// The right to work. Dropped, it goes to the next in the queue.
pub struct Permit {
    permits: Option<Arc<Permits>>,
    tenant: TenantId,
}

/// A waiter in the queue. Dropped, it leaves the queue.
struct Waiter {
    permits: Arc<Permits>,
    tenant: TenantId,
    ticket: EntryId,
    receiver: oneshot::Receiver<Permit>,
}

impl Permits {
    /// Creates `permits` permits, of which one tenant holds at most `share`.
    pub fn new(permits: usize, share: usize) -> Arc<Self> {
        let state = State {
            free: permits.max(1),
            held: HashMap::new(),
            queue: FairQueue::new(WAITING),
        };
        Arc::new(Self {
            share: share.max(1),
            state: Mutex::new(state),
        })
    }

    /// Waits for a permit.
    pub fn permit(
        self: &Arc<Self>,
        tenant: &TenantId,
    ) -> Result<impl Future<Output = Permit> + Send + use<>, QueueFull> {
        self.enqueue(tenant, None)
    }

    /// Waits for a permit before the tenant's others, but after those queued this way too, of whom there may be `most`.
    pub fn permit_first(
        self: &Arc<Self>,
        tenant: &TenantId,
        most: usize,
    ) -> Result<impl Future<Output = Permit> + Send + use<>, QueueFull> {
        self.enqueue(tenant, Some(most))
    }

    fn enqueue(
        self: &Arc<Self>,
        tenant: &TenantId,
        most: Option<usize>,
    ) -> Result<impl Future<Output = Permit> + Send + use<>, QueueFull> {
        let (sender, receiver) = oneshot::channel();
        let mut state = self.lock();
        let ticket = match most {
            None => state.queue.push(tenant.clone(), COST, sender)?,
            Some(most) => state.queue.push_first(tenant.clone(), COST, sender, most)?,
        };
        self.grant(state);
        let mut in_line = Waiter {
            permits: Arc::clone(self),
            tenant: tenant.clone(),
            ticket,
            receiver,
        };
        Ok(async move {
            match (&mut in_line.receiver).await {
                Ok(permit) => permit,
                // The queue lives as long as this and is never closed.
                Err(_closed) => std::future::pending().await,
            }
        })
    }

    /// Gives free permits to those who are next.
    fn grant(self: &Arc<Self>, mut state: MutexGuard<'_, State>) {
        while state.free > 0 {
            let State { held, queue, .. } = &mut *state;
            let may = |tenant: &TenantId| held.get(tenant).is_none_or(|held| *held < self.share);
            let Some((tenant, waiting)) = queue.pop_of(may) else {
                return;
            };
            let permit = Permit {
                permits: Some(Arc::clone(self)),
                tenant: tenant.clone(),
            };
            match waiting.send(permit) {
                Ok(()) => {
                    *state.held.entry(tenant).or_default() += 1;
                    state.free -= 1;
                }
                // The waiter is just leaving, and its permit was never counted.
                Err(mut permit) => permit.permits = None,
            }
        }
    }

    fn release(self: &Arc<Self>, tenant: &TenantId) {
        let mut state = self.lock();
        state.free += 1;
        if let Some(held) = state.held.get_mut(tenant) {
            *held = held.saturating_sub(1);
            if *held == 0 {
                state.held.remove(tenant);
            }
        }
        self.grant(state);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(permits) = self.permits.take() {
            permits.release(&self.tenant);
        }
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let waiting = self.permits.lock().queue.remove(&self.tenant, self.ticket);
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
    fn permit(permits: &Arc<Permits>, tenant: &TenantId) -> impl Future<Output = Permit> + Send + use<> {
        permits.permit(tenant).unwrap()
    }

    #[test]
    fn tenants_take_turns_and_none_holds_more_than_its_share() {
        let permits = Permits::new(2, 1);
        let (a, b, c) = (tenant("a"), tenant("b"), tenant("c"));
        let first = permit(&permits, &a).now_or_never().expect("all are free");
        let mut waiting: Vec<_> = (0..3).map(|_| Box::pin(permit(&permits, &a))).collect();
        for permit in &mut waiting {
            assert!(permit.now_or_never().is_none(), "half of the permits are for others");
        }
        let other = permit(&permits, &b).now_or_never().expect("one is free for another");
        let mut third = Box::pin(permit(&permits, &c));
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
    fn a_waiter_that_leaves_takes_no_permit() {
        let permits = Permits::new(1, 1);
        let (a, b) = (tenant("a"), tenant("b"));
        let held = permit(&permits, &a).now_or_never().expect("free");
        let left: Vec<_> = (0..5).map(|_| Box::pin(permit(&permits, &a))).collect();
        let mut stays = Box::pin(permit(&permits, &b));
        drop(left);
        assert_eq!(permits.lock().queue.len(), 1);
        drop(held);
        let given = (&mut stays).now_or_never().expect("its turn");
        // A permit that was given out and never received is returned.
        let unpicked = permit(&permits, &a);
        drop(given);
        drop(unpicked);
        assert!(permit(&permits, &b).now_or_never().is_some());
        let state = permits.lock();
        assert_eq!((state.free, state.held.len(), state.queue.len()), (1, 0, 0));
    }

    #[test]
    fn a_line_is_bounded() {
        let permits = Permits::new(1, 1);
        let (a, b) = (tenant("a"), tenant("b"));
        let _held = permit(&permits, &a).now_or_never().expect("free");
        let _patient = permit(&permits, &a);
        let first = permits.permit_first(&a, 1).expect("nobody came this way yet");
        assert!(permits.permit_first(&a, 1).is_err());
        assert!(
            permits.permit_first(&b, 1).is_ok(),
            "another tenant has a line of its own"
        );
        drop(first);
        assert!(permits.permit_first(&a, 1).is_ok(), "who left is not in the way");
        let all: Vec<_> = std::iter::from_fn(|| permits.permit(&a).ok()).take(100_000).collect();
        assert!(all.len() < WAITING.owner);
        assert!(permits.permit(&b).is_ok());
    }

    #[test]
    fn a_priority_waiter_waits_for_one_permit_only() {
        let permits = Permits::new(1, 1);
        let a = tenant("a");
        let held = permit(&permits, &a).now_or_never().expect("free");
        let patient: Vec<_> = (0..10).map(|_| Box::pin(permit(&permits, &a))).collect();
        let first = permits.permit_first(&a, 1).expect("nobody came this way yet");
        drop(held);
        assert!(first.now_or_never().is_some());
        let served = patient.into_iter().filter_map(|permit| permit.now_or_never());
        assert_eq!(served.count(), 10, "one after the other");
    }
}
