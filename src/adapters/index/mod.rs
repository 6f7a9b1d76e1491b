//! Indexes of the tenants' knowledge behind the port `KnowledgeIndex`.

pub mod sqlite;
