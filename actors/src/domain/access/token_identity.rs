//! The parts of a token that revocations are compared with.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use sha2::{Digest as _, Sha256};

/// A user token's time of issue and id, if it has them. A stream ticket has those of the token it was issued for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TokenIdentity {
    /// The `iat` claim.
    pub issued_at: Option<Timestamp>,
    /// Digest of the `jti` claim, which may have any length.
    pub jti: Option<JtiDigest>,
}

/// Digest of a token's `jti`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct JtiDigest([u8; 16]);

/// The text is not a digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected 32 hexadecimal digits")]
pub struct InvalidDigest;

impl JtiDigest {
    /// Hashes a `jti`.
    pub fn of(jti: &str) -> Self {
        let hash: [u8; 32] = Sha256::digest(jti).into();
        let mut digest = [0; 16];
        digest.copy_from_slice(&hash[..16]);
        Self(digest)
    }
}

impl fmt::Display for JtiDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for JtiDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for JtiDigest {
    type Err = InvalidDigest;

    fn from_str(text: &str) -> Result<Self, InvalidDigest> {
        let mut digest = [0; 16];
        hex::decode_to_slice(text, &mut digest).map_err(|_error| InvalidDigest)?;
        Ok(Self(digest))
    }
}
