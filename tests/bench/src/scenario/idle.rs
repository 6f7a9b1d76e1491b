//! Conversations that are no longer used.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use super::Size;
use crate::client::Pace;
use crate::report::Report;
use crate::stats::{Samples, decimal, mib};
use crate::world::{Programs, ServerOptions, Testbed};

const PACE: Pace = Pace {
    words: 5,
    first_ms: 0,
    pace_ms: 0,
};
const AT_ONCE: usize = 32;
/// Conversations that are woken afterwards.
const WOKEN: usize = 200;
const IDLE_S: u64 = 2;

/// Runs the scenario.
pub async fn run(programs: &Programs, size: &Size) -> anyhow::Result<Report> {
    let many = size.pick(100_000, 2_000);
    let options = ServerOptions {
        idle_s: Some(IDLE_S),
        ..ServerOptions::default()
    };
    let world = Testbed::start(programs, options).await?;
    // The first ones pay for what is built only once.
    touch(&world, WOKEN).await?;
    rest(&world).await?;
    let before = world.used()?;
    let begun = Instant::now();
    let conversations = touch(&world, many).await?;
    let took = begun.elapsed();
    let touched = world.used()?;
    rest(&world).await?;
    let after = world.used()?;
    let (mut woken, mut again) = (Samples::default(), Samples::default());
    let mut connection = world.client.connect().await?;
    for number in (0..many).step_by((many / WOKEN).max(1)) {
        for samples in [&mut woken, &mut again] {
            let turn = world.client.turn(&mut connection, number, &conversations[number], PACE);
            samples.add(turn.await?.accepted);
        }
    }
    let mut report = Report::new(
        &format!("idle: {many} conversations touched and let go"),
        &format!(
            "Each is created and gets one turn of 5 tokens, {AT_ONCE} at a time; a conversation is passivated after \
             {IDLE_S} s (`[server] idle_s`). *Afterwards* is when memory has settled. Waking is the time to \
             the 202 of a turn on a passivated one; warm is the next turn on the same one."
        ),
        &["figure", "measured"],
    );
    report.fact(
        "touched per second (create and turn)",
        decimal(many as f64 / took.as_secs_f64()),
    );
    report.fact("resident before, MiB", mib(before.resident as f64));
    report.fact("resident while touching, at the end, MiB", mib(touched.resident as f64));
    report.fact("resident afterwards, MiB", mib(after.resident as f64));
    let grown = after.resident.saturating_sub(before.resident) as f64;
    report.fact("growth per idle conversation, bytes", decimal(grown / many as f64));
    report.fact("time to wake one, p50 / p99 ms", woken.both());
    report.fact("the same, warm, p50 / p99 ms", again.both());
    Ok(report)
}

/// Creates conversations with one turn each.
async fn touch(world: &Testbed, many: usize) -> anyhow::Result<Vec<String>> {
    let mut tasks = JoinSet::new();
    for lane in 0..AT_ONCE {
        let client = Arc::clone(&world.client);
        tasks.spawn(async move {
            let mut connection = client.connect().await?;
            let mut made = Vec::new();
            for number in (lane..many).step_by(AT_ONCE) {
                let conversation = client.create(&mut connection, number).await?;
                client.turn(&mut connection, number, &conversation, PACE).await?;
                made.push((number, conversation));
            }
            anyhow::Ok(made)
        });
    }
    let mut all = Vec::new();
    for made in tasks.join_all().await {
        all.extend(made?);
    }
    all.sort_unstable();
    Ok(all.into_iter().map(|(_, id)| id).collect())
}

/// Waits until all are passivated and their memory is returned.
async fn rest(world: &Testbed) -> anyhow::Result<()> {
    tokio::time::sleep(Duration::from_secs(IDLE_S + 1)).await;
    world.quiet().await?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    world.quiet().await
}
