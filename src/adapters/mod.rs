//! Implementations of the actors' and the gateway's ports: each module drives one external system. Wire and driver
//! types stay inside their adapter; no adapter imports another.

pub mod anthropic;
pub mod embed;
pub mod genai_span;
pub mod mongo;
mod open_tenants;
pub mod openai;
mod patience;
pub mod provider;
pub mod redis_limiter;
pub mod schema_check;
#[deny(clippy::indexing_slicing, clippy::string_slice)] // What Slack sends may be anything: `tools::member` reads it.
pub mod slack;
pub mod sqlite;
pub mod systems;
mod tenant_fence;
mod text;
#[deny(clippy::indexing_slicing, clippy::string_slice)] // As in the vendors' rooms.
pub mod tools;
mod unreadable;
#[deny(clippy::indexing_slicing, clippy::string_slice)] // What Zendesk sends may be anything: `tools::member` reads it.
pub mod zendesk;

pub use text::MAX_APPEND_BYTES;
