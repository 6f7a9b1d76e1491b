//! Stores of limits that processes share.

pub mod redis;
