//! The actors with fake ports, in paused time.
#![expect(
    clippy::unwrap_used,
    reason = "in a test a panic is the message; helpers are not inside a test function, where clippy would know that"
)]

#[path = "../support/mod.rs"]
mod support;

mod admission;
mod approvals;
mod compression;
mod connectors;
mod cost;
mod crashes;
mod doubt;
mod failures;
mod guards;
mod handing_over;
mod idempotency;
mod keys;
mod outages;
mod pool;
mod schemas;
mod standing;
mod stops;
mod story;
mod streams;
mod suspension;
mod turns;
