//! The actors with fake ports, in paused time.
#![expect(
    clippy::unwrap_used,
    reason = "a panic is how a test fails; clippy's allowance does not cover helpers outside test functions"
)]

#[path = "../support/mod.rs"]
mod support;

mod admission;
mod approvals;
mod cancellation;
mod client_tools;
mod closing;
mod compression;
mod connectors;
mod cost;
mod crashes;
mod facts;
mod failures;
mod guards;
mod handing_over;
mod idempotency;
mod in_doubt;
mod keys;
mod knowledge;
mod left_out;
mod outages;
mod oversized_prompts;
mod pool;
mod recall;
mod replacing;
mod schemas;
mod story;
mod streams;
mod suspension;
mod titles;
mod turns;
