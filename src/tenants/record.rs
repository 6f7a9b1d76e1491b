//! What is stored of tenants and their keys.

use std::fmt;
use std::str::FromStr;

use copilotd_actors::domain::ids::{JobId, TenantId};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::config::KeyHash;
use crate::scopes::Scopes;

/// Who asks for a change, for the log and the audit log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Requester {
    /// The user; of another tenant than the changed one, `tenant/user`.
    pub actor: String,
    /// The name of the credential, which does not disclose it.
    pub credential: String,
    /// The id of the request.
    pub request_id: Option<String>,
}

/// Whether a tenant is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TenantStatus {
    /// It is.
    Active,
    /// None of its credentials is accepted and none of its calls is made. Nothing is deleted.
    Suspended,
}

/// A tenant as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredTenant {
    /// Its id.
    pub id: TenantId,
    /// Whether it is served.
    pub status: TenantStatus,
    /// Its settings, sealed; none while they are the file's.
    pub sealed: Option<Vec<u8>>,
    /// When it was made, or first changed.
    pub created_at: Timestamp,
    /// When it was changed last.
    pub updated_at: Timestamp,
    /// The job that deletes it, from the moment at which its deletion was accepted; it is not served from then on.
    pub deletion: Option<JobId>,
}

/// An API key as it is stored: made at run time, or one of the file's that was taken back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredKey {
    /// Whose.
    pub tenant: TenantId,
    /// Hash of the key.
    pub hash: KeyHash,
    /// Its name.
    pub name: String,
    /// What it allows.
    pub scopes: Scopes,
    /// When it was made.
    pub created_at: Timestamp,
    /// Who made it; nobody of one that stands in the file.
    pub created_by: Option<String>,
    /// Its end, if it has one.
    pub expires_at: Option<Timestamp>,
    /// When it was taken back, if it was.
    pub revoked_at: Option<Timestamp>,
}

/// When a key was used last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyUse {
    /// Hash of the key.
    pub hash: KeyHash,
    /// When.
    pub at: Timestamp,
}

/// Names a key without disclosing it: `key_` and the first half of its hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyId([u8; 16]);

/// The text does not name a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected key_ and 32 hexadecimal digits")]
pub struct InvalidKeyId;

impl KeyId {
    /// Names the key of a hash.
    pub fn of(hash: &KeyHash) -> Self {
        let mut id = [0; 16];
        id.copy_from_slice(&hash.bytes()[..16]);
        Self(id)
    }
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
        let mut id = [0; 16];
        hex::decode_to_slice(digits, &mut id).map_err(|_error| InvalidKeyId)?;
        Ok(Self(id))
    }
}
