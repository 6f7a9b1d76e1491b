//! The audit log: who did what in a tenant, append-only, one hash chain per tenant.
//!
//! An entry holds ids and actions, never content or a hash of content. Entries are numbered from 1 without gaps; each
//! one's hash covers the entry before it, and a MAC under a key that the store does not hold covers the hash. The newest
//! number and hash are kept a second time (the head), so that entries missing from the end are noticed, and a third time in
//! another place (the anchor), so that entries deleted together with their head are.
//!
//! Invariants: an entry is durable before [`AuditLog::record`] returns; of two writers of one number one gets a
//! conflict ([`AuditStore`]); nothing changes or deletes an entry.

mod chain;
mod entry;
mod log;
mod store;

pub use chain::{AuditKey, Bad, Fault, Verification};
pub use entry::{Action, Body, Entry};
pub use log::{AuditLog, Listed, VerifyError};
pub use store::{AuditStore, Head, StoredEntry};
