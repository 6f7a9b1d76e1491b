//! Concurrent calls: each holds a provider connection, and one tenant must not use up all file descriptors of the
//! process.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use copilotd_actors::domain::ids::TenantId;
use copilotd_actors::tenancy::TenantScope;
use dashmap::DashMap;

/// Number of remembered tenants from which idle ones are forgotten.
const MAX_IDLE: usize = 1024;

/// The permits of all tenants. Unlimited until [`CallPermits::bound`] is called.
#[derive(Debug)]
pub struct CallPermits {
    most: AtomicUsize,
    tenants: DashMap<TenantId, Arc<AtomicUsize>>,
}

impl Default for CallPermits {
    fn default() -> Self {
        Self {
            most: AtomicUsize::new(usize::MAX),
            tenants: DashMap::new(),
        }
    }
}

/// The permit of one call; dropping it returns it.
#[derive(Debug)]
pub struct CallPermit(Arc<AtomicUsize>);

impl CallPermits {
    /// Bounds each tenant's calls by the file descriptors available for all: some are always left for others.
    pub fn bound(&self, files: usize) {
        let others = (files / 32).max(64).min(files / 2);
        self.most.store((files - others).max(1), Ordering::Relaxed);
    }

    /// Returns how many concurrent calls a tenant may have.
    pub fn most(&self) -> usize {
        self.most.load(Ordering::Relaxed)
    }

    /// Takes a permit; `None` if the tenant holds all that it may.
    pub fn take(&self, scope: &TenantScope) -> Option<CallPermit> {
        if self.tenants.len() >= MAX_IDLE {
            self.tenants.retain(|_, held| Arc::strong_count(held) > 1);
        }
        let held = Arc::clone(&self.tenants.entry(scope.tenant().clone()).or_default());
        let most = self.most();
        let one_more = |held: usize| (held < most).then_some(held + 1);
        held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).ok()?;
        Some(CallPermit(held))
    }
}

impl CallPermits {
    /// Whether a tenant has a call in flight.
    pub fn is_calling(&self, scope: &TenantScope) -> bool {
        self.tenants
            .get(scope.tenant())
            .is_some_and(|held| held.load(Ordering::Relaxed) > 0)
    }
}

impl Drop for CallPermit {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::disallowed_methods, reason = "tests open scopes")]
    fn scope(tenant: &str) -> TenantScope {
        TenantScope::from_verified(tenant.parse().unwrap())
    }

    #[test]
    fn a_tenant_leaves_some_for_others() {
        let (acme, globex) = (scope("acme"), scope("globex"));
        for (files, most) in [(1_024, 960), (10_000, 9_688), (100, 50), (2, 1), (1, 1), (0, 1)] {
            let permits = CallPermits::default();
            permits.bound(files);
            let held: Vec<_> = std::iter::from_fn(|| permits.take(&acme)).collect();
            assert_eq!(held.len(), most, "{files}");
            assert!(permits.take(&globex).is_some());
            assert!(permits.is_calling(&acme) && !permits.is_calling(&globex));
            drop(held);
            assert!(!permits.is_calling(&acme));
            assert!(permits.take(&acme).is_some());
        }
    }

    #[test]
    fn idle_tenants_are_forgotten_and_busy_ones_are_not() {
        let permits = CallPermits::default();
        permits.bound(2);
        let busy = scope("busy");
        let held = permits.take(&busy).unwrap();
        for n in 0..3 * MAX_IDLE {
            drop(permits.take(&scope(&format!("tenant-{n}"))));
        }
        assert!(permits.tenants.len() <= MAX_IDLE + 1);
        assert!(permits.take(&busy).is_none());
        drop(held);
        assert!(permits.take(&busy).is_some());
    }
}
