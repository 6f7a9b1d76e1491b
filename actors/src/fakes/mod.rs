//! In-memory ports for tests. Never part of the product: the feature `fakes` is off by default.

pub mod detector;
pub mod embedder;
pub mod facts;
pub mod files;
pub mod knowledge;
pub mod log;
pub mod model;
pub mod policy;
pub mod recollection;
pub mod schema;
pub mod system;
pub mod world;
