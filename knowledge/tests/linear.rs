//! Extraction and chunks take time linear in the document, whatever it contains. A thread's processor time for a
//! document may grow with its size, not with the square of it; the best of several runs, so a busy machine does not
//! matter.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::hint::black_box;
use std::time::Duration;

use copilotd_knowledge::chunk::{Estimate, chunk};
use copilotd_knowledge::document::Format;
use copilotd_knowledge::extract::{Extracted, Limits, extract};
use rustix::time::{ClockId, clock_gettime};

const WHOLE: usize = 256 * 1024;
const RUNS: usize = 3;
/// For four times the input, linear work takes four times as long, quadratic work sixteen times.
const MOST_GROWTH: f64 = 9.0;
/// Shorter times are noise.
const FLOOR: Duration = Duration::from_millis(10);

fn on_processor() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap()
}

#[track_caller]
fn assert_linear(name: &str, make: impl Fn(usize) -> String, work: impl Fn(&str) -> usize) {
    let best = |size: usize| {
        let input = make(size);
        let time = || {
            let begun = on_processor();
            black_box(work(black_box(&input)));
            on_processor() - begun
        };
        (0..RUNS).map(|_| time()).min().unwrap()
    };
    let (quarter, whole) = (best(WHOLE / 4), best(WHOLE));
    println!("{name}: {quarter:?}, {whole:?}");
    let most = quarter.mul_f64(MOST_GROWTH) + FLOOR;
    assert!(
        whole <= most,
        "{name}: {quarter:?} for a quarter and {whole:?} for the whole"
    );
}

fn repeat(unit: &'static str) -> impl Fn(usize) -> String {
    move |size| unit.repeat(size / unit.len())
}

#[test]
fn extraction() {
    let read = |format| {
        move |text: &str| extract(text.as_bytes(), format, None, &Limits::default()).map_or(0, |e| e.text.len())
    };
    for unit in [
        "word ", "# a\n", "> ", "> > a\n", "- ", "  - a\n", "*a _b ", "[a](", "[a][b]\n", "`", "<a ", "| a ",
        "a\n---\n", "![[", "**", "```\n", "&amp;", "<!--",
    ] {
        assert_linear(&format!("Markdown {unit:?}"), repeat(unit), read(Format::Markdown));
    }
    for unit in [
        "<p>a",
        "<b>a",
        "<td>a",
        "<li>a",
        "<ul><li>a</ul>",
        "</p>",
        "<a b=c ",
        "<!--",
        "&amp",
        "&",
        "<h1>a",
        "<table><tr>",
        "<pre>a\n",
        "<script>",
        "<title>",
        "<style>",
        "<p hidden>",
        "\u{ad}",
        "<div style='x'></div>",
    ] {
        assert_linear(&format!("HTML {unit:?}"), repeat(unit), read(Format::Html));
    }
    for unit in ["a,b\n", "\"", "a,", "\n", "\"a\"\"b\",\n"] {
        assert_linear(&format!("CSV {unit:?}"), repeat(unit), read(Format::Csv));
    }
    for unit in ["1,", "{\"a\":1},", "[],", "\"a\","] {
        let list = move |size: usize| format!("[{}1]", unit.repeat(size / unit.len()));
        assert_linear(&format!("JSON {unit:?}"), list, read(Format::Json));
    }
}

#[test]
fn chunks() {
    let cut = |text: &str| {
        let plain = Extracted {
            text: text.to_owned(),
            ..Extracted::default()
        };
        chunk(&plain, &Estimate).len()
    };
    for unit in [
        "word ",
        "A sentence. ",
        "a\n",
        "a\n\n",
        "x",
        "。",
        "...\"",
        "- a\n",
        "1. ",
        "a. b",
        "#\n",
        "```\n",
        "\n",
    ] {
        assert_linear(&format!("text {unit:?}"), repeat(unit), cut);
    }
    let different = |size: usize| {
        let words = (0_u64..).map(|n| format!("{:x} ", n.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
        words
            .scan(0, |sum, word| {
                *sum += word.len();
                (*sum < size).then_some(word)
            })
            .collect()
    };
    assert_linear("words", different, cut);
    let marked = |text: &str| {
        let extracted = extract(text.as_bytes(), Format::Markdown, None, &Limits::default());
        chunk(&extracted.unwrap(), &Estimate).len()
    };
    for unit in ["# a\n", "###### a\n\nb\n\n", "```\n\n", "- a\n  # b\n"] {
        assert_linear(&format!("Markdown {unit:?}"), repeat(unit), marked);
    }
}
