//! What embeddings cost that are computed in the process. Runs the library in this process, without server and
//! provider.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use copilotd::adapters::embedding::{LocalEmbedder, ModelKind};
use copilotd_actors::ports::{EmbedError, EmbedRequest, Embedder as _};
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

/// Runs the scenario.
pub async fn run(size: &Size) -> anyhow::Result<Report> {
    let models = size
        .models
        .as_deref()
        .context("--models is required: the directory of the embedding models")?;
    let time = Duration::from_secs(size.pick(10, 2));
    let mut report = Report::new(
        "embed: texts embedded in the process",
        "Each caller embeds one text at a time, the next as soon as it has the vector; no two texts are alike. The model has its own thread \
         and takes all waiting texts as one batch, up to 8 with 8 callers. all-MiniLM-L6-v2 reads at most 256 tokens of a text. \
         A text that has waited for 5 s is refused. *Loading* includes checking the files' hashes. *CPU* is that of the whole process, per text.",
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
        let embedder = Arc::new(LocalEmbedder::load(kind, models)?);
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
struct Texts {
    state: u64,
    words: usize,
}

impl Texts {
    fn new(caller: usize, words: usize) -> Self {
        Self {
            state: caller as u64 + 1,
            words,
        }
    }

    fn next_text(&mut self) -> String {
        let mut text = String::with_capacity(self.words * 8);
        for _ in 0..self.words {
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
