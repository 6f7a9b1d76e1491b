//! Encrypts tenants' settings, which contain secrets, before they are stored: AES-256-GCM (NIST SP 800-38D) with a
//! random nonce, bound to the tenant's id, so that one tenant's stored settings cannot be swapped for another's.

use aws_lc_rs::aead::{AES_256_GCM, Aad, Nonce, RandomizedNonceKey};
use copilotd_actors::domain::hash::derive_key;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

/// First byte of the ciphertext, so that the format can change.
const VERSION: u8 = 1;
/// Length of the part of the key's hash that identifies the key.
const MARK: usize = 4;
/// Length of a nonce, in bytes.
const NONCE: usize = 12;

/// The key that encrypts stored settings.
pub struct Cipher {
    key: RandomizedNonceKey,
    mark: [u8; MARK],
    /// Separate key for fingerprints: each key has one purpose.
    fingerprints: [u8; 32],
}

/// Why a ciphertext could not be decrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecryptError {
    /// It was encrypted with another key.
    #[error(
        "the stored settings were encrypted with another key (server.seal_key, or tenants.key in the data directory)"
    )]
    OtherKey,
    /// It was changed, or belongs to another tenant.
    #[error("the stored settings are corrupt: they cannot be decrypted")]
    Corrupt,
}

impl Cipher {
    /// Derives the keys from a key of 32 random bytes.
    pub fn new(key: &[u8; 32]) -> Self {
        let mark = derive_key("copilotd mark", key);
        Self {
            key: RandomizedNonceKey::new(&AES_256_GCM, &derive_key("copilotd settings", key))
                .expect("a key of 32 bytes is one"),
            mark: [mark[0], mark[1], mark[2], mark[3]],
            fingerprints: derive_key("copilotd fingerprints", key),
        }
    }

    /// Encrypts `plain` for `whom`.
    ///
    /// # Panics
    /// When the machine has no randomness.
    pub fn seal(&self, whom: &str, plain: &[u8]) -> Vec<u8> {
        let mut text = plain.to_vec();
        let nonce = self
            .key
            .seal_in_place_append_tag(Aad::from(whom), &mut text)
            .expect("encryption fails only without randomness");
        let mut sealed = vec![VERSION];
        sealed.extend_from_slice(&self.mark);
        sealed.extend_from_slice(nonce.as_ref());
        sealed.append(&mut text);
        sealed
    }

    /// Decrypts what was encrypted for `whom`.
    pub fn decrypt(&self, whom: &str, sealed: &[u8]) -> Result<Vec<u8>, DecryptError> {
        let rest = sealed.strip_prefix(&[VERSION]).ok_or(DecryptError::Corrupt)?;
        let (mark, rest) = rest.split_at_checked(MARK).ok_or(DecryptError::Corrupt)?;
        if mark != self.mark {
            return Err(DecryptError::OtherKey);
        }
        let (nonce, text) = rest.split_at_checked(NONCE).ok_or(DecryptError::Corrupt)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_error| DecryptError::Corrupt)?;
        let mut text = text.to_vec();
        let plain = self.key.open_in_place(nonce, Aad::from(whom), &mut text);
        Ok(plain.map_err(|_error| DecryptError::Corrupt)?.to_vec())
    }

    /// Returns a short fingerprint of a secret, which reveals nothing about it without the key.
    pub fn fingerprint(&self, secret: &str) -> String {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.fingerprints).expect("any length is a key");
        mac.update(secret.as_bytes());
        hex::encode(&mac.finalize().into_bytes()[..8])
    }
}

impl std::fmt::Debug for Cipher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cipher").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_is_opened_by_its_key_for_its_tenant_alone() {
        let seal = Cipher::new(&[1; 32]);
        let sealed = seal.seal("acme", b"a secret");
        assert_eq!(seal.decrypt("acme", &sealed).unwrap(), b"a secret");
        assert_ne!(sealed, seal.seal("acme", b"a secret"), "each has its own nonce");
        assert!(!sealed.windows(6).any(|part| part == b"secret"));
        assert_eq!(seal.decrypt("globex", &sealed), Err(DecryptError::Corrupt));
        assert_eq!(
            Cipher::new(&[2; 32]).decrypt("acme", &sealed),
            Err(DecryptError::OtherKey)
        );
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert!(seal.decrypt("acme", &changed).is_err(), "byte {at}");
            assert!(seal.decrypt("acme", &sealed[..at]).is_err(), "{at} bytes");
        }
    }

    #[test]
    fn a_fingerprint_names_a_secret() {
        let (one, other) = (Cipher::new(&[1; 32]), Cipher::new(&[2; 32]));
        assert_eq!(one.fingerprint("a"), one.fingerprint("a"));
        assert_ne!(one.fingerprint("a"), one.fingerprint("b"));
        assert_ne!(one.fingerprint("a"), other.fingerprint("a"));
    }

    #[test]
    fn what_an_earlier_release_encrypted_is_decrypted() {
        let cipher = Cipher::new(&[1; 32]);
        let sealed = "018de26247000102030405060708090a0b05ce542886b9c966cf5e5e145bc86e9d85d4cb69097a733d";
        assert_eq!(
            cipher.decrypt("acme", &hex::decode(sealed).unwrap()).unwrap(),
            b"a secret"
        );
        assert_eq!(cipher.fingerprint("a"), "f2ff608f5806d338");
    }
}
