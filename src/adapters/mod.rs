//! What the ports of the actors are in the outside world: each module drives one foreign system. Wire and driver types
//! stay inside their adapter; nothing here imports another.

pub mod anthropic;
pub mod embed;
pub mod genai_span;
pub mod mongo;
pub mod openai;
mod patience;
pub mod provider;
pub mod redis_limiter;
pub mod schema_check;
pub mod slack;
pub mod sqlite;
pub mod systems;
mod text;
pub mod tools;
mod unreadable;
pub mod zendesk;

pub use text::MAX_APPEND_BYTES;
