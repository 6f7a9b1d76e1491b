//! One more turn in conversations of different lengths.

use std::path::Path;
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
/// Turns measured at each length: several compressions, and enough that processor time, counted in steps of 10 ms, is exact.
const TURNS: usize = 100;
/// The length with which others are compared.
const COMPARED: usize = 200;

/// Runs the scenario; once more with the embedding model if its directory is given.
pub async fn run(programs: &Programs, size: &Size) -> anyhow::Result<Vec<Report>> {
    let mut reports = vec![grow(programs, size, None).await?];
    if let Some(models) = &size.models {
        reports.push(grow(programs, size, Some(models)).await?);
    }
    Ok(reports)
}

async fn grow(programs: &Programs, size: &Size, models: Option<&Path>) -> anyhow::Result<Report> {
    let lengths = size.pick([COMPARED, 1000, 10_000], [COMPARED, 500, 800]);
    let options = ServerOptions {
        context_tokens: Some(8000),
        models: models.map(Path::to_owned),
        ..ServerOptions::default()
    };
    let mut world = Testbed::start(programs, options).await?;
    let mut connection = world.client.connect().await?;
    let conversation = world.client.create(&mut connection, 0).await?;
    let mut report = Report::new(
        match models {
            None => "history: one more turn on a conversation of many messages",
            Some(_) => "history, with an embedding model in the process",
        },
        "One conversation grows (an answer is 30 tokens; the model accepts 8,000 tokens, so that memory is compressed on \
         the way). Around each length, half of them before it, 100 turns are measured: their CPU, bytes handed to the store and prompt tokens per \
         turn, including compressions and snapshots. *Cold* is one turn right after the server was killed and \
         restarted: its log is replayed first.",
        &[
            "messages",
            "CPU ms per turn",
            "CPU / at 200",
            "to the store, KiB per turn",
            "written to disk, KiB per turn",
            "prompt tokens, mean / most",
            "tokens / at 200",
            "turn, p50 / p99 ms",
            "202 cold, ms",
            "whole turn cold, ms",
            "CPU cold, ms",
            "resident, MiB",
        ],
    );
    let (mut messages, mut rows) = (0, Vec::new());
    for length in lengths {
        // What is measured lies around the length.
        while messages + TURNS < length {
            world.client.turn(&mut connection, 0, &conversation, PACE).await?;
            messages += 2;
        }
        let row = measure(&mut world, &mut connection, &conversation).await?;
        rows.push((length, row));
        messages += 2 * TURNS + 2;
        connection = world.client.connect().await?;
    }
    let compared = rows.iter().find(|(length, _)| *length == COMPARED);
    let (cpu, tokens) = compared.map_or((f64::NAN, f64::NAN), |(_, row)| (row.cpu_ms, row.prompt_tokens));
    for (length, row) in rows {
        let mut cells = row.cells;
        cells.insert(1, format!("{:.2}", row.cpu_ms / cpu));
        cells.insert(5, format!("{:.3}", row.prompt_tokens / tokens));
        cells.insert(0, length.to_string());
        report.row(cells);
    }
    Ok(report)
}

/// What was measured at a length.
struct Row {
    cpu_ms: f64,
    prompt_tokens: f64,
    /// All columns but the length and the comparisons.
    cells: Vec<String>,
}

async fn measure(world: &mut Testbed, connection: &mut Connection, conversation: &str) -> anyhow::Result<Row> {
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
    let cpu_ms = (after.cpu - before.cpu).as_secs_f64() * 1000.0 / turns;
    let cells = vec![
        decimal(cpu_ms),
        kib((stored_after.all() - stored.all()) / turns),
        kib((after.disk - before.disk) as f64 / turns),
        format!("{mean:.0} / {}", prompts.iter().max().copied().unwrap_or(0)),
        times.both(),
        ms(cold.accepted),
        ms(whole),
        ms(world.used()?.cpu - cold_before),
        mib(after.resident as f64),
    ];
    Ok(Row {
        cpu_ms,
        prompt_tokens: mean,
        cells,
    })
}
