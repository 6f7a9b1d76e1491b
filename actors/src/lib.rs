//! The application core of copilotd: the pure conversation domain, the ports to the outside world, and the actors
//! that stand between them. No web framework, database driver or provider client is known here.

pub mod domain;
#[cfg(feature = "fakes")]
pub mod fakes;
pub mod ports;
pub mod tenancy;
