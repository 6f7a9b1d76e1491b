//! Integration tests.
#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod store;
mod support;
