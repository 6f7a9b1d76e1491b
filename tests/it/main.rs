//! Integration tests.

mod store;
mod support;
mod tools;
