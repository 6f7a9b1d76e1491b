//! Which tenants take no writes because they are being deleted, and how many writes of each are in flight.
//!
//! Invariant: once [`TenantFence::close`] has returned, no write of the tenant is in flight and none begins.

use std::collections::HashMap;
use std::time::Duration;

use copilotd_actors::domain::ids::TenantId;
use copilotd_actors::ports::LogError;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;

/// Longest time for which closing waits for writes in flight; an append is tried for 30 s.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
pub(crate) struct TenantFence {
    tenants: Mutex<HashMap<TenantId, State>>,
    left: Notify,
}

/// A tenant that is closed or has writes in flight; all others have no entry.
#[derive(Debug, Default)]
struct State {
    is_closed: bool,
    writing: usize,
}

/// A write of a tenant in flight.
#[derive(Debug)]
pub(crate) struct WritePass<'a> {
    fence: &'a TenantFence,
    tenant: TenantId,
}

impl WritePass<'_> {
    /// Returns whose write it is.
    pub(crate) fn tenant(&self) -> &TenantId {
        &self.tenant
    }
}

impl TenantFence {
    /// Begins a write.
    ///
    /// # Errors
    /// If the tenant is closed.
    pub(crate) fn enter(&self, tenant: &TenantId) -> Result<WritePass<'_>, LogError> {
        let mut tenants = self.lock();
        let state = tenants.entry(tenant.clone()).or_default();
        if state.is_closed {
            return Err(LogError::Refused("the tenant is being deleted".to_owned()));
        }
        state.writing += 1;
        Ok(WritePass {
            fence: self,
            tenant: tenant.clone(),
        })
    }

    /// Begins a write of several tenants; returns the passes of those that are not closed.
    pub(crate) fn enter_all<'a>(&self, tenants: impl IntoIterator<Item = &'a TenantId>) -> Vec<WritePass<'_>> {
        tenants
            .into_iter()
            .filter_map(|tenant| self.enter(tenant).ok())
            .collect()
    }

    /// Refuses writes from now on, and waits for those in flight.
    pub(crate) async fn close(&self, tenant: &TenantId) -> Result<(), LogError> {
        self.lock().entry(tenant.clone()).or_default().is_closed = true;
        let over = async {
            loop {
                let left = self.left.notified();
                tokio::pin!(left);
                // Registered before the check, so that no end is missed.
                left.as_mut().enable();
                if self.lock().get(tenant).is_none_or(|state| state.writing == 0) {
                    return;
                }
                left.await;
            }
        };
        let late = |_| LogError::Unavailable("writes of the tenant are still in flight".to_owned());
        tokio::time::timeout(CLOSE_TIMEOUT, over).await.map_err(late)
    }

    /// Accepts writes again.
    pub(crate) fn open(&self, tenant: &TenantId) {
        let mut tenants = self.lock();
        if let Some(state) = tenants.get_mut(tenant) {
            state.is_closed = false;
            if state.writing == 0 {
                tenants.remove(tenant);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<TenantId, State>> {
        self.tenants.lock()
    }
}

impl Drop for WritePass<'_> {
    fn drop(&mut self) {
        let mut tenants = self.fence.lock();
        let Some(state) = tenants.get_mut(&self.tenant) else {
            return;
        };
        state.writing -= 1;
        if state.writing > 0 {
            return;
        }
        if !state.is_closed {
            tenants.remove(&self.tenant);
        }
        drop(tenants);
        self.fence.left.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn closing_waits_for_writes_that_have_begun_and_refuses_later_ones() {
        let fence = TenantFence::default();
        let (acme, globex): (TenantId, TenantId) = ("acme".parse().unwrap(), "globex".parse().unwrap());
        let first = fence.enter(&acme).unwrap();
        let second = fence.enter(&acme).unwrap();
        let closing = fence.close(&acme);
        tokio::pin!(closing);
        assert!(futures::poll!(closing.as_mut()).is_pending());
        assert!(fence.enter(&acme).is_err(), "a closed tenant takes no write");
        drop(first);
        assert!(futures::poll!(closing.as_mut()).is_pending());
        let other = fence.enter(&globex).unwrap();
        drop(second);
        closing.await.unwrap();
        assert_eq!(fence.enter_all([&acme, &globex]).len(), 1);
        drop(other);
        assert!(fence.enter(&acme).is_err());
        fence.open(&acme);
        drop(fence.enter(&acme).unwrap());
        assert!(fence.lock().is_empty(), "idle tenants have no entry");
    }

    #[tokio::test(start_paused = true)]
    async fn closing_gives_up_after_its_time_and_stays_closed() {
        let fence = TenantFence::default();
        let acme: TenantId = "acme".parse().unwrap();
        let _write = fence.enter(&acme).unwrap();
        assert!(matches!(fence.close(&acme).await, Err(LogError::Unavailable(_))));
        assert!(fence.enter(&acme).is_err());
    }
}
