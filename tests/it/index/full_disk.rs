//! A full disk: nothing is stored by half, searches go on, and deleting works.

use std::sync::Arc;

use copilotd::adapters::index::sqlite::SqliteIndex;
use copilotd_knowledge::document::{Attributes, Reader, Stage};
use copilotd_knowledge::index::KnowledgeIndex;

use super::library::{AMPLE, Library, at, chunks, key, submission};
use crate::support::disk::SmallDisk;

const ADMIN: Reader = Reader::Administrator;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_refuses_content_and_deletes_what_there_is() {
    let Some(disk) = SmallDisk::new(48) else { return };
    let data = disk.path().join("data");
    let index: Arc<dyn KnowledgeIndex> = Arc::new(SqliteIndex::open(&data).unwrap());
    let acme = Library::new(&index, "acme");
    acme.put(&key("a"), "alpha secret-a\n\nbeta", Attributes::default(), 1)
        .await;
    acme.submit(&key("b"), "gamma", Attributes::default(), 2).await;
    let before = acme.search("alpha beta", &ADMIN, 9).await;
    disk.fill();
    let submission = submission(&key("c"), "delta", Attributes::default(), 3);
    let refused = acme.index.submit(&acme.scope, submission, &AMPLE).await.unwrap_err();
    assert!(refused.is_disk_full(), "{refused}");
    let document = acme.document(&key("b")).await.unwrap();
    let new = chunks(document.id, "gamma").into_iter().map(|(chunk, _)| chunk);
    let staged = acme.index.stage(&acme.scope, document.id, 1, new.collect(), Vec::new());
    assert!(staged.await.unwrap_err().is_disk_full());
    assert_eq!(acme.search("alpha beta", &ADMIN, 9).await, before);
    let deleted = acme.index.delete(&acme.scope, &key("a"), at(4)).await.unwrap();
    assert!(deleted.is_some());
    assert_eq!(acme.search("alpha beta", &ADMIN, 9).await, Default::default());
    for entry in std::fs::read_dir(&data).unwrap() {
        let path = entry.unwrap().path();
        let bytes = std::fs::read(&path).unwrap();
        assert!(
            memchr::memmem::find(&bytes, b"secret-a").is_none(),
            "{}",
            path.display()
        );
    }
    disk.empty();
    acme.index.ready().await.unwrap();
    assert!(acme.stage(&key("b"), "gamma").await);
    acme.publish(&key("b"), "gamma", 5).await;
    assert_eq!(acme.document(&key("b")).await.unwrap().stage, Stage::Searchable);
    assert_eq!(acme.texts("gamma", &ADMIN).await.0, ["gamma"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_index_opens_on_a_full_disk() {
    let Some(disk) = SmallDisk::new(48) else { return };
    let data = disk.path().join("data");
    {
        let index: Arc<dyn KnowledgeIndex> = Arc::new(SqliteIndex::open(&data).unwrap());
        let acme = Library::new(&index, "acme");
        acme.put(&key("a"), "alpha", Attributes::default(), 1).await;
    }
    disk.fill();
    let index: Arc<dyn KnowledgeIndex> = Arc::new(SqliteIndex::open(&data).unwrap());
    let acme = Library::new(&index, "acme");
    assert_eq!(acme.texts("alpha", &ADMIN).await.0, ["alpha"]);
}
