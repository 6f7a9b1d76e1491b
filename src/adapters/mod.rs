//! What the ports of the actors are in the outside world: each module drives one foreign system. Wire and driver types
//! stay inside their adapter.

pub mod genai_span;
pub mod models;
pub mod openai;
mod patience;
pub mod sqlite;
mod text;

pub use text::MAX_APPEND_BYTES;
