//! How long a call may be silent.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How long a call may be silent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timeouts {
    /// Name resolution, TCP and TLS together.
    pub connect: Duration,
    /// From the request to the first piece of content: text, tool call or reasoning.
    pub first_token: Duration,
    /// Between two pieces of content. Comments and empty pieces do not count.
    pub idle: Duration,
    /// The whole call.
    pub total: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            first_token: Duration::from_secs(60),
            idle: Duration::from_secs(30),
            total: Duration::from_secs(600),
        }
    }
}
