//! The contract on MongoDB, or on its stand-in.

use std::sync::Arc;
use std::time::Duration;

use copilotd::adapters::store::mongo::{ConnectError, MongoLog, MongoOptions};
use copilotd_actors::ports::{EventLog, ListQuery};
use mongodb::bson::{Document, doc};
use mongodb::{Client, Database};

use super::{Fixture, contract_suite};
use crate::support::secantus;
use crate::support::talk::{Talk, queued, scope, started, turn, updated};

/// A database of its own; dropped at the end where the server outlives the test.
pub struct TestDatabase {
    pub url: String,
    pub name: String,
}

impl TestDatabase {
    pub async fn new() -> Option<Self> {
        let url = secantus::shared().await?.to_owned();
        let name = format!("copilotd_test_{}", uuid::Uuid::now_v7().simple());
        Some(Self { url, name })
    }

    pub async fn connect(&self) -> Result<MongoLog, ConnectError> {
        MongoLog::connect(&self.url, &self.name, MongoOptions::default()).await
    }

    pub async fn raw(&self) -> Database {
        Client::with_uri_str(&self.url).await.unwrap().database(&self.name)
    }
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        if std::env::var_os("MONGODB_URI").is_none() {
            return;
        }
        let (url, name) = (self.url.clone(), self.name.clone());
        let dropped = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async { Client::with_uri_str(url).await?.database(&name).drop().await })
        });
        if let Ok(Err(error)) = dropped.join() {
            eprintln!("a test's database was left behind: {error}");
        }
    }
}

async fn open() -> Option<Fixture> {
    let database = TestDatabase::new().await?;
    let raw = database.raw().await;
    Some(Fixture {
        log: Arc::new(database.connect().await.unwrap()),
        drop_projections: Box::new(move || {
            let lost = ["conversations", "stored"].map(|name| raw.collection::<Document>(name));
            Box::pin(async move {
                for collection in lost {
                    collection.delete_many(doc! {}).await.unwrap();
                }
            })
        }),
        bounded: true,
        _guard: Box::new(database),
    })
}

contract_suite!(open);

pub fn all() -> ListQuery {
    ListQuery {
        erased: true,
        limit: 100,
        ..ListQuery::default()
    }
}

#[tokio::test]
async fn indexes_are_made_at_start() {
    let Some(database) = TestDatabase::new().await else {
        return;
    };
    database.connect().await.unwrap().close().await;
    let raw = database.raw().await;
    for (collection, expected) in [
        ("appends", vec!["_id_", "messages", "number", "stamp", "turns"]),
        ("conversations", vec!["_id_", "age", "due", "user"]),
        ("snapshots", vec!["_id_", "expiry"]),
    ] {
        let mut names = raw.collection::<Document>(collection).list_index_names().await.unwrap();
        names.sort();
        assert_eq!(names, expected);
    }
}

#[tokio::test]
async fn everything_is_there_after_a_restart() {
    let Some(database) = TestDatabase::new().await else {
        return;
    };
    let mut talk = Talk::new("acme", "ann");
    for round in 0..3 {
        let log = database.connect().await.unwrap();
        if round == 0 {
            talk.open(&log).await;
        }
        talk.turn(&log, "x").await;
        assert_eq!(log.read(&talk.scope, talk.id, 0, 100).await.unwrap(), talk.records);
        assert_eq!(
            log.list(&talk.scope, &all()).await.unwrap(),
            Vec::from_iter(talk.header.clone())
        );
        log.close().await;
    }
}

#[tokio::test]
async fn what_a_dead_process_did_not_project_is_projected_at_start() {
    let Some(database) = TestDatabase::new().await else {
        return;
    };
    let log = database.connect().await.unwrap();
    let mut lost = Talk::new("acme", "ann");
    let mut behind = Talk::new("acme", "bob");
    lost.open(&log).await;
    behind.open(&log).await;
    log.close().await;
    let raw = database.raw().await;
    let conversations = raw.collection::<Document>("conversations");
    let meta = raw.collection::<Document>("meta");
    let marked = meta.find_one(doc! { "_id": "projected" }).await.unwrap();
    let before = conversations.find_one(doc! { "user": "bob" }).await.unwrap().unwrap();

    let log = database.connect().await.unwrap();
    let open = turn();
    lost.write(&log, vec![queued(open, "x"), started(open)]).await;
    behind.write(&log, vec![updated("renamed")]).await;
    behind.write(&log, vec![queued(open, "x")]).await;
    log.close().await;
    // As if the process had died before it projected any of that.
    conversations.delete_one(doc! { "user": "ann" }).await.unwrap();
    conversations.replace_one(doc! { "user": "bob" }, before).await.unwrap();
    meta.replace_one(doc! { "_id": "projected" }, marked.unwrap())
        .await
        .unwrap();

    let log = database.connect().await.unwrap();
    let mut expected = vec![lost.header.clone().unwrap(), behind.header.clone().unwrap()];
    expected.sort_by_key(|header| std::cmp::Reverse((header.created_at, header.id)));
    assert_eq!(log.list(&scope("acme"), &all()).await.unwrap(), expected);
    assert_eq!(log.pending(None, 10).await.unwrap().len(), 2);
}

#[tokio::test]
async fn a_header_that_lags_is_folded_by_its_reader_and_healed_by_the_next_append() {
    let Some(database) = TestDatabase::new().await else {
        return;
    };
    let log = database.connect().await.unwrap();
    let mut talk = Talk::new("acme", "ann");
    talk.open(&log).await;
    log.list(&talk.scope, &all()).await.unwrap();
    let conversations = database.raw().await.collection::<Document>("conversations");
    let before = conversations.find_one(doc! {}).await.unwrap().unwrap();
    talk.write(&log, vec![updated("renamed")]).await;
    log.list(&talk.scope, &all()).await.unwrap();
    conversations.replace_one(doc! {}, before).await.unwrap();

    assert_eq!(log.header(&talk.scope, talk.id).await.unwrap(), talk.header);
    // An append that changes counters only must not be written on top of the old title.
    talk.turn(&log, "x").await;
    assert_eq!(log.header(&talk.scope, talk.id).await.unwrap(), talk.header);
    assert_eq!(
        log.list(&talk.scope, &all()).await.unwrap(),
        Vec::from_iter(talk.header.clone())
    );
}

#[tokio::test]
async fn a_newer_database_is_refused() {
    let Some(database) = TestDatabase::new().await else {
        return;
    };
    database.connect().await.unwrap().close().await;
    let meta = database.raw().await.collection::<Document>("meta");
    let newer = doc! { "$set": { "version": 99_i64 } };
    meta.update_one(doc! { "_id": "schema" }, newer).await.unwrap();
    let error = database.connect().await.unwrap_err();
    assert!(matches!(error, ConnectError::Newer { found: 99, known: 1 }), "{error}");
}

#[tokio::test]
async fn a_wrong_or_silent_address_is_an_error_soon() {
    let error = MongoLog::connect("not an address", "x", MongoOptions::default())
        .await
        .unwrap_err();
    assert!(matches!(error, ConnectError::Address(_)), "{error}");
    let url = format!(
        "mongodb://127.0.0.1:{}/?serverSelectionTimeoutMS=200",
        secantus::free_port()
    );
    let begun = tokio::time::Instant::now();
    let error = MongoLog::connect(&url, "x", MongoOptions::default()).await.unwrap_err();
    assert!(matches!(error, ConnectError::Store(_)), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(5));
}
