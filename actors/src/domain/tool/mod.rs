//! Rules of tool calls: circuit breaker, rate, and what follows when an outcome is unknown.

pub mod breaker;
pub mod outcome;
pub mod rate;
