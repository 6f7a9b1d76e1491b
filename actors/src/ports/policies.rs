//! Configurations of copilots, and which tenants are served.

use std::sync::Arc;

use crate::domain::conversation::quota::Quotas;
use crate::domain::ids::CopilotName;
use crate::domain::policy::Policy;
use crate::tenancy::TenantScope;

/// Looks up copilots' configurations; they can be reloaded behind this trait.
pub trait Policies: Send + Sync {
    /// Returns the policy of `copilot`, or of the tenant's first copilot if no name is given.
    fn policy(&self, scope: &TenantScope, copilot: Option<&CopilotName>) -> Option<Arc<Policy>>;

    /// Returns the storage quotas of the tenant and of each of its users.
    fn quotas(&self, scope: &TenantScope) -> Quotas;

    /// Returns whether the tenant is currently served.
    fn standing(&self, scope: &TenantScope) -> ServingState;
}

/// Whether a tenant is served. Ordered by how much is refused.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum ServingState {
    /// Served normally.
    #[default]
    Served,
    /// Left out because its settings have a fault. No model call, tool call or schema check is started; running ones
    /// may end, and open turns wait until the settings are fixed.
    LeftOut,
    /// Suspended by an operator. Nothing more is sent, and open turns are cancelled.
    Suspended,
}
