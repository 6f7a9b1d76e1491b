//! Checking takes linear time for anything a provider sends: the worst known inputs, at a quarter of their size and in
//! full. Compared is the CPU time of this thread, the best of some runs.

use std::hint::black_box;
use std::time::Duration;

use copilotd_actors::domain::guardrail::{OnMatch, Rule, RuleSet};
use rustix::time::{ClockId, clock_gettime};
use serde_json::json;

use super::choice::Choice;
use super::*;

const WHOLE: usize = 1024 * 1024;
const RUNS: usize = 3;
/// Linear work on four times the input takes four times as long, quadratic work sixteen times.
const MOST_GROWTH: f64 = 9.0;
/// Anything below is noise.
const FLOOR: Duration = Duration::from_millis(4);

fn on_processor() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap()
}

fn rules() -> Rules {
    let output = RuleSet::new([Rule {
        name: "secret".into(),
        literal: "secret".into(),
        action: OnMatch::Block,
        confusables: false,
    }]);
    Rules {
        output,
        ..Rules::default()
    }
}

/// Asserts that checking the deltas that `make` builds for a size grows no faster than that size.
#[track_caller]
fn assert_linear(name: &str, is_whole: bool, make: impl Fn(usize) -> Vec<Value>) {
    let rules = rules();
    let best = |size: usize| {
        let deltas = make(size);
        let time = || {
            let deltas: Vec<Object> = deltas.iter().map(|delta| delta.as_object().unwrap().clone()).collect();
            let begun = on_processor();
            let mut choice = Choice::new(is_whole, false);
            for mut delta in deltas {
                assert_eq!(choice.take(&rules, &mut delta), Ok(()), "{name}");
                drop(black_box(delta));
            }
            let (held, stopped) = choice.finish(&rules);
            assert_eq!(stopped, None, "{name}");
            drop(black_box(held));
            on_processor() - begun
        };
        (0..RUNS).map(|_| time()).min().unwrap()
    };
    let (quarter, whole) = (best(WHOLE / 4), best(WHOLE));
    let most = quarter.mul_f64(MOST_GROWTH) + FLOOR;
    assert!(
        whole <= most,
        "{name}: {quarter:?} for a quarter and {whole:?} for the whole"
    );
}

fn one_each(size: usize, per_piece: usize, call: impl Fn(usize) -> Value) -> Vec<Value> {
    let delta = |number| json!({ "tool_calls": [call(number)] });
    (0..size / per_piece).map(delta).collect()
}

#[test]
fn streamed_calls() {
    assert_linear("a call in each piece", false, |n| {
        one_each(n, 64, |at| json!({ "index": at, "function": { "arguments": "x" } }))
    });
    assert_linear("an id in each piece", false, |n| {
        one_each(
            n,
            64,
            |at| json!({ "id": format!("c{at}"), "function": { "arguments": "x" } }),
        )
    });
    assert_linear("one index and ids that differ", false, |n| {
        one_each(n, 64, |at| json!({ "index": 0, "id": format!("c{at}") }))
    });
    assert_linear("one call in small pieces", false, |n| {
        one_each(n, 16, |_| json!({ "index": 0, "function": { "arguments": "xy" } }))
    });
    assert_linear("one long id and small pieces", false, |n| {
        let first = json!({ "tool_calls": [{ "index": 0, "id": "i".repeat(n / 2) }] });
        let pieces = one_each(
            n / 2,
            32,
            |_| json!({ "index": 0, "id": "other", "function": { "arguments": "" } }),
        );
        std::iter::once(first).chain(pieces).collect()
    });
    assert_linear("calls without a number", false, |n| {
        one_each(n, 64, |at| json!({ "id": format!("c{at}"), "index": null }))
    });
    let all = |n: usize| -> Vec<Value> {
        let call =
            |at: usize| json!({ "index": at, "id": format!("c{at}"), "function": { "name": "f", "arguments": "{}" } });
        vec![json!({ "tool_calls": (0..n / 64).map(call).collect::<Value>() })]
    };
    assert_linear("all calls in one piece", false, all);
    assert_linear("all calls of a document", true, all);
}

#[test]
fn streamed_members_that_are_not_known() {
    assert_linear("the same member", false, |n| {
        (0..n / 32).map(|_| json!({ "extra": "some words" })).collect()
    });
    assert_linear("members that differ", false, |n| {
        (0..n / 32).map(|at| json!({ format!("extra{at}"): "word" })).collect()
    });
    assert_linear("many texts below a long name", false, |n| {
        vec![json!({ "n".repeat(n / 2): vec!["a"; n / 8] })]
    });
    assert_linear("many members below a long name", false, |n| {
        let members: Value = (0..n / 32).map(|at| (format!("m{at}"), json!("a"))).collect();
        vec![json!({ "n".repeat(n / 2): { "deep": members } })]
    });
    assert_linear("long names one below the other", false, |n| {
        let name = "n".repeat(n / 60);
        vec![json!({ "top": (0..60).fold(json!(["a"]), |inner, _| json!({ name.as_str(): inner })) })]
    });
}

#[test]
fn streamed_texts() {
    for unit in ["word ", "secre", "é", "\u{301}", "\u{200b}", "a\u{34f}"] {
        for step in [1, 64, 16 * 1024] {
            // Folding is slow in unoptimised builds.
            let make = |n: usize| -> Vec<Value> {
                let text = unit.repeat(n / 8 / unit.len());
                let chars: Vec<char> = text.chars().collect();
                let piece = |piece: &[char]| json!({ "content": piece.iter().collect::<String>() });
                chars.chunks(step).map(piece).collect()
            };
            assert_linear(&format!("{unit:?} by {step}"), false, make);
        }
    }
}
