//! The tenant as a type: a [`TenantScope`] exists only where the credential verifier has accepted a credential.

use std::fmt;

use crate::domain::ids::TenantId;

/// Proof that work is done on behalf of one tenant. Every port method takes one, and every key in storage, indexes,
/// caches and limits begins with its tenant id.
///
/// Invariant: built only from a verified credential, or by recovery from data that such a credential stored earlier.
/// Clippy bans the constructor everywhere else.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct TenantScope(TenantId);

impl TenantScope {
    /// Creates the scope of `tenant`. Only the credential verifier and recovery may call this.
    pub fn from_verified(tenant: TenantId) -> Self {
        Self(tenant)
    }

    /// Returns the tenant of this scope.
    pub fn tenant(&self) -> &TenantId {
        &self.0
    }
}

impl fmt::Debug for TenantScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TenantScope({})", self.0)
    }
}
