//! Integration tests.

mod config;
mod credentials;
