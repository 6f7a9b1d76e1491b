//! Jobs over HTTP and on both stores: tenant deletion, exports and retention.

mod deletion;
mod export;
mod retention;
pub mod world;
