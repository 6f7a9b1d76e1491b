//! Implementations of the actors' and the gateway's ports: each module drives one external system. Wire and driver
//! types stay inside their adapter; no adapter imports another.

pub mod embedding;
pub mod limiter;
pub mod llm;
pub mod schema_check;
pub mod store;
#[deny(clippy::indexing_slicing, clippy::string_slice)]
// What Slack sends may be anything: `crate::adapters::systems::tools::member` reads it.
pub mod systems;
#[deny(clippy::indexing_slicing, clippy::string_slice)] // As in the vendors' rooms.
#[deny(clippy::indexing_slicing, clippy::string_slice)]
// What Zendesk sends may be anything: `crate::adapters::systems::tools::member` reads it.
pub use crate::adapters::store::text::MAX_APPEND_BYTES;
