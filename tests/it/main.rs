//! Integration tests.

mod architecture;
mod config;
#[cfg(feature = "crash-points")]
mod crash;
mod credentials;
mod http;
mod kill;
mod model;
mod store;
mod support;
mod telemetry;
mod tools;
