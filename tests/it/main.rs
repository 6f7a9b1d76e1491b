//! Integration tests.
#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "clippy's allowance covers test functions only, not what they share; tests set clocks and scopes"
)]

mod architecture;
mod config;
#[cfg(feature = "crash-points")]
mod crash;
mod credentials;
mod demo;
mod deploy;
mod descriptors;
mod documents;
mod embed;
mod fuzz;
mod gateway;
mod http;
mod import;
mod index;
mod jobs;
mod kill;
mod limits;
mod linear;
mod memory;
mod model;
mod operating;
mod pdf;
mod private;
mod roster;
mod schemas;
mod served;
mod shared_index;
mod store;
mod support;
mod sync;
mod telemetry;
mod tools;
