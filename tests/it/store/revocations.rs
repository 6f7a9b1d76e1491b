//! The contract of the store for token revocations, on every store.

use std::sync::Arc;

use copilotd::adapters::store::sqlite::SqliteLog;
use copilotd_actors::domain::access::revocation::{Revocation, Subject};
use copilotd_actors::ports::RevocationStore;
use jiff::{SignedDuration, Timestamp};
use tempfile::TempDir;

use super::mongo::TestDatabase;
use crate::support::revocations::MemoryRevocations;

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn user(name: &str) -> Subject {
    Subject::User(name.parse().unwrap())
}

fn revocation(tenant: &str, subject: Subject, revoked_at: &str) -> Revocation {
    Revocation {
        tenant: tenant.parse().unwrap(),
        subject,
        revoked_at: at(revoked_at),
        expires_at: at(revoked_at) + SignedDuration::from_hours(24),
        revoked_by: "root (jwt:a:b)".to_owned(),
        reason: Some("her laptop was stolen".to_owned()),
    }
}

async fn sorted(store: &dyn RevocationStore) -> Vec<Revocation> {
    let mut all = store.revocations().await.unwrap();
    all.sort_by_key(|revocation| (revocation.tenant.to_string(), revocation.revoked_at));
    all
}

async fn contract(store: &dyn RevocationStore) {
    assert_eq!(store.revocations().await.unwrap(), []);
    let mut ada = revocation("acme", user("ada"), "2026-11-01T10:00:00.001Z");
    let token = revocation("acme", Subject::Token("ada".into()), "2026-11-01T10:00:01Z");
    let mut other = revocation("globex", user("ada"), "2026-11-01T10:00:02Z");
    other.reason = None;
    for one in [&other, &ada, &token] {
        store.put_revocation(one).await.unwrap();
    }
    assert_eq!(sorted(store).await, [ada.clone(), token.clone(), other.clone()]);

    // Revoking again replaces that revocation and no other.
    ada = revocation("acme", user("ada"), "2026-11-01T10:00:00.900Z");
    store.put_revocation(&ada).await.unwrap();
    assert_eq!(sorted(store).await, [ada.clone(), token.clone(), other.clone()]);

    let odd = Subject::Token("o'dd \"id\" /%_ \u{1f600}".to_owned());
    store
        .put_revocation(&revocation("acme", odd.clone(), "2026-11-01T10:00:03Z"))
        .await
        .unwrap();
    store.delete_revocation(&ada.tenant, &odd).await.unwrap();
    store.delete_revocation(&ada.tenant, &user("nobody")).await.unwrap();
    store.delete_revocation(&other.tenant, &token.subject).await.unwrap();
    assert_eq!(sorted(store).await, [ada.clone(), token.clone(), other.clone()]);

    store.delete_expired_revocations(ada.expires_at).await.unwrap();
    assert_eq!(sorted(store).await, [token.clone(), other.clone()]);
    store.delete_revocation(&token.tenant, &token.subject).await.unwrap();
    assert_eq!(sorted(store).await, [other]);
}

#[tokio::test]
async fn in_memory() {
    contract(&MemoryRevocations::default()).await;
}

#[tokio::test]
async fn on_sqlite() {
    let directory = TempDir::new().unwrap();
    let store = SqliteLog::open(directory.path()).unwrap();
    contract(&store).await;
    let before = sorted(&store).await;
    store.close().await;
    // An unreadable row does not make the other revocations ineffective.
    let database = rusqlite::Connection::open(directory.path().join("copilotd.db")).unwrap();
    let broken = "INSERT INTO revocations (tenant, kind, subject, revoked_at, expires_at, revoked_by)
                  VALUES ('acme', 'planet', 'mars', 0, 0, 'nobody'), ('No Tenant', 'user', 'ada', 0, 0, 'nobody')";
    database.execute_batch(broken).unwrap();
    drop(database);
    let store = SqliteLog::open(directory.path()).unwrap();
    assert_eq!(sorted(&store).await, before, "after a restart");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_mongodb() {
    if let Some(database) = TestDatabase::new().await {
        let store = Arc::new(database.connect().await.unwrap());
        contract(&*store).await;
    }
}
