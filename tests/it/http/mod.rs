//! The HTTP interface, through its router in process. Each test reads as request, status, body.

mod access;
mod admin;
mod api_keys;
pub mod app;
mod audit;
mod bodies;
pub mod client;
mod connections;
mod contract;
mod conversations;
mod fair_share;
mod input;
mod limits;
mod openai;
mod quotas;
mod resume;
mod revocations;
mod rights;
mod sockets;
mod sse;
mod streams;
mod tenants;
mod tickets;
mod turns;
mod unread;
mod wire;
mod writes;
