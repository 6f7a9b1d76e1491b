//! Missing commits: truncated write-ahead logs and older copies are detected, and the remaining data is served.

use std::fs::{self, OpenOptions};
use std::path::Path;

use copilotd::adapters::store::sqlite::SqliteLog;
use copilotd_actors::ports::{Append, EventLog as _, LogError};
use tempfile::TempDir;
use uuid::Uuid;

use crate::support::talk::Talk;

/// Copies the files as a killed process leaves them.
fn copy(from: &Path, names: &[&str]) -> TempDir {
    let to = TempDir::new().unwrap();
    for name in names {
        fs::copy(from.join(name), to.path().join(name)).unwrap();
    }
    to
}

const ALL: [&str; 3] = ["copilotd.db", "copilotd.db-wal", "copilotd.state"];

#[tokio::test]
async fn a_write_ahead_log_that_was_cut_off_or_deleted_is_noticed() {
    let directory = TempDir::new().unwrap();
    let log = SqliteLog::open(directory.path()).unwrap();
    let mut talk = Talk::new("acme", "ann");
    talk.open(&log).await;
    let older = copy(directory.path(), &["copilotd.db", "copilotd.db-wal"]);
    for n in 0..20 {
        talk.turn(&log, &n.to_string()).await;
    }
    assert_eq!(log.missing_commits(), 0);

    let whole = copy(directory.path(), &ALL);
    let opened = SqliteLog::open(whole.path()).unwrap();
    assert_eq!(opened.missing_commits(), 0, "a kill loses nothing");
    assert_eq!(opened.read(&talk.scope, talk.id, 0, 1_000).await.unwrap(), talk.records);

    let length = fs::metadata(directory.path().join("copilotd.db-wal")).unwrap().len();
    for keep in [length - 100, length / 2, length / 4] {
        let cut = copy(directory.path(), &ALL);
        let file = OpenOptions::new()
            .write(true)
            .open(cut.path().join("copilotd.db-wal"))
            .unwrap();
        file.set_len(keep).unwrap();
        let opened = SqliteLog::open(cut.path()).unwrap();
        assert!(opened.missing_commits() > 0, "{keep} of {length} bytes");
        // The remaining data is served, and new appends continue from there.
        let records = opened.read(&talk.scope, talk.id, 0, 1_000).await.unwrap();
        assert_eq!(records[..], talk.records[..records.len()]);
        let mut other = Talk::new("acme", "bob");
        other.open(&opened).await;
        opened.close().await;
        assert_eq!(
            SqliteLog::open(cut.path()).unwrap().missing_commits(),
            0,
            "reported once"
        );
    }

    // An older copy in place of the database.
    fs::copy(
        directory.path().join("copilotd.state"),
        older.path().join("copilotd.state"),
    )
    .unwrap();
    let opened = SqliteLog::open(older.path()).unwrap();
    assert!(opened.missing_commits() >= 20, "{}", opened.missing_commits());

    // Without the file, or with a meaningless one, there is nothing to compare with.
    for text in [None, Some(""), Some("commits many"), Some("\u{fffd}")] {
        let unknown = copy(directory.path(), &ALL[..2]);
        if let Some(text) = text {
            fs::write(unknown.path().join("copilotd.state"), text).unwrap();
        }
        assert_eq!(SqliteLog::open(unknown.path()).unwrap().missing_commits(), 0);
    }
}

#[tokio::test]
async fn a_refused_append_is_no_commit() {
    let directory = TempDir::new().unwrap();
    let log = SqliteLog::open(directory.path()).unwrap();
    let mut talk = Talk::new("acme", "ann");
    let created = talk.open(&log).await;
    let state = || fs::read_to_string(directory.path().join("copilotd.state")).unwrap();
    let before = state();
    let conflict = Append {
        append_id: Uuid::from_u128(1),
        ..created
    };
    let refused = log.append(&talk.scope, &conflict).await;
    assert!(matches!(refused, Err(LogError::Conflict(1))), "{refused:?}");
    assert_eq!(state(), before);
    talk.turn(&log, "x").await;
    assert_ne!(state(), before);
}

/// Pages that a transaction changes are written as a whole, for a few bytes in most of them.
#[tokio::test]
async fn a_turn_changes_few_pages() {
    const TURNS: u64 = 50;
    let directory = TempDir::new().unwrap();
    let log = SqliteLog::open(directory.path()).unwrap();
    let mut talk = Talk::new("acme", "ann");
    talk.open(&log).await;
    let frames = || fs::metadata(directory.path().join("copilotd.db-wal")).unwrap().len() / (24 + 2_048);
    let before = frames();
    for n in 0..TURNS {
        talk.turn(&log, &n.to_string()).await;
    }
    let each = (frames() - before) as f64 / TURNS as f64;
    // Four appends, each with its records, their number, their turn, the conversation and the quota; two change which
    // conversations are due, two have messages. The rest is for pages that become full.
    assert!(each < 28.0, "{each}");
}
