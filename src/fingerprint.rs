//! Names for what is made of several texts.

use sha2::{Digest as _, Sha256};

/// Hashes `parts` with their lengths, so that no two lists of texts have one name.
pub(crate) fn fingerprint(parts: &[&str]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}
