//! Turns per second of a fixed number of users who wait for each answer.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use super::Size;
use crate::client::{AnswerTimings, Pace, direct};
use crate::http::Connection;
use crate::report::Report;
use crate::stats::{Samples, decimal};
use crate::world::{Programs, ServerOptions, Testbed};

const USERS: usize = 100;
const PACE: Pace = Pace {
    words: 50,
    first_ms: 20,
    pace_ms: 20,
};

struct Rate {
    turns: usize,
    per_second: f64,
    first: Samples,
    errors: usize,
}

/// Runs the scenario.
pub async fn run(programs: &Programs, size: &Size) -> anyhow::Result<Report> {
    let time = Duration::from_secs(size.pick(20, 5));
    let options = ServerOptions {
        one_core: true,
        ..ServerOptions::default()
    };
    let world = Testbed::start(programs, options).await?;
    let provider = world.provider;
    let straight = users(time, move |_| async move {
        direct(&mut Connection::open(provider).await?, PACE).await
    })
    .await;
    let begun = world.used()?.cpu;
    let client = Arc::clone(&world.client);
    let through = users(time, move |user| {
        let client = Arc::clone(&client);
        async move {
            let mut connection = client.connect().await?;
            let conversation = client.create(&mut connection, user).await?;
            client.turn(&mut connection, user, &conversation, PACE).await
        }
    })
    .await;
    world.quiet().await?;
    let cpu = world.used()?.cpu - begun;
    let mut report = Report::new(
        &format!("turns: {USERS} users, each create + turn + stream of 50 tokens at 20 ms, again and again"),
        "The server has one processor to itself. Every turn opens a new \
         connection and a new conversation, is stored durably and read to its end. *Direct* is the same loop against \
         the provider alone, run just before; nothing can be faster.",
        &["", "direct", "through copilotd"],
    );
    report.row(vec![
        "turns per second".into(),
        decimal(straight.per_second),
        decimal(through.per_second),
    ]);
    report.row(vec![
        "share of direct".into(),
        "1".into(),
        decimal(through.per_second / straight.per_second),
    ]);
    report.row(vec![
        "first text, p50 / p99 ms".into(),
        straight.first.both(),
        through.first.both(),
    ]);
    report.row(vec![
        "server's CPU, ms per turn".into(),
        "".into(),
        decimal(cpu.as_secs_f64() * 1000.0 / through.turns.max(1) as f64),
    ]);
    report.row(vec![
        "errors".into(),
        straight.errors.to_string(),
        through.errors.to_string(),
    ]);
    Ok(report)
}

/// Runs turns of every user until the time is over.
async fn users<F>(time: Duration, make: impl Fn(usize) -> F + Clone + Send + 'static) -> Rate
where
    F: Future<Output = anyhow::Result<AnswerTimings>> + Send,
{
    let begun = Instant::now();
    let mut tasks = JoinSet::new();
    for user in 0..USERS {
        let make = make.clone();
        tasks.spawn(async move {
            // Users do not start all at once.
            tokio::time::sleep(Duration::from_millis(10) * u32::try_from(user).unwrap_or(0)).await;
            let (mut first, mut ends, mut errors) = (Samples::default(), Vec::new(), 0);
            while begun.elapsed() < time {
                match make(user).await {
                    Ok(seen) => {
                        first.add(seen.first);
                        ends.push(begun.elapsed());
                    }
                    Err(error) => {
                        errors += 1;
                        eprintln!("a turn failed: {error:#}");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                }
            }
            (first, ends, errors)
        });
    }
    let (mut first, mut ends, mut errors) = (Samples::default(), Vec::new(), 0);
    for (some, at, failed) in tasks.join_all().await {
        first.merge(some);
        ends.extend(at);
        errors += failed;
    }
    // Only what ended after two seconds and before the time was over: the start and the end are not the steady rate.
    let from = Duration::from_secs(2);
    let steady = ends.iter().filter(|end| **end >= from && **end < time).count();
    Rate {
        turns: ends.len(),
        per_second: steady as f64 / (time - from).as_secs_f64(),
        first,
        errors,
    }
}
