//! What appends cost. Run by hand: `cargo test --release --test it store::measure -- --ignored --nocapture`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use copilotd::adapters::store::sqlite::SqliteLog;
use copilotd_actors::ports::EventLog;
use futures::future::join_all;
use tempfile::TempDir;

use super::mongo::TestDatabase;
use crate::support::talk::{Talk, answered, assembled, completed, queued, started, turn};

const TURNS: usize = 400;

/// Whole turns of four appends, with an answer of about 1,000 tokens each.
async fn measure(name: &str, log: Arc<dyn EventLog>) {
    let answer = "word ".repeat(1000);
    for writers in [1, 16, 100] {
        let begun = Instant::now();
        let tasks = (0..writers).map(|_| {
            let (log, answer) = (Arc::clone(&log), answer.clone());
            tokio::spawn(async move {
                let mut talk = Talk::new("acme", "ann");
                talk.open(log.as_ref()).await;
                let mut times = Vec::new();
                for _ in 0..TURNS / writers {
                    let turn = turn();
                    for events in [
                        vec![queued(turn, "prompt"), started(turn)],
                        vec![assembled(turn)],
                        vec![answered(turn, &answer)],
                        vec![completed(turn)],
                    ] {
                        let begun = Instant::now();
                        talk.write(log.as_ref(), events).await;
                        times.push(begun.elapsed());
                    }
                }
                times
            })
        });
        let mut times: Vec<Duration> = join_all(tasks).await.into_iter().flat_map(Result::unwrap).collect();
        times.sort();
        println!(
            "{name:8} {writers:4} writers: {:6.0} appends/s, p50 {:?}, p99 {:?}",
            times.len() as f64 / begun.elapsed().as_secs_f64(),
            times[times.len() / 2],
            times[times.len() * 99 / 100],
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement, not a test"]
async fn appends() {
    let directory = TempDir::new().unwrap();
    let log = Arc::new(SqliteLog::open(directory.path()).unwrap());
    measure("sqlite", Arc::clone(&log) as Arc<dyn EventLog>).await;
    let before = file_bytes(&directory);
    let mut talk = Talk::new("acme", "ann");
    talk.open(log.as_ref()).await;
    let from = talk.records.len();
    for _ in 0..100 {
        let turn = turn();
        talk.write(log.as_ref(), vec![queued(turn, "prompt"), started(turn)])
            .await;
        talk.write(log.as_ref(), vec![assembled(turn)]).await;
        talk.write(
            log.as_ref(),
            vec![answered(turn, &"word ".repeat(1000)), completed(turn)],
        )
        .await;
    }
    let records = serde_json::to_vec(&talk.records[from..]).unwrap().len();
    Arc::into_inner(log).unwrap().close().await;
    println!(
        "sqlite: a turn has {} bytes of text, {} of records, and adds {} to the file",
        5000,
        records / 100,
        (file_bytes(&directory) - before) / 100
    );
    if let Some(database) = TestDatabase::new().await {
        measure("mongodb", Arc::new(database.connect().await.unwrap())).await;
    }
}

fn file_bytes(directory: &TempDir) -> u64 {
    // Folds the write-ahead log back, so that the file contains everything.
    let file = directory.path().join("copilotd.db");
    let connection = rusqlite::Connection::open(&file).unwrap();
    connection
        .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
        .unwrap();
    std::fs::metadata(file).unwrap().len()
}
