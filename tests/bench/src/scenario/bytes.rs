//! What one answer costs the store.

use super::Size;
use crate::client::Pace;
use crate::machine;
use crate::report::Report;
use crate::stats::{decimal, kib};
use crate::world::{Programs, ServerOptions, Testbed};

const PACE: Pace = Pace {
    words: 1000,
    first_ms: 0,
    pace_ms: 1,
};

/// Runs the scenario.
pub async fn run(programs: &Programs, size: &Size) -> anyhow::Result<Report> {
    let many = size.pick(100, 10);
    let world = Testbed::start(programs, ServerOptions::default()).await?;
    let mut connection = world.client.connect().await?;
    let mut conversations = Vec::new();
    for user in 0..many {
        conversations.push(world.client.create(&mut connection, user).await?);
    }
    world.quiet().await?;
    let (before, stored) = (world.used()?, world.client.stored(&mut connection).await?);
    let mut text = 0;
    for (user, conversation) in conversations.iter().enumerate() {
        text += world
            .client
            .turn(&mut connection, user, conversation, PACE)
            .await?
            .bytes;
    }
    world.quiet().await?;
    let (after, stored_after) = (world.used()?, world.client.stored(&mut connection).await?);
    let each = |bytes: f64| bytes / many as f64;
    let text = each(text as f64);
    let (records, projections) = (
        each(stored_after.records - stored.records),
        each(stored_after.projections - stored.projections),
    );
    let written = each((after.disk - before.disk) as f64);
    let flush = machine::flush_time(&world.data(), 200)?;
    let mut report = Report::new(
        "bytes: what an answer of 1,000 tokens costs the store",
        &format!(
            "{many} turns, one after the other, each on its own conversation. Bytes handed to the store are those of the \
             values of its statements, uncompressed, from `copilotd_store_bytes_total`; written are those that the \
             kernel counts for the process (`write_bytes`): the pages of the write-ahead log and those folded back. A \
             flush is 4 KiB appended and `fdatasync`, on the same disk."
        ),
        &["figure", "measured"],
    );
    report.fact("text of the answer, KiB", kib(text));
    report.fact("records, KiB", kib(records));
    report.fact("projections, KiB", kib(projections));
    report.fact("handed to the store by text", decimal((records + projections) / text));
    report.fact("appends per turn", decimal(each(stored_after.appends - stored.appends)));
    report.fact("written to disk, KiB", kib(written));
    report.fact("written by text", decimal(written / text));
    report.fact("one flush, p50 / p99 ms", flush.both());
    Ok(report)
}
