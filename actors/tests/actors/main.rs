//! The actors with fake ports, in paused time.

#[path = "../support/mod.rs"]
mod support;

mod crashes;
mod turns;
