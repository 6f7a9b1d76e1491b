//! The port to the store of tenants and their API keys.

use async_trait::async_trait;

use super::LogError;
use crate::domain::access::key_hash::KeyHash;
use crate::domain::tenant::{KeyUse, StoredKey, StoredTenant};

/// Stores tenants and API keys. They are few and rarely written, so reads return all of them. One process has the store
/// at a time, so nobody else writes. One test suite checks every implementation.
#[async_trait]
pub trait TenantStore: Send + Sync {
    /// Returns all stored tenants, ordered by id.
    async fn tenants(&self) -> Result<Vec<StoredTenant>, LogError>;

    /// Stores a tenant, replacing an earlier record.
    async fn put_tenant(&self, tenant: &StoredTenant) -> Result<(), LogError>;

    /// Returns all stored keys, newest first.
    async fn keys(&self) -> Result<Vec<StoredKey>, LogError>;

    /// Stores a key, replacing an earlier record with the same hash.
    async fn put_key(&self, key: &StoredKey) -> Result<(), LogError>;

    /// Deletes keys and their last uses.
    async fn delete_keys(&self, hashes: &[KeyHash]) -> Result<(), LogError>;

    /// Returns the last uses of keys.
    async fn key_uses(&self) -> Result<Vec<KeyUse>, LogError>;

    /// Stores last uses of keys.
    async fn put_key_uses(&self, uses: &[KeyUse]) -> Result<(), LogError>;
}
