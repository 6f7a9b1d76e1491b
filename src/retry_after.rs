//! `Retry-After` (RFC 9110, section 10.2.3), as we read it in answers and write it into ours.

use std::time::{Duration, SystemTime};

use axum::http::header::{DATE, HeaderMap, HeaderValue, RETRY_AFTER};

/// Reads when to retry, at most `most`: `retry-after-ms`, or `Retry-After` in seconds, or as a date relative to
/// `sent_at`. `None` without a value that makes sense.
pub fn read(headers: &HeaderMap, sent_at: Option<SystemTime>, most: Duration) -> Option<Duration> {
    let number = |name: &str| -> Option<f64> { headers.get(name)?.to_str().ok()?.trim().parse().ok() };
    let seconds = number("retry-after-ms")
        .map(|ms| ms / 1000.0)
        .or_else(|| number(RETRY_AFTER.as_str()));
    let wait = match seconds {
        Some(seconds) => Duration::try_from_secs_f64(seconds).ok()?,
        // A date that has passed means now.
        None => date(headers.get(RETRY_AFTER)?)?
            .duration_since(sent_at?)
            .unwrap_or_default(),
    };
    Some(wait.min(most))
}

/// Returns when an answer was sent, by its sender's own clock, which its dates refer to.
pub fn sent_at(headers: &HeaderMap) -> Option<SystemTime> {
    date(headers.get(DATE)?)
}

fn date(value: &HeaderValue) -> Option<SystemTime> {
    httpdate::parse_http_date(value.to_str().ok()?.trim()).ok()
}

/// Writes a wait: in whole seconds, rounded up, at least one.
pub fn value(wait: Duration) -> HeaderValue {
    HeaderValue::from(whole_seconds(wait).max(1))
}

/// Rounds up to whole seconds.
pub fn whole_seconds(duration: Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_seconds_or_a_date() {
        const SENT: &str = "Mon, 23 Nov 2026 18:00:00 GMT";
        for (fields, expected) in [
            (vec![("retry-after", "7")], Some(7_000)),
            (vec![("retry-after", "0.5")], Some(500)),
            (vec![("retry-after", "7"), ("retry-after-ms", "250")], Some(250)),
            (
                vec![("date", SENT), ("retry-after", "Mon, 23 Nov 2026 18:01:30 GMT")],
                Some(90_000),
            ),
            // Recipients accept the two obsolete forms too (RFC 9110, section 5.6.7).
            (
                vec![("date", SENT), ("retry-after", "Monday, 23-Nov-26 18:01:30 GMT")],
                Some(90_000),
            ),
            (
                vec![("date", SENT), ("retry-after", "Mon Nov 23 18:01:30 2026")],
                Some(90_000),
            ),
            (
                vec![("date", SENT), ("retry-after", "Mon, 23 Nov 2026 17:00:00 GMT")],
                Some(0),
            ),
            (
                vec![("date", SENT), ("retry-after", "Thu, 01 Jan 2099 00:00:00 GMT")],
                Some(86_400_000),
            ),
            (vec![("retry-after", "Thu, 01 Jan 2099 00:00:00 GMT")], None),
            (vec![("retry-after", "1e300")], None),
            (vec![("retry-after", "NaN")], None),
            (vec![("retry-after", "-1")], None),
            (vec![("retry-after", "soon")], None),
            (vec![], None),
        ] {
            let mut headers = HeaderMap::new();
            for (name, value) in &fields {
                headers.insert(*name, HeaderValue::from_static(value));
            }
            let wait = read(&headers, sent_at(&headers), Duration::from_secs(86_400));
            assert_eq!(wait.map(|wait| wait.as_millis()), expected, "{fields:?}");
        }
    }

    #[test]
    fn a_written_wait_is_never_shorter_than_meant() {
        for (ms, expected) in [(0, "1"), (1, "1"), (1_000, "1"), (1_001, "2"), (2_100, "3")] {
            assert_eq!(value(Duration::from_millis(ms)), expected, "{ms}");
        }
    }
}
