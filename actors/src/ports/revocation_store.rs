//! The port to the store of revocations.

use async_trait::async_trait;
use jiff::Timestamp;

use super::LogError;
use crate::domain::access::revocation::{Revocation, StoredRevocations, Subject};
use crate::domain::ids::TenantId;

/// Stores revocations. One test suite checks every implementation.
#[async_trait]
pub trait RevocationStore: Send + Sync {
    /// Returns all stored revocations. An unreadable record is returned as far as it is readable: it must not be taken
    /// for absent, and the others must still take effect.
    async fn revocations(&self) -> Result<StoredRevocations, LogError>;

    /// Stores a revocation, replacing an earlier one of the same subject.
    async fn put_revocation(&self, revocation: &Revocation) -> Result<(), LogError>;

    /// Deletes the revocation of a subject, if there is one.
    async fn delete_revocation(&self, tenant: &TenantId, subject: &Subject) -> Result<(), LogError>;

    /// Deletes revocations that have expired at `now`.
    async fn delete_expired_revocations(&self, now: Timestamp) -> Result<(), LogError>;
}
