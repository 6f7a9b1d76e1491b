//! How many calls of one tenant run at a time: a tenant with many or slow ones leaves connections to the others.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use copilotd_actors::domain::ids::TenantId;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The turns of all tenants that have calls.
#[derive(Debug)]
pub(super) struct Turns {
    at_once: usize,
    tenants: Mutex<HashMap<TenantId, Weak<Semaphore>>>,
}

impl Turns {
    /// Lets each tenant run `at_once` calls at a time.
    pub(super) fn new(at_once: usize) -> Self {
        Self {
            at_once,
            tenants: Mutex::default(),
        }
    }

    /// Waits for the tenant's next turn, which ends when the permit is dropped. None while the process ends.
    pub(super) async fn take(&self, tenant: &TenantId) -> Option<OwnedSemaphorePermit> {
        self.of(tenant).acquire_owned().await.ok()
    }

    fn of(&self, tenant: &TenantId) -> Arc<Semaphore> {
        let mut tenants = self.tenants.lock();
        if let Some(turns) = tenants.get(tenant).and_then(Weak::upgrade) {
            return turns;
        }
        // Whoever takes or waits for a turn holds a reference: the others are idle.
        tenants.retain(|_, turns| turns.strong_count() > 0);
        let turns = Arc::new(Semaphore::new(self.at_once));
        tenants.insert(tenant.clone(), Arc::downgrade(&turns));
        turns
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn a_tenant_waits_for_itself_alone() {
        let turns = Turns::new(2);
        let [acme, globex]: [TenantId; 2] = ["acme", "globex"].map(|name| name.parse().unwrap());
        let first = turns.take(&acme).await.unwrap();
        let _second = turns.take(&acme).await.unwrap();
        let mut third = Box::pin(turns.take(&acme));
        assert!((&mut third).now_or_never().is_none());
        assert!(turns.take(&globex).now_or_never().is_some());
        drop(first);
        assert!(third.now_or_never().is_some());
        // Idle tenants are forgotten.
        drop(turns.take(&"initech".parse().unwrap()).await);
        drop(turns.take(&globex).await);
        assert_eq!(turns.tenants.lock().len(), 2);
    }
}
