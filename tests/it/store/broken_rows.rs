//! One unreadable row: it is left out of lists, and everything else is read.

use copilotd::adapters::store::sqlite::SqliteLog;
use copilotd_actors::domain::access::key_hash::KeyHash;
use copilotd_actors::domain::access::scopes::Scopes;
use copilotd_actors::domain::ids::ConversationId;
use copilotd_actors::domain::tenant::{StoredKey, StoredTenant, TenantStatus};
use copilotd_actors::ports::TenantStore as _;
use copilotd_actors::ports::{EventLog, ListQuery, LogError};
use jiff::Timestamp;
use mongodb::bson::{Document, doc};
use rusqlite::Connection;
use tempfile::TempDir;

use super::mongo::TestDatabase;
use crate::support::talk::{Talk, queued, turn};

/// Five conversations of one user, all with an open turn, oldest first.
async fn five(log: &dyn EventLog) -> Vec<Talk> {
    let mut talks = Vec::new();
    for _ in 0..5 {
        let mut talk = Talk::new("acme", "ann");
        talk.open(log).await;
        talk.write(log, vec![queued(turn(), "x")]).await;
        talks.push(talk);
    }
    talks
}

async fn listed(log: &dyn EventLog, talks: &[Talk], limit: usize) -> Vec<ConversationId> {
    let query = ListQuery {
        limit,
        ..ListQuery::default()
    };
    let found = log.list(&talks[0].scope, &query).await.unwrap();
    found.iter().map(|header| header.id).collect()
}

async fn pending(log: &dyn EventLog, limit: usize) -> Vec<ConversationId> {
    let found = log.pending(None, limit).await.unwrap();
    found.iter().map(|pending| pending.conversation).collect()
}

fn ids(talks: &[Talk], which: &[usize]) -> Vec<ConversationId> {
    which.iter().map(|index| talks[*index].id).collect()
}

/// Ways to break a row of `conversations`, and whether the reconciler's list still has it.
const HEADERS: &[(&str, bool)] = &[
    ("metadata = '{'", true),
    ("metadata = CAST(x'ff' AS TEXT)", true),
    ("usage = 'x'", true),
    ("channel = 'x'", true),
    ("copilot = ''", true),
    ("open_turns = -1", true),
    ("idempotency = '[]'", true),
    ("title = CAST(x'c328' AS TEXT)", true),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_header_is_left_out_and_fails_by_itself_on_sqlite() {
    for (broken, is_due) in HEADERS {
        let directory = TempDir::new().unwrap();
        let log = SqliteLog::open(directory.path()).unwrap();
        let talks = five(&log).await;
        let connection = Connection::open(directory.path().join("copilotd.db")).unwrap();
        let sql = format!("UPDATE conversations SET {broken} WHERE conversation = ?1");
        assert_eq!(connection.execute(&sql, [talks[3].id.uuid()]).unwrap(), 1);
        // Pages stay full, so that none is taken for the last one.
        assert_eq!(listed(&log, &talks, 10).await, ids(&talks, &[4, 2, 1, 0]), "{broken}");
        assert_eq!(listed(&log, &talks, 3).await, ids(&talks, &[4, 2, 1]), "{broken}");
        let due = if *is_due {
            &[0, 1, 2, 3, 4][..]
        } else {
            &[0, 1, 2, 4][..]
        };
        assert_eq!(pending(&log, 10).await, ids(&talks, due), "{broken}");
        let own = log.header(&talks[3].scope, talks[3].id).await;
        assert!(matches!(own, Err(LogError::Corrupt(_))), "{broken}: {own:?}");
        assert!(log.header(&talks[2].scope, talks[2].id).await.unwrap().is_some());
        // The log itself is intact: its projection can be rebuilt.
        assert_eq!(log.rebuild().await.unwrap(), 5);
        assert_eq!(listed(&log, &talks, 10).await, ids(&talks, &[4, 3, 2, 1, 0]));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_record_breaks_its_own_conversation_alone_on_sqlite() {
    for records in ["[", "[{\"seq\":1}]", "[1]", ""] {
        let directory = TempDir::new().unwrap();
        let log = SqliteLog::open(directory.path()).unwrap();
        let talks = five(&log).await;
        let connection = Connection::open(directory.path().join("copilotd.db")).unwrap();
        let sql = "UPDATE appends SET records = CAST(?2 AS BLOB) WHERE conversation = ?1 AND first_seq = 1";
        connection.execute(sql, (talks[3].id.uuid(), records)).unwrap();
        let read = async |index: usize| log.read(&talks[index].scope, talks[index].id, 0, 10).await;
        assert!(matches!(read(3).await, Err(LogError::Corrupt(_))));
        assert_eq!(read(2).await.unwrap(), talks[2].records);
        assert_eq!(listed(&log, &talks, 10).await.len(), 5);
        // Rebuilding does what is possible.
        assert_eq!(log.rebuild().await.unwrap(), 4);
        assert_eq!(listed(&log, &talks, 10).await, ids(&talks, &[4, 2, 1, 0]));
    }
}

fn tenant(id: &str) -> StoredTenant {
    StoredTenant {
        id: id.parse().unwrap(),
        status: TenantStatus::Active,
        sealed: None,
        created_at: Timestamp::UNIX_EPOCH,
        updated_at: Timestamp::UNIX_EPOCH,
        deletion: None,
    }
}

fn key(name: &str) -> StoredKey {
    StoredKey {
        tenant: "acme".parse().unwrap(),
        hash: KeyHash::of(name),
        name: name.to_owned(),
        scopes: Scopes::CHAT,
        created_at: Timestamp::UNIX_EPOCH,
        created_by: Some("ada".to_owned()),
        expires_at: None,
        revoked_at: None,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unreadable_tenants_are_suspended_and_keys_expired_on_sqlite() {
    let directory = TempDir::new().unwrap();
    let log = SqliteLog::open(directory.path()).unwrap();
    for id in ["a", "b", "c", "d"] {
        log.put_tenant(&tenant(id)).await.unwrap();
        log.put_key(&key(id)).await.unwrap();
    }
    let connection = Connection::open(directory.path().join("copilotd.db")).unwrap();
    connection
        .execute_batch(
            "UPDATE tenants SET suspended = 7, created_at = 9223372036854775807 WHERE id = 'b';
             UPDATE tenants SET deletion = x'00' WHERE id = 'c';
             UPDATE api_keys SET tenant = 'no id' WHERE name = 'a';
             UPDATE api_keys SET revoked_at = 9223372036854775807 WHERE name = 'b';
             UPDATE api_keys SET hash = x'00' WHERE name = 'c';
             INSERT INTO key_uses VALUES (x'00', 1), (zeroblob(32), 2);",
        )
        .unwrap();
    let tenants = log.tenants().await.unwrap();
    let found: Vec<_> = tenants
        .iter()
        .map(|tenant| (tenant.id.as_str(), tenant.status))
        .collect();
    let (active, suspended) = (TenantStatus::Active, TenantStatus::Suspended);
    assert_eq!(
        found,
        [("a", active), ("b", suspended), ("c", suspended), ("d", active)]
    );
    let mut keys = log.keys().await.unwrap();
    keys.sort_by(|one, other| one.name.cmp(&other.name));
    let found: Vec<_> = keys
        .iter()
        .map(|key| (key.name.as_str(), key.revoked_at.is_some()))
        .collect();
    assert_eq!(found, [("b", true), ("d", false)]);
    assert_eq!(log.key_uses().await.unwrap().len(), 1);
}

/// A record of which not even the tenant or the key is known may be what keeps somebody of the configuration file out.
fn refused<T: std::fmt::Debug>(read: Result<T, LogError>, names: &[&str]) {
    let error = read.unwrap_err();
    assert!(matches!(error, LogError::Corrupt(_)), "{error}");
    let told = error.to_string();
    for name in names {
        assert!(told.contains(name), "{name}: {told}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_read_without_a_record_that_may_take_access_away_on_sqlite() {
    for (damage, tenant_fails, key_fails) in [
        ("UPDATE tenants SET id = 'no id' WHERE id = 'a'", true, false),
        (
            "UPDATE tenants SET id = CAST(x'ff' AS TEXT) WHERE id = 'a'",
            true,
            false,
        ),
        (
            "UPDATE api_keys SET tenant = 'no id' WHERE name = 'of the file'",
            false,
            true,
        ),
        (
            "UPDATE api_keys SET hash = x'00' WHERE name = 'of the file'",
            false,
            true,
        ),
        (
            "UPDATE api_keys SET hash = x'00', created_by = CAST(x'ff' AS TEXT) WHERE name = 'created'",
            false,
            true,
        ),
        ("UPDATE api_keys SET hash = x'00' WHERE name = 'created'", false, false),
    ] {
        let directory = TempDir::new().unwrap();
        let log = SqliteLog::open(directory.path()).unwrap();
        log.put_tenant(&tenant("a")).await.unwrap();
        log.put_key(&key("created")).await.unwrap();
        let mut of_file = key("of the file");
        (of_file.created_by, of_file.revoked_at) = (None, Some(Timestamp::UNIX_EPOCH));
        log.put_key(&of_file).await.unwrap();
        let connection = Connection::open(directory.path().join("copilotd.db")).unwrap();
        assert_eq!(connection.execute(damage, []).unwrap(), 1, "{damage}");
        let (tenants, keys) = (log.tenants().await, log.keys().await);
        assert_eq!((tenants.is_err(), keys.is_err()), (tenant_fails, key_fails), "{damage}");
        if tenant_fails {
            refused(tenants, &["table tenants, id", "restore the record"]);
        }
        if key_fails {
            refused(keys, &["table api_keys, name", "restore the record"]);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broken_documents_are_left_out_on_mongodb() {
    let Some(database) = TestDatabase::new().await else {
        return;
    };
    let log = database.connect().await.unwrap();
    let talks = five(&log).await;
    assert_eq!(listed(&log, &talks, 10).await.len(), 5);
    let raw = database.raw().await;
    let conversations = raw.collection::<Document>("conversations");
    for (broken, is_due) in [
        (doc! { "metadata": "{" }, true),
        (doc! { "metadata": 7 }, true),
        (doc! { "channel": "x" }, true),
        (doc! { "open_turns": -1_i64 }, true),
        (doc! { "updated_at": "yesterday" }, false),
    ] {
        let which = doc! { "_id": format!("acme/{}", talks[3].id) };
        let whole = conversations.find_one(which.clone()).await.unwrap().unwrap();
        conversations
            .update_one(which.clone(), doc! { "$set": broken.clone() })
            .await
            .unwrap();
        assert_eq!(listed(&log, &talks, 10).await, ids(&talks, &[4, 2, 1, 0]), "{broken}");
        assert_eq!(listed(&log, &talks, 3).await, ids(&talks, &[4, 2, 1]), "{broken}");
        let due = if is_due {
            &[0, 1, 2, 3, 4][..]
        } else {
            &[0, 1, 2, 4][..]
        };
        assert_eq!(pending(&log, 10).await, ids(&talks, due), "{broken}");
        conversations.replace_one(which, whole).await.unwrap();
    }
    for id in ["a", "b", "c", "d"] {
        log.put_tenant(&tenant(id)).await.unwrap();
        log.put_key(&key(id)).await.unwrap();
    }
    let change = async |collection: &str, which: Document, set: Document| {
        let collection = raw.collection::<Document>(collection);
        let changed = collection.update_one(which, doc! { "$set": set }).await.unwrap();
        assert_eq!(changed.matched_count, 1);
    };
    change(
        "tenants",
        doc! { "_id": "b" },
        doc! { "suspended": "no", "created_at": 7 },
    )
    .await;
    change("api_keys", doc! { "name": "a" }, doc! { "tenant": "no id" }).await;
    change("api_keys", doc! { "name": "b" }, doc! { "revoked_at": "yesterday" }).await;
    change("tenants", doc! { "_id": "c" }, doc! { "sealed": 7 }).await;
    change("tenants", doc! { "_id": "d" }, doc! { "deletion": "no job" }).await;
    let tenants = log.tenants().await.unwrap();
    assert_eq!((&tenants[1].sealed, &tenants[2].sealed), (&None, &Some(Vec::new())));
    let suspended: Vec<_> = tenants
        .iter()
        .map(|tenant| tenant.status == TenantStatus::Suspended)
        .collect();
    assert_eq!(suspended, [false, true, false, true]);
    let keys = log.keys().await.unwrap();
    let mut found: Vec<_> = keys
        .iter()
        .map(|key| (key.name.as_str(), key.revoked_at.is_some()))
        .collect();
    found.sort_unstable();
    assert_eq!(found, [("b", true), ("c", false), ("d", false)]);
    let of_file = doc! { "$unset": { "created_by": "" } };
    let keys = raw.collection::<Document>("api_keys");
    assert_eq!(
        keys.update_one(doc! { "name": "a" }, of_file)
            .await
            .unwrap()
            .matched_count,
        1
    );
    refused(log.keys().await, &["collection api_keys, _id", "restore the record"]);
    keys.delete_one(doc! { "name": "a" }).await.unwrap();
    log.keys().await.unwrap();
    let nameless = raw.collection::<Document>("tenants");
    nameless
        .insert_one(doc! { "_id": "no id", "suspended": true })
        .await
        .unwrap();
    refused(
        log.tenants().await,
        &["collection tenants, _id", "no id", "restore the record"],
    );
    nameless.delete_one(doc! { "_id": "no id" }).await.unwrap();
    log.tenants().await.unwrap();

    // A broken log prevents neither the next process from starting nor the others from being rebuilt.
    let appends = raw.collection::<Document>("appends");
    let first =
        doc! { "conversation": mongodb::bson::Uuid::from_bytes(talks[3].id.uuid().into_bytes()), "first_seq": 1_i64 };
    let broken = doc! { "$set": { "records": ["{"] } };
    assert_eq!(appends.update_one(first, broken).await.unwrap().matched_count, 1);
    raw.collection::<Document>("meta")
        .delete_one(doc! { "_id": "projected" })
        .await
        .unwrap();
    log.close().await;
    raw.collection::<Document>("meta")
        .delete_one(doc! { "_id": "projected" })
        .await
        .unwrap();
    conversations.delete_many(doc! {}).await.unwrap();
    let log = database.connect().await.unwrap();
    assert_eq!(listed(&log, &talks, 10).await, ids(&talks, &[4, 2, 1, 0]));
    assert_eq!(log.rebuild().await.unwrap(), 4);
    let read = log.read(&talks[3].scope, talks[3].id, 0, 10).await;
    assert!(matches!(read, Err(LogError::Corrupt(_))), "{read:?}");
}
