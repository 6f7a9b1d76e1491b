//! Where tenants and their keys are kept.

use async_trait::async_trait;
use copilotd_actors::ports::LogError;

use super::record::{KeyUse, StoredKey, StoredTenant};
use crate::config::KeyHash;

/// Keeps tenants and keys beside the log. Small and seldom written: what is asked for is asked for whole. One process has the
/// store at a time, so that nobody else writes. One suite checks every implementation.
#[async_trait]
pub trait TenantStore: Send + Sync {
    /// Returns every stored tenant, by id.
    async fn tenants(&self) -> Result<Vec<StoredTenant>, LogError>;

    /// Keeps a tenant in the place of what was kept under its id.
    async fn put_tenant(&self, tenant: &StoredTenant) -> Result<(), LogError>;

    /// Returns every stored key, the newest first.
    async fn keys(&self) -> Result<Vec<StoredKey>, LogError>;

    /// Keeps a key in the place of what was kept under its hash.
    async fn put_key(&self, key: &StoredKey) -> Result<(), LogError>;

    /// Forgets keys, and when they were used.
    async fn delete_keys(&self, hashes: &[KeyHash]) -> Result<(), LogError>;

    /// Returns when keys were used last.
    async fn key_uses(&self) -> Result<Vec<KeyUse>, LogError>;

    /// Notes when keys were used last.
    async fn put_key_uses(&self, uses: &[KeyUse]) -> Result<(), LogError>;
}
