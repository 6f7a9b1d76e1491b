//! The HTTP interface, through its router in process. Each test reads as request, status, body.

mod access;
mod admin;
mod api_keys;
mod app;
mod audit;
mod client;
mod contract;
mod conversations;
mod input;
mod limits;
mod openai;
mod resume;
mod revocations;
mod sockets;
mod sse;
mod streams;
mod tenants;
mod tickets;
mod turns;
