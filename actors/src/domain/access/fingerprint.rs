//! Hashes of lists of texts.

use sha2::{Digest as _, Sha256};

/// Hashes `parts` with their lengths, so that different lists never hash the same input.
pub fn fingerprint(parts: &[&str]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.finalize().into()
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
    }
}
