//! Indexes of the tenants' knowledge behind the port `KnowledgeIndex`.

pub mod postgres;
pub mod sqlite;
mod stored;
mod turns;
