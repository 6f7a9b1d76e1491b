//! Integration tests.

mod architecture;
mod config;
mod credentials;
mod http;
mod model;
mod store;
mod support;
mod tools;
