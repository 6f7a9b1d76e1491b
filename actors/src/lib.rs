//! The application core of copilotd: the pure conversation domain, the ports to the outside world, and the actors
//! between them. Nothing here knows a web framework, database driver or provider client.

pub mod admission;
pub mod agent;
pub mod compressor;
pub mod compute;
pub mod connector;
pub mod conversation;
pub mod conversations;
pub mod crash;
pub mod domain;
pub mod fair_queue;
#[cfg(feature = "fakes")]
pub mod fakes;
pub mod live;
pub mod ports;
pub mod reconcile;
pub mod share;
pub mod shared;
pub mod spans;
pub mod tenancy;
pub mod user_turns;
