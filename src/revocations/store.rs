//! Where revocations are stored.

use async_trait::async_trait;
use copilotd_actors::domain::ids::TenantId;
use copilotd_actors::ports::LogError;
use jiff::Timestamp;

use super::record::{Revocation, Subject};

/// Stores revocations beside the log. One suite checks every implementation.
#[async_trait]
pub trait RevocationStore: Send + Sync {
    /// Returns every stored revocation, in any order. A record that cannot be read is left out and logged: it must not keep the
    /// others from holding.
    async fn revocations(&self) -> Result<Vec<Revocation>, LogError>;

    /// Stores a revocation in the place of an earlier one of its subject.
    async fn put_revocation(&self, revocation: &Revocation) -> Result<(), LogError>;

    /// Deletes the revocation of a subject; there need not be one.
    async fn delete_revocation(&self, tenant: &TenantId, subject: &Subject) -> Result<(), LogError>;

    /// Deletes what has expired at `now`.
    async fn delete_expired_revocations(&self, now: Timestamp) -> Result<(), LogError>;
}
