//! What embeddings cost that are computed in the process. Runs the library in this process, without server and
//! provider.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use copilotd::adapters::embedding::{LocalEmbedder, ModelKind, Threads};
use copilotd_actors::ports::{EmbedError, EmbedRequest, Embedder as _, Purpose, Urgency};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::Size;
use crate::machine;
use crate::report::Report;
use crate::stats::{Samples, decimal};

/// Concurrent callers.
const CALLERS: [usize; 2] = [1, 8];
/// Lengths of texts in words.
const LENGTHS: [usize; 2] = [12, 200];
/// Vocabulary of the texts: words as people write them to a copilot, of one to three word pieces each.
const WORDS: [&str; 48] = [
    "the",
    "invoice",
    "for",
    "our",
    "subscription",
    "was",
    "charged",
    "twice",
    "last",
    "month",
    "and",
    "I",
    "would",
    "like",
    "a",
    "refund",
    "please",
    "how",
    "can",
    "we",
    "change",
    "email",
    "address",
    "of",
    "another",
    "teammate",
    "without",
    "losing",
    "access",
    "to",
    "dashboards",
    "exports",
    "webhook",
    "fails",
    "with",
    "timeout",
    "since",
    "yesterday",
    "evening",
    "customer",
    "ticket",
    "escalated",
    "password",
    "reset",
    "link",
    "never",
    "arrives",
    "again",
];

/// What callers saw.
struct EmbedResults {
    latencies: Samples,
    per_second: f64,
    /// Texts that were refused, or waited longer than the embedder allows.
    refused: usize,
}

/// Tokens of a chunk of a document.
const CHUNK_TOKENS: usize = 256;
/// Chunks of one request of an ingestion.
const CHUNKS: usize = 16;
/// Pause of a user between two queries.
const PAUSE: Duration = Duration::from_millis(20);

/// Runs the scenario.
pub async fn run(size: &Size) -> anyhow::Result<Vec<Report>> {
    let models = size
        .models
        .as_deref()
        .context("--models is required: the directory of the embedding models")?;
    Ok(vec![
        requests(size, models).await?,
        bare_loop(size, models).await?,
        queries(size, models).await?,
    ])
}

/// How fast requests are answered that somebody waits for.
async fn requests(size: &Size, models: &Path) -> anyhow::Result<Report> {
    let time = Duration::from_secs(size.pick(10, 2));
    let mut report = Report::new(
        "embed: texts embedded in the process",
        "Each caller embeds one text at a time, the next as soon as it has the vector; no two texts are alike. The model has a thread of \
         its own for such requests, and runs each text alone. A text that has waited for 5 s is refused. *Loading* includes checking the files' hashes. *CPU* is that of the whole process, per text.",
        &[
            "model",
            "words",
            "callers",
            "texts per second",
            "p50 / p99 ms",
            "CPU ms per text",
            "refused",
            "loading ms",
            "resident MiB",
        ],
    );
    for kind in ModelKind::ALL {
        let begun = Instant::now();
        let embedder = Arc::new(LocalEmbedder::load(kind, models, Threads::default())?);
        let loading = begun.elapsed();
        for words in LENGTHS {
            // The first run of a length allocates memory, which is not to be measured.
            callers(&embedder, 1, words, time / 10).await?;
            for count in CALLERS {
                let before = machine::used(std::process::id())?.cpu;
                let seen = callers(&embedder, count, words, time).await?;
                let used = machine::used(std::process::id())?;
                let cpu = used.cpu.saturating_sub(before).as_secs_f64() * 1000.0 / seen.latencies.count().max(1) as f64;
                report.row(vec![
                    kind.to_string(),
                    words.to_string(),
                    count.to_string(),
                    decimal(seen.per_second),
                    seen.latencies.both(),
                    decimal(cpu),
                    seen.refused.to_string(),
                    decimal(loading.as_secs_f64() * 1000.0),
                    decimal(used.resident as f64 / 1024.0 / 1024.0),
                ]);
            }
        }
    }
    Ok(report)
}

/// How many chunks of documents a core embeds: the most that ingestion can reach.
async fn bare_loop(size: &Size, models: &Path) -> anyhow::Result<Report> {
    let time = Duration::from_secs(size.pick(30, 3));
    let mut report = Report::new(
        "embed: chunks of 256 tokens in a bare loop",
        "One caller, requests of 16 chunks in the background, the next as soon as the vectors of the last one are there. \
         The time on a processor is that of the whole process.",
        &[
            "model",
            "chunks",
            "tokens per chunk",
            "chunks per second",
            "chunks per second and core",
        ],
    );
    for kind in ModelKind::ALL {
        let embedder = LocalEmbedder::load(kind, models, Threads::default())?;
        let mut texts = Texts::new(0, 1);
        embed_chunks(&embedder, &mut texts).await?;
        let before = machine::used(std::process::id())?.cpu;
        let (begun, mut chunks, mut tokens) = (Instant::now(), 0, 0);
        while begun.elapsed() < time {
            tokens += embed_chunks(&embedder, &mut texts).await?;
            chunks += CHUNKS;
        }
        let elapsed = begun.elapsed().as_secs_f64();
        let used = machine::used(std::process::id())?
            .cpu
            .saturating_sub(before)
            .as_secs_f64();
        report.row(vec![
            kind.to_string(),
            chunks.to_string(),
            decimal(tokens as f64 / chunks as f64),
            decimal(chunks as f64 / elapsed),
            decimal(chunks as f64 / used),
        ]);
    }
    Ok(report)
}

/// Embeds the chunks of one request, and returns the number of their tokens.
async fn embed_chunks(embedder: &LocalEmbedder, texts: &mut Texts) -> anyhow::Result<usize> {
    let (mut chunks, mut tokens) = (Vec::new(), 0);
    for _ in 0..CHUNKS {
        // Most words are one token: this takes few steps.
        let mut chunk = texts.words(CHUNK_TOKENS * 3 / 4);
        while embedder.count_tokens(&chunk)? < CHUNK_TOKENS {
            chunk.push(' ');
            chunk.push_str(&texts.words((CHUNK_TOKENS - embedder.count_tokens(&chunk)?).div_ceil(2)));
        }
        tokens += embedder.count_tokens(&chunk)?;
        chunks.push(chunk);
    }
    let request = EmbedRequest {
        texts: chunks,
        purpose: Purpose::Passage,
        urgency: Urgency::Background,
    };
    embedder.embed(request).await?;
    Ok(tokens)
}

/// How long queries take while documents are being embedded.
async fn queries(size: &Size, models: &Path) -> anyhow::Result<Report> {
    let time = Duration::from_secs(size.pick(15, 2));
    let mut report = Report::new(
        "embed: queries while the background is busy",
        "One caller asks questions of 12 words, each 20 ms after the answer to the last one. *Busy*: two callers embed requests of 16 \
         chunks of 256 tokens in the background all the time. Rounds alternate; each row is the sum of three.",
        &["model", "background", "queries", "p50 / p99 ms", "chunks per second"],
    );
    for kind in ModelKind::ALL {
        let embedder = Arc::new(LocalEmbedder::load(kind, models, Threads::default())?);
        let mut rows = [(Samples::default(), 0), (Samples::default(), 0)];
        for round in 0..6 {
            let busy = round % 2 == 1;
            let mut feeders = JoinSet::new();
            let done = Arc::new(AtomicUsize::new(0));
            for feeder in 0..if busy { 2 } else { 0 } {
                let (embedder, done) = (Arc::clone(&embedder), Arc::clone(&done));
                feeders.spawn(async move {
                    let mut texts = Texts::new(100 + feeder, 1);
                    while embed_chunks(&embedder, &mut texts).await.is_ok() {
                        done.fetch_add(CHUNKS, Ordering::Relaxed);
                    }
                });
            }
            let (begun, mut texts) = (Instant::now(), Texts::new(round, 12));
            while begun.elapsed() < time {
                let request = EmbedRequest {
                    texts: vec![texts.next_text()],
                    purpose: Purpose::Query,
                    urgency: Urgency::Foreground,
                };
                let asked = Instant::now();
                embedder.embed(request).await?;
                rows[usize::from(busy)].0.add(asked.elapsed());
                tokio::time::sleep(PAUSE).await;
            }
            rows[usize::from(busy)].1 += done.load(Ordering::Relaxed);
            feeders.shutdown().await;
        }
        for (background, (samples, chunks)) in ["idle", "busy"].into_iter().zip(rows) {
            report.row(vec![
                kind.to_string(),
                background.to_owned(),
                samples.count().to_string(),
                samples.both(),
                decimal(f64::from(u32::try_from(chunks)?) / (3.0 * time.as_secs_f64())),
            ]);
        }
    }
    Ok(report)
}

async fn callers(
    embedder: &Arc<LocalEmbedder>,
    count: usize,
    words: usize,
    time: Duration,
) -> anyhow::Result<EmbedResults> {
    let begun = Instant::now();
    let mut tasks = JoinSet::new();
    for caller in 0..count {
        let embedder = Arc::clone(embedder);
        tasks.spawn(async move {
            let (mut latencies, mut refused) = (Samples::default(), 0);
            let mut texts = Texts::new(caller, words);
            while begun.elapsed() < time {
                let text = texts.next_text();
                let asked = Instant::now();
                match embedder.embed(EmbedRequest::to_compare(vec![text])).await {
                    Ok(vectors) => {
                        latencies.add(asked.elapsed());
                        ensure!(vectors.len() == 1, "{} vectors for one text", vectors.len());
                    }
                    Err(EmbedError::Timeout | EmbedError::Busy) => refused += 1,
                    Err(error) => return Err(error.into()),
                }
            }
            Ok((latencies, refused))
        });
    }
    let (mut latencies, mut refused) = (Samples::default(), 0);
    for done in tasks.join_all().await {
        let (some, missed) = done?;
        latencies.merge(some);
        refused += missed;
    }
    let per_second = latencies.count() as f64 / begun.elapsed().as_secs_f64();
    Ok(EmbedResults {
        latencies,
        per_second,
        refused,
    })
}

/// Distinct texts of one length.
pub(super) struct Texts {
    state: u64,
    words: usize,
}

impl Texts {
    pub(super) fn new(caller: usize, words: usize) -> Self {
        Self {
            state: caller as u64 + 1,
            words,
        }
    }

    fn next_text(&mut self) -> String {
        self.words(self.words)
    }

    pub(super) fn words(&mut self, count: usize) -> String {
        let mut text = String::with_capacity(count * 8);
        for _ in 0..count {
            self.state = self
                .state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            if !text.is_empty() {
                text.push(' ');
            }
            text.push_str(WORDS[(self.state >> 33) as usize % WORDS.len()]);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_have_their_length_and_differ() {
        let mut texts = Texts::new(0, 12);
        let (one, other) = (texts.next_text(), texts.next_text());
        assert_eq!(one.split(' ').count(), 12);
        assert_ne!(one, other);
        assert_ne!(one, Texts::new(1, 12).next_text());
    }
}
