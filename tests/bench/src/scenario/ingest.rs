//! How much of the embedding engine's speed an ingestion reaches: documents that are stored over HTTP, and a bare loop over
//! the engine with the same chunks, alternately in one run. What counts is the ratio.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use copilotd::adapters::embedding::{LocalEmbedder, ModelKind, Threads};
use copilotd_actors::ports::{EmbedRequest, Embedder as _, Purpose, Urgency};
use copilotd_knowledge::chunk::chunk;
use copilotd_knowledge::document::Format;
use copilotd_knowledge::extract::{Limits, extract};
use copilotd_knowledge::ingest::Bounds;
use tokio::time::Instant;

use super::Size;
use super::embed::Texts;
use crate::client::Metrics;
use crate::report::Report;
use crate::stats::{decimal, mib};
use crate::world::{Programs, ServerOptions, Testbed};

/// Words of a paragraph, and paragraphs of a document: about 20 chunks.
const WORDS: usize = 90;
const PARAGRAPHS: usize = 40;
/// Steps of an ingestion as the server's metrics name them, and how often they are done.
const STEPS: [(&str, &str); 5] = [
    ("chunk", "document"),
    ("stem", "batch"),
    ("embed", "batch"),
    ("store", "batch"),
    ("publish", "document"),
];

/// Text of a document, different each time.
pub(super) fn document(texts: &mut Texts) -> String {
    let paragraphs: Vec<String> = (0..PARAGRAPHS).map(|_| texts.words(WORDS) + ".").collect();
    paragraphs.join("\n\n")
}

/// Returns the texts that the server embeds for a document, in batches.
fn batches(document: &str, embedder: &LocalEmbedder) -> anyhow::Result<Vec<Vec<String>>> {
    let extracted = extract(document.as_bytes(), Format::Text, None, &Limits::default())?;
    let chunks: Vec<String> = chunk(&extracted, embedder)
        .iter()
        .map(|draft| draft.context_text(None))
        .collect();
    let batch = Bounds::default().batch;
    Ok(chunks.chunks(batch).map(<[String]>::to_vec).collect())
}

/// Embeds all batches, one after the other, as one caller in the background.
async fn bare(embedder: &LocalEmbedder, batches: &[Vec<String>]) -> anyhow::Result<()> {
    for batch in batches {
        let request = EmbedRequest {
            texts: batch.clone(),
            purpose: Purpose::Passage,
            urgency: Urgency::Background,
        };
        let vectors = embedder.embed(request).await?;
        ensure!(vectors.len() == batch.len(), "vectors are missing");
    }
    Ok(())
}

/// Runs the scenario.
pub async fn run(programs: &Programs, size: &Size) -> anyhow::Result<Vec<Report>> {
    let models = size
        .models
        .as_deref()
        .context("--models is required: the directory of the embedding models")?;
    let (rounds, documents) = (size.pick(7, 3), size.pick(10, 2));
    let options = ServerOptions {
        models: Some(models.to_owned()),
        ..ServerOptions::default()
    };
    let world = Testbed::start(programs, options).await?;
    let mut connection = world.client.connect().await?;
    let embedder = LocalEmbedder::load(ModelKind::BgeSmall, models, Threads::default())?;
    let mut texts = Texts::new(7, WORDS);
    let warm = document(&mut texts);
    let job = world.client.put(&mut connection, "warm", &warm).await?;
    world.client.ingested(&mut connection, &job).await?;
    bare(&embedder, &batches(&warm, &embedder)?).await?;
    let before = (world.used()?, world.client.metrics(&mut connection).await?);
    let (mut ratios, mut served, mut bared, mut chunks) = (Vec::new(), Vec::new(), Vec::new(), 0);
    for round in 0..rounds {
        // The server closes connections that are idle while the bare loop runs.
        connection = world.client.connect().await?;
        let contents: Vec<String> = (0..documents).map(|_| document(&mut texts)).collect();
        let begun = Instant::now();
        let mut jobs = Vec::new();
        for (number, content) in contents.iter().enumerate() {
            let id = format!("{round}-{number}");
            jobs.push(world.client.put(&mut connection, &id, content).await?);
        }
        let mut ingested = 0;
        for job in &jobs {
            ingested += world.client.ingested(&mut connection, job).await?;
        }
        let through = begun.elapsed();
        world.quiet().await?;
        let batches = contents.iter().map(|content| batches(content, &embedder));
        let batches: Vec<Vec<String>> = batches.collect::<anyhow::Result<Vec<_>>>()?.concat();
        let expected: usize = batches.iter().map(Vec::len).sum();
        ensure!(ingested == expected, "the server made {ingested} chunks of {expected}");
        let begun = Instant::now();
        bare(&embedder, &batches).await?;
        let alone = begun.elapsed();
        let rate = |time: Duration| expected as f64 / time.as_secs_f64();
        ratios.push(rate(through) / rate(alone));
        served.push(rate(through));
        bared.push(rate(alone));
        chunks += expected;
    }
    connection = world.client.connect().await?;
    let after = (world.used()?, world.client.metrics(&mut connection).await?);
    let mut report = Report::new(
        "ingest: documents stored over HTTP, and a bare loop over the engine",
        &format!(
            "{documents} documents of {PARAGRAPHS} paragraphs, from the first `PUT` until the last job has ended, and then the same \
             chunks embedded by one caller in a process that does nothing else; {rounds} rounds of both in turn; medians, and the \
             median of each round's ratio. Aim: a ratio of at least .85. *Memory* is that of the server, resident before the first \
             round, and at its peak."
        ),
        &[
            "chunks",
            "server, chunks/s",
            "bare loop, chunks/s",
            "ratio",
            "lowest ratio",
            "memory (MiB)",
        ],
    );
    report.row(vec![
        chunks.to_string(),
        decimal(median(served)),
        decimal(median(bared)),
        format!("{:.3}", median(ratios.clone())),
        format!("{:.3}", ratios.iter().copied().fold(f64::INFINITY, f64::min)),
        format!("{} / {}", mib(before.0.resident as f64), mib(after.0.peak as f64)),
    ]);
    Ok(vec![report, steps(&before.1, &after.1), large(programs, models).await?])
}

/// Returns the mean time of each step between two readings.
fn steps(before: &Metrics, after: &Metrics) -> Report {
    let mut report = Report::new(
        "ingest: steps",
        "Mean time of each step of the same documents, with its waits. A batch has 16 chunks.",
        &["step", "of a", "times", "ms"],
    );
    let row = |name: &str, label: &str, step: &str, of: &str| {
        let change = |part: &str| {
            let name = format!("{name}_{part}");
            after.sum(&name, label) - before.sum(&name, label)
        };
        let (count, sum) = (change("count"), change("sum"));
        vec![
            step.to_owned(),
            of.to_owned(),
            format!("{count:.0}"),
            decimal(sum * 1000.0 / count.max(1.0)),
        ]
    };
    report.row(row("copilotd_extraction_seconds", "", "extract", "document"));
    for (step, of) in STEPS {
        let label = format!("step=\"{step}\"");
        report.row(row("copilotd_ingestion_step_seconds", &label, step, of));
    }
    report
}

/// What a document of ten megabytes takes until all its chunks are cut and the first ones are stored.
async fn large(programs: &Programs, models: &Path) -> anyhow::Result<Report> {
    const BYTES: usize = 10 << 20;
    let mut report = Report::new(
        "ingest: a document of ten megabytes",
        "Text of 10 MiB over HTTP into a fresh server, until its first batch of chunks is stored (embedding all of them takes an hour \
         on one processor). *Memory* is resident memory before, and at its peak.",
        &[
            "chunks",
            "seconds until cut",
            "memory (MiB)",
            "peak, as a multiple of the document",
        ],
    );
    let options = ServerOptions {
        models: Some(models.to_owned()),
        ..ServerOptions::default()
    };
    let world = Testbed::start(programs, options).await?;
    let mut connection = world.client.connect().await?;
    let mut texts = Texts::new(11, WORDS);
    let job = world.client.put(&mut connection, "warm", &texts.words(WORDS)).await?;
    world.client.ingested(&mut connection, &job).await?;
    let before = world.used()?.resident;
    let mut content = String::with_capacity(BYTES + 1024);
    while content.len() < BYTES {
        content += &texts.words(WORDS);
        content += ".\n\n";
    }
    let begun = Instant::now();
    let job = world.client.put(&mut connection, "large", &content).await?;
    let mut seen = BTreeMap::new();
    while seen.get("done").is_none_or(|done| *done == 0) {
        seen = world.client.progress(&mut connection, &job).await?;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let elapsed = begun.elapsed();
    let peak = world.used()?.peak;
    report.row(vec![
        seen.get("total").copied().unwrap_or(0).to_string(),
        decimal(elapsed.as_secs_f64()),
        format!("{} / {}", mib(before as f64), mib(peak as f64)),
        decimal(peak.saturating_sub(before) as f64 / content.len() as f64),
    ]);
    Ok(report)
}

pub(super) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}
