//! Integration tests.

mod config;
mod credentials;
mod model;
mod store;
mod support;
mod tools;
