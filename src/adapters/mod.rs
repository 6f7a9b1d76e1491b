//! The ports of the actors, on real stores. Wire and driver types stay inside each adapter.

pub mod mongo;
mod patience;
pub mod sqlite;
mod text;

pub use text::MAX_APPEND_BYTES;
