use std::time::Duration;

use copilotd::adapters::systems::tools::rate::{hint, newer, retry_after};
use copilotd_actors::ports::RateHint;
use reqwest::header::{HeaderMap, HeaderName};

fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
    pairs
        .iter()
        .map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()))
        .collect()
}

fn figures(limit: Option<u32>, remaining: Option<u32>, reset: Option<u64>) -> RateHint {
    RateHint {
        limit,
        remaining,
        reset: reset.map(Duration::from_secs),
    }
}

#[test]
fn every_spelling_of_the_headers_is_understood() {
    type Case<'a> = (&'a [(&'static str, &'a str)], RateHint);
    let cases: &[Case<'_>] = &[
        (&[], RateHint::default()),
        (
            &[("x-rate-limit", "700"), ("x-rate-limit-remaining", "699")],
            figures(Some(700), Some(699), None),
        ),
        (
            &[
                ("ratelimit-limit", "400"),
                ("ratelimit-remaining", "3"),
                ("ratelimit-reset", "41"),
            ],
            figures(Some(400), Some(3), Some(41)),
        ),
        // The endpoint's own limit counts when it is tighter …
        (
            &[
                ("ratelimit-remaining", "300"),
                ("zendesk-ratelimit-tickets-index", "total=100; remaining=2; resets=41"),
            ],
            figures(Some(100), Some(2), Some(41)),
        ),
        // … not when it is wider …
        (
            &[
                ("ratelimit-remaining", "1"),
                ("zendesk-ratelimit-tickets-index", "total=100; remaining=2; resets=41"),
            ],
            figures(None, Some(1), None),
        ),
        // … and not when it is a single ticket's, which resets after minutes.
        (
            &[
                ("ratelimit-remaining", "300"),
                ("zendesk-ratelimit-ticket-updates", "total=30; remaining=0; resets=540"),
            ],
            figures(None, Some(300), None),
        ),
        (
            &[("x-rate-limit", "many"), ("zendesk-ratelimit-x", "nonsense")],
            RateHint::default(),
        ),
    ];
    for (given, expected) in cases {
        assert_eq!(hint(&headers(given)), *expected, "{given:?}");
    }
}

#[test]
fn retry_after_is_read_in_seconds_and_bounded() {
    let of = |value| retry_after(&headers(&[("retry-after", value)]));
    assert_eq!(of("93"), Some(Duration::from_secs(93)));
    assert_eq!(of("0.2"), Some(Duration::from_secs(1)));
    assert_eq!(of("0"), Some(Duration::ZERO));
    assert_eq!(of("999999999"), Some(Duration::from_secs(3600)));
    for nonsense in ["-1", "NaN", "inf", "soon", ""] {
        assert_eq!(of(nonsense), None, "{nonsense}");
    }
    assert_eq!(retry_after(&HeaderMap::new()), None);
    let of = |date: &str| {
        retry_after(&headers(&[
            ("retry-after", date),
            ("date", "Wed, 04 Mar 2026 05:06:07 GMT"),
        ]))
    };
    for (date, patience) in [
        ("Wed, 04 Mar 2026 05:06:37 GMT", Some(Duration::from_secs(30))),
        ("Wed, 21 Oct 2015 07:28:00 GMT", Some(Duration::ZERO)),
        ("Wed, 04 Mar 2099 05:06:37 GMT", Some(Duration::from_secs(3600))),
        ("Wed, 99 Mar 2026 05:06:37 GMT", None),
        ("tomorrow", None),
    ] {
        assert_eq!(of(date), patience, "{date}");
    }
    let alone = headers(&[("retry-after", "Wed, 04 Mar 2026 05:06:37 GMT")]);
    assert_eq!(retry_after(&alone), None, "by whose clock?");
}

#[test]
fn a_silent_answer_does_not_hide_what_an_earlier_one_said() {
    let said = figures(Some(1), Some(1), None);
    assert_eq!(newer(said, RateHint::default()), said);
    assert_eq!(newer(said, figures(None, Some(0), None)), figures(None, Some(0), None));
}
