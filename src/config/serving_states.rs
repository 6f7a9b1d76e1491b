//! The standing of tenants: served, left out or suspended.

use std::collections::{HashMap, HashSet};

use copilotd_actors::domain::ids::TenantId;
use copilotd_actors::ports::ServingState;

use super::Config;

/// The standing of every tenant of a configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServingStates {
    known: HashMap<TenantId, ServingState>,
    unknown: ServingState,
}

impl ServingStates {
    /// Reads the standings of a configuration.
    pub fn of_config(config: &Config) -> Self {
        let tenants = config.tenants.iter();
        Self {
            known: tenants.map(|tenant| (tenant.id.clone(), tenant.standing())).collect(),
            // A removed tenant has no copilots, and its open turns fail. A tenant does not count as removed while the
            // file has a table without a readable id.
            unknown: if config.has_nameless_tenant {
                ServingState::LeftOut
            } else {
                ServingState::Served
            },
        }
    }

    /// Returns the standing of a tenant.
    pub fn of(&self, tenant: &TenantId) -> ServingState {
        self.known.get(tenant).copied().unwrap_or(self.unknown)
    }

    /// Returns the standings while `next` replaces these: a tenant is served only if both serve it.
    pub fn while_changing_to(&self, next: &Self) -> Self {
        let ids: HashSet<&TenantId> = self.known.keys().chain(next.known.keys()).collect();
        let stricter = |id: &TenantId| self.of(id).max(next.of(id));
        Self {
            known: ids.into_iter().map(|id| (id.clone(), stricter(id))).collect(),
            unknown: self.unknown.max(next.unknown),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenant_is_served_only_by_two_that_both_serve_it() {
        use ServingState::{LeftOut, Served, Suspended};
        let one = |id: &str, standing, unknown| ServingStates {
            known: [(id.parse().unwrap(), standing)].into(),
            unknown,
        };
        for (before, after, between) in [
            (one("a", Served, Served), one("a", Served, Served), Served),
            (one("a", Served, Served), one("a", LeftOut, Served), LeftOut),
            (one("a", LeftOut, Served), one("a", Served, Served), LeftOut),
            (one("a", LeftOut, Served), one("a", Suspended, Served), Suspended),
            // Removed, and added again.
            (one("a", Served, Served), one("b", Served, Served), Served),
            (one("a", Served, Served), one("b", Served, LeftOut), LeftOut),
            (one("b", Served, LeftOut), one("a", Served, Served), LeftOut),
        ] {
            assert_eq!(before.while_changing_to(&after).of(&"a".parse().unwrap()), between);
        }
    }
}
