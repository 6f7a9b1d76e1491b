//! Reservations over time: open ones are renewed, finished ones are settled.

use std::collections::HashMap;
use std::sync::Arc;

use copilotd_actors::domain::ids::TenantId;
use copilotd_gateway::limit::{ActualUsage, Lease};
use futures::future::join_all;
use metrics::counter;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};

use super::Shared;
use super::script::{OpenReservation, Operation, Request, renew};

/// Settlements that may wait for Redis. A settlement that finds the queue full is dropped: its reservation is charged
/// in full when it expires.
pub(super) const QUEUE: usize = 16_384;
/// Settlements in flight at one time.
const AT_ONCE: usize = 128;
/// Reservations that one run of the script renews.
const BATCH: usize = 100;

/// What is to be settled.
#[derive(Debug)]
pub(super) struct Settlement {
    pub lease: Lease,
    pub spent: ActualUsage,
    pub at: Instant,
}

/// Settles what is queued, and retries what Redis did not accept until the reservation has expired.
pub(super) async fn settle(shared: Arc<Shared>, mut queue: mpsc::Receiver<Settlement>) {
    let mut waiting: Vec<Settlement> = Vec::new();
    loop {
        // Several at once share a round trip; the order of settlements does not matter.
        if waiting.is_empty() && queue.recv_many(&mut waiting, AT_ONCE).await == 0 {
            return;
        }
        let answers = join_all(waiting.iter().map(|settlement| send(&shared, settlement))).await;
        let mut is_done = answers.into_iter();
        let (life, before) = (shared.options.lease_life, waiting.len());
        waiting.retain(|settlement| {
            let is_done = is_done.next().unwrap_or(false);
            let is_late = !is_done && settlement.at.elapsed() > life;
            if is_late {
                counter!("copilotd_limits_settlements_lost_total").increment(1);
            }
            !is_done && !is_late
        });
        shared.unsettled.send_modify(|count| *count -= before - waiting.len());
        if !waiting.is_empty() {
            shared.link.up().await;
        }
    }
}

async fn send(shared: &Shared, settlement: &Settlement) -> bool {
    let Settlement { lease, spent, .. } = settlement;
    let request = Request {
        id: lease.id,
        demand: lease.demand,
        spent: *spent,
        // A tenant without limits by now still gets its reservations released.
        limits: shared
            .table()
            .tenants
            .get(lease.scope.tenant())
            .copied()
            .unwrap_or_default(),
        ..shared.request(lease.scope.tenant(), &lease.subjects)
    };
    shared.link.ask(&request.invocation(Operation::Settle)).await.is_ok()
}

/// Renews open reservations, three times in the life of a reservation.
pub(super) async fn run(shared: Arc<Shared>) {
    let mut ticks = tokio::time::interval(shared.options.lease_life / 3);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let mut of: HashMap<TenantId, Vec<OpenReservation>> = HashMap::new();
        for (tenant, open) in shared.open().values() {
            of.entry(tenant.clone()).or_default().push(open.clone());
        }
        for (tenant, leases) in &of {
            for leases in leases.chunks(BATCH) {
                let call = renew(shared.names(tenant), shared.time(), shared.life(), leases);
                // What could not be renewed is tried again in the next round, or expires and is charged in full.
                let _ = shared.link.ask(&call).await;
            }
        }
    }
}
