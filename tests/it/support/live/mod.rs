//! The real binary under test: processes, simulated vendors, clients and readers that outlive every server process, and
//! the promises that are checked at the end.
#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "helpers of tests may panic as tests do, and the build says where its programs are"
)]

pub mod balancer;
pub mod child;
pub mod client;
pub mod orders;
pub mod reader;
pub mod server;
pub mod stage;
pub mod transcript;
pub mod verdict;
pub mod world;
