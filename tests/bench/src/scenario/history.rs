//! One more turn in conversations of different lengths.

use std::time::Duration;

use tokio::time::Instant;

use super::Size;
use crate::client::Pace;
use crate::http::Connection;
use crate::report::Report;
use crate::stats::{Samples, decimal, kib, mib, ms};
use crate::world::{Programs, ServerOptions, Testbed};

const PACE: Pace = Pace {
    words: 30,
    first_ms: 0,
    pace_ms: 0,
};
/// Turns measured at each length.
const TURNS: usize = 40;

/// Runs the scenario.
pub async fn run(programs: &Programs, size: &Size) -> anyhow::Result<Report> {
    let lengths = size.pick([10, 1000, 10_000], [10, 100, 400]);
    let options = ServerOptions {
        context_tokens: Some(8000),
        ..ServerOptions::default()
    };
    let mut world = Testbed::start(programs, options).await?;
    let mut connection = world.client.connect().await?;
    let conversation = world.client.create(&mut connection, 0).await?;
    let mut report = Report::new(
        "history: one more turn on a conversation of many messages",
        "One conversation grows (an answer is 30 tokens; the model accepts 8,000 tokens, so that memory is compressed on \
         the way). At each length 40 more turns are measured: their CPU, bytes handed to the store and prompt tokens per \
         turn, including compressions and snapshots. *Cold* is one turn right after the server was killed and \
         restarted: its log is replayed first.",
        &[
            "messages",
            "CPU ms per turn",
            "to the store, KiB per turn",
            "written to disk, KiB per turn",
            "prompt tokens, mean / most",
            "turn, p50 / p99 ms",
            "202 cold, ms",
            "whole turn cold, ms",
            "CPU cold, ms",
            "resident, MiB",
        ],
    );
    let mut messages = 0;
    for length in lengths {
        while messages + 2 * TURNS < length || messages < 4 {
            world.client.turn(&mut connection, 0, &conversation, PACE).await?;
            messages += 2;
        }
        report.row(measure(&mut world, &mut connection, &conversation, length).await?);
        messages += 2 * TURNS + 2;
        connection = world.client.connect().await?;
    }
    Ok(report)
}

async fn measure(
    world: &mut Testbed,
    connection: &mut Connection,
    conversation: &str,
    length: usize,
) -> anyhow::Result<Vec<String>> {
    world.quiet().await?;
    let (before, stored) = (world.used()?, world.client.stored(connection).await?);
    let (mut times, mut prompts) = (Samples::default(), Vec::new());
    for _ in 0..TURNS {
        let begun = Instant::now();
        let seen = world.client.turn(connection, 0, conversation, PACE).await?;
        times.add(begun.elapsed());
        prompts.push(seen.prompt_tokens);
    }
    world.quiet().await?;
    let (after, stored_after) = (world.used()?, world.client.stored(connection).await?);
    let turns = TURNS as f64;
    world.restart().await?;
    // What is built at start does not belong to the turn.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut connection = world.client.connect().await?;
    let fresh = world.client.create(&mut connection, 1).await?;
    world.client.turn(&mut connection, 1, &fresh, PACE).await?;
    world.quiet().await?;
    let cold_before = world.used()?.cpu;
    let begun = Instant::now();
    let cold = world.client.turn(&mut connection, 0, conversation, PACE).await?;
    let whole = begun.elapsed();
    world.quiet().await?;
    let mean = prompts.iter().sum::<u64>() as f64 / turns;
    Ok(vec![
        length.to_string(),
        decimal((after.cpu - before.cpu).as_secs_f64() * 1000.0 / turns),
        kib((stored_after.all() - stored.all()) / turns),
        kib((after.disk - before.disk) as f64 / turns),
        format!("{mean:.0} / {}", prompts.iter().max().copied().unwrap_or(0)),
        times.both(),
        ms(cold.accepted),
        ms(whole),
        ms(world.used()?.cpu - cold_before),
        mib(after.resident as f64),
    ])
}
