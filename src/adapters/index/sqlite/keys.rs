//! Keys that begin with the tenant, as integers: rows of a tenant lie together, and a range is all of a tenant.
//!
//! A tenant has a number; its documents, chunks and terms are numbered within it. A key is the tenant's number above 32
//! bits of the other one; keys of vectors have 8 bits for the space in between.

use copilotd_actors::ports::LogError;

use crate::adapters::sqlite::failure::Failure;

/// Largest number of a tenant: the bits that a vector's key leaves.
pub(super) const MAX_TENANT: i64 = (1 << 23) - 1;
/// Largest number of a space.
pub(super) const MAX_SPACE: i64 = (1 << 8) - 1;
/// Largest number within a tenant.
const MAX_WITHIN: i64 = (1 << 32) - 1;

/// Returns the key of a document or chunk.
pub(super) fn key(tenant: i64, within: i64) -> i64 {
    (tenant << 32) | within
}

/// Returns the number within its tenant that a key ends with.
pub(super) fn within(key: i64) -> i64 {
    key & MAX_WITHIN
}

/// Returns the key of a chunk's vector.
pub(super) fn vector(tenant: i64, space: i64, chunk: i64) -> i64 {
    (tenant << 40) | (space << 32) | within(chunk)
}

/// Returns the first and the last key of a tenant's vectors of a space.
pub(super) fn vectors(tenant: i64, space: i64) -> (i64, i64) {
    (vector(tenant, space, 0), vector(tenant, space, MAX_WITHIN))
}

/// Refuses a number that has no place in a key.
pub(super) fn check(number: i64, most: i64, what: &str) -> Result<i64, Failure> {
    if (1..=most).contains(&number) {
        Ok(number)
    } else {
        Err(LogError::Refused(format!("the index has no numbers left for {what}")).into())
    }
}

/// Refuses a number within a tenant that has no place in a key.
pub(super) fn check_within(number: i64, what: &str) -> Result<i64, Failure> {
    check(number, MAX_WITHIN, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_tenants_and_spaces_do_not_overlap() {
        for tenant in [1, 2, MAX_TENANT - 1] {
            assert!(key(tenant, MAX_WITHIN) < key(tenant + 1, 1));
            assert_eq!(within(key(tenant, 77)), 77);
            for space in [0, 1, MAX_SPACE - 1] {
                assert!(vectors(tenant, space).1 < vectors(tenant, space + 1).0);
                let vector = vector(tenant, space, key(tenant, 77));
                let (first, last) = vectors(tenant, space);
                assert!((first..=last).contains(&vector));
            }
            assert!(vectors(tenant, MAX_SPACE).1 < vectors(tenant + 1, 0).0);
        }
        assert!(check(MAX_TENANT + 1, MAX_TENANT, "tenants").is_err());
        assert!(check_within(0, "chunks").is_err());
    }
}
