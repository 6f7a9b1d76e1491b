//! The actors with fake ports, in paused time.

#[path = "../support/mod.rs"]
mod support;

mod admission;
mod approvals;
mod compression;
mod connectors;
mod crashes;
mod failures;
mod stops;
mod streams;
mod turns;
