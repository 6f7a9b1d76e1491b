//! In-memory ports for tests; never enabled in the product.

pub mod index;

pub use index::MemoryIndex;
