//! A full disk: what is ordinary is refused and nothing else, also after a restart.

use std::path::Path;
use std::sync::Arc;

use copilotd::adapters::sqlite::{SqliteLog, SqliteOptions};
use copilotd::audit::{Action, AuditKey, AuditLog, Entry};
use copilotd::config::KeyHash;
use copilotd::gateway::ledger::UsageStore as _;
use copilotd::scopes::Scopes;
use copilotd::tenants::{StoredKey, StoredTenant, TenantStatus, TenantStore as _};
use copilotd_actors::fakes::world::PausedClock;
use copilotd_actors::ports::{EventLog, LogError};
use jiff::Timestamp;
use tempfile::TempDir;

use crate::support::disk::SmallDisk;
use crate::support::talk::{Talk, erased, queued, scope, turn, updated};

fn is_full<T: std::fmt::Debug>(outcome: Result<T, LogError>) -> bool {
    match outcome {
        Ok(_) => false,
        Err(error) => {
            assert!(error.is_disk_full(), "{error}");
            true
        }
    }
}

/// Appends until the store refuses; never forever.
async fn fill(log: &SqliteLog, talk: &mut Talk) {
    let big = "x".repeat(60_000);
    for _ in 0..2_000 {
        if is_full(talk.try_write(log, vec![queued(turn(), &big)]).await) {
            return;
        }
    }
    panic!("the disk never was full");
}

fn suspended(id: &str) -> StoredTenant {
    StoredTenant {
        id: id.parse().unwrap(),
        status: TenantStatus::Suspended,
        sealed: None,
        created_at: Timestamp::UNIX_EPOCH,
        updated_at: Timestamp::UNIX_EPOCH,
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

/// What has to work on a full disk, and what has not.
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
    log.lose_usage().await.unwrap();
    assert!(is_full(log.probe().await), "`/readyz` tells of it");
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
async fn of_a_limited_file_the_last_part_is_for_protective_writes() {
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
    // What was erased is space for others.
    log.probe().await.unwrap();
    let mut next = Talk::new("acme", "bob");
    next.open(log.as_ref()).await;
    next.turn(log.as_ref(), "x").await;
}

fn written(directory: &Path) -> Vec<String> {
    let names = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name());
    names.map(|name| name.into_string().unwrap()).collect()
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
    protect(&log, 60).await;
    let audit = AuditLog::new(
        Arc::clone(&log) as _,
        AuditKey::derive(&[1; 32]),
        Arc::new(PausedClock::default()),
    );
    assert!(is_full(
        audit.record(scope("acme").tenant(), entry(Action::TurnRead, 0)).await
    ));
    drop(audit);
    assert!(
        !written(&data).contains(&"copilotd.reserve".to_owned()),
        "it was released"
    );
    erase(&log, &mut large).await;
    Arc::into_inner(log).unwrap().close().await;

    // It starts without a byte to spare, and what was protected is.
    disk.fill();
    for _ in 0..3 {
        let log = open();
        assert_protected(&log, 60).await;
        assert!(is_full(small.try_write(log.as_ref(), vec![updated("x")]).await));
        assert!(is_full(log.probe().await));
        Arc::into_inner(log).unwrap().close().await;
    }

    // With space again, everything is taken again, by the process that runs.
    let log = open();
    disk.empty();
    log.probe().await.unwrap();
    small.turn(log.as_ref(), "x").await;
    assert!(
        written(&data).contains(&"copilotd.reserve".to_owned()),
        "it was allocated again"
    );
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
