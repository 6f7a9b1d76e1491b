//! The pure core. Nothing here awaits, reads a clock, makes up an id or does I/O.

pub mod breaker;
pub mod command;
pub mod compression;
pub mod content;
pub mod conversation;
pub mod decide;
pub mod effects;
pub mod event;
pub mod guard;
pub mod header;
pub mod ids;
pub mod memory;
pub mod policy;
pub mod prices;
pub mod project;
pub mod prompt;
pub mod quota;
pub mod rate;
pub mod schema;
pub mod snapshot;
pub mod stream;
pub mod surrogates;
pub mod tokens;
pub mod turn;
pub mod usage;
pub mod view;
