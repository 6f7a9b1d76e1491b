//! The HTTP surface. Nothing here names an adapter.

pub mod account;
pub mod auth;
pub mod body;
pub mod budget;
pub mod extract;
pub mod fair_share;
mod hand_over;
mod keep_alive;
pub mod openai_error;
pub mod page;
pub mod peer;
pub mod probe;
pub mod problem;
mod refusal;
pub mod request_id;
pub mod room;
pub mod router;
pub mod routes;
pub mod server;
pub mod standby;
pub mod state;
mod writer;
mod written;

#[cfg(test)]
mod tests;
