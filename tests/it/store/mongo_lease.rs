//! One process per database.

use std::time::Duration;

use copilotd::adapters::store::mongo::{ConnectError, MongoLog, MongoOptions};
use copilotd_actors::ports::{EventLog, LogError};
use mongodb::bson::{DateTime, Document, doc};

use super::mongo::TestDatabase;
use crate::support::proxy::{Mode, Proxy};
use crate::support::secantus;
use crate::support::talk::{Talk, queued, turn, updated};

fn options(owner: &str) -> MongoOptions {
    MongoOptions {
        owner: owner.to_owned(),
        lease_life: Duration::from_millis(1500),
        ..MongoOptions::default()
    }
}

async fn connect(database: &TestDatabase, owner: &str) -> Result<MongoLog, ConnectError> {
    MongoLog::connect(&database.url, &database.name, options(owner)).await
}

async fn lease(database: &TestDatabase) -> Document {
    let meta = database.raw().await.collection::<Document>("meta");
    meta.find_one(doc! { "_id": "lease" }).await.unwrap().unwrap()
}

#[tokio::test]
async fn a_second_process_is_refused_while_the_first_one_lives() {
    let Some(database) = TestDatabase::new().await else {
        return;
    };
    let first = connect(&database, "the first").await.unwrap();
    let error = connect(&database, "the second").await.unwrap_err();
    assert!(
        matches!(&error, ConnectError::Held { owner, epoch: 1 } if owner.contains("the first")),
        "{error}"
    );
    let mut talk = Talk::new("acme", "ann");
    talk.open(&first).await;
    // Once released, it is free at once, and the next tenure has a higher epoch.
    first.close().await;
    let begun = tokio::time::Instant::now();
    let second = connect(&database, "the second").await.unwrap();
    assert!(begun.elapsed() < Duration::from_millis(1500), "nothing to wait for");
    talk.write(&second, vec![updated("x")]).await;
    assert_eq!(lease(&database).await.get_i64("epoch").unwrap(), 2);
}

#[tokio::test]
async fn the_lease_of_a_dead_process_expires() {
    let Some(database) = TestDatabase::new().await else {
        return;
    };
    let mut talk = Talk::new("acme", "ann");
    let first = connect(&database, "the first").await.unwrap();
    talk.open(&first).await;
    // Dropped, not closed: nobody releases the lease.
    drop(first);
    let second = connect(&database, "the second").await.unwrap();
    talk.write(&second, vec![updated("x")]).await;
    assert_eq!(second.read(&talk.scope, talk.id, 0, 100).await.unwrap(), talk.records);
}

#[tokio::test]
async fn a_lease_is_renewed_while_its_process_lives() {
    let Some(database) = TestDatabase::new().await else {
        return;
    };
    let log = connect(&database, "the first").await.unwrap();
    let begun = lease(&database)
        .await
        .get_datetime("expires_at")
        .unwrap()
        .timestamp_millis();
    let mut talk = Talk::new("acme", "ann");
    talk.open(&log).await;
    // Until it has been renewed for two of its lives.
    while lease(&database)
        .await
        .get_datetime("expires_at")
        .unwrap()
        .timestamp_millis()
        < begun + 3000
    {
        log.ready().await.unwrap();
        talk.write(&log, vec![updated("x")]).await;
    }
}

#[tokio::test]
async fn a_process_that_cannot_renew_stops_before_the_lease_ends() {
    let Some(database) = TestDatabase::new().await else {
        return;
    };
    if std::env::var_os("MONGODB_URI").is_some() {
        return eprintln!("MONGODB_URI is set: skipping, the proxy works with our own server only");
    }
    let server = database
        .url
        .trim_start_matches("mongodb://")
        .split('/')
        .next()
        .unwrap()
        .parse()
        .unwrap();
    let proxy = Proxy::to(server).await;
    let behind = secantus::url(proxy.address);
    let first = MongoLog::connect(&behind, &database.name, options("the first"))
        .await
        .unwrap();
    let mut talk = Talk::new("acme", "ann");
    talk.open(&first).await;
    let lost = first.lease_lost();
    let end = async || *lease(&database).await.get_datetime("expires_at").unwrap();
    // What holds for the lease as taken must hold for a renewed one too.
    let begun = end().await;
    while end().await == begun {}
    proxy.set(Mode::Paused);
    lost.await;
    let now = DateTime::now();
    let expires_at = *lease(&database).await.get_datetime("expires_at").unwrap();
    assert!(
        now < expires_at,
        "lost at {now}, and another may have it from {expires_at} on"
    );

    // The other process takes over; the first one comes back and must not write any more.
    let second = connect(&database, "the second").await.unwrap();
    proxy.set(Mode::Open);
    let stale = talk.draft(vec![updated("too late")]);
    let outcome = first.append(&talk.scope, &stale).await;
    assert!(matches!(outcome, Err(LogError::Refused(_))), "{outcome:?}");
    assert!(first.ready().await.is_err());
    talk.write(&second, vec![updated("x")]).await;
    assert_eq!(second.read(&talk.scope, talk.id, 0, 100).await.unwrap(), talk.records);
}

#[tokio::test]
async fn a_process_whose_lease_was_taken_is_told_so() {
    let Some(database) = TestDatabase::new().await else {
        return;
    };
    let log = connect(&database, "the first").await.unwrap();
    let lost = log.lease_lost();
    let meta = database.raw().await.collection::<Document>("meta");
    let taken = doc! { "$set": { "owner": "somebody else" }, "$inc": { "epoch": 1_i64 } };
    meta.update_one(doc! { "_id": "lease" }, taken).await.unwrap();
    lost.await;
    let talk = Talk::new("acme", "ann");
    let outcome = talk.clone().try_write(&log, vec![talk.created()]).await;
    assert!(matches!(outcome, Err(LogError::Refused(_))), "{outcome:?}");
    assert_eq!(lease(&database).await.get_str("owner").unwrap(), "somebody else");
}

/// An insert that the server executes after another process took over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_append_is_not_acknowledged_and_its_turn_is_found() {
    if std::env::var_os("MONGODB_URI").is_some() {
        return eprintln!("MONGODB_URI is set: skipping, the proxy works with our own server only");
    }
    for restart in [false, true] {
        let Some(database) = TestDatabase::new().await else {
            return;
        };
        let address = database.url.trim_start_matches("mongodb://").split('/').next().unwrap();
        let proxy = Proxy::to(address.parse().unwrap()).await;
        let behind = secantus::url(proxy.address);
        let first = MongoLog::connect(&behind, &database.name, options("the first"))
            .await
            .unwrap();
        let mut talk = Talk::new("acme", "ann");
        talk.open(&first).await;
        // Projected and marked as such, as in a process that ran for a while.
        first.pending(None, 10).await.unwrap();
        proxy.set(Mode::Paused);
        let late = talk.draft(vec![queued(turn(), "late")]);
        let (outcome, second) = tokio::join!(first.append(&talk.scope, &late), async {
            first.lease_lost().await;
            let second = connect(&database, "the second").await.unwrap();
            assert_eq!(second.pending(None, 10).await.unwrap(), []);
            proxy.set(Mode::Open);
            second
        });
        let refused = matches!(outcome, Err(LogError::Unavailable(_) | LogError::Refused(_)));
        assert!(refused, "{outcome:?}");
        let appends = database.raw().await.collection::<Document>("appends");
        if appends.count_documents(doc! {}).await.unwrap() == 1 {
            // The server refused it, or it was lost with its connection. Write what an earlier release could leave.
            let mut document = appends.find_one(doc! {}).await.unwrap().unwrap();
            let stamp = document.get_i64("stamp").unwrap() + 1;
            let records: Vec<String> = late
                .records
                .iter()
                .map(|it| serde_json::to_string(it).unwrap())
                .collect();
            document.extend(doc! {
                "_id": mongodb::bson::Uuid::new(), "stamp": stamp, "records": records,
                "first_seq": 2_i64, "last_seq": 2_i64, "messages": 0,
            });
            appends.insert_one(document).await.unwrap();
        }
        let owner = if restart {
            second.close().await;
            connect(&database, "the third").await.unwrap()
        } else {
            second
        };
        let pending = owner.pending(None, 10).await.unwrap();
        assert_eq!(pending.len(), 1, "restart: {restart}");
        assert_eq!((pending[0].conversation, pending[0].tombstone), (talk.id, None));
        talk.written(&late);
        assert_eq!(owner.header(&talk.scope, talk.id).await.unwrap(), talk.header);
        // And the owner continues after it.
        talk.write(&owner, vec![updated("x")]).await;
        assert_eq!(owner.read(&talk.scope, talk.id, 0, 10).await.unwrap(), talk.records);
    }
}

/// A lease that cannot be read may be another process's, which is still writing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unreadable_lease_is_not_taken() {
    let Some(database) = TestDatabase::new().await else {
        return;
    };
    connect(&database, "first").await.unwrap().close().await;
    let raw = database.raw().await;
    let meta = raw.collection::<Document>("meta");
    let whole = lease(&database).await;
    for damage in [
        doc! { "$set": { "expires_at": "tomorrow" } },
        doc! { "$set": { "expires_at": 7 } },
        doc! { "$unset": { "expires_at": "" } },
        doc! { "$unset": { "epoch": "" } },
        doc! { "$set": { "epoch": "two" } },
        doc! { "$unset": { "owner": "" } , "$set": { "expires_at": DateTime::MAX } },
    ] {
        meta.update_one(doc! { "_id": "lease" }, damage.clone()).await.unwrap();
        let damaged = lease(&database).await;
        let refused = connect(&database, "second").await.unwrap_err().to_string();
        assert!(refused.contains("collection meta, _id lease"), "{damage}: {refused}");
        assert_eq!(lease(&database).await, damaged, "{damage}");
        meta.replace_one(doc! { "_id": "lease" }, &whole).await.unwrap();
    }
    database.connect().await.unwrap();
}
