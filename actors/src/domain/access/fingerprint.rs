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
