//! When a provider wants the next request.

use std::time::{Duration, SystemTime};

use reqwest::header::{DATE, HeaderMap, HeaderValue, RETRY_AFTER};

/// Longest wait that a header can ask for.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(24 * 60 * 60);

/// Reads when to retry: `retry-after-ms`, or `Retry-After` in seconds or as a date.
pub fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let number = |name: &str| -> Option<f64> { headers.get(name)?.to_str().ok()?.trim().parse().ok() };
    let seconds = number("retry-after-ms")
        .map(|ms| ms / 1000.0)
        .or_else(|| number(RETRY_AFTER.as_str()));
    let wait = match seconds {
        Some(seconds) => Duration::try_from_secs_f64(seconds).ok()?,
        None => {
            let until = date(headers.get(RETRY_AFTER)?)?;
            Duration::from_secs(u64::try_from(until.saturating_sub(sent_at(headers))).unwrap_or(0))
        }
    };
    Some(wait.min(MAX_RETRY_AFTER))
}

/// Returns when an answer was sent, in seconds since 1970: by its sender's own clock, which its dates refer to, or else
/// by this machine's.
#[expect(
    clippy::disallowed_methods,
    reason = "without the sender's own clock a date can only be compared with this machine's"
)]
pub fn sent_at(headers: &HeaderMap) -> i64 {
    headers.get(DATE).and_then(date).unwrap_or_else(|| {
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        i64::try_from(now.as_secs()).unwrap_or(i64::MAX)
    })
}

/// Reads an HTTP date as seconds since 1970.
fn date(value: &HeaderValue) -> Option<i64> {
    let date = jiff::fmt::rfc2822::parse(value.to_str().ok()?.trim()).ok()?;
    Some(date.timestamp().as_second())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        for (fields, expected) in [
            (vec![("retry-after", "7")], Some(7_000)),
            (vec![("retry-after", "0.5")], Some(500)),
            (vec![("retry-after", "7"), ("retry-after-ms", "250")], Some(250)),
            (
                vec![
                    ("date", "Mon, 23 Nov 2026 18:00:00 GMT"),
                    ("retry-after", "Mon, 23 Nov 2026 18:01:30 GMT"),
                ],
                Some(90_000),
            ),
            (
                vec![
                    ("date", "Mon, 23 Nov 2026 18:00:00 GMT"),
                    ("retry-after", "Mon, 23 Nov 2026 17:00:00 GMT"),
                ],
                Some(0),
            ),
            (vec![("retry-after", "Thu, 01 Jan 2099 00:00:00 GMT")], Some(86_400_000)),
            (vec![("retry-after", "1e300")], None),
            (vec![("retry-after", "-1")], None),
            (vec![("retry-after", "soon")], None),
            (vec![], None),
        ] {
            let mut headers = HeaderMap::new();
            for (name, value) in &fields {
                headers.insert(*name, HeaderValue::from_static(value));
            }
            let wait = retry_after(&headers).map(|wait| wait.as_millis());
            assert_eq!(wait, expected, "{fields:?}");
        }
    }
}
