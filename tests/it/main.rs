//! Integration tests.

mod tools;
