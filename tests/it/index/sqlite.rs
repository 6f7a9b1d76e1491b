//! The embedded index.

use std::path::PathBuf;
use std::sync::Arc;

use copilotd::adapters::index::sqlite::{OpenError, SqliteIndex};
use copilotd_knowledge::document::{Attributes, Reader};
use copilotd_knowledge::index::KnowledgeIndex;
use tempfile::TempDir;

use super::library::{Library, at, key};
use super::{Fixture, index_suite};

pub fn open_in(directory: TempDir) -> Fixture {
    let path: PathBuf = directory.path().to_owned();
    Fixture {
        index: Arc::new(SqliteIndex::open(&path).unwrap()),
        reopen: Box::new(move |index| {
            assert_eq!(Arc::strong_count(&index), 1, "somebody still uses the index");
            drop(index);
            Arc::new(SqliteIndex::open(&path).unwrap())
        }),
        _guard: Box::new(directory),
    }
}

async fn open() -> Option<Fixture> {
    Some(open_in(TempDir::new().unwrap()))
}

index_suite!(open);

#[tokio::test]
async fn a_second_process_is_refused() {
    let directory = TempDir::new().unwrap();
    let index = SqliteIndex::open(directory.path()).unwrap();
    let error = SqliteIndex::open(directory.path()).unwrap_err();
    assert!(matches!(error, OpenError::Locked { pid: Some(_), .. }), "{error}");
    index.close().await;
    SqliteIndex::open(directory.path()).unwrap();
}

#[tokio::test]
async fn a_newer_or_foreign_file_is_refused() {
    let newer = TempDir::new().unwrap();
    SqliteIndex::open(newer.path()).unwrap().close().await;
    let connection = rusqlite::Connection::open(newer.path().join("knowledge.db")).unwrap();
    connection.pragma_update(None, "user_version", 99).unwrap();
    connection.close().unwrap();
    let error = SqliteIndex::open(newer.path()).unwrap_err();
    assert!(matches!(error, OpenError::Newer { found: 99, .. }), "{error}");

    let foreign = TempDir::new().unwrap();
    let connection = rusqlite::Connection::open(foreign.path().join("knowledge.db")).unwrap();
    connection.execute_batch("CREATE TABLE things (x)").unwrap();
    connection.close().unwrap();
    let error = SqliteIndex::open(foreign.path()).unwrap_err();
    assert!(matches!(error, OpenError::Foreign { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_store_and_the_index_share_a_directory() {
    let directory = TempDir::new().unwrap();
    let log = copilotd::adapters::store::sqlite::SqliteLog::open(directory.path()).unwrap();
    let index: Arc<dyn KnowledgeIndex> = Arc::new(SqliteIndex::open(directory.path()).unwrap());
    Library::new(&index, "acme")
        .put(&key("a"), "alpha", Attributes::default(), 1)
        .await;
    index.ready().await.unwrap();
    log.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_acknowledged_is_there_after_an_unclean_end() {
    let directory = TempDir::new().unwrap();
    let index: Arc<dyn KnowledgeIndex> = Arc::new(SqliteIndex::open(directory.path()).unwrap());
    let acme = Library::new(&index, "acme");
    for n in 0..8 {
        let text = format!("alpha number-{n}\n\nbeta");
        acme.put(&key(&n.to_string()), &text, Attributes::default(), n).await;
        if n % 3 == 2 {
            let deleted = acme.index.delete(&acme.scope, &key(&(n - 1).to_string()), at(n)).await;
            assert!(deleted.unwrap().is_some());
        }
        // What a killed process leaves behind: the files as they are now.
        let left = TempDir::new().unwrap();
        for name in ["knowledge.db", "knowledge.db-wal"] {
            let from = directory.path().join(name);
            if from.exists() {
                std::fs::copy(from, left.path().join(name)).unwrap();
            }
        }
        let reopened: Arc<dyn KnowledgeIndex> = Arc::new(SqliteIndex::open(left.path()).unwrap());
        let again = Library::new(&reopened, "acme");
        let reader = Reader::Administrator;
        for words in ["alpha", "beta", "number-0"] {
            let expected = acme.search(words, &reader, 20).await;
            assert_eq!(again.search(words, &reader, 20).await, expected, "{words} after {n}");
        }
        let totals = acme.index.totals(&acme.scope).await.unwrap();
        assert_eq!(again.index.totals(&again.scope).await.unwrap(), totals);
    }
}
