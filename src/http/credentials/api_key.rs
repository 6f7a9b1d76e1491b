//! API keys: random, shown once, stored as a hash.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rand::RngExt;
use secrecy::SecretString;

use copilotd_actors::domain::access::key_hash::KeyHash;

/// Prefix of every API key, so that leaked ones can be recognised.
pub(super) const PREFIX: &str = "cpk_";
/// Length of the rest: 32 bytes in base64url.
const LENGTH: usize = 43;

/// Generates a key and its hash. The key itself is stored nowhere.
pub fn new_api_key() -> (SecretString, KeyHash) {
    let bytes: [u8; 32] = rand::rng().random();
    let key = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes));
    let hash = KeyHash::of(&key);
    (key.into(), hash)
}

/// Returns the hash to look a credential up by, if it has the form of an API key.
pub(super) fn hash_of(credential: &str) -> Option<KeyHash> {
    let rest = credential.strip_prefix(PREFIX)?;
    let valid = rest.len() == LENGTH
        && rest
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    valid.then(|| KeyHash::of(credential))
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;

    #[test]
    fn a_new_key_has_its_form_and_hash() {
        let (key, hash) = new_api_key();
        assert_eq!(key.expose_secret().len(), 47);
        assert_eq!(hash_of(key.expose_secret()), Some(hash));
        assert_ne!(new_api_key().1, hash);
        assert!(!format!("{key:?}").contains(&key.expose_secret()[4..]));
    }

    #[test]
    fn nothing_else_is_hashed() {
        let long = format!("cpk_{}", "a".repeat(44));
        let odd = format!("cpk_{}!", "a".repeat(42));
        for text in ["", "cpk_", "cpk_abc", long.as_str(), odd.as_str()] {
            assert_eq!(hash_of(text), None, "{text}");
        }
    }
}
