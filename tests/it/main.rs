//! Integration tests.
#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod config;
#[cfg(feature = "crash-points")]
mod crash;
mod credentials;
mod kill;
mod model;
mod store;
mod support;
mod tools;
