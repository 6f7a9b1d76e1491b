//! Reads vendors' rate limit headers.

use std::time::Duration;

use copilotd_actors::ports::RateHint;
use reqwest::header::HeaderMap;

use crate::retry_after;

/// Windows longer than this belong to single objects (30 updates of one ticket in 10 minutes): respecting them would
/// stop every other call of the tenant. When such a limit is hit, the vendor answers 429 for that object.
const LONGEST_WINDOW: Duration = Duration::from_secs(60);
/// No vendor asks for a longer wait than this in good faith.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(3600);

/// Reads every known spelling of rate headers: `x-rate-limit`, `ratelimit-*`, `x-ratelimit-*` and `zendesk-ratelimit-*:
/// total=100; remaining=99; resets=41`. The account's own figures count, unless an endpoint's are tighter.
pub fn hint(headers: &HeaderMap) -> RateHint {
    let account = RateHint {
        limit: first(headers, &["ratelimit-limit", "x-rate-limit", "x-ratelimit-limit"]),
        remaining: first(
            headers,
            &["ratelimit-remaining", "x-rate-limit-remaining", "x-ratelimit-remaining"],
        ),
        reset: first(headers, &["ratelimit-reset", "x-rate-limit-reset", "x-ratelimit-reset"])
            .map(|seconds: u32| Duration::from_secs(seconds.into())),
    };
    headers
        .iter()
        .filter(|(name, _)| name.as_str().starts_with("zendesk-ratelimit-"))
        .filter_map(|(_, value)| endpoint(value.to_str().ok()?))
        .filter(|hint| hint.reset.is_none_or(|reset| reset <= LONGEST_WINDOW))
        .fold(account, tighter)
}

/// Reads `Retry-After`: seconds, rounded up, or a date, relative to the answer's own date. The caller adds a pause of
/// its own: zero or a past date must not mean "at once, for ever".
pub fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let wait = retry_after::read(headers, retry_after::sent_at(headers), MAX_RETRY_AFTER)?;
    Some(Duration::from_secs(retry_after::whole_seconds(wait)))
}

/// Combines the figures of two answers of one call: the newer ones count; if there are none, the older ones stay.
pub fn newer(old: RateHint, new: RateHint) -> RateHint {
    if new == RateHint::default() { old } else { new }
}

fn tighter(a: RateHint, b: RateHint) -> RateHint {
    match (a.remaining, b.remaining) {
        (Some(left), Some(right)) if right < left => b,
        (None, Some(_)) => b,
        _ => a,
    }
}

fn first(headers: &HeaderMap, names: &[&str]) -> Option<u32> {
    names
        .iter()
        .find_map(|name| headers.get(*name)?.to_str().ok()?.trim().parse().ok())
}

fn endpoint(value: &str) -> Option<RateHint> {
    let mut hint = RateHint::default();
    for part in value.split(';') {
        let (key, figure) = part.split_once('=')?;
        let figure: u32 = figure.trim().parse().ok()?;
        match key.trim() {
            "total" => hint.limit = Some(figure),
            "remaining" => hint.remaining = Some(figure),
            "resets" => hint.reset = Some(Duration::from_secs(figure.into())),
            _ => {}
        }
    }
    Some(hint)
}
