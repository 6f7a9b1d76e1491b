//! The `RateLimit` and `RateLimit-Policy` headers (IETF draft `ratelimit-headers`, structured fields).

use std::time::Duration;

use axum::http::HeaderValue;

/// A limit that a request met, and how much of it is left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RateLimit {
    /// Name of the policy: lower case letters, digits and hyphens.
    pub policy: &'static str,
    /// Units in one window.
    pub quota: u64,
    /// Length of the window.
    pub window: Duration,
    /// Units that are left.
    pub remaining: u64,
    /// Time until there are units again.
    pub reset: Duration,
}

impl RateLimit {
    /// Returns the values of `RateLimit-Policy` and `RateLimit`.
    pub fn headers(&self) -> (HeaderValue, HeaderValue) {
        let policy = format!("\"{}\";q={};w={}", self.policy, self.quota, seconds(self.window));
        let state = format!("\"{}\";r={};t={}", self.policy, self.remaining, seconds(self.reset));
        (value(&policy), value(&state))
    }
}

fn seconds(duration: Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
}

fn value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).expect("policy names are ASCII words of this program")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_are_structured() {
        let limit = RateLimit {
            policy: "requests",
            quota: 600,
            window: Duration::from_secs(60),
            remaining: 0,
            reset: Duration::from_millis(1_500),
        };
        let (policy, state) = limit.headers();
        assert_eq!(policy, "\"requests\";q=600;w=60");
        assert_eq!(state, "\"requests\";r=0;t=2");
    }
}
