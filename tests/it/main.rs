//! Integration tests.

mod architecture;
mod config;
mod credentials;
mod model;
mod store;
mod support;
mod telemetry;
mod tools;
