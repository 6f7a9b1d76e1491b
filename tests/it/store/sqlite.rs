//! The embedded store.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use copilotd::adapters::store::sqlite::{OpenError, SqliteLog, SqliteOptions, standby};
use copilotd_actors::ports::{EventLog, LogError};
use tempfile::TempDir;

use super::{Fixture, contract_suite};
use crate::support::talk::{Talk, queued, turn, updated};

async fn open() -> Option<Fixture> {
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("copilotd.db");
    Some(Fixture {
        log: Arc::new(SqliteLog::open(directory.path()).unwrap()),
        drop_projections: Box::new(move || {
            let connection = rusqlite::Connection::open(&file).unwrap();
            connection
                .execute_batch("DELETE FROM conversations; DELETE FROM append_turns;")
                .unwrap();
            Box::pin(async {})
        }),
        bounded: true,
        _guard: Box::new(directory),
    })
}

contract_suite!(open);

fn bytes_of(directory: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    for name in ["copilotd.db", "copilotd.db-wal"] {
        bytes.extend(std::fs::read(directory.join(name)).unwrap_or_default());
    }
    bytes
}

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

#[tokio::test]
async fn everything_is_there_after_a_clean_restart() {
    let directory = TempDir::new().unwrap();
    let mut talk = Talk::new("acme", "ann");
    {
        let log = SqliteLog::open(directory.path()).unwrap();
        talk.open(&log).await;
        talk.turn(&log, "x").await;
        log.close().await;
    }
    assert!(
        !directory.path().join("copilotd.db-wal").exists(),
        "closing folds the write-ahead log back"
    );
    let log = SqliteLog::open(directory.path()).unwrap();
    assert_eq!(log.read(&talk.scope, talk.id, 0, 100).await.unwrap(), talk.records);
    assert_eq!(log.header(&talk.scope, talk.id).await.unwrap(), talk.header);
}

#[tokio::test]
async fn everything_acknowledged_is_there_after_an_unclean_end() {
    let directory = TempDir::new().unwrap();
    let log = SqliteLog::open(directory.path()).unwrap();
    let mut talk = Talk::new("acme", "ann");
    talk.open(&log).await;
    for n in 0..20 {
        talk.turn(&log, &n.to_string()).await;
        // What a killed process leaves behind: the files as they are now.
        let left = TempDir::new().unwrap();
        for name in ["copilotd.db", "copilotd.db-wal", "copilotd.lock"] {
            std::fs::copy(directory.path().join(name), left.path().join(name)).unwrap();
        }
        let reopened = SqliteLog::open(left.path()).unwrap();
        assert_eq!(
            reopened.read(&talk.scope, talk.id, 0, 1000).await.unwrap(),
            talk.records
        );
        assert_eq!(reopened.header(&talk.scope, talk.id).await.unwrap(), talk.header);
    }
}

#[tokio::test]
async fn a_second_process_is_refused_and_told_which_one_has_it() {
    let directory = TempDir::new().unwrap();
    let log = SqliteLog::open(directory.path()).unwrap();
    let error = SqliteLog::open(directory.path()).unwrap_err();
    assert!(
        matches!(error, OpenError::Locked { pid: Some(pid), .. } if pid == std::process::id()),
        "{error}"
    );
    assert!(
        error.to_string().contains(&format!("process {}", std::process::id())),
        "{error}"
    );
    drop(log);
    SqliteLog::open(directory.path()).unwrap();
}

#[tokio::test]
async fn a_standby_waits_for_the_directory_and_is_known_while_it_waits() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().to_owned();
    let log = SqliteLog::open(&path).unwrap();
    let mut talk = Talk::new("acme", "ann");
    talk.open(&log).await;
    assert!(!standby::is_waiting(&path));
    let waiting = {
        let path = path.clone();
        tokio::spawn(async move { standby::wait(&path).await.unwrap() })
    };
    while !standby::is_waiting(&path) {
        tokio::task::yield_now().await;
    }
    // Nobody else gets it meanwhile, and its holder continues.
    assert!(matches!(SqliteLog::open(&path), Err(OpenError::Locked { .. })));
    talk.write(&log, vec![updated("x")]).await;
    log.close().await;
    let free = waiting.await.unwrap();
    assert!(!standby::is_waiting(&path), "the standby is gone");
    let second = SqliteLog::open_free(&path, free).unwrap();
    assert!(matches!(SqliteLog::open(&path), Err(OpenError::Locked { .. })));
    talk.write(&second, vec![updated("y")]).await;
    assert_eq!(second.read(&talk.scope, talk.id, 0, 100).await.unwrap(), talk.records);
}

#[tokio::test]
async fn a_newer_or_foreign_file_is_refused_untouched() {
    let newer = TempDir::new().unwrap();
    SqliteLog::open(newer.path()).unwrap().close().await;
    let file = newer.path().join("copilotd.db");
    let connection = rusqlite::Connection::open(&file).unwrap();
    connection.pragma_update(None, "user_version", 99).unwrap();
    connection.close().unwrap();
    let error = SqliteLog::open(newer.path()).unwrap_err();
    assert!(
        matches!(
            error,
            OpenError::Newer {
                found: 99,
                known: 7..99,
                ..
            }
        ),
        "{error}"
    );

    let foreign = TempDir::new().unwrap();
    let connection = rusqlite::Connection::open(foreign.path().join("copilotd.db")).unwrap();
    connection.execute_batch("CREATE TABLE things (x)").unwrap();
    connection.close().unwrap();
    let error = SqliteLog::open(foreign.path()).unwrap_err();
    assert!(matches!(error, OpenError::Foreign { .. }), "{error}");

    let garbage = TempDir::new().unwrap();
    std::fs::write(
        garbage.path().join("copilotd.db"),
        "not a database, but long enough to be one".repeat(100),
    )
    .unwrap();
    let error = SqliteLog::open(garbage.path()).unwrap_err();
    assert!(matches!(error, OpenError::Sqlite(_)), "{error}");
}

#[tokio::test]
async fn a_directory_that_cannot_be_written_is_refused() {
    // A file where the directory should be: no user's rights help against that.
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("file");
    std::fs::write(&file, "").unwrap();
    for path in [file.clone(), file.join("below")] {
        let error = SqliteLog::open(&path).unwrap_err();
        assert!(matches!(&error, OpenError::Directory { .. }), "{error}");
        assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
    }
    // Nobody may create anything here, root included.
    let error = SqliteLog::open(Path::new("/proc/self")).unwrap_err();
    assert!(matches!(&error, OpenError::Directory { .. }), "{error}");
}

#[tokio::test]
async fn a_full_disk_refuses_appends_and_keeps_what_it_has() {
    let directory = TempDir::new().unwrap();
    let options = SqliteOptions {
        max_bytes: Some(4 << 20),
        ..SqliteOptions::default()
    };
    let log = Arc::new(SqliteLog::open_with(directory.path(), &options).unwrap());
    let mut talk = Talk::new("acme", "ann");
    talk.open(log.as_ref()).await;
    // Large enough that when one does not fit, the space that is left is enough for all the small ones.
    let big = "x".repeat(400_000);
    let refusal = loop {
        match talk.try_write(log.as_ref(), vec![queued(turn(), &big)]).await {
            Ok(_) => assert!(talk.records.len() < 100),
            Err(error) => break error,
        }
    };
    assert!(
        matches!(&refusal, LogError::Refused(reason) if reason.contains("full")),
        "{refusal}"
    );
    // Small ones that still fit are not affected by big ones in the same commit.
    let tasks = (0..8).map(|n| {
        let (log, big) = (Arc::clone(&log), big.clone());
        tokio::spawn(async move {
            let mut talk = Talk::new("acme", "bob");
            talk.open(log.as_ref()).await;
            let text = if n % 2 == 0 { "small" } else { &big };
            (n, talk.try_write(log.as_ref(), vec![queued(turn(), text)]).await)
        })
    });
    for task in futures::future::join_all(tasks).await {
        let (n, outcome) = task.unwrap();
        assert_eq!(outcome.is_ok(), n % 2 == 0, "{n}: {outcome:?}");
    }
    assert_eq!(log.read(&talk.scope, talk.id, 0, 1000).await.unwrap(), talk.records);
    log.ready().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_append_that_fails_half_way_leaves_nothing_and_hurts_nobody() {
    let directory = TempDir::new().unwrap();
    let log = Arc::new(SqliteLog::open(directory.path()).unwrap());
    // Fails after the records were inserted, inside the same commit as others.
    let saboteur = rusqlite::Connection::open(directory.path().join("copilotd.db")).unwrap();
    saboteur
        .execute_batch(
            "CREATE TRIGGER sabotage BEFORE UPDATE ON conversations WHEN NEW.user = 'unlucky'
             BEGIN SELECT RAISE(ABORT, 'sabotage'); END",
        )
        .unwrap();
    let tasks = (0..12).map(|n| {
        let log = Arc::clone(&log);
        tokio::spawn(async move {
            let unlucky = n % 3 == 0;
            let mut talk = Talk::new("acme", if unlucky { "unlucky" } else { "ann" });
            talk.open(log.as_ref()).await;
            for _ in 0..10 {
                let outcome = talk.try_write(log.as_ref(), vec![queued(turn(), "x")]).await;
                assert_eq!(outcome.is_err(), unlucky, "{outcome:?}");
            }
            assert_eq!(log.read(&talk.scope, talk.id, 0, 100).await.unwrap(), talk.records);
            assert_eq!(log.header(&talk.scope, talk.id).await.unwrap(), talk.header);
        })
    });
    futures::future::join_all(tasks)
        .await
        .into_iter()
        .for_each(Result::unwrap);
}

#[tokio::test]
async fn a_locked_database_is_waited_for_until_the_deadline() {
    let directory = TempDir::new().unwrap();
    let options = SqliteOptions {
        append_deadline: Duration::from_millis(300),
        ..SqliteOptions::default()
    };
    let log = SqliteLog::open_with(directory.path(), &options).unwrap();
    let mut talk = Talk::new("acme", "ann");
    talk.open(&log).await;
    // A backup tool gone wrong.
    let intruder = rusqlite::Connection::open(directory.path().join("copilotd.db")).unwrap();
    intruder.execute_batch("BEGIN IMMEDIATE").unwrap();
    let append = talk.draft(vec![updated("x")]);
    let outcome = log.append(&talk.scope, &append).await;
    assert!(matches!(outcome, Err(LogError::Unavailable(_))), "{outcome:?}");
    intruder.execute_batch("ROLLBACK").unwrap();
    // The outcome was unknown; the same append finds out.
    log.append(&talk.scope, &append).await.unwrap();
    talk.written(&append);
    assert_eq!(log.read(&talk.scope, talk.id, 0, 100).await.unwrap(), talk.records);
}

#[tokio::test]
async fn erased_text_is_gone_from_the_files() {
    let directory = TempDir::new().unwrap();
    let log = SqliteLog::open(directory.path()).unwrap();
    let mut neighbour = Talk::new("acme", "bob");
    neighbour.open(&log).await;
    let mut talk = Talk::new("acme", "ann");
    talk.open(&log).await;
    for _ in 0..10 {
        talk.turn(&log, &"a very private sentence ".repeat(50)).await;
        neighbour.turn(&log, "hello").await;
    }
    let snapshot = copilotd_actors::ports::Snapshot {
        seq: 5,
        version: 1,
        state: b"a very private sentence".to_vec(),
    };
    log.save_snapshot(&talk.scope, talk.id, &snapshot).await.unwrap();
    talk.write(&log, vec![updated("a very private title")]).await;
    assert!(contains(&bytes_of(directory.path()), "very private"));
    let tombstone = talk.write(&log, vec![crate::support::talk::erased()]).await;
    log.erase(&talk.scope, talk.id, tombstone.last_seq()).await.unwrap();
    assert!(!contains(&bytes_of(directory.path()), "very private"));
    assert_eq!(
        log.read(&neighbour.scope, neighbour.id, 0, 1000).await.unwrap(),
        neighbour.records
    );
}
