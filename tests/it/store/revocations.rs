//! The contract of the store for token revocations, on every store.

use std::sync::Arc;
use std::time::Duration;

use copilotd::adapters::store::sqlite::SqliteLog;
use copilotd::revocations::Revocations;
use copilotd_actors::domain::access::revocation::{CLOCK_SKEW, Revocation, STORED_FOR, Subject, UnreadableRevocation};
use copilotd_actors::domain::access::token_identity::TokenIdentity;
use copilotd_actors::ports::{Clock, RevocationStore};
use jiff::{SignedDuration, Timestamp};
use mongodb::bson::{DateTime, Document, doc};
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
    let stored = store.revocations().await.unwrap();
    assert_eq!(stored.unreadable, []);
    let mut all = stored.readable;
    all.sort_by_key(|revocation| (revocation.tenant.to_string(), revocation.revoked_at));
    all
}

async fn contract(store: &dyn RevocationStore) {
    assert_eq!(sorted(store).await, []);
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

/// The time of the process that reads the records.
const NOW: &str = "2026-11-01T12:00:00Z";

#[derive(Debug)]
struct FixedClock;

impl Clock for FixedClock {
    fn now(&self) -> Timestamp {
        at(NOW)
    }

    fn elapsed(&self) -> Duration {
        Duration::ZERO
    }
}

/// Whose tokens are refused because of a revocation of ada of acme.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Refused {
    Nobody,
    Ada,
    Acme,
    Everybody,
}

/// Finds out whose tokens a new process refuses. No damage may ever make it fewer than a whole record does.
async fn refused(store: Arc<dyn RevocationStore>) -> Refused {
    let revocations = Revocations::open(store, Arc::new(FixedClock)).await.unwrap();
    let list = revocations.list();
    let hits = |tenant: &str, user: &str, issued_at: Option<Timestamp>| {
        let token = TokenIdentity { issued_at, jti: None };
        list.hits(&tenant.parse().unwrap(), &user.parse().unwrap(), &token, "jwt:k:cafe")
    };
    let tokens = |tenant: &str, user: &str| {
        let old = hits(tenant, user, Some(at("2026-11-01T10:00:00Z")));
        assert_eq!(
            old,
            hits(tenant, user, None),
            "{tenant} {user}: a token without iat is an old one"
        );
        let fresh = at(NOW) + CLOCK_SKEW + SignedDuration::from_secs(1);
        assert!(
            !hits(tenant, user, Some(fresh)),
            "{tenant} {user}: fresh tokens are accepted"
        );
        old
    };
    match (tokens("acme", "ada"), tokens("acme", "bob"), tokens("globex", "ada")) {
        (false, false, false) => Refused::Nobody,
        (true, false, false) => Refused::Ada,
        (true, true, false) => Refused::Acme,
        (true, true, true) => Refused::Everybody,
        odd => panic!("{odd:?}"),
    }
}

#[tokio::test]
async fn an_unreadable_revocation_refuses_all_that_it_can_mean_on_sqlite() {
    for (damage, expected) in [
        ("", Refused::Ada),
        ("expires_at = 1793534400000", Refused::Nobody), // the time of the process
        ("kind = 'planet'", Refused::Acme),
        ("kind = 'planet', expires_at = 1793534400000", Refused::Nobody),
        ("kind = 'planet', expires_at = -9223372036854775808", Refused::Acme),
        ("kind = CAST(x'ff' AS TEXT)", Refused::Acme),
        ("subject = ''", Refused::Acme),
        ("tenant = 'No Tenant'", Refused::Everybody),
        ("tenant = CAST(x'ff' AS TEXT), kind = 'planet'", Refused::Everybody),
        ("revoked_at = 9223372036854775807", Refused::Ada),
        ("expires_at = 9223372036854775807", Refused::Ada),
        ("expires_at = -9223372036854775808", Refused::Ada),
        ("revoked_by = CAST(x'ff' AS TEXT)", Refused::Ada),
        ("reason = CAST(x'ff' AS TEXT)", Refused::Ada),
    ] {
        let directory = TempDir::new().unwrap();
        let store = Arc::new(SqliteLog::open(directory.path()).unwrap());
        let ada = revocation("acme", user("ada"), "2026-11-01T10:00:01Z");
        store.put_revocation(&ada).await.unwrap();
        if !damage.is_empty() {
            let database = rusqlite::Connection::open(directory.path().join("copilotd.db")).unwrap();
            let changed = database
                .execute(&format!("UPDATE revocations SET {damage}"), [])
                .unwrap();
            assert_eq!(changed, 1);
        }
        // The first start deletes expired ones, and must leave this one for the second.
        for start in ["first", "second"] {
            assert_eq!(
                refused(Arc::clone(&store) as _).await,
                expected,
                "{damage}: {start} start"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unreadable_revocation_refuses_all_that_it_can_mean_on_mongodb() {
    let Some(database) = TestDatabase::new().await else {
        return;
    };
    let store = Arc::new(database.connect().await.unwrap());
    let raw = database.raw().await;
    let collection = raw.collection::<Document>("revocations");
    let ended = DateTime::from_millis(at(NOW).as_millisecond());
    for (damage, expected) in [
        (doc! { "$set": { "expires_at": ended } }, Refused::Nobody),
        (doc! { "$set": { "kind": "planet" } }, Refused::Acme),
        (
            doc! { "$set": { "kind": "planet", "expires_at": ended } },
            Refused::Nobody,
        ),
        (doc! { "$set": { "kind": 7 } }, Refused::Acme),
        (doc! { "$unset": { "subject": "" } }, Refused::Acme),
        (doc! { "$set": { "tenant": "No Tenant" } }, Refused::Everybody),
        (doc! { "$unset": { "tenant": "", "kind": "" } }, Refused::Everybody),
        (doc! { "$set": { "revoked_at": "yesterday" } }, Refused::Ada),
        (doc! { "$set": { "expires_at": 7 } }, Refused::Ada),
        (doc! { "$unset": { "expires_at": "" } }, Refused::Ada),
        (doc! { "$set": { "revoked_by": 7, "reason": 7 } }, Refused::Ada),
    ] {
        let ada = revocation("acme", user("ada"), "2026-11-01T10:00:01Z");
        store.put_revocation(&ada).await.unwrap();
        assert_eq!(refused(Arc::clone(&store) as _).await, Refused::Ada);
        let changed = collection.update_many(doc! {}, damage.clone()).await.unwrap();
        assert_eq!(changed.matched_count, 1);
        for start in ["first", "second"] {
            assert_eq!(
                refused(Arc::clone(&store) as _).await,
                expected,
                "{damage}: {start} start"
            );
        }
        collection.delete_many(doc! {}).await.unwrap();
    }
}

/// Revoking again replaces an unreadable record, and lifting removes it.
#[tokio::test]
async fn an_unreadable_revocation_of_a_known_user_is_mended_by_revoking_or_lifting() {
    for lift in [false, true] {
        let directory = TempDir::new().unwrap();
        let store = Arc::new(SqliteLog::open(directory.path()).unwrap());
        let ada = revocation("acme", user("ada"), "2026-11-01T10:00:01Z");
        store.put_revocation(&ada).await.unwrap();
        let database = rusqlite::Connection::open(directory.path().join("copilotd.db")).unwrap();
        let damage = "UPDATE revocations SET revoked_at = 9223372036854775807";
        assert_eq!(database.execute(damage, []).unwrap(), 1);
        let revocations = Revocations::open(Arc::clone(&store) as _, Arc::new(FixedClock))
            .await
            .unwrap();
        let scope = crate::support::talk::scope("acme");
        let listed = revocations.of_tenant(&scope);
        assert_eq!(listed.len(), 1);
        assert_eq!(listed[0].reason.as_deref(), Some("the stored revocation is unreadable"));
        let recorded = async { Ok(()) };
        if lift {
            revocations.lift(&scope, ada.id(), "root", recorded).await.unwrap();
            assert_eq!(sorted(&*store).await, []);
        } else {
            let again = revocations.revoke(&scope, ada.subject.clone(), "root".to_owned(), None, recorded);
            let again = again.await.unwrap();
            assert_eq!(sorted(&*store).await, [again]);
        }
    }
}

/// Tokens without `iat` cannot be told from old ones: they are refused for as long as an old one can be valid.
#[tokio::test(start_paused = true)]
async fn what_is_refused_in_doubt_ends_when_all_old_tokens_have_expired() {
    let store = MemoryRevocations::default();
    for tenant in [Some("acme".parse().unwrap()), None] {
        store.unreadable.lock().push(UnreadableRevocation {
            record: "one".to_owned(),
            tenant,
            subject: None,
            expires_at: None,
        });
    }
    let revocations = Revocations::open(Arc::new(store), Arc::new(FixedClock)).await.unwrap();
    let list = revocations.list();
    let token = TokenIdentity {
        issued_at: None,
        jti: None,
    };
    let hits = || {
        ["acme", "globex"].map(|tenant| list.hits(&tenant.parse().unwrap(), &"ada".parse().unwrap(), &token, "jwt:k:h"))
    };
    tokio::time::sleep(STORED_FOR.unsigned_abs()).await;
    assert_eq!(hits(), [true, true]);
    tokio::time::sleep((CLOCK_SKEW * 2).unsigned_abs()).await;
    assert_eq!(hits(), [false, false]);
}
