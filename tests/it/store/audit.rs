//! The audit log on every store: one contract, and detection of damage to the store itself.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use copilotd::adapters::store::sqlite::SqliteLog;
use copilotd::audit::{Action, AuditKey, AuditLog, Entry, Verification};
use copilotd_actors::fakes::world::PausedClock;
use copilotd_actors::ports::AuditStore;
use copilotd_actors::ports::{EventLog as _, LogError};
use copilotd_actors::tenancy::TenantScope;
use mongodb::bson::spec::BinarySubtype;
use mongodb::bson::{Binary, Document, doc};
use rusqlite::Connection;
use tempfile::TempDir;

use super::mongo::TestDatabase;
use crate::support::audit::MemoryAudit;
use crate::support::talk::scope;

fn log(store: Arc<dyn AuditStore>) -> AuditLog {
    AuditLog::new(store, AuditKey::derive(&[7; 32]), Arc::new(PausedClock::default()))
}

fn entry(target: impl ToString) -> Entry {
    Entry {
        actor: "root".to_owned(),
        credential: "jwt:a:b".to_owned(),
        request_id: Some("req_1".to_owned()),
        action: Action::KeyRevoked,
        target: target.to_string(),
        changed: vec!["/limits/usd_per_day".to_owned()],
        reason: None,
    }
}

async fn targets(log: &AuditLog, scope: &TenantScope, before: Option<i64>, limit: usize) -> (Vec<String>, Option<i64>) {
    let (listed, next) = log.page(scope, before, limit).await.unwrap();
    (listed.into_iter().map(|listed| listed.body.target).collect(), next)
}

/// Fails unless the log is good and has `entries` entries.
async fn assert_good(log: &AuditLog, scope: &TenantScope, entries: u64) {
    let good = Verification {
        entries,
        first_bad: None,
    };
    assert_eq!(log.verify(scope).await.unwrap(), good);
}

async fn contract(store: Arc<dyn AuditStore>) {
    let (acme, globex) = (scope("acme"), scope("globex"));
    let audit = log(Arc::clone(&store));
    assert_good(&audit, &acme, 0).await;
    assert_eq!(targets(&audit, &acme, None, 10).await, (vec![], None));
    for n in 1..=5_u64 {
        assert_eq!(audit.record(acme.tenant(), entry(n)).await.unwrap(), n);
    }
    assert_eq!(audit.record(globex.tenant(), entry("other")).await.unwrap(), 1);

    let page = |from: u64, to: u64| (to..=from).rev().map(|n| n.to_string()).collect::<Vec<_>>();
    assert_eq!(targets(&audit, &acme, None, 2).await, (page(5, 4), Some(4)));
    assert_eq!(targets(&audit, &acme, Some(4), 2).await, (page(3, 2), Some(2)));
    assert_eq!(targets(&audit, &acme, Some(2), 2).await, (page(1, 1), None));
    assert_eq!(
        targets(&audit, &globex, None, 10).await,
        (vec!["other".to_owned()], None)
    );
    let (listed, _) = audit.page(&acme, None, 1).await.unwrap();
    let (body, given) = (&listed[0].body, entry(5));
    assert_eq!((listed[0].n, body.action.as_str()), (5, "key.revoked"));
    assert_eq!(
        (&body.actor, &body.changed, &body.reason),
        (&given.actor, &given.changed, &given.reason)
    );

    // Two independent writers, many entries at once: numbers without gaps, and nothing is lost.
    let other = Arc::new(log(Arc::clone(&store)));
    let audit = Arc::new(audit);
    let writers = (0..24).map(|n| {
        let (audit, tenant) = (
            Arc::clone(if n % 2 == 0 { &audit } else { &other }),
            acme.tenant().clone(),
        );
        tokio::spawn(async move { audit.record(&tenant, entry(format!("c{n}"))).await })
    });
    let mut numbers: Vec<u64> = Vec::new();
    for outcome in futures::future::join_all(writers).await {
        numbers.push(outcome.unwrap().unwrap());
    }
    numbers.sort_unstable();
    assert_eq!(numbers, (6..=29).collect::<Vec<_>>());
    assert_good(&audit, &acme, 29).await;
    assert_good(&other, &globex, 1).await;

    // The fence by itself: another entry at a number conflicts, the same entry again is success.
    let stored = store.entries_after(acme.tenant(), Some(28), 1).await.unwrap().remove(0);
    let head = store.audit_head(acme.tenant()).await.unwrap().unwrap();
    store
        .append_entry(acme.tenant(), &stored, &head, &head, true)
        .await
        .unwrap();
    let mut twisted = stored.clone();
    twisted.hash[0] ^= 1;
    let refused = store.append_entry(acme.tenant(), &twisted, &head, &head, true).await;
    assert!(matches!(refused, Err(LogError::Conflict(29))), "{refused:?}");
    let mut older = head.clone();
    older.n = 3;
    store
        .append_entry(acme.tenant(), &stored, &older, &older, true)
        .await
        .unwrap();
    assert_eq!(
        store.audit_head(acme.tenant()).await.unwrap().unwrap(),
        head,
        "a head never goes back"
    );

    // More than one page of a verification.
    for n in 0..180 {
        audit.record(globex.tenant(), entry(n)).await.unwrap();
    }
    assert_good(&audit, &globex, 181).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_memory() {
    contract(Arc::new(MemoryAudit::default())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_sqlite() {
    let directory = TempDir::new().unwrap();
    contract(Arc::new(SqliteLog::open(directory.path()).unwrap())).await;
    // After a restart the chain continues where it was.
    let store = Arc::new(SqliteLog::open(directory.path()).unwrap());
    let audit = log(store);
    assert_eq!(audit.record(scope("acme").tenant(), entry("again")).await.unwrap(), 30);
    assert_good(&audit, &scope("acme"), 30).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_mongodb() {
    if let Some(database) = TestDatabase::new().await {
        contract(Arc::new(database.connect().await.unwrap())).await;
    }
}

/// The damage done to the tables, the number of the first bad entry, and what is wrong with it.
const DAMAGE: &[(&str, i64, &str)] = &[
    ("DELETE FROM audit WHERE n = 1", 1, "missing"),
    ("DELETE FROM audit WHERE n = 4", 4, "missing"),
    ("DELETE FROM audit WHERE n = 6", 6, "truncated"),
    ("DELETE FROM audit WHERE n > 2", 3, "truncated"),
    ("DELETE FROM audit", 1, "truncated"),
    ("DELETE FROM audit_heads", 6, "head"),
    ("DELETE FROM audit; DELETE FROM audit_heads", 1, "truncated"),
    (
        "UPDATE audit SET tenant = 'gone'; UPDATE audit_heads SET tenant = 'gone'",
        1,
        "truncated",
    ),
    ("UPDATE audit_heads SET n = 9223372036854775807", 6, "head"),
    ("UPDATE audit_heads SET n = -9223372036854775808", 6, "head"),
    (
        "UPDATE audit_heads SET n = 9223372036854775807;
         INSERT INTO audit SELECT tenant, 9223372036854775806, body, hash, mac FROM audit WHERE n = 1",
        7,
        "missing",
    ),
    ("DELETE FROM audit WHERE n > 3; DELETE FROM audit_heads", 3, "head"),
    ("UPDATE audit_heads SET n = 5", 5, "head"),
    ("UPDATE audit_heads SET n = 7", 6, "head"),
    (
        "DELETE FROM audit WHERE n = 6; UPDATE audit_heads SET n = 5, hash = (SELECT hash FROM audit WHERE n = 5)",
        5,
        "head",
    ),
    ("UPDATE audit SET n = 9 WHERE n = 6", 6, "missing"),
    ("UPDATE audit SET n = -1 WHERE n = 1", 0, "missing"),
    ("UPDATE audit SET tenant = 'globex' WHERE n = 2", 2, "missing"),
    (
        "INSERT INTO audit SELECT tenant, 7, body, hash, mac FROM audit WHERE n = 6",
        7,
        "altered",
    ),
    (
        "INSERT INTO audit SELECT tenant, 0, body, hash, mac FROM audit WHERE n = 1",
        0,
        "missing",
    ),
    (
        "UPDATE audit SET body = (SELECT body FROM audit WHERE n = 3) WHERE n = 4",
        4,
        "altered",
    ),
    (
        "UPDATE audit SET n = 100 WHERE n = 2; UPDATE audit SET n = 2 WHERE n = 3; UPDATE audit SET n = 3 WHERE n = 100",
        2,
        "altered",
    ),
    ("UPDATE audit SET body = x'' WHERE n = 5", 5, "altered"),
    // A single row at the very end does not prevent recording.
    (
        "INSERT INTO audit SELECT tenant, 9223372036854775807, body, hash, mac FROM audit WHERE n = 1",
        7,
        "missing",
    ),
    (
        "INSERT INTO audit SELECT tenant, 9223372036854775807, body, hash, mac FROM audit WHERE n = 1;
         UPDATE audit_heads SET mac = x'00'",
        7,
        "missing",
    ),
    (
        "UPDATE audit SET body = CAST(replace(CAST(body AS TEXT), 'root', 'toor') AS BLOB) WHERE n = 5",
        5,
        "altered",
    ),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_to_the_tables_is_found_after_a_restart() {
    for (sql, n, fault) in DAMAGE {
        let directory = TempDir::new().unwrap();
        let acme = scope("acme");
        let store = Arc::new(SqliteLog::open(directory.path()).unwrap());
        let audit = log(Arc::clone(&store) as _);
        for n in 1..=6 {
            audit.record(acme.tenant(), entry(n)).await.unwrap();
        }
        drop(audit);
        Arc::into_inner(store).unwrap().close().await;
        let connection = Connection::open(directory.path().join("copilotd.db")).unwrap();
        connection.execute_batch(sql).unwrap();
        connection.close().unwrap();
        let audit = log(Arc::new(SqliteLog::open(directory.path()).unwrap()));
        let bad = audit
            .verify(&acme)
            .await
            .unwrap()
            .first_bad
            .unwrap_or_else(|| panic!("not found: {sql}"));
        assert_eq!((bad.n, bad.fault.as_str()), (*n, *fault), "{sql}");
        // Recording continues all the same, and what was found stays found.
        audit.record(acme.tenant(), entry("later")).await.unwrap();
        assert!(audit.verify(&acme).await.unwrap().first_bad.is_some(), "{sql}");
        // A list is still a list.
        audit.page(&acme, None, 10).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_altered_byte_of_the_tables_is_found() {
    let directory = TempDir::new().unwrap();
    let acme = scope("acme");
    let store = Arc::new(SqliteLog::open(directory.path()).unwrap());
    for n in 1..=3 {
        log(Arc::clone(&store) as _)
            .record(acme.tenant(), entry(n))
            .await
            .unwrap();
    }
    let connection = Connection::open(directory.path().join("copilotd.db")).unwrap();
    for (table, columns) in [
        ("audit", &["body", "hash", "mac"][..]),
        ("audit_heads", &["hash", "mac"][..]),
    ] {
        for column in columns {
            let whole: Vec<u8> = connection
                .query_row(
                    &format!("SELECT {column} FROM {table} ORDER BY n DESC LIMIT 1"),
                    [],
                    |row| row.get(0),
                )
                .unwrap();
            let put = format!("UPDATE {table} SET {column} = ?1 WHERE n = 3");
            for at in 0..whole.len() {
                let mut altered = whole.clone();
                altered[at] ^= 1 << (at % 8);
                connection.execute(&put, [&altered]).unwrap();
                let found = log(Arc::clone(&store) as _).verify(&acme).await.unwrap();
                assert_eq!(found.first_bad.map(|bad| bad.n), Some(3), "{table}.{column}, byte {at}");
            }
            connection.execute(&put, [&whole]).unwrap();
        }
    }
    assert_good(&log(store), &acme, 3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entries_of_this_process_are_missed_even_without_the_head() {
    let directory = TempDir::new().unwrap();
    let acme = scope("acme");
    let audit = log(Arc::new(SqliteLog::open(directory.path()).unwrap()));
    for n in 1..=3 {
        audit.record(acme.tenant(), entry(n)).await.unwrap();
    }
    let connection = Connection::open(directory.path().join("copilotd.db")).unwrap();
    connection
        .execute_batch("DELETE FROM audit; DELETE FROM audit_heads")
        .unwrap();
    let found = audit.verify(&acme).await.unwrap().first_bad.unwrap();
    assert_eq!((found.n, found.fault.as_str()), (1, "truncated"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_to_the_documents_is_found() {
    let Some(database) = TestDatabase::new().await else {
        return;
    };
    let acme = scope("acme");
    let store = Arc::new(database.connect().await.unwrap());
    let fresh = || log(Arc::clone(&store) as _);
    for n in 1..=4 {
        fresh().record(acme.tenant(), entry(n)).await.unwrap();
    }
    let raw = database.raw().await;
    let (audit, heads) = (
        raw.collection::<Document>("audit"),
        raw.collection::<Document>("audit_heads"),
    );
    let find = async |n: i64| audit.find_one(doc! { "n": n }).await.unwrap().unwrap();
    let replace = async |document: &Document| {
        let id = document.get("_id").cloned().unwrap();
        audit
            .replace_one(doc! { "_id": id }, document)
            .upsert(true)
            .await
            .unwrap();
    };
    let whole = find(2).await;
    for name in ["tenant", "n", "body", "hash", "mac"] {
        let mut altered = whole.clone();
        match name {
            "tenant" => _ = altered.insert("tenant", "acmf"),
            "n" => _ = altered.insert("n", 6_i64),
            _ => {
                let mut bytes = whole.get_binary_generic(name).unwrap().clone();
                bytes[3] ^= 4;
                let subtype = BinarySubtype::Generic;
                altered.insert(name, Binary { subtype, bytes });
            }
        }
        replace(&altered).await;
        let found = fresh().verify(&acme).await.unwrap().first_bad;
        assert_eq!(found.map(|bad| bad.n), Some(2), "{name}");
        replace(&whole).await;
        assert_good(&fresh(), &acme, 4).await;
    }
    // A process that died between an entry and its head is not a fault; an older head without the rest is one.
    let head = heads.find_one(doc! {}).await.unwrap().unwrap();
    let last = find(4).await;
    audit.delete_one(doc! { "n": 4_i64 }).await.unwrap();
    let found = fresh().verify(&acme).await.unwrap().first_bad.unwrap();
    assert_eq!((found.n, found.fault.as_str()), (4, "truncated"));
    replace(&last).await;
    heads.delete_many(doc! {}).await.unwrap();
    let found = fresh().verify(&acme).await.unwrap().first_bad.unwrap();
    assert_eq!((found.n, found.fault.as_str()), (4, "head"));
    heads.insert_one(head).await.unwrap();
    assert_good(&fresh(), &acme, 4).await;
}

/// Restarts with the anchor's file as `change` leaves it.
async fn restarted(directory: &TempDir, store: Arc<SqliteLog>, change: impl FnOnce(&Path)) -> Arc<SqliteLog> {
    Arc::into_inner(store).unwrap().close().await;
    change(&directory.path().join("copilotd.audit"));
    Arc::new(SqliteLog::open(directory.path()).unwrap())
}

fn delete_log(directory: &TempDir) {
    let connection = Connection::open(directory.path().join("copilotd.db")).unwrap();
    connection
        .execute_batch("DELETE FROM audit WHERE tenant = 'acme'; DELETE FROM audit_heads WHERE tenant = 'acme'")
        .unwrap();
    connection.close().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_was_deleted_with_its_head_stays_found_until_the_operator_says_otherwise() {
    let directory = TempDir::new().unwrap();
    let (acme, globex) = (scope("acme"), scope("globex"));
    let mut store = Arc::new(SqliteLog::open(directory.path()).unwrap());
    for n in 0..5 {
        log(Arc::clone(&store) as _)
            .record(acme.tenant(), entry(n))
            .await
            .unwrap();
        log(Arc::clone(&store) as _)
            .record(globex.tenant(), entry(n))
            .await
            .unwrap();
    }
    store = restarted(&directory, store, |_| delete_log(&directory)).await;
    let audit = log(Arc::clone(&store) as _);
    let bad = audit.verify(&acme).await.unwrap().first_bad.unwrap();
    assert_eq!((bad.n, bad.fault.as_str()), (1, "truncated"));
    assert_good(&audit, &globex, 5).await;
    // Recording continues beyond the anchor and repairs nothing, however much is recorded.
    for n in 0..8 {
        audit.record(acme.tenant(), entry(n)).await.unwrap();
        let bad = audit.verify(&acme).await.unwrap().first_bad.unwrap();
        assert_eq!((bad.n, bad.fault.as_str()), (1, "missing"));
    }
    drop(audit);
    store = restarted(&directory, store, |_| {}).await;
    assert!(
        log(Arc::clone(&store) as _)
            .verify(&acme)
            .await
            .unwrap()
            .first_bad
            .is_some()
    );

    // A tenant deleted on purpose, or a restored backup: deleting the file deletes what it knew, and other logs stay
    // good.
    store = restarted(&directory, store, |file| {
        delete_log(&directory);
        std::fs::remove_file(file).unwrap();
    })
    .await;
    let audit = log(Arc::clone(&store) as _);
    assert_good(&audit, &acme, 0).await;
    assert_good(&audit, &globex, 5).await;
    assert_eq!(audit.record(acme.tenant(), entry("again")).await.unwrap(), 1);
    assert_good(&audit, &acme, 1).await;
    drop(audit);
    // The new file is as good as the old one.
    store = restarted(&directory, store, |_| delete_log(&directory)).await;
    assert!(
        log(Arc::clone(&store) as _)
            .verify(&acme)
            .await
            .unwrap()
            .first_bad
            .is_some()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_anchor_behind_its_log_is_not_a_fault() {
    let directory = TempDir::new().unwrap();
    let acme = scope("acme");
    let mut store = Arc::new(SqliteLog::open(directory.path()).unwrap());
    let mut older = Vec::new();
    for n in 1..=6_u64 {
        let audit = log(Arc::clone(&store) as _);
        audit.record(acme.tenant(), entry(n)).await.unwrap();
        older.push(std::fs::read(directory.path().join("copilotd.audit")).unwrap());
    }
    for bytes in older {
        store = restarted(&directory, store, |file| std::fs::write(file, bytes).unwrap()).await;
        assert_good(&log(Arc::clone(&store) as _), &acme, 6).await;
    }
    // An altered one is a fault of its own.
    store = restarted(&directory, store, |file| {
        let mut bytes = std::fs::read(file).unwrap();
        bytes[128 + 60] ^= 1;
        std::fs::write(file, bytes).unwrap();
    })
    .await;
    let bad = log(Arc::clone(&store) as _)
        .verify(&acme)
        .await
        .unwrap()
        .first_bad
        .unwrap();
    assert_eq!((bad.n, bad.fault.as_str()), (6, "head"));
}

const DIRECTORY: &str = "COPILOTD_TEST_AUDITING";

/// The process that is killed: the same test binary, running only this test.
#[test]
#[ignore = "started by a_kill_between_entry_and_anchor_is_no_fault"]
fn victim() {
    let Ok(directory) = std::env::var(DIRECTORY) else {
        return;
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async move {
        let audit = Arc::new(log(Arc::new(SqliteLog::open(directory.as_ref()).unwrap())));
        let writers = (0..4).map(|n| {
            let audit = Arc::clone(&audit);
            tokio::spawn(async move {
                let tenant = scope(&format!("tenant-{}", n % 2));
                loop {
                    let n = audit.record(tenant.tenant(), entry("x")).await.unwrap();
                    println!("\nrecorded {n}");
                }
            })
        });
        futures::future::join_all(writers).await;
    });
}

#[tokio::test]
async fn a_kill_between_entry_and_anchor_is_no_fault() {
    let directory = TempDir::new().unwrap();
    for lines in [1, 40, 17, 90] {
        let mut victim = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "store::audit::victim", "--ignored", "--nocapture"])
            .env(DIRECTORY, directory.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(victim.stdout.take().unwrap());
        let mut recorded = 0;
        for line in output.lines() {
            let Ok(line) = line else { break };
            recorded += usize::from(line.starts_with("recorded "));
            if recorded == lines {
                victim.kill().unwrap();
            }
        }
        victim.wait().unwrap();
        assert!(recorded >= lines, "the victim ended before it was killed");
        let audit = log(Arc::new(SqliteLog::open(directory.path()).unwrap()));
        for tenant in ["tenant-0", "tenant-1"] {
            assert_eq!(audit.verify(&scope(tenant)).await.unwrap().first_bad, None);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn documents_deleted_with_their_head_are_found() {
    let Some(database) = TestDatabase::new().await else {
        return;
    };
    let acme = scope("acme");
    let store = Arc::new(database.connect().await.unwrap());
    let fresh = || log(Arc::clone(&store) as _);
    for n in 1..=4 {
        fresh().record(acme.tenant(), entry(n)).await.unwrap();
    }
    let raw = database.raw().await;
    for name in ["audit", "audit_heads"] {
        raw.collection::<Document>(name).delete_many(doc! {}).await.unwrap();
    }
    let bad = fresh().verify(&acme).await.unwrap().first_bad.unwrap();
    assert_eq!((bad.n, bad.fault.as_str()), (1, "truncated"));
    fresh().record(acme.tenant(), entry("later")).await.unwrap();
    let bad = fresh().verify(&acme).await.unwrap().first_bad.unwrap();
    assert_eq!((bad.n, bad.fault.as_str()), (1, "missing"));
    // The documented way out.
    for name in ["audit", "audit_heads"] {
        raw.collection::<Document>(name).delete_many(doc! {}).await.unwrap();
    }
    raw.collection::<Document>("meta")
        .delete_one(doc! { "_id": "audit/acme" })
        .await
        .unwrap();
    fresh().record(acme.tenant(), entry("again")).await.unwrap();
    assert_good(&fresh(), &acme, 1).await;
}

/// Numbers at the end of their range, in whatever table, neither stop the writer nor fail its probe.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn numbers_at_their_maximum_stop_no_writes() {
    for value in [i64::MAX, i64::MAX - 1, i64::MIN, -1] {
        let directory = TempDir::new().unwrap();
        let acme = scope("acme");
        let store = Arc::new(SqliteLog::open(directory.path()).unwrap());
        store.probe().await.unwrap();
        log(Arc::clone(&store) as _)
            .record(acme.tenant(), entry(1))
            .await
            .unwrap();
        let store = restarted(&directory, store, |_| {
            let connection = Connection::open(directory.path().join("copilotd.db")).unwrap();
            connection.execute("UPDATE meta SET value = ?1", [value]).unwrap();
            connection.execute("UPDATE audit_heads SET n = ?1", [value]).unwrap();
            connection.close().unwrap();
        })
        .await;
        for n in 0..3 {
            store.probe().await.unwrap();
            log(Arc::clone(&store) as _)
                .record(acme.tenant(), entry(n))
                .await
                .unwrap();
        }
        assert!(
            log(Arc::clone(&store) as _)
                .verify(&acme)
                .await
                .unwrap()
                .first_bad
                .is_some()
        );
    }
}
