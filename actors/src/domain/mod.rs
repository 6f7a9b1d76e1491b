//! The pure core. Nothing here awaits, reads a clock, makes up an id or does I/O.

pub mod command;
pub mod content;
pub mod event;
pub mod guard;
pub mod header;
pub mod ids;
pub mod policy;
pub mod prompt;
pub mod schema;
pub mod usage;
