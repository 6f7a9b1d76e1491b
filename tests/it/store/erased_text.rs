//! After an erasure its text is in no byte of SQLite's files: not when others write meanwhile, and not after a crash.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use copilotd::adapters::store::sqlite::SqliteLog;
use copilotd_actors::ports::{EventLog, PendingConversation, Snapshot};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tempfile::TempDir;

use crate::support::talk::{Talk, cancelled, erased, queued, scope, started, turn, updated};

const DIRECTORY: &str = "COPILOTD_TEST_ERASING";

/// Returns which of the texts are in any file of a directory.
fn found(directory: &Path, texts: &[String]) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.ends_with("copilotd.reserve") {
            continue;
        }
        let bytes = std::fs::read(&path).unwrap_or_default();
        // All texts begin alike, so that the files are searched once.
        for at in memchr::memmem::find_iter(&bytes, b"secret-") {
            let text = texts.iter().find(|text| bytes[at..].starts_with(text.as_bytes()));
            found.extend(text.map(|text| format!("{text} in {}", path.display())));
        }
    }
    found
}

/// A text that no other conversation has, long enough to be found in parts of a page.
fn secret(talk: &Talk) -> String {
    format!("secret-{}-", talk.id)
}

/// Prompts of every size: within a page, about as long as one, and over several.
fn prompt(random: &mut StdRng, secret: &str) -> String {
    let length = [10, 200, 900, 2_500, 4_000, 9_000][random.random_range(0..6)];
    secret.repeat(1 + length / secret.len())
}

async fn converse(log: &SqliteLog, random: &mut StdRng, turns: usize) -> Talk {
    let user = ["ann", "bob", "cy"][random.random_range(0..3)];
    let mut talk = Talk::new("acme", user);
    let secret = secret(&talk);
    talk.open(log).await;
    for _ in 0..turns {
        let prompt = prompt(random, &secret);
        talk.turn(log, &prompt).await;
        if random.random_bool(0.3) {
            talk.write(log, vec![updated(&secret)]).await;
        }
        if random.random_bool(0.3) {
            let snapshot = Snapshot {
                seq: talk.next() - 1,
                version: 1,
                state: prompt.into_bytes(),
            };
            log.save_snapshot(&talk.scope, talk.id, &snapshot).await.unwrap();
        }
    }
    talk
}

/// Ends the open turn, as an interrupt does, and erases.
async fn erase(log: &SqliteLog, talk: &mut Talk) {
    let secret = secret(talk);
    let open = turn();
    talk.write(log, vec![queued(open, &secret), started(open)]).await;
    let tombstone = talk.write(log, vec![cancelled(open), erased()]).await;
    log.erase(&talk.scope, talk.id, tombstone.last_seq()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn erased_text_is_gone_while_others_write() {
    let seed = rand::rng().random();
    println!("seed {seed}");
    let directory = TempDir::new().unwrap();
    let log = Arc::new(SqliteLog::open(directory.path()).unwrap());
    let mut random = StdRng::seed_from_u64(seed);
    // Others that write all the time, to the same tables.
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let others: Vec<_> = (0..2)
        .map(|n| {
            let (log, stop) = (Arc::clone(&log), Arc::clone(&stop));
            let mut random = StdRng::seed_from_u64(n);
            tokio::spawn(async move {
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    let mut talk = Talk::new("acme", "dee");
                    talk.open(log.as_ref()).await;
                    let length = random.random_range(1..3_000);
                    talk.turn(log.as_ref(), &"x".repeat(length)).await;
                }
            })
        })
        .collect();
    let mut talks = Vec::new();
    for _ in 0..60 {
        let turns = random.random_range(1..4);
        talks.push(converse(&log, &mut random, turns).await);
    }
    // One after the other, in any order: each leaves its neighbours in the tables moved.
    let mut gone = Vec::new();
    while !talks.is_empty() {
        let mut talk = talks.swap_remove(random.random_range(0..talks.len()));
        erase(&log, &mut talk).await;
        gone.push(secret(&talk));
        assert_eq!(found(directory.path(), &gone), Vec::<String>::new());
        if random.random_bool(0.3) {
            talks.extend(Some(converse(&log, &mut random, 1).await).filter(|_| gone.len() < 50));
        }
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    for other in others {
        other.await.unwrap();
    }
    assert_eq!(found(directory.path(), &gone), Vec::<String>::new());
    Arc::into_inner(log).unwrap().close().await;
    assert_eq!(found(directory.path(), &gone), Vec::<String>::new());
}

/// The process that is killed: the same test binary, running only this test.
#[test]
#[ignore = "started by erased_text_is_gone_after_a_crash"]
fn victim() {
    let Ok(directory) = std::env::var(DIRECTORY) else {
        return;
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async move {
        let log = Arc::new(SqliteLog::open(directory.as_ref()).unwrap());
        let writers = (0..4).map(|n| {
            let log = Arc::clone(&log);
            tokio::spawn(async move {
                let mut random = StdRng::seed_from_u64(n);
                let mut talks = Vec::new();
                loop {
                    talks.push(converse(&log, &mut random, 2).await);
                    if talks.len() > 4 {
                        let mut talk = talks.remove(0);
                        println!("\nerasing {}", talk.id);
                        erase(&log, &mut talk).await;
                    }
                }
            })
        });
        futures::future::join_all(writers).await;
    });
}

/// Does what the reconciler does at a start.
async fn reconcile(log: &SqliteLog) -> Vec<PendingConversation> {
    let pending = log.pending(None, 1_000).await.unwrap();
    for erased in pending.iter().filter(|pending| pending.tombstone.is_some()) {
        let tombstone = erased.tombstone.unwrap();
        log.erase(&erased.scope, erased.conversation, tombstone).await.unwrap();
    }
    pending
}

#[tokio::test]
async fn erased_text_is_gone_after_a_crash() {
    let directory = TempDir::new().unwrap();
    let mut gone: Vec<String> = Vec::new();
    for lines in [1, 12, 5, 20] {
        let mut victim = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "store::erased_text::victim", "--ignored", "--nocapture"])
            .env(DIRECTORY, directory.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(victim.stdout.take().unwrap());
        let mut erasing = 0;
        for line in output.lines() {
            let Ok(line) = line else { break };
            erasing += usize::from(line.starts_with("erasing "));
            if erasing == lines {
                // In the middle of one erasure, and of the others' writes.
                victim.kill().unwrap();
            }
        }
        victim.wait().unwrap();
        assert!(erasing >= lines, "the victim ended before it was killed");

        let log = SqliteLog::open(directory.path()).unwrap();
        reconcile(&log).await;
        let acme = scope("acme");
        let query = copilotd_actors::ports::ListQuery {
            erased: true,
            limit: 10_000,
            ..Default::default()
        };
        for header in log.list(&acme, &query).await.unwrap() {
            if header.erased {
                gone.push(format!("secret-{}-", header.id));
            }
        }
        assert_eq!(found(directory.path(), &gone), Vec::<String>::new());
        assert!(reconcile(&log).await.iter().all(|pending| pending.tombstone.is_none()));
        log.close().await;
        assert_eq!(found(directory.path(), &gone), Vec::<String>::new());
    }
    assert!(gone.len() > 20, "{}", gone.len());
}
