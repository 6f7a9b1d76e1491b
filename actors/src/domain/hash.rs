//! Hashes and MACs of several parts.
//!
//! Some are stored or sent (ids of revocations, audit logs, users' pseudonyms), so the format never changes: each part
//! is preceded by its length as 64 bits, big-endian. The tests of each stored hash pin it.

use sha2::digest::Update;
use sha2::{Digest as _, Sha256};

/// Feeds a hash or MAC with parts, each preceded by its length, so that no two lists of parts are the same input.
#[derive(Debug, Clone, Default)]
pub struct PartHasher<H = Sha256>(H);

impl PartHasher {
    /// Returns a SHA-256 that has read nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns the hash.
    pub fn finish(self) -> [u8; 32] {
        self.0.finalize().into()
    }

    /// Adds `rest` without its length, which the end of the input gives, and returns the hash.
    pub fn finish_with(self, rest: impl AsRef<[u8]>) -> [u8; 32] {
        self.0.chain_update(rest).finalize().into()
    }
}

impl<H: Update> PartHasher<H> {
    /// Feeds `hasher`, which may have read a purpose that ends in a NUL.
    pub fn with(hasher: H) -> Self {
        Self(hasher)
    }

    /// Adds a part.
    #[must_use]
    pub fn part(self, part: impl AsRef<[u8]>) -> Self {
        let part = part.as_ref();
        let inner = self.0.chain((part.len() as u64).to_be_bytes());
        Self(inner.chain(part))
    }

    /// Adds parts in order.
    #[must_use]
    pub fn parts(self, parts: impl IntoIterator<Item: AsRef<[u8]>>) -> Self {
        parts.into_iter().fold(self, Self::part)
    }

    /// Adds a number, which needs no length.
    #[must_use]
    pub fn number(self, number: i64) -> Self {
        Self(self.0.chain(number.to_be_bytes()))
    }

    /// Returns the hasher that was fed.
    pub fn into_inner(self) -> H {
        self.0
    }
}

/// Hashes a list of texts.
pub fn fingerprint(parts: &[&str]) -> [u8; 32] {
    PartHasher::new().parts(parts).finish()
}

/// Derives a key for one purpose from a random key. `purpose` is a constant, and none begins with another one.
pub fn derive_key(purpose: &str, key: &[u8; 32]) -> [u8; 32] {
    Sha256::new_with_prefix(purpose).chain_update(key).finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_is_stored_and_stays() {
        for (parts, expected) in [
            (
                &[][..],
                "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            ),
            (
                &["a", "bc"],
                "3fafa1cf2f19a7c1129beb20cf0983f73a489a221fc0dd2f16d1be292d089205",
            ),
        ] {
            assert_eq!(hex::encode(fingerprint(parts)), expected, "{parts:?}");
        }
        // The key of stream tickets.
        assert_eq!(
            hex::encode(derive_key("copilotd ticket key 1\0", &[1; 32])),
            "40bf22de95dac1eb685749a5fb638600720c8f5df2829eb130e5f6f907288d44"
        );
    }

    #[test]
    fn parts_do_not_run_into_each_other() {
        assert_ne!(fingerprint(&["ab", "c"]), fingerprint(&["a", "bc"]));
        assert_ne!(fingerprint(&["ab", ""]), fingerprint(&["ab"]));
        assert_ne!(PartHasher::new().part("a").finish_with("b"), fingerprint(&["a", "b"]));
    }
}
