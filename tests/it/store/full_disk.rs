//! A full disk: ordinary writes are refused and nothing else, also after a restart.

use std::path::Path;
use std::sync::Arc;

use copilotd::adapters::store::sqlite::{OpenError, SqliteLog, SqliteOptions};
use copilotd::audit::{Action, AuditKey, AuditLog, Entry};
use copilotd_actors::domain::access::key_hash::KeyHash;
use copilotd_actors::domain::access::scopes::Scopes;
use copilotd_actors::domain::content::Finish;
use copilotd_actors::domain::tenant::{StoredKey, StoredTenant, TenantStatus};
use copilotd_actors::fakes::world::{CountingIds, PausedClock};
use copilotd_actors::ports::TenantStore as _;
use copilotd_actors::ports::{EventLog, LogError};
use copilotd_gateway::ledger::{GroupBy, Ledger, UsageQuery, UsageStore as _};
use copilotd_gateway::meter::{Meter as _, Outcome};
use jiff::Timestamp;
use tempfile::TempDir;

use crate::support::disk::SmallDisk;
use crate::support::talk::{Talk, erased, queued, scope, turn, updated};
use crate::support::usage::attempt;

fn is_full<T: std::fmt::Debug>(outcome: Result<T, LogError>) -> bool {
    match outcome {
        Ok(_) => false,
        Err(error) => {
            assert!(error.is_disk_full(), "{error}");
            true
        }
    }
}

/// Appends until the store refuses, but not forever.
async fn fill(log: &SqliteLog, talk: &mut Talk) {
    let big = "x".repeat(60_000);
    for _ in 0..2_000 {
        if is_full(talk.try_write(log, vec![queued(turn(), &big)]).await) {
            return;
        }
    }
    panic!("the disk never became full");
}

fn suspended(id: &str) -> StoredTenant {
    StoredTenant {
        id: id.parse().unwrap(),
        status: TenantStatus::Suspended,
        sealed: None,
        created_at: Timestamp::UNIX_EPOCH,
        updated_at: Timestamp::UNIX_EPOCH,
        deletion: None,
    }
}

fn key(name: &str, revoked: bool) -> StoredKey {
    StoredKey {
        tenant: "acme".parse().unwrap(),
        hash: KeyHash::of(name),
        name: name.to_owned(),
        scopes: Scopes::CHAT,
        created_at: Timestamp::UNIX_EPOCH,
        created_by: Some("ada".to_owned()),
        expires_at: None,
        revoked_at: revoked.then_some(Timestamp::UNIX_EPOCH),
    }
}

fn entry(action: Action, n: usize) -> Entry {
    Entry {
        actor: "root".to_owned(),
        credential: "jwt:a:b".to_owned(),
        request_id: None,
        action,
        target: format!("key_{n}"),
        changed: Vec::new(),
        reason: None,
    }
}

/// What has to work on a full disk, and what must not.
async fn protect(log: &Arc<SqliteLog>, rounds: usize) {
    let acme = scope("acme");
    let audit = AuditLog::new(
        Arc::clone(log) as _,
        AuditKey::derive(&[1; 32]),
        Arc::new(PausedClock::default()),
    );
    for n in 0..rounds {
        log.put_tenant(&suspended(&format!("tenant-{n}"))).await.unwrap();
        log.put_key(&key(&format!("key-{n}"), true)).await.unwrap();
        audit.record(acme.tenant(), entry(Action::KeyRevoked, n)).await.unwrap();
    }
    log.record_lost_usage().await.unwrap();
    assert!(is_full(log.probe().await), "`/readyz` reports it");
    log.ready().await.unwrap();
    assert_eq!(audit.verify(&acme).await.unwrap().first_bad, None);
}

async fn erase(log: &SqliteLog, talk: &mut Talk) {
    let tombstone = talk.write(log, vec![erased()]).await;
    log.erase(&talk.scope, talk.id, tombstone.last_seq()).await.unwrap();
}

async fn assert_protected(log: &SqliteLog, rounds: usize) {
    assert_eq!(log.tenants().await.unwrap().len(), rounds);
    let keys = log.keys().await.unwrap();
    assert_eq!(keys.iter().filter(|key| key.revoked_at.is_some()).count(), rounds);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_part_of_a_limited_file_is_for_protective_writes() {
    let directory = TempDir::new().unwrap();
    let options = SqliteOptions {
        max_bytes: Some(4 << 20),
        ..SqliteOptions::default()
    };
    let open = || Arc::new(SqliteLog::open_with(directory.path(), &options).unwrap());
    let log = open();
    log.probe().await.unwrap();
    let (mut small, mut large) = (Talk::new("acme", "bob"), Talk::new("acme", "ann"));
    small.open(log.as_ref()).await;
    small.turn(log.as_ref(), "x").await;
    large.open(log.as_ref()).await;
    fill(&log, &mut large).await;
    // Small ones until nothing at all is left for ordinary work.
    let text = "x".repeat(2_000);
    while !is_full(large.try_write(log.as_ref(), vec![queued(turn(), &text)]).await) {}
    protect(&log, 30).await;
    Arc::into_inner(log).unwrap().close().await;
    let log = open();
    assert_protected(&log, 30).await;
    protect(&log, 30).await;
    erase(&log, &mut small).await;
    erase(&log, &mut large).await;
    // Erased data is space for others.
    log.probe().await.unwrap();
    let mut next = Talk::new("acme", "bob");
    next.open(log.as_ref()).await;
    next.turn(log.as_ref(), "x").await;
}

/// Size of the reserve on a disk of 40 MiB.
const RESERVE: u64 = 5 << 20;

fn reserve(directory: &Path) -> u64 {
    std::fs::metadata(directory.join("copilotd.reserve")).unwrap().len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_keeps_protective_writes_and_restarts_possible() {
    let Some(disk) = SmallDisk::new(40) else { return };
    let data = disk.path().join("data");
    let open = || Arc::new(SqliteLog::open(&data).unwrap());
    let log = open();
    log.probe().await.unwrap();
    let (mut small, mut large) = (Talk::new("acme", "bob"), Talk::new("acme", "ann"));
    small.open(log.as_ref()).await;
    large.open(log.as_ref()).await;
    fill(&log, &mut large).await;
    // Another program takes the very last byte.
    disk.fill();
    assert!(is_full(small.try_write(log.as_ref(), vec![updated("x")]).await));
    assert!(is_full(log.put_key(&key("new", false)).await));
    // More than the space that the write-ahead log has already.
    protect(&log, 150).await;
    let audit = AuditLog::new(
        Arc::clone(&log) as _,
        AuditKey::derive(&[1; 32]),
        Arc::new(PausedClock::default()),
    );
    assert!(is_full(
        audit.record(scope("acme").tenant(), entry(Action::TurnRead, 0)).await
    ));
    drop(audit);
    let left = reserve(&data);
    assert!(left < RESERVE, "it was used");
    erase(&log, &mut large).await;
    Arc::into_inner(log).unwrap().close().await;

    // It starts without a byte to spare, and protective writes are still stored.
    disk.fill();
    for _ in 0..3 {
        let log = open();
        assert_protected(&log, 150).await;
        assert!(is_full(small.try_write(log.as_ref(), vec![updated("x")]).await));
        assert!(is_full(log.probe().await));
        Arc::into_inner(log).unwrap().close().await;
    }

    // With space again, everything is accepted again, by the running process.
    let log = open();
    disk.empty();
    log.probe().await.unwrap();
    small.turn(log.as_ref(), "x").await;
    assert_eq!(reserve(&data), RESERVE, "the reserve has its full size again");
    assert_eq!(log.read(&small.scope, small.id, 0, 1_000).await.unwrap(), small.records);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_is_full_at_the_start_takes_protective_writes() {
    let Some(disk) = SmallDisk::new(40) else { return };
    let data = disk.path().join("data");
    let log = SqliteLog::open(&data).unwrap();
    log.close().await;
    disk.fill();
    let log = Arc::new(SqliteLog::open(&data).unwrap());
    let mut talk = Talk::new("acme", "ann");
    let created = talk.created();
    assert!(is_full(talk.try_write(log.as_ref(), vec![created]).await));
    protect(&log, 200).await;
    disk.empty();
    log.probe().await.unwrap();
    talk.open(log.as_ref()).await;
}

/// Everything ordinary that a user and an operator may send; all of it is refused.
async fn flood(log: &SqliteLog, talk: &mut Talk, texts: usize) {
    for n in 0..texts {
        let text = "x".repeat(1 << (n % 17));
        assert!(is_full(talk.try_write(log, vec![queued(turn(), &text)]).await));
    }
    assert!(is_full(log.put_key(&key("new", false)).await));
    assert!(is_full(log.probe().await));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn space_released_for_a_protective_write_is_not_used_by_others() {
    let Some(disk) = SmallDisk::new(40) else { return };
    let data = disk.path().join("data");
    let log = Arc::new(SqliteLog::open(&data).unwrap());
    let mut talk = Talk::new("acme", "ann");
    talk.open(log.as_ref()).await;
    fill(&log, &mut talk).await;
    disk.fill();
    let audit = AuditLog::new(
        Arc::clone(&log) as _,
        AuditKey::derive(&[1; 32]),
        Arc::new(PausedClock::default()),
    );
    let acme = scope("acme");
    let mut left = reserve(&data);
    for n in 0..100 {
        // As many small writes as would fit into a piece.
        flood(&log, &mut talk, 20).await;
        assert_eq!(
            reserve(&data),
            left,
            "round {n}: ordinary writes used some of the reserve"
        );
        log.put_key(&key(&format!("key-{n}"), true)).await.unwrap();
        audit.record(acme.tenant(), entry(Action::KeyRevoked, n)).await.unwrap();
        // Its checkpoint follows the answer, and comes before this.
        log.ready().await.unwrap();
        let used = left - reserve(&data);
        assert!(used <= 256 << 10, "round {n} used {used} bytes");
        left -= used;
    }
    assert!(left >= RESERVE / 4, "{left}");
    assert_eq!(audit.verify(&acme).await.unwrap().first_bad, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_is_filled_again_and_again_stays_protected() {
    let Some(disk) = SmallDisk::new(40) else { return };
    let data = disk.path().join("data");
    // What the other program frees in the end; the rounds use little of the reserve.
    let other = disk.path().join("other");
    std::fs::write(&other, vec![1; 4 << 20]).unwrap();
    let open = || Arc::new(SqliteLog::open(&data).unwrap());
    let mut log = open();
    let mut talk = Talk::new("acme", "ann");
    talk.open(log.as_ref()).await;
    fill(&log, &mut talk).await;
    let acme = scope("acme");
    for n in 0..100 {
        // Another program takes whatever the last round left free.
        disk.fill();
        assert!(is_full(talk.try_write(log.as_ref(), vec![queued(turn(), "x")]).await));
        let before = reserve(&data);
        if n % 10 == 9 {
            Arc::into_inner(log).unwrap().close().await;
            log = open();
        }
        let audit = AuditLog::new(
            Arc::clone(&log) as _,
            AuditKey::derive(&[1; 32]),
            Arc::new(PausedClock::default()),
        );
        let revoked = log.put_key(&key(&format!("key-{n}"), true)).await;
        revoked.unwrap_or_else(|error| panic!("round {n}, {before} bytes left: {error}"));
        log.put_tenant(&suspended(&format!("tenant-{n}"))).await.unwrap();
        audit.record(acme.tenant(), entry(Action::KeyRevoked, n)).await.unwrap();
        assert_eq!(audit.verify(&acme).await.unwrap().first_bad, None);
        println!("round {n}: {before} -> {}", reserve(&data));
    }
    assert_protected(&log, 100).await;
    disk.empty();
    std::fs::remove_file(other).unwrap();
    log.probe().await.unwrap();
    assert_eq!(reserve(&data), RESERVE);
    talk.write(log.as_ref(), vec![queued(turn(), "x")]).await;
}

/// Downgrades a database to the version before quotas, with this many conversations in it.
fn downgrade(data: &Path, conversations: usize) {
    let connection = rusqlite::Connection::open(data.join("copilotd.db")).unwrap();
    connection
        .execute_batch(
            "DROP TRIGGER stored_more; DROP TRIGGER stored_otherwise; DROP TRIGGER stored_less; DROP TABLE stored;
             DROP TABLE revocations; DROP TABLE learned; DROP TABLE jobs; DROP TABLE job_pieces;
             DROP TABLE facts; DROP TABLE fact_lessons; DROP TABLE files; DROP TABLE file_pieces;
             DROP TABLE file_totals;
             CREATE INDEX usage_by_time ON usage (at);
             DROP INDEX appends_in_order;
             CREATE UNIQUE INDEX appends_by_number ON appends (tenant, conversation, first_seq);
             CREATE INDEX appends_with_messages ON appends (tenant, conversation, first_seq) WHERE messages > 0;
             ALTER TABLE tenants DROP COLUMN deletion; ALTER TABLE conversations DROP COLUMN log_bytes; PRAGMA user_version = 5;",
        )
        .unwrap();
    let mut insert = connection
        .prepare(
            "INSERT INTO conversations VALUES ('acme', randomblob(16), 1, 1, 0, 0, 0, NULL, 0, 1, 'ann', 'support', '\"api\"',
                 '{}', NULL, NULL, ?1)",
        )
        .unwrap();
    connection.execute_batch("BEGIN").unwrap();
    for _ in 0..conversations {
        insert.execute([format!("{{\"x\":\"{}\"}}", "x".repeat(900))]).unwrap();
    }
    connection.execute_batch("COMMIT").unwrap();
    drop(insert);
    connection.close().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_start_of_a_newer_release_works_on_a_full_disk_or_says_why_not() {
    // What it changes fits into half of the reserve, or does not.
    for (conversations, fits) in [(10, true), (10_000, false)] {
        let Some(disk) = SmallDisk::new(40) else { return };
        let data = disk.path().join("data");
        SqliteLog::open(&data).unwrap().close().await;
        downgrade(&data, conversations);
        disk.fill();
        let opened = SqliteLog::open(&data);
        assert!(reserve(&data) >= RESERVE / 2, "the other half is for revocations");
        if fits {
            let log = Arc::new(opened.unwrap());
            protect(&log, 20).await;
            continue;
        }
        let error = opened.unwrap_err();
        assert!(matches!(&error, OpenError::FullMigration { found: 5, .. }), "{error}");
        let told = error.to_string();
        assert!(
            told.contains("disk") && told.contains("full") && told.contains("free some space"),
            "{told}"
        );
        let connection = rusqlite::Connection::open(data.join("copilotd.db")).unwrap();
        let version: i64 = connection
            .query_row("PRAGMA user_version", [], |row| row.get(0))
            .unwrap();
        assert_eq!(version, 5, "the previous release still opens it");
        connection.close().unwrap();
        disk.empty();
        let log = SqliteLog::open(&data).unwrap();
        log.probe().await.unwrap();
        assert_eq!(reserve(&data), RESERVE);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_without_a_byte_for_a_new_database_says_so() {
    let Some(disk) = SmallDisk::new(40) else { return };
    let data = disk.path().join("data");
    std::fs::create_dir(&data).unwrap();
    disk.fill();
    let error = SqliteLog::open(&data).unwrap_err();
    let told = error.to_string();
    assert!(told.contains("full") && told.contains("free some space"), "{told}");
}

async fn calls(log: &SqliteLog) -> u64 {
    let query = UsageQuery {
        from: Timestamp::UNIX_EPOCH,
        to: "2100-01-01T00:00:00Z".parse().unwrap(),
        group_by: GroupBy::User,
        limit: 10,
    };
    let rows = log.sum_usage(&scope("acme"), &query).await.unwrap();
    rows.iter().map(|row| row.calls).sum()
}

/// Waits until this many calls are in the ledger.
async fn booked(log: &SqliteLog, wanted: u64) {
    let all = async {
        while calls(log).await != wanted {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    let waited = tokio::time::timeout(std::time::Duration::from_secs(60), all).await;
    assert!(waited.is_ok(), "{} of {wanted} calls are recorded", calls(log).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn usage_is_recorded_on_a_full_disk_without_using_up_the_reserve() {
    let Some(disk) = SmallDisk::new(40) else { return };
    let data = disk.path().join("data");
    let open = || Arc::new(SqliteLog::open(&data).unwrap());
    let log = open();
    let mut talk = Talk::new("acme", "ann");
    talk.open(log.as_ref()).await;
    disk.fill();
    let start = |log: &Arc<SqliteLog>| {
        let clock = Arc::new(PausedClock::default());
        Ledger::start(Arc::clone(log) as _, clock, Arc::new(CountingIds::default()))
    };
    // Those of a usual outage are stored at once: a part of the reserve is for them.
    let ledger = start(&log);
    for id in 0..200 {
        ledger.attempted(attempt(id, Outcome::Finished(Finish::Stop)));
    }
    booked(&log, 200).await;
    // Far more than that part takes: the rest waits in memory, and protective writes work.
    let many = 12_000;
    for id in 200..many {
        ledger.attempted(attempt(id, Outcome::Finished(Finish::Stop)));
    }
    protect(&log, 20).await;
    assert!(is_full(talk.try_write(log.as_ref(), vec![updated("x")]).await));
    assert!(reserve(&data) >= RESERVE / 4, "{}", reserve(&data));
    assert!(ledger.has_room());
    disk.empty();
    log.probe().await.unwrap();
    booked(&log, u64::try_from(many).unwrap()).await;
    ledger.close().await;
    drop(ledger);
    assert_eq!(reserve(&data), RESERVE);
    Arc::into_inner(log).unwrap().close().await;
    assert_eq!(calls(&open()).await, u64::try_from(many).unwrap());
}
