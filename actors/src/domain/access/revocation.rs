//! The stored form of a revocation.

use std::fmt;
use std::str::FromStr;

use jiff::{SignedDuration, Timestamp};

use crate::domain::hash::fingerprint;
use crate::domain::ids::{PathId, TenantId, UserId};

/// By how much an issuer's clock may differ from ours.
pub const CLOCK_SKEW: SignedDuration = SignedDuration::from_secs(60);

/// How long a revocation is stored: the longest lifetime of a token plus twice the tolerated clock skew (once for a
/// token accepted with a day left, once at its expiry). By then every token that was valid when it was revoked has
/// expired.
pub const STORED_FOR: SignedDuration = SignedDuration::from_secs(24 * 60 * 60 + 2 * CLOCK_SKEW.as_secs());

/// The revoked user or token.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Subject {
    /// All tokens of a user that were issued up to the time of the revocation.
    User(UserId),
    /// The token with this `jti`, or with this name in logs and in the audit log (`jwt:…`).
    Token(String),
}

impl Subject {
    /// Returns the kind's name in stores.
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

    /// Parses the stored form.
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
    /// Tenant of the tokens.
    pub tenant: TenantId,
    /// The user or token.
    pub subject: Subject,
    /// When it took effect; a user's tokens issued later are not affected.
    pub revoked_at: Timestamp,
    /// When every affected token has expired.
    pub expires_at: Timestamp,
    /// The user who revoked.
    pub revoked_by: String,
    /// The reason, if one was given.
    pub reason: Option<String>,
}

impl Revocation {
    /// Returns its id: the same for the same tenant and subject, so that revoking again replaces it.
    pub fn id(&self) -> RevocationId {
        RevocationId::of(&self.tenant, &self.subject)
    }
}

/// What is known of a stored revocation that cannot be read: written by a later version, or damaged. It must not be
/// taken for absent, because then the tokens that it revoked would be accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnreadableRevocation {
    /// Where the record is in its store, so that an operator can repair it.
    pub record: String,
    /// Its tenant, if that is readable.
    pub tenant: Option<TenantId>,
    /// The user or token, if that is readable.
    pub subject: Option<Subject>,
    /// When every affected token has expired, if that is readable.
    pub expires_at: Option<Timestamp>,
}

/// All stored revocations.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StoredRevocations {
    /// Those that were read, in any order.
    pub readable: Vec<Revocation>,
    /// Those that could not be read.
    pub unreadable: Vec<UnreadableRevocation>,
}

/// Id of a revocation: `rev_` and 32 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RevocationId([u8; 16]);

/// The text is not a revocation's id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected rev_ followed by 32 hexadecimal digits")]
pub struct InvalidRevocationId;

impl RevocationId {
    /// Returns the id of the revocation of a subject.
    pub fn of(tenant: &TenantId, subject: &Subject) -> Self {
        let print = fingerprint(&["revocation", tenant.as_str(), subject.kind(), subject.text()]);
        let mut id = [0; 16];
        id.copy_from_slice(&print[..16]);
        Self(id)
    }
}

impl PathId for RevocationId {
    const PATTERN: &'static str = "^rev_[0-9a-f]{32}$";
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
        // Each id has one spelling.
        if digits.bytes().any(|digit| digit.is_ascii_uppercase()) {
            return Err(InvalidRevocationId);
        }
        let mut id = [0; 16];
        hex::decode_to_slice(digits, &mut id).map_err(|_error| InvalidRevocationId)?;
        Ok(Self(id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_stored_and_stay() {
        for (subject, expected) in [
            (
                Subject::User("ada".parse().unwrap()),
                "rev_c127a7d3a4dda0358c36f2914461b3a1",
            ),
            (Subject::Token("j-1".into()), "rev_1d35a68ef22e243cbdaffb70e27e54f5"),
        ] {
            assert_eq!(
                RevocationId::of(&"acme".parse().unwrap(), &subject).to_string(),
                expected
            );
        }
    }
}
