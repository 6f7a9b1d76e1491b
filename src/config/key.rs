//! Keys that verify credentials: signature algorithms with their keys, and hashes of API keys.

use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;

/// Shortest HS256 secret, in bytes: the length of its hash (RFC 7518, section 3.2).
pub const MIN_SECRET_BYTES: usize = 32;

/// An algorithm that tokens may be signed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
pub enum Alg {
    /// Ed25519.
    #[serde(rename = "EdDSA")]
    EdDsa,
    /// ECDSA on P-256.
    #[serde(rename = "ES256")]
    Es256,
    /// RSA with PKCS #1 v1.5, at least 2048 bits.
    #[serde(rename = "RS256")]
    Rs256,
    /// HMAC with SHA-256: the same secret signs and verifies.
    #[serde(rename = "HS256")]
    Hs256,
}

impl Alg {
    /// Returns the library's type.
    pub fn algorithm(self) -> Algorithm {
        match self {
            Self::EdDsa => Algorithm::EdDSA,
            Self::Es256 => Algorithm::ES256,
            Self::Rs256 => Algorithm::RS256,
            Self::Hs256 => Algorithm::HS256,
        }
    }

    /// Parses the verification key: a secret for HS256, else the PEM text of a public key.
    pub fn key(self, material: &str) -> Result<DecodingKey, &'static str> {
        if self == Self::Hs256 {
            if material.len() < MIN_SECRET_BYTES {
                return Err("a secret needs at least 32 bytes");
            }
            return Ok(DecodingKey::from_secret(material.as_bytes()));
        }
        if material.contains("PRIVATE KEY") {
            return Err("this is a private key: give the public key");
        }
        let (key, fits, wrong): (_, fn(&[u8]) -> bool, _) = match self {
            Self::EdDsa => (
                DecodingKey::from_ed_pem(material.as_bytes()),
                |der| der.len() == 32,
                "not the PEM text of an Ed25519 public key",
            ),
            // An uncompressed point on P-256; points on other curves have another length.
            Self::Es256 => (
                DecodingKey::from_ec_pem(material.as_bytes()),
                |der| der.len() == 65 && der[0] == 4,
                "not the PEM text of a P-256 public key",
            ),
            // A modulus of 2048 bits has 256 bytes.
            Self::Rs256 | Self::Hs256 => (
                DecodingKey::from_rsa_pem(material.as_bytes()),
                |der| der.len() > 256,
                "not the PEM text of an RSA public key of at least 2048 bits",
            ),
        };
        let key = key.map_err(|_error| wrong)?;
        if key.try_get_as_bytes().is_ok_and(fits) {
            Ok(key)
        } else {
            Err(wrong)
        }
    }
}
