//! What credentials allow, how they are recognised, and how they are revoked.

pub mod key_hash;
pub mod revocation;
pub mod roles;
pub mod scopes;
pub mod token_identity;
