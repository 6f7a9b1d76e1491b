//! A revocation as it is stored.

use std::fmt;
use std::str::FromStr;

use copilotd_actors::domain::ids::{TenantId, UserId};
use jiff::{SignedDuration, Timestamp};

use crate::fingerprint::fingerprint;

/// How long a revocation is kept: the longest life of a token, and twice the difference of clocks that is forgiven (once when a token
/// is accepted that ends in a day, once when it ends). Every token that was accepted at the moment of the revocation has ended then.
pub const KEPT: SignedDuration = SignedDuration::from_secs(24 * 60 * 60 + 2 * 60);

/// Whose tokens are revoked, or which.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Subject {
    /// All tokens of a user that were issued up to the moment of the revocation.
    User(UserId),
    /// The token with this `jti`, or with this name in logs and in the audit log (`jwt:…`).
    Token(String),
}

impl Subject {
    /// Names the kind, as stores do.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::User(_) => "user",
            Self::Token(_) => "token",
        }
    }

    /// Returns the user or the token's id.
    pub fn text(&self) -> &str {
        match self {
            Self::User(user) => user.as_str(),
            Self::Token(id) => id,
        }
    }

    /// Reads what a store keeps.
    pub fn read(kind: &str, text: &str) -> Option<Self> {
        match kind {
            "user" => text.parse().ok().map(Self::User),
            "token" => Some(Self::Token(text.to_owned())),
            _ => None,
        }
    }
}

/// A revocation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revocation {
    /// Whose tokens.
    pub tenant: TenantId,
    /// Whose or which.
    pub subject: Subject,
    /// Since when; tokens of a user that were issued later are not hit.
    pub revoked_at: Timestamp,
    /// When every token that it can hit has ended.
    pub expires_at: Timestamp,
    /// Who revoked.
    pub revoked_by: String,
    /// Why, if that was said.
    pub reason: Option<String>,
}

impl Revocation {
    /// Returns its id: the same for the same tenant and subject, so that revoking again replaces.
    pub fn id(&self) -> RevocationId {
        RevocationId::of(&self.tenant, &self.subject)
    }
}

/// Names a revocation: `rev_` and 32 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RevocationId([u8; 16]);

/// The text does not name a revocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected rev_ and 32 hexadecimal digits")]
pub struct InvalidRevocationId;

impl RevocationId {
    /// Names the revocation of a subject.
    pub fn of(tenant: &TenantId, subject: &Subject) -> Self {
        let print = fingerprint(&["revocation", tenant.as_str(), subject.kind(), subject.text()]);
        let mut id = [0; 16];
        id.copy_from_slice(&print[..16]);
        Self(id)
    }
}

impl fmt::Display for RevocationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rev_{}", hex::encode(self.0))
    }
}

impl FromStr for RevocationId {
    type Err = InvalidRevocationId;

    fn from_str(text: &str) -> Result<Self, InvalidRevocationId> {
        let digits = text.strip_prefix("rev_").ok_or(InvalidRevocationId)?;
        // One spelling of each id.
        if digits.bytes().any(|digit| digit.is_ascii_uppercase()) {
            return Err(InvalidRevocationId);
        }
        let mut id = [0; 16];
        hex::decode_to_slice(digits, &mut id).map_err(|_error| InvalidRevocationId)?;
        Ok(Self(id))
    }
}
