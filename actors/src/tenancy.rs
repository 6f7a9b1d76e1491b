//! The tenant as a type: whoever holds a [`TenantScope`] has been through the credential verifier.

use std::fmt;

use crate::domain::ids::TenantId;

/// Proof that work is done on behalf of one tenant. Every port method takes one, and every key of storage, index,
/// cache and limit begins with it.
///
/// Invariant: built only from a verified credential, or by recovery from what such a credential once stored. The
/// constructor is banned by clippy everywhere else.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct TenantScope(TenantId);

impl TenantScope {
    /// Opens the scope of `tenant`. Only the credential verifier and recovery may call this.
    pub fn from_verified(tenant: TenantId) -> Self {
        Self(tenant)
    }

    /// Returns the tenant whose scope this is.
    pub fn tenant(&self) -> &TenantId {
        &self.0
    }
}

impl fmt::Debug for TenantScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TenantScope({})", self.0)
    }
}
