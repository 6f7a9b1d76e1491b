//! Stores of conversations, tenants, keys, usage and audit logs: SQLite and MongoDB behind the same ports.

pub mod mongo;
pub(crate) mod open_tenants;
pub mod sqlite;
pub(crate) mod tenant_fence;
pub(crate) mod text;
pub(crate) mod unreadable;
