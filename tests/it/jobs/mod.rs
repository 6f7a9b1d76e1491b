//! Jobs over HTTP and on both stores: tenants that are deleted, exports, and what is kept no longer.

mod deletion;
mod export;
mod retention;
pub mod world;
