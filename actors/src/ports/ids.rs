//! New identifiers.

use uuid::Uuid;

/// Generates ids; tests use predictable ones.
pub trait Ids: Send + Sync {
    /// Returns a new UUID; version 7 in production.
    fn uuid(&self) -> Uuid;

    /// Returns 16 unguessable hexadecimal digits; predictable in tests.
    fn nonce(&self) -> String;
}
