//! Buffered calls on a bad day of three providers. Runs the library in this process, in real time, without a server.

mod day;

use std::collections::BTreeMap;
use std::sync::Arc;

use copilotd_actors::tenancy::TenantScope;
use copilotd_gateway::request::call::{Caller, Purpose};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::time::Instant;

use self::day::{CallOutcome, DAY, Day};
use super::Size;
use crate::report::Report;
use crate::stats::Samples;

/// Calls per second of one day.
const PER_SECOND: u32 = 40;

/// Runs the scenario. Days run side by side, each with its own gateway.
pub async fn run(size: &Size) -> anyhow::Result<Report> {
    let mut report = Report::new(
        "badday: buffered calls while providers fail",
        "One route with three targets. First: 8-20 s 429, 24-32 s 503, 36-40 s connections reset, 44-46 s silent. Second: 12-18 s every \
         other call 429, 28-32 s 503, 44-46 s connections reset. Third: healthy. Everywhere 2% of answers die in the middle, a fifth of \
         these silently, and 1% of calls get a 500. 40 buffered calls per second and day, every other one a stream and the rest documents; days of 50 s run side by \
         side, each with its own gateway and seed.",
        &["figure", "measured"],
    );
    let caller = caller()?;
    let per_day = PER_SECOND * u32::try_from(DAY.as_secs())?;
    let calls = size.calls.unwrap_or(size.pick(30_000, 500));
    let days = calls.div_ceil(per_day);
    let mut asked = FuturesUnordered::new();
    let mut all = Vec::new();
    for day in 0..days {
        let count = per_day.min(calls - day * per_day);
        let today = Arc::new(Day::begin(size.seed.wrapping_add(u64::from(day)), None));
        for n in 0..count {
            let (today, caller) = (Arc::clone(&today), caller.clone());
            asked.push(async move {
                let due = Instant::now() + std::time::Duration::from_secs(1) * n / PER_SECOND;
                let got = today.call(n, PER_SECOND, caller, n.is_multiple_of(2)).await;
                (got, due.elapsed())
            });
        }
        all.push(today);
    }
    let (mut whole, mut times, mut lost) = (0, Samples::default(), BTreeMap::<String, usize>::new());
    while let Some((got, took)) = asked.next().await {
        times.add(took);
        match got {
            CallOutcome::Whole => whole += 1,
            CallOutcome::Lost(why) => *lost.entry(format!("lost: {why}")).or_default() += 1,
            CallOutcome::Wrong(text) => *lost.entry(format!("wrong: {text}")).or_default() += 1,
        }
    }
    report.fact("seed", size.seed);
    report.fact("whole answers", format!("{whole} of {calls}"));
    for (why, count) in lost {
        report.fact(&why, count);
    }
    report.fact("time of a call, p50 / p99, ms", times.both());
    let seen = all
        .iter()
        .map(|day| day.seen())
        .fold([0; 3], |sum, seen| [0, 1, 2].map(|at| sum[at] + seen[at]));
    report.fact(
        "requests to the first, second, third",
        format!("{} / {} / {}", seen[0], seen[1], seen[2]),
    );
    Ok(report)
}

#[expect(clippy::disallowed_methods, reason = "a benchmark is its own verifier")]
fn caller() -> anyhow::Result<Caller> {
    Ok(Caller {
        scope: TenantScope::from_verified("acme".parse()?),
        user: "ada".parse()?,
        role: None,
        api_key: None,
        copilot: None,
        conversation: None,
        turn: None,
        purpose: Purpose::Endpoint,
    })
}
