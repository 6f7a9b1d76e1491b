//! The audit log: who did what in a tenant, append-only, one hash chain per tenant.
//!
//! An entry contains ids and actions, never content or a hash of content. Entries are numbered from 1 without gaps.
//! Each one's hash covers the entry before it, and a MAC under a key that is not in the store covers the hash. The
//! newest number and hash are stored a second time (the head), which reveals entries missing from the end, and a third
//! time in another place (the anchor), which reveals entries deleted together with their head.
//!
//! Invariants: an entry is durable before [`AuditLog::record`] returns; if two writers use the same number, one gets a
//! conflict ([`AuditStore`]); nothing changes or deletes an entry.

mod chain;
mod entry;
mod log;

pub use chain::{AuditKey, DamagedEntry, Fault, Verification};
pub use copilotd_actors::ports::{AuditStore, Head, StoredEntry};
pub use entry::{Action, Body, Entry};
pub use log::{AuditLog, ListedEntry, VerifyError};
