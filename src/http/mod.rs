//! The HTTP surface. Nothing here names an adapter.

pub mod accept;
pub mod account;
pub mod bodies;
pub mod budget;
pub mod cors;
pub mod credentials;
pub mod extract;
pub(crate) mod json_response;
pub(crate) mod keep_alive;
pub(crate) mod measure;
pub mod page;
pub mod peer;
pub mod probe;
pub mod problems;
pub mod request_id;
pub mod response_memory;
pub mod server;
