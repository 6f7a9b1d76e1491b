//! The actors with fake ports, in paused time.
#![expect(
    clippy::unwrap_used,
    reason = "a panic is how a test fails; clippy's allowance does not cover helpers outside test functions"
)]

#[path = "../support/mod.rs"]
mod support;

mod admission;
mod approvals;
mod closing;
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
mod room;
mod schemas;
mod standing;
mod stops;
mod story;
mod streams;
mod suspension;
mod turns;
