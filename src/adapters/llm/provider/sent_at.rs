//! When an answer was sent.

use std::time::SystemTime;

use reqwest::header::HeaderMap;

use crate::retry_after;

/// Returns when an answer was sent: by its sender's own clock, which its dates refer to, or else by this machine's.
#[expect(
    clippy::disallowed_methods,
    reason = "without the sender's own clock a date can only be compared with this machine's"
)]
pub fn sent_at(headers: &HeaderMap) -> SystemTime {
    retry_after::sent_at(headers).unwrap_or_else(SystemTime::now)
}
