//! What several tests need.

pub mod proxy;
pub mod secantus;
pub mod talk;
