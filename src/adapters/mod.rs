//! Implementations of the actors' and the gateway's ports: each module drives one external system. Wire and driver
//! types stay inside their adapter; no adapter imports another. Those on SQLite share `sqlite`,
//! those with worker processes share `child`.

pub(crate) mod backoff;
pub mod child;
pub mod embedding;
pub mod index;
pub mod limiter;
pub mod llm;
pub mod pdf;
pub mod schema_check;
pub(crate) mod sqlite;
pub mod store;
// Vendors may send anything: `systems::tools::member` reads it.
#[deny(clippy::indexing_slicing, clippy::string_slice)]
pub mod systems;
