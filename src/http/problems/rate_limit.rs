//! The `RateLimit` and `RateLimit-Policy` headers (IETF draft `ratelimit-headers`, structured fields).

use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue, header};

use crate::retry_after::whole_seconds;

const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const STATE: HeaderName = HeaderName::from_static("ratelimit");

/// The state of a limit that applies to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RateLimit {
    /// Name of the policy: lower case letters, digits and hyphens.
    pub policy: &'static str,
    /// Units per window.
    pub quota: u64,
    /// Length of the window; `None` for a concurrency limit.
    pub window: Option<Duration>,
    /// Units left.
    pub remaining: u64,
    /// Time until units are available again.
    pub reset: Duration,
}

impl RateLimit {
    /// An exhausted concurrency limit of `most`; retrying makes sense after `retry`.
    pub fn all_taken(policy: &'static str, most: usize, retry: Duration) -> Self {
        Self {
            policy,
            quota: most as u64,
            window: None,
            remaining: 0,
            reset: retry,
        }
    }

    /// Returns the values of `RateLimit-Policy` and `RateLimit`.
    pub fn headers(&self) -> (HeaderValue, HeaderValue) {
        let window = self.window.map(|window| format!(";w={}", whole_seconds(window)));
        let policy = format!("\"{}\";q={}{}", self.policy, self.quota, window.unwrap_or_default());
        let state = format!(
            "\"{}\";r={};t={}",
            self.policy,
            self.remaining,
            whole_seconds(self.reset)
        );
        (value(&policy), value(&state))
    }
}

/// Adds the `RateLimit` headers to a 429 whose limit we do not know, such as a provider's. Does not add `Retry-After`
/// where the wait is unknown.
pub(crate) fn complete(headers: &mut HeaderMap) {
    if headers.contains_key(POLICY) && headers.contains_key(STATE) {
        return;
    }
    let stated = headers.get(header::RETRY_AFTER);
    let wait = stated.and_then(|wait| wait.to_str().ok()?.parse().ok()).unwrap_or(1);
    let (policy, state) = RateLimit::all_taken("busy", 1, Duration::from_secs(wait)).headers();
    headers.insert(POLICY, policy);
    headers.insert(STATE, state);
}

fn value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).expect("policy names are ASCII words of this program")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_structured_fields() {
        let limit = RateLimit {
            policy: "requests",
            quota: 600,
            window: Some(Duration::from_secs(60)),
            remaining: 0,
            reset: Duration::from_millis(1_500),
        };
        let (policy, state) = limit.headers();
        assert_eq!(policy, "\"requests\";q=600;w=60");
        assert_eq!(state, "\"requests\";r=0;t=2");
        let (policy, state) = RateLimit::all_taken("queue", 20, Duration::from_secs(5)).headers();
        assert_eq!(
            (policy, state),
            ("\"queue\";q=20".parse().unwrap(), "\"queue\";r=0;t=5".parse().unwrap())
        );
    }

    #[test]
    fn a_429_without_a_known_limit_gets_default_headers() {
        let mut headers = HeaderMap::new();
        headers.insert(header::RETRY_AFTER, HeaderValue::from_static("7"));
        complete(&mut headers);
        assert_eq!(
            (&headers[POLICY], &headers[STATE]),
            (&"\"busy\";q=1".parse().unwrap(), &"\"busy\";r=0;t=7".parse().unwrap())
        );
        let mut known = HeaderMap::new();
        known.insert(POLICY, HeaderValue::from_static("\"writes\";q=3;w=60"));
        known.insert(STATE, HeaderValue::from_static("\"writes\";r=0;t=2"));
        let before = known.clone();
        complete(&mut known);
        assert_eq!(known, before);
    }
}
