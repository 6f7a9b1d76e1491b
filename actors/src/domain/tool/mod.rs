//! Rules of tool calls: circuit breaker, rate, what follows when an outcome is unknown, and tools of the user's page.

pub mod breaker;
pub mod client;
pub mod outcome;
pub mod rate;
