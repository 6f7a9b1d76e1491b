//! In-memory ports for tests; never enabled in the product.

pub mod facts;
pub mod index;
pub mod turn_vectors;

pub use facts::MemoryFacts;
pub use index::MemoryIndex;
pub use turn_vectors::MemoryTurnVectors;
