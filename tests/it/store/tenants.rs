//! The contract of the store for tenants and keys, on every store.

use std::sync::Arc;

use copilotd::adapters::store::sqlite::SqliteLog;
use copilotd_actors::domain::access::key_hash::KeyHash;
use copilotd_actors::domain::access::scopes::Scopes;
use copilotd_actors::domain::tenant::{KeyUse, StoredKey, StoredTenant, TenantStatus};
use copilotd_actors::ports::TenantStore;
use jiff::Timestamp;
use tempfile::TempDir;

use super::mongo::TestDatabase;
use crate::support::tenants::MemoryTenants;

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn tenant(id: &str, sealed: Option<&[u8]>) -> StoredTenant {
    StoredTenant {
        id: id.parse().unwrap(),
        status: TenantStatus::Active,
        sealed: sealed.map(<[u8]>::to_vec),
        created_at: at("2026-11-01T10:00:00.001Z"),
        updated_at: at("2026-11-02T10:00:00.002Z"),
        deletion: None,
    }
}

fn key(name: &str, created_at: &str) -> StoredKey {
    StoredKey {
        tenant: "acme".parse().unwrap(),
        hash: KeyHash::of(name),
        name: name.to_owned(),
        scopes: Scopes::CHAT | Scopes::GATEWAY,
        created_at: at(created_at),
        created_by: Some("ada".to_owned()),
        expires_at: None,
        revoked_at: None,
    }
}

async fn contract(store: &dyn TenantStore) {
    assert_eq!(store.tenants().await.unwrap(), []);
    assert_eq!(store.keys().await.unwrap(), []);
    assert_eq!(store.key_uses().await.unwrap(), []);

    let mut acme = tenant("acme", Some(&[0, 1, 255]));
    store.put_tenant(&tenant("globex", None)).await.unwrap();
    store.put_tenant(&acme).await.unwrap();
    assert_eq!(store.tenants().await.unwrap(), [acme.clone(), tenant("globex", None)]);
    acme.status = TenantStatus::Suspended;
    acme.sealed = None;
    store.put_tenant(&acme).await.unwrap();
    assert_eq!(store.tenants().await.unwrap(), [acme, tenant("globex", None)]);

    let mut old = key("old", "2026-11-01T00:00:00Z");
    let mut new = key("new", "2026-11-02T00:00:00Z");
    new.expires_at = Some(at("2027-01-01T00:00:00.123Z"));
    new.created_by = None;
    store.put_key(&old).await.unwrap();
    store.put_key(&new).await.unwrap();
    assert_eq!(store.keys().await.unwrap(), [new.clone(), old.clone()]);
    old.revoked_at = Some(at("2026-11-03T00:00:00.5Z"));
    store.put_key(&old).await.unwrap();
    assert_eq!(store.keys().await.unwrap(), [new.clone(), old.clone()]);

    let used = |key: &StoredKey, time: &str| KeyUse {
        hash: key.hash,
        at: at(time),
    };
    store.put_key_uses(&[used(&old, "2026-11-03T00:00:00Z")]).await.unwrap();
    let uses = [used(&old, "2026-11-04T00:00:00Z"), used(&new, "2026-11-04T00:00:01Z")];
    store.put_key_uses(&uses).await.unwrap();
    let mut found = store.key_uses().await.unwrap();
    found.sort_by_key(|used| used.at);
    assert_eq!(found, uses);

    store.delete_keys(&[old.hash, KeyHash::of("nobody's")]).await.unwrap();
    assert_eq!(store.keys().await.unwrap(), [new]);
    assert_eq!(store.key_uses().await.unwrap(), uses[1..]);
}

#[tokio::test]
async fn in_memory() {
    contract(&MemoryTenants::default()).await;
}

#[tokio::test]
async fn on_sqlite() {
    let directory = TempDir::new().unwrap();
    let store = SqliteLog::open(directory.path()).unwrap();
    contract(&store).await;
    let tenants = store.tenants().await.unwrap();
    store.close().await;
    let store = SqliteLog::open(directory.path()).unwrap();
    assert_eq!(store.tenants().await.unwrap(), tenants, "after a restart");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_mongodb() {
    if let Some(database) = TestDatabase::new().await {
        let store = Arc::new(database.connect().await.unwrap());
        contract(&*store).await;
    }
}
