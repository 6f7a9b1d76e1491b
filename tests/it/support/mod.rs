//! What several tests need.

pub mod talk;
