//! copilotd

pub mod adapters;
