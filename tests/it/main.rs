//! Integration tests.

mod model;
mod store;
mod support;
mod tools;
