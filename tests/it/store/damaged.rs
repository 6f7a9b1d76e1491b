//! A conversation whose log is damaged can be erased without reading it.

use copilotd::adapters::store::sqlite::SqliteLog;
use copilotd_actors::domain::event::{Event, Record};
use copilotd_actors::domain::ids::TurnId;
use copilotd_actors::ports::{Append, EventLog, Snapshot};
use jiff::Timestamp;
use mongodb::bson::{Document, doc};
use rusqlite::Connection;
use tempfile::TempDir;

use super::mongo::TestDatabase;
use crate::support::talk::{Talk, cancelled, erased, queued, started, turn, updated};

/// A conversation with two turns, the second of which is open, and a snapshot.
async fn talk(log: &dyn EventLog) -> (Talk, [TurnId; 2]) {
    let mut talk = Talk::new("acme", "ann");
    talk.open(log).await;
    let done = talk.turn(log, "secret").await;
    let open = turn();
    talk.write(log, vec![queued(open, "secret"), started(open)]).await;
    let snapshot = Snapshot {
        seq: 5,
        version: 1,
        state: b"secret".to_vec(),
    };
    log.save_snapshot(&talk.scope, talk.id, &snapshot).await.unwrap();
    (talk, [done, open])
}

/// Appends a tombstone like a conversation that cannot fold its log, and erases.
async fn erase(log: &dyn EventLog, talk: &Talk, what: &str) -> u64 {
    let mut header = log.header(&talk.scope, talk.id).await.unwrap().unwrap();
    let tombstone = log.end(&talk.scope, talk.id).await.unwrap() + 1;
    let record = Record {
        seq: tombstone,
        at: Timestamp::UNIX_EPOCH,
        turn: None,
        event: Event::ConversationErased { by: "ann".to_owned() },
    };
    header.apply(&record);
    header.open_turns = 0;
    let append = Append {
        conversation: talk.id,
        user: talk.user.clone(),
        append_id: uuid::Uuid::now_v7(),
        records: vec![record].into(),
        header,
    };
    let appended = log.append(&talk.scope, &append).await;
    appended.unwrap_or_else(|error| panic!("{what}: {error}"));
    let header = log.header(&talk.scope, talk.id).await.unwrap().unwrap();
    assert!(header.erased && header.title.is_none(), "{what}");
    let pending = log.pending(None, 10).await.unwrap();
    let due = pending.iter().find(|pending| pending.conversation == talk.id);
    assert_eq!(
        due.and_then(|due| due.tombstone),
        Some(tombstone),
        "{what}: the reconciler finds it"
    );
    log.erase(&talk.scope, talk.id, tombstone).await.unwrap();
    tombstone
}

async fn assert_erased(log: &dyn EventLog, talk: &Talk, turns: &[TurnId], tombstone: u64, what: &str) {
    let left = log.read(&talk.scope, talk.id, 0, 100).await.unwrap();
    assert_eq!(
        left.iter().map(|record| record.seq).collect::<Vec<_>>(),
        [tombstone],
        "{what}"
    );
    assert!(matches!(left[0].event, Event::ConversationErased { .. }), "{what}");
    for turn in turns {
        assert_eq!(log.read_turn(&talk.scope, *turn).await.unwrap(), None, "{what}");
    }
    assert_eq!(log.snapshot(&talk.scope, talk.id).await.unwrap(), None, "{what}");
    assert_eq!(log.pending(None, 10).await.unwrap(), [], "{what}");
    let header = log.header(&talk.scope, talk.id).await.unwrap().unwrap();
    assert_eq!((header.erased, header.title), (true, None), "{what}");
}

const SQLITE: &[&str] = &[
    "DELETE FROM appends WHERE first_seq = 1",
    "DELETE FROM appends WHERE first_seq = 4",
    "DELETE FROM appends WHERE first_seq = (SELECT max(first_seq) FROM appends)",
    "DELETE FROM appends WHERE first_seq > 1",
    "DELETE FROM appends",
    "UPDATE appends SET records = x'00' WHERE first_seq = 1",
    "UPDATE appends SET records = x'' WHERE first_seq = (SELECT max(first_seq) FROM appends)",
    "UPDATE appends SET records = CAST('[{\"seq\":1}]' AS BLOB)",
    "UPDATE appends SET records = CAST(substr(CAST(records AS TEXT), 1, 20) AS BLOB)",
    "UPDATE appends SET append_id = x'00'",
    "UPDATE appends SET last_seq = -5",
    "UPDATE appends SET last_seq = 9223372036854775807",
    "UPDATE appends SET first_seq = -3 WHERE first_seq = 2",
    "UPDATE appends SET first_seq = 9223372036854775807 WHERE first_seq = 4",
    "UPDATE appends SET first_seq = 50 WHERE first_seq = 4",
    "UPDATE appends SET messages = -1",
    "UPDATE snapshots SET state = x'00', seq = -1",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_log_is_erased_on_sqlite() {
    for sql in SQLITE {
        let directory = TempDir::new().unwrap();
        let log = SqliteLog::open(directory.path()).unwrap();
        let (talk, turns) = talk(&log).await;
        let connection = Connection::open(directory.path().join("copilotd.db")).unwrap();
        connection.execute_batch(sql).unwrap();
        let tombstone = erase(&log, &talk, sql).await;
        assert_erased(&log, &talk, &turns, tombstone, sql).await;
        let again = log.erase(&talk.scope, talk.id, tombstone).await.unwrap();
        assert_eq!(again.stores.iter().map(|(_, count)| count).sum::<u64>(), 0, "{sql}");
        assert_eq!(log.rebuild().await.unwrap(), 1, "{sql}");
        assert_erased(&log, &talk, &turns, tombstone, sql).await;
    }
}

/// The tombstone is stored and the reconciler has not run: what is damaged then is deleted too, and rebuilding keeps
/// the erasure pending.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_damaged_after_its_tombstone_is_erased_on_sqlite() {
    let damage = [
        "UPDATE appends SET records = x'00'",
        "UPDATE appends SET records = x'00', header = NULL WHERE tombstone IS NOT NULL",
        "UPDATE appends SET records = x'00' WHERE first_seq = 1",
        "DELETE FROM appends WHERE first_seq = 1",
    ];
    for sql in damage {
        for rebuild in [false, true] {
            let directory = TempDir::new().unwrap();
            let log = SqliteLog::open(directory.path()).unwrap();
            let (mut talk, turns) = talk(&log).await;
            let tombstone = talk.write(&log, vec![cancelled(turns[1]), erased()]).await.last_seq();
            let connection = Connection::open(directory.path().join("copilotd.db")).unwrap();
            connection.execute_batch(sql).unwrap();
            let readable = !sql.contains("NULL") && *sql != *damage[0];
            if rebuild && readable {
                assert_eq!(log.rebuild().await.unwrap(), 1, "{sql}");
                assert_eq!(log.pending(None, 10).await.unwrap().len(), 1, "{sql}");
            }
            log.erase(&talk.scope, talk.id, tombstone).await.unwrap();
            assert_erased(&log, &talk, &turns, tombstone, sql).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_log_is_erased_on_mongodb() {
    let Some(database) = TestDatabase::new().await else {
        return;
    };
    let log = database.connect().await.unwrap();
    let raw = database.raw().await;
    let appends = raw.collection::<Document>("appends");
    let damage: [(&str, Document, Option<Document>); 12] = [
        ("first gone", doc! { "first_seq": 1_i64 }, None),
        ("middle gone", doc! { "first_seq": 4_i64 }, None),
        ("last gone", doc! { "first_seq": 7_i64 }, None),
        ("all gone", doc! {}, None),
        (
            "first unreadable",
            doc! { "first_seq": 1_i64 },
            Some(doc! { "records": ["{"] }),
        ),
        (
            "last unreadable",
            doc! { "first_seq": 7_i64 },
            Some(doc! { "records": ["{"] }),
        ),
        ("all of another type", doc! {}, Some(doc! { "records": 7 })),
        ("end of another type", doc! {}, Some(doc! { "last_seq": "x" })),
        (
            "end too large",
            doc! { "first_seq": 7_i64 },
            Some(doc! { "last_seq": i64::MAX }),
        ),
        (
            "number of another type",
            doc! { "first_seq": 4_i64 },
            Some(doc! { "first_seq": "x" }),
        ),
        (
            "number too large",
            doc! { "first_seq": 4_i64 },
            Some(doc! { "first_seq": i64::MAX }),
        ),
        (
            "number below",
            doc! { "first_seq": 4_i64 },
            Some(doc! { "first_seq": -4_i64 }),
        ),
    ];
    for (what, which, set) in damage {
        let (talk, turns) = talk(&log).await;
        // All headers are projected.
        log.pending(None, 10).await.unwrap();
        let mut filter = doc! { "conversation": mongodb::bson::Uuid::from_bytes(talk.id.uuid().into_bytes()) };
        filter.extend(which);
        let changed = match set {
            None => appends.delete_many(filter).await.unwrap().deleted_count,
            Some(set) => {
                appends
                    .update_many(filter, doc! { "$set": set })
                    .await
                    .unwrap()
                    .matched_count
            }
        };
        assert!(changed > 0, "{what}");
        let tombstone = erase(&log, &talk, what).await;
        assert_erased(&log, &talk, &turns, tombstone, what).await;
        let conversation = doc! { "conversation": mongodb::bson::Uuid::from_bytes(talk.id.uuid().into_bytes()) };
        assert_eq!(appends.count_documents(conversation).await.unwrap(), 1, "{what}");
    }
    let count = log.rebuild().await.unwrap();
    assert_eq!(count, 12);
    assert_eq!(log.pending(None, 100).await.unwrap(), []);
}

/// After a tombstone, damage prevents neither a new process from starting nor the rest from being erased.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_damaged_after_its_tombstone_is_erased_on_mongodb() {
    let Some(database) = TestDatabase::new().await else {
        return;
    };
    let log = database.connect().await.unwrap();
    let raw = database.raw().await;
    let (mut talk, turns) = talk(&log).await;
    talk.write(&log, vec![updated("secret")]).await;
    let tombstone = talk.write(&log, vec![cancelled(turns[1]), erased()]).await.last_seq();
    log.close().await;
    let appends = raw.collection::<Document>("appends");
    appends
        .update_many(
            doc! { "first_seq": { "$lt": 6_i64 } },
            doc! { "$set": { "records": ["{"] } },
        )
        .await
        .unwrap();
    for name in ["conversations", "stored"] {
        raw.collection::<Document>(name).delete_many(doc! {}).await.unwrap();
    }
    raw.collection::<Document>("meta")
        .delete_one(doc! { "_id": "projected" })
        .await
        .unwrap();
    let log = database.connect().await.unwrap();
    assert_eq!(log.pending(None, 10).await.unwrap().len(), 1);
    assert_eq!(log.rebuild().await.unwrap(), 1);
    assert_eq!(log.pending(None, 10).await.unwrap().len(), 1);
    log.erase(&talk.scope, talk.id, tombstone).await.unwrap();
    assert_erased(&log, &talk, &turns, tombstone, "after").await;
}
