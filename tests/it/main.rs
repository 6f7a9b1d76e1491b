//! Integration tests.
#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod config;
mod credentials;
mod model;
mod store;
mod support;
mod tools;
