//! The real binary, killed at any moment, refused to start, or told to stop; and failures of its store and vendors.
#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "helpers of tests may panic as tests do, and a developer sets their seeds"
)]

mod anthropic;
mod books;
mod drain;
mod held;
mod late;
mod refused;
mod rolling;
mod rounds;
mod schema;
mod standby;
mod store;

/// A number from the environment, such as a seed to repeat.
fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}
