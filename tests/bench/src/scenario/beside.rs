//! What ingestion changes for streams, and what streams change for searches: the server has one processor to itself, where
//! there are others for provider and client.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use copilotd::adapters::embedding::{LocalEmbedder, ModelKind, Threads};
use copilotd::adapters::index::sqlite::SqliteIndex;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::Size;
use super::embed::Texts;
use super::ingest::{document, median};
use super::search::{Draw, Shelf};
use super::stream::{Load, Sums, through, warm_up};
use crate::client::Client;
use crate::report::Report;
use crate::stats::{Samples, decimal};
use crate::world::{Programs, ServerOptions, Testbed};

/// Streams, unless others are asked for.
const STREAMS: (usize, usize) = (1_000, 100);
/// Tenants whose documents are ingested.
const FEEDERS: usize = 2;
/// Tenants that search.
const SEARCHERS: usize = 10;
/// Words of a question.
const QUESTION: usize = 8;
/// Pause after a search.
const PAUSE: Duration = Duration::from_millis(100);

/// Runs the scenario.
pub async fn run(programs: &Programs, size: &Size) -> anyhow::Result<Vec<Report>> {
    let models = size
        .models
        .clone()
        .context("--models is required: the directory of the embedding models")?;
    let many = size.streams.first().copied();
    let many = many.unwrap_or_else(|| size.pick(STREAMS.0, STREAMS.1));
    let options = ServerOptions {
        one_core: true,
        models: Some(models),
        ..ServerOptions::default()
    };
    let load = Load::new(many, size.small);
    Ok(vec![
        ingestion(programs, size, &options, &load).await?,
        searches(programs, size, &options, &load).await?,
    ])
}

/// Streams with and without ingestion.
async fn ingestion(programs: &Programs, size: &Size, options: &ServerOptions, load: &Load) -> anyhow::Result<Report> {
    let rounds = size.pick(5, 3);
    let options = ServerOptions {
        more: FEEDERS,
        ..options.clone()
    };
    let world = Testbed::start(programs, options).await?;
    warm_up(&world).await?;
    let mut report = Report::new(
        "beside: streams while documents are ingested",
        &format!(
            "{} streams as in `stream`, on one processor for the server; rounds without and with ingestion in turn, {rounds} of each. With it, \
             {FEEDERS} tenants have documents waiting all the time. All first texts of each kind; *rise* is the median of the differences of \
             each pair of rounds. Aim: a rise of the p99 by at most 5 ms.",
            load.many
        ),
        &[
            "ingestion",
            "first text p50 / p99 ms",
            "gap p50 / p99 ms",
            "chunks/s",
            "rise of p50 ms",
            "rise of p99 ms",
            "errors",
        ],
    );
    let (mut all, mut rises) = ([Sums::default(), Sums::default()], (Vec::new(), Vec::new()));
    let (mut chunks, mut time) = (0, Duration::ZERO);
    for round in 0..rounds {
        let alone = through(&world, load).await?;
        let (done, begun, is_over) = (Arc::default(), Instant::now(), Arc::new(AtomicBool::new(false)));
        let mut feeders = JoinSet::new();
        for number in 0..FEEDERS {
            let client = world.client_of(&format!("tenant-{number}"))?;
            feeders.spawn(feed(
                client,
                round * FEEDERS + number,
                Arc::clone(&done),
                Arc::clone(&is_over),
            ));
        }
        let busy = through(&world, load).await?;
        chunks += done.load(Ordering::Relaxed);
        time += begun.elapsed();
        is_over.store(true, Ordering::Relaxed);
        while let Some(fed) = feeders.join_next().await {
            fed??;
        }
        world.quiet().await?;
        let rise = |share: f64| {
            let of = |sums: &Sums| sums.first.percentile(share).as_secs_f64() * 1000.0;
            of(&busy) - of(&alone)
        };
        rises.0.push(rise(0.5));
        rises.1.push(rise(0.99));
        for (sum, sums) in all.iter_mut().zip([alone, busy]) {
            sum.first.merge(sums.first);
            sum.gaps.merge(sums.gaps);
            sum.errors += sums.errors;
        }
    }
    let rises = (decimal(median(rises.0)), decimal(median(rises.1)));
    let rate = decimal(chunks as f64 / time.as_secs_f64());
    let figures = [
        ("none", String::new(), String::new(), String::new()),
        ("always", rate, rises.0, rises.1),
    ];
    for ((name, rate, middle, tail), sums) in figures.into_iter().zip(&all) {
        report.row(vec![
            name.to_owned(),
            sums.first.both(),
            sums.gaps.both(),
            rate,
            middle,
            tail,
            sums.errors.to_string(),
        ]);
    }
    Ok(report)
}

/// Keeps a document waiting all the time, until it is over; then waits until all are ingested.
async fn feed(
    client: Arc<Client>,
    seed: usize,
    done: Arc<AtomicUsize>,
    is_over: Arc<AtomicBool>,
) -> anyhow::Result<()> {
    let mut connection = client.connect().await?;
    let mut texts = Texts::new(1_000 + seed, 1);
    let mut waiting = None;
    for number in 0.. {
        if is_over.load(Ordering::Relaxed) {
            break;
        }
        let id = format!("{seed}-{number}");
        let next = client.put(&mut connection, &id, &document(&mut texts)).await?;
        if let Some(job) = waiting.replace(next) {
            let chunks = client.ingested(&mut connection, &job).await?;
            done.fetch_add(chunks, Ordering::Relaxed);
        }
    }
    if let Some(job) = waiting {
        client.ingested(&mut connection, &job).await?;
    }
    Ok(())
}

/// Searches with and without streams.
async fn searches(programs: &Programs, size: &Size, options: &ServerOptions, load: &Load) -> anyhow::Result<Report> {
    let (tenants, chunks) = size.pick((100, 1_000), (SEARCHERS, 200));
    let options = ServerOptions {
        more: SEARCHERS,
        ..options.clone()
    };
    let models = options.models.clone().unwrap_or_default();
    let space = {
        let embedder = LocalEmbedder::load(ModelKind::BgeSmall, &models, Threads::default())?;
        Arc::clone(embedder.space())
    };
    let mut world = Testbed::start(programs, options).await?;
    world.stop();
    let index = Arc::new(SqliteIndex::open(&world.data())?);
    Shelf::fill(index, tenants, chunks, &space).await?;
    world.restart().await?;
    warm_up(&world).await?;
    let mut report = Report::new(
        "beside: searches beside streams",
        &format!(
            "{} chunks in {tenants} tenants, with drawn words and vectors; questions of {QUESTION} drawn words over HTTP, with their \
             embedding, as users of {SEARCHERS} tenants in turn, each {} ms after the answer to the last one; the server has one processor. \
             Aim beside {} streams: p50 20 ms, p99 60 ms.",
            tenants * chunks,
            PAUSE.as_millis(),
            load.many
        ),
        &[
            "streams",
            "searches",
            "p50 / p99 ms",
            "first text p50 / p99 ms",
            "errors",
        ],
    );
    let mut draw = Draw(3);
    let clients: Vec<Arc<Client>> = (0..SEARCHERS)
        .map(|number| world.client_of(&format!("tenant-{number}")))
        .collect::<anyhow::Result<_>>()?;
    // The first searches read the index into memory.
    search_for(&clients, &mut draw, Duration::from_secs(size.pick(10, 1)), None).await?;
    let alone = search_for(&clients, &mut draw, Duration::from_secs(size.pick(20, 2)), None).await?;
    let ended = AtomicBool::new(false);
    let (sums, beside) = tokio::join!(
        async {
            let sums = through(&world, load).await;
            ended.store(true, Ordering::Relaxed);
            sums
        },
        search_for(&clients, &mut draw, Duration::MAX, Some(&ended)),
    );
    let (sums, beside) = (sums?, beside?);
    for (streams, samples, first, errors) in [
        (0, alone, String::new(), 0),
        (load.many, beside, sums.first.both(), sums.errors),
    ] {
        report.row(vec![
            streams.to_string(),
            samples.count().to_string(),
            samples.both(),
            first,
            errors.to_string(),
        ]);
    }
    Ok(report)
}

/// Searches for a time, or until `ended`.
async fn search_for(
    clients: &[Arc<Client>],
    draw: &mut Draw,
    time: Duration,
    ended: Option<&AtomicBool>,
) -> anyhow::Result<Samples> {
    let mut connections = Vec::new();
    for client in clients {
        connections.push(client.connect().await?);
    }
    let (mut samples, begun) = (Samples::default(), Instant::now());
    for number in 0.. {
        if begun.elapsed() >= time || ended.is_some_and(|ended| ended.load(Ordering::Relaxed)) {
            break;
        }
        let at = number % clients.len();
        let words: Vec<String> = (0..QUESTION).map(|_| draw.word()).collect();
        let asked = Instant::now();
        clients[at]
            .search(&mut connections[at], number, &words.join(" "))
            .await?;
        samples.add(asked.elapsed());
        tokio::time::sleep(PAUSE).await;
    }
    Ok(samples)
}
