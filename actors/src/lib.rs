//! The application core of copilotd: the pure conversation domain, the ports to the outside world, and the actors
//! between them. Nothing here knows a web framework, database driver or provider client.
#![warn(missing_docs)]

pub mod actors;
pub mod compute;
pub mod crash;
pub mod domain;
pub mod fairness;
#[cfg(feature = "fakes")]
pub mod fakes;
pub mod guardrails;
pub mod jitter;
pub mod live;
pub mod ports;
pub mod search;
pub mod tenancy;
