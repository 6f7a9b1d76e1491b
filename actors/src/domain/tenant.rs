//! The stored form of tenants and their keys.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::access::key_hash::KeyHash;
use super::access::scopes::Scopes;
use super::ids::{JobId, PathId, TenantId};

/// Who requests a change, for the log and the audit log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Requester {
    /// The user; `tenant/user` if it is of another tenant than the changed one.
    pub actor: String,
    /// The name of the credential, which does not reveal it.
    pub credential: String,
    /// Id of the request.
    pub request_id: Option<String>,
}

/// Whether a tenant is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TenantStatus {
    /// Served.
    Active,
    /// Its credentials are refused and no calls are made for it. Nothing is deleted.
    Suspended,
}

/// A stored tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredTenant {
    /// Id of the tenant.
    pub id: TenantId,
    /// Whether it is served.
    pub status: TenantStatus,
    /// Its encrypted settings; none while those of the file apply.
    pub sealed: Option<Vec<u8>>,
    /// When it was created or first changed.
    pub created_at: Timestamp,
    /// When it was last changed.
    pub updated_at: Timestamp,
    /// The job that is deleting it, set when its deletion is accepted; it is not served from then on.
    pub deletion: Option<JobId>,
}

/// A stored API key: created at run time, or a revoked one of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredKey {
    /// Tenant of the key.
    pub tenant: TenantId,
    /// SHA-256 of the key.
    pub hash: KeyHash,
    /// Name of the key.
    pub name: String,
    /// Scopes of the key.
    pub scopes: Scopes,
    /// When it was created.
    pub created_at: Timestamp,
    /// The user who created it; none for a key of the file.
    pub created_by: Option<String>,
    /// When it expires, if ever.
    pub expires_at: Option<Timestamp>,
    /// When it was revoked, if it was.
    pub revoked_at: Option<Timestamp>,
}

/// The last use of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyUse {
    /// SHA-256 of the key.
    pub hash: KeyHash,
    /// When it was last used.
    pub at: Timestamp,
}

/// Id of a key, which does not reveal it: `key_` and the first half of its hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyId([u8; 16]);

/// The text is not a key's id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected key_ followed by 32 hexadecimal digits")]
pub struct InvalidKeyId;

impl KeyId {
    /// Returns the id of the key with this hash.
    pub fn of(hash: &KeyHash) -> Self {
        let mut id = [0; 16];
        id.copy_from_slice(&hash.bytes()[..16]);
        Self(id)
    }
}

impl PathId for KeyId {
    const PATTERN: &'static str = "^key_[0-9a-f]{32}$";
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "key_{}", hex::encode(self.0))
    }
}

impl FromStr for KeyId {
    type Err = InvalidKeyId;

    fn from_str(text: &str) -> Result<Self, InvalidKeyId> {
        let digits = text.strip_prefix("key_").ok_or(InvalidKeyId)?;
        // Each id has one spelling.
        if digits.bytes().any(|digit| digit.is_ascii_uppercase()) {
            return Err(InvalidKeyId);
        }
        let mut id = [0; 16];
        hex::decode_to_slice(digits, &mut id).map_err(|_error| InvalidKeyId)?;
        Ok(Self(id))
    }
}
