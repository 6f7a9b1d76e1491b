//! The real binary under test: processes, the simulated world, clients and readers that outlive every server, and the
//! promises that are checked in the end.

pub mod child;
pub mod client;
pub mod orders;
pub mod reader;
pub mod server;
pub mod stage;
pub mod transcript;
pub mod verdict;
pub mod world;
