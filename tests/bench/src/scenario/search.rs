//! What a search of a tenant's knowledge costs in each index, and what other tenants change of it. Runs the library in
//! this process; vectors are drawn, not embedded.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::ValueEnum;
use copilotd::adapters::index::postgres::{PostgresIndex, PostgresOptions};
use copilotd::adapters::index::sqlite::SqliteIndex;
use copilotd_actors::domain::ids::{ChunkId, JobId};
use copilotd_actors::ports::{Space, Vector};
use copilotd_actors::tenancy::TenantScope;
use copilotd_knowledge::chunk::ChunkDraft;
use copilotd_knowledge::document::{AttributeChanges, DocumentKey, Format, Reader};
use copilotd_knowledge::index::{ChunkPlace, KnowledgeIndex, NewChunk, Quota, Search, Submission};
use jiff::Timestamp;
use tokio::time::Instant;
use uuid::Uuid;

use super::Size;
use crate::postgres::Postgres;
use crate::report::Report;
use crate::stats::{Samples, decimal, mib, ms};
use crate::world::Programs;

/// Numbers in a vector.
const DIMENSIONS: usize = 384;
/// Words that documents are drawn from, the n-th in proportion to 1/n, as in natural text.
const VOCABULARY: f64 = 30_000.0;
/// Words of a chunk, of which about 70 are different.
const WORDS: usize = 100;
/// Words of a question.
const QUESTION: usize = 8;
/// Chunks of a document.
const CHUNKS: usize = 50;
/// Hits wanted of each of the two searches.
const LIMIT: usize = 50;
/// Alternating runs.
const RUNS: usize = 5;
const QUOTA: Quota = Quota {
    documents: u64::MAX,
    bytes: u64::MAX,
    chunks: u64::MAX,
};

/// Numbers that are the same in every run (SplitMix64).
pub(super) struct Draw(pub(super) u64);

impl Draw {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number from 0 to 1.
    fn share(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    pub(super) fn word(&mut self) -> String {
        format!("w{}", VOCABULARY.powf(self.share()) as u64)
    }

    fn words(&mut self, count: usize) -> Vec<(String, u32)> {
        let mut counts = std::collections::BTreeMap::new();
        for _ in 0..count {
            *counts.entry(self.word()).or_default() += 1;
        }
        counts.into_iter().collect()
    }

    fn vector(&mut self, space: &Space) -> Option<Vector> {
        let numbers = (0..DIMENSIONS).map(|_| (self.share() - 0.5) as f32);
        Vector::unit(space, numbers.collect())
    }
}

#[expect(clippy::disallowed_methods, reason = "a benchmark is its own verifier")]
fn scope(tenant: usize) -> anyhow::Result<TenantScope> {
    Ok(TenantScope::from_verified(format!("tenant-{tenant}").parse()?))
}

/// Which index is searched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Index {
    /// The embedded one
    Sqlite,
    /// PostgreSQL with pgvector
    Postgres,
}

/// Where indexes are.
enum Place {
    Directories,
    Server(Postgres),
}

impl Place {
    /// Opens an empty index; returns also where it is.
    async fn open(
        &self,
        scratch: &Path,
        tenants: usize,
    ) -> anyhow::Result<(Arc<dyn KnowledgeIndex>, tempfile::TempDir)> {
        let directory = tempfile::tempdir_in(scratch)?;
        let index: Arc<dyn KnowledgeIndex> = match self {
            Self::Directories => Arc::new(SqliteIndex::open(directory.path())?),
            Self::Server(server) => Arc::new(
                PostgresIndex::open(&PostgresOptions {
                    schema: schema(tenants),
                    ..PostgresOptions::new(server.url().into())
                })
                .await?,
            ),
        };
        Ok((index, directory))
    }

    /// Returns the bytes of a full index.
    fn size(&self, directory: &Path, tenants: usize) -> anyhow::Result<u64> {
        match self {
            Self::Directories => Ok(std::fs::metadata(directory.join("knowledge.db"))?.len()),
            Self::Server(server) => server.settle(&schema(tenants)),
        }
    }
}

fn schema(tenants: usize) -> String {
    format!("of_{tenants}")
}

/// An index with this many tenants, each with this many chunks.
pub(super) struct Shelf {
    index: Arc<dyn KnowledgeIndex>,
    tenants: usize,
}

impl Shelf {
    pub(super) async fn fill(
        index: Arc<dyn KnowledgeIndex>,
        tenants: usize,
        chunks: usize,
        space: &Space,
    ) -> anyhow::Result<Self> {
        let mut draw = Draw(1);
        for tenant in 0..tenants {
            for document in 0..chunks.div_ceil(CHUNKS) {
                store(index.as_ref(), &scope(tenant)?, document, space, &mut draw).await?;
            }
        }
        Ok(Self { index, tenants })
    }

    /// Searches as a user, each time of another tenant.
    async fn search(&self, count: usize, space: &Space, draw: &mut Draw) -> anyhow::Result<Samples> {
        let mut samples = Samples::default();
        for n in 0..count {
            let scope = scope(n * 7 % self.tenants)?;
            let search = Search {
                collections: vec!["handbook".parse()?],
                reader: Reader::Caller {
                    user: Some("ann".parse()?),
                    roles: ["staff".to_owned()].into(),
                },
                filter: Vec::new(),
                terms: draw.words(QUESTION).into_iter().map(|(word, _)| word).collect(),
                vector: draw.vector(space),
                limit: LIMIT,
            };
            let begun = Instant::now();
            let found = self.index.search(&scope, &search).await?;
            samples.add(begun.elapsed());
            anyhow::ensure!(found.semantic.len() == LIMIT, "a search found too little");
        }
        Ok(samples)
    }
}

async fn store(
    index: &dyn KnowledgeIndex,
    scope: &TenantScope,
    document: usize,
    space: &Space,
    draw: &mut Draw,
) -> anyhow::Result<()> {
    let key = DocumentKey {
        collection: "handbook".parse()?,
        external_id: document.to_string().parse()?,
    };
    let id = key.id(scope.tenant());
    let submission = Submission {
        key,
        format: Format::Text,
        content: vec![b'x'; 100],
        content_hash: [0; 32],
        changes: AttributeChanges::default(),
        job: JobId::new(Uuid::from_u128(u128::from(draw.next()))),
        at: Timestamp::UNIX_EPOCH,
    };
    index.submit(scope, submission, &QUOTA).await?;
    let mut places = Vec::new();
    let mut chunks = Vec::new();
    let mut vectors = Vec::new();
    for n in 0..CHUNKS {
        let terms = draw.words(WORDS);
        let words: Vec<&str> = terms.iter().map(|(word, _)| word.as_str()).collect();
        let text = words.join(" ");
        let chunk = ChunkId::derived(id, "", &text, u32::try_from(n)?);
        let (start, end) = (0, text.len() as u64);
        let draft = ChunkDraft {
            text,
            heading: String::new(),
            page: None,
            start,
            end,
        };
        places.push((chunk, ChunkPlace { page: None, start, end }));
        chunks.push(NewChunk {
            id: chunk,
            draft,
            terms,
        });
        vectors.extend(draw.vector(space));
    }
    index.stage(scope, id, 1, chunks, vectors).await?;
    index
        .publish(scope, id, 1, places.into(), &QUOTA, Timestamp::UNIX_EPOCH)
        .await?;
    Ok(())
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

pub async fn run(programs: &Programs, size: &Size) -> anyhow::Result<Report> {
    let (few, many) = size.pick((10, 100), (2, 20));
    let (chunks, searches) = size.pick((1_000, 300), (200, 50));
    let (place, what) = match size.index {
        Index::Sqlite => (Place::Directories, "the embedded index"),
        Index::Postgres => {
            let root = size.postgres.as_deref().context("--postgres is missing")?;
            (
                Place::Server(Postgres::start(root, &programs.scratch).await?),
                "PostgreSQL",
            )
        }
    };
    let mut report = Report::new(
        &format!("search: both searches of a tenant's knowledge in {what}, without the question's embedding"),
        &format!(
            "{chunks} chunks a tenant, each of {WORDS} drawn words with a drawn vector of {DIMENSIONS} numbers; questions of \
             {QUESTION} words, {LIMIT} hits of each search, one search at a time, as a user with a role. {RUNS} alternating runs \
             of {searches} searches; the ratio is that of the medians of their p50. Aim: at most 1.05.",
        ),
        &[
            "tenants",
            "chunks",
            "p50 (ms)",
            "p99 (ms)",
            "file (MiB)",
            "load (chunks/s)",
            "ratio of p50",
        ],
    );
    let space: Space = Arc::from("bench");
    let mut shelves = Vec::new();
    let mut facts = Vec::new();
    let mut directories = Vec::new();
    for tenants in [few, many] {
        let (index, directory) = place.open(&programs.scratch, tenants).await?;
        let begun = Instant::now();
        shelves.push(Shelf::fill(index, tenants, chunks, &space).await?);
        let rate = (tenants * chunks) as f64 / begun.elapsed().as_secs_f64();
        facts.push((place.size(directory.path(), tenants)?, rate));
        directories.push(directory);
        eprintln!("search: {tenants} tenants are loaded");
    }
    let mut draw = Draw(2);
    for shelf in &shelves {
        shelf.search(searches, &space, &mut draw).await?;
    }
    let mut all = vec![Samples::default(); shelves.len()];
    let mut medians = vec![Vec::new(); shelves.len()];
    for _ in 0..RUNS {
        for (n, shelf) in shelves.iter().enumerate() {
            let samples = shelf.search(searches, &space, &mut draw).await?;
            medians[n].push(samples.percentile(0.5));
            all[n].merge(samples);
        }
    }
    let first = median(medians[0].clone()).as_secs_f64();
    for (n, shelf) in shelves.iter().enumerate() {
        let (bytes, rate) = facts[n];
        let ratio = median(medians[n].clone()).as_secs_f64() / first;
        report.row(vec![
            shelf.tenants.to_string(),
            (shelf.tenants * chunks).to_string(),
            ms(all[n].percentile(0.5)),
            ms(all[n].percentile(0.99)),
            mib(bytes as f64),
            decimal(rate),
            format!("{ratio:.3}"),
        ]);
    }
    Ok(report)
}
