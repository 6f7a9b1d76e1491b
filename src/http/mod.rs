//! The HTTP surface. Nothing here names an adapter.

pub mod auth;
pub mod body;
pub mod problem;
pub mod request_id;

#[cfg(test)]
mod tests;
