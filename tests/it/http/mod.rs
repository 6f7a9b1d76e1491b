//! The HTTP interface, through its router in process. Each test reads as request, status, body.

mod access;
mod admin;
mod api_keys;
mod app;
mod bodies;
mod client;
mod connections;
mod contract;
mod conversations;
mod input;
mod limits;
mod openai;
mod resume;
mod sockets;
mod sse;
mod streams;
mod tenants;
mod turns;
mod unread;
mod wire;
