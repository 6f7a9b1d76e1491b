//! The server refuses appends of a process that is not the owner any more, whatever that process believes.

use std::time::Duration;

use copilotd::adapters::store::mongo::{MongoLog, MongoOptions};
use copilotd_actors::ports::{EventLog, LogError, PendingConversation};
use futures::future::join_all;
use mongodb::Client;
use mongodb::bson::{Bson, DateTime, Document, doc};

use super::mongo::TestDatabase;
use crate::support::talk::{Talk, queued, turn, updated};

/// Longest wait for something that must not hang: shorter than the server keeps an open transaction.
const HANGS: Duration = Duration::from_secs(40);

/// With the usual lease a process that lost its database does not find out by itself within a test.
async fn connect(database: &TestDatabase) -> MongoLog {
    database.connect().await.unwrap()
}

/// Ends the lease in the database, without its owner's knowledge.
async fn end_lease(database: &TestDatabase) {
    let meta = database.raw().await.collection::<Document>("meta");
    let ended = doc! { "$set": { "expires_at": DateTime::from_millis(0) } };
    meta.update_one(doc! { "_id": "lease" }, ended).await.unwrap();
}

async fn appends(database: &TestDatabase) -> u64 {
    let appends = database.raw().await.collection::<Document>("appends");
    appends.count_documents(doc! {}).await.unwrap()
}

#[tokio::test]
async fn an_append_of_an_overtaken_owner_is_refused_and_nothing_is_written() {
    let Some(database) = TestDatabase::new().await else {
        return;
    };
    let first = connect(&database).await;
    let mut talk = Talk::new("acme", "ann");
    talk.open(&first).await;
    let unknown = Talk::new("globex", "bob");
    end_lease(&database).await;
    let second = connect(&database).await;
    let lost = first.lease_lost();
    // A conversation that it knows, and one that nobody has written to.
    let stale = talk.draft(vec![queued(turn(), "stale")]);
    let outcome = first.append(&talk.scope, &stale).await;
    assert!(matches!(outcome, Err(LogError::Refused(_))), "{outcome:?}");
    let outcome = unknown.clone().try_write(&first, vec![unknown.created()]).await;
    assert!(matches!(outcome, Err(LogError::Refused(_))), "{outcome:?}");
    assert_eq!(appends(&database).await, 1);
    // It knows now, and stops.
    tokio::time::timeout(HANGS, lost).await.unwrap();
    assert!(first.ready().await.is_err());
    talk.write(&second, vec![updated("x")]).await;
    assert_eq!(second.read(&talk.scope, talk.id, 0, 100).await.unwrap(), talk.records);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_append_of_an_earlier_owner_follows_a_takeover_and_none_that_was_acknowledged_is_missed() {
    let Some(database) = TestDatabase::new().await else {
        return;
    };
    for round in 0..2 {
        let first = connect(&database).await;
        let mut talks: Vec<Talk> = (0..48).map(|n| Talk::new("acme", &format!("user{n}"))).collect();
        join_all(talks.iter_mut().map(|talk| talk.open(&first))).await;
        // All of them write until they are refused, while another process takes over.
        let writing = join_all(talks.iter_mut().map(|talk| async {
            loop {
                let draft = talk.draft(vec![updated("x")]);
                match first.append(&talk.scope, &draft).await {
                    Ok(()) => talk.written(&draft),
                    Err(error) => return error,
                }
            }
        }));
        let takeover = async {
            end_lease(&database).await;
            let second = connect(&database).await;
            let count = appends(&database).await;
            (second, count)
        };
        let (errors, (second, count)) = tokio::join!(writing, takeover);
        for error in errors {
            assert!(
                matches!(error, LogError::Refused(_) | LogError::Unavailable(_)),
                "round {round}: {error:?}"
            );
        }
        assert_eq!(
            appends(&database).await,
            count,
            "round {round}: something was written after the takeover"
        );
        for talk in &talks {
            let read = second.read(&talk.scope, talk.id, 0, 10_000).await.unwrap();
            assert!(
                read.starts_with(&talk.records),
                "round {round}: an acknowledged append is missing"
            );
            assert_eq!(
                second.header(&talk.scope, talk.id).await.unwrap().unwrap().last_seq,
                read.len() as u64
            );
        }
        second.close().await;
    }
}

#[tokio::test]
async fn a_transaction_that_a_dead_owner_left_open_does_not_hold_up_its_successor() {
    let Some(database) = TestDatabase::new().await else {
        return;
    };
    let first = connect(&database).await;
    let mut talk = Talk::new("acme", "ann");
    talk.open(&first).await;
    // What a process leaves that dies between two steps of an append; its session is among those it has listed.
    let client = Client::with_uri_str(&database.url).await.unwrap();
    let raw = client.database(&database.name);
    let mut session = client.start_session().await.unwrap();
    let id = session.id().get("id").cloned().unwrap();
    let named = doc! { "$push": { "sessions": id } };
    let meta = raw.collection::<Document>("meta");
    meta.update_one(doc! { "_id": "lease" }, named).await.unwrap();
    session.start_transaction().await.unwrap();
    let fences = raw.collection::<Document>("fences");
    let open = fences
        .update_many(doc! { "_id": { "$lt": 10 } }, doc! { "$inc": { "appends": 1 } })
        .session(&mut session);
    open.await.unwrap();
    drop(first);
    end_lease(&database).await;
    let second = tokio::time::timeout(HANGS, connect(&database)).await;
    let second = second.expect("it does not wait until the server aborts the transaction");
    talk.write(&second, vec![updated("x")]).await;
}

/// A record that is in the log though its writer was not the owner any more, as earlier releases could leave it.
async fn write_late(database: &TestDatabase, talk: &Talk, records: &[String], stamp: impl Fn(i64) -> i64) {
    let appends = database.raw().await.collection::<Document>("appends");
    let of_talk = doc! { "conversation": mongodb::bson::Uuid::from_bytes(*talk.id.uuid().as_bytes()) };
    let last = appends.find_one(of_talk).sort(doc! { "first_seq": -1 }).await.unwrap();
    let mut document = last.unwrap();
    let next = document.get_i64("last_seq").unwrap() + 1;
    let end = next + i64::try_from(records.len()).unwrap() - 1;
    let stamp = stamp(document.get_i64("stamp").unwrap());
    document.extend(doc! {
        "_id": mongodb::bson::Uuid::new(), "stamp": stamp, "records": records.to_vec(),
        "first_seq": next, "last_seq": end, "messages": 0,
    });
    appends.insert_one(document).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_append_is_found_by_the_running_owner_whatever_its_stamp() {
    // Of the same append, of the next one, of one much later in the same tenure.
    for (n, stamp) in [|stamp| stamp, |stamp| stamp + 1, |stamp: i64| stamp + 5_000]
        .into_iter()
        .enumerate()
    {
        let Some(database) = TestDatabase::new().await else {
            return;
        };
        let first = connect(&database).await;
        let mut talks = [Talk::new("acme", "ann"), Talk::new("acme", "bob")];
        for talk in &mut talks {
            talk.open(&first).await;
        }
        if n == 0 {
            first.close().await;
        } else {
            drop(first);
            end_lease(&database).await;
        }
        let second = connect(&database).await;
        assert_eq!(second.pending(None, 10).await.unwrap(), []);
        for talk in &mut talks {
            let late = talk.draft(vec![queued(turn(), "late")]);
            let records: Vec<String> = late
                .records
                .iter()
                .map(|it| serde_json::to_string(it).unwrap())
                .collect();
            write_late(&database, talk, &records, stamp).await;
            talk.written(&late);
        }
        let pending = second.pending(None, 10).await.unwrap();
        for talk in &talks {
            let last_seq = talk.header.as_ref().unwrap().last_seq;
            let is_it = |found: &PendingConversation| (found.conversation, found.last_seq) == (talk.id, last_seq);
            assert!(pending.iter().any(is_it), "case {n}: {pending:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_takes_over_as_soon_as_the_lease_is_given_back_and_when_it_ends() {
    for released in [true, false] {
        let Some(database) = TestDatabase::new().await else {
            return;
        };
        let options = |standby| MongoOptions {
            lease_life: if released {
                Duration::from_secs(600)
            } else {
                Duration::from_millis(1500)
            },
            standby,
            ..MongoOptions::default()
        };
        let first = MongoLog::connect(&database.url, &database.name, options(false))
            .await
            .unwrap();
        let mut talk = Talk::new("acme", "ann");
        talk.open(&first).await;
        assert!(!first.has_standby().await);
        let (url, name, waiting) = (database.url.clone(), database.name.clone(), options(true));
        let standby = tokio::spawn(async move { MongoLog::connect(&url, &name, waiting).await.unwrap() });
        let announced = async { while !first.has_standby().await {} };
        tokio::time::timeout(HANGS, announced).await.unwrap();
        assert!(!standby.is_finished());
        talk.write(&first, vec![updated("x")]).await;
        if released {
            first.close().await;
        } else {
            drop(first);
        }
        let second = tokio::time::timeout(HANGS, standby).await.unwrap().unwrap();
        assert!(!second.has_standby().await, "the standby is gone");
        talk.write(&second, vec![updated("y")]).await;
        assert_eq!(second.read(&talk.scope, talk.id, 0, 100).await.unwrap(), talk.records);
        let meta = database.raw().await.collection::<Document>("meta");
        let lease = meta.find_one(doc! { "_id": "lease" }).await.unwrap().unwrap();
        assert_eq!(lease.get("epoch"), Some(&Bson::Int64(2)));
    }
}
