//! A fault in one tenant affects only that tenant: the others are served, and suspending and revoking need only their
//! own records.

use std::sync::Arc;

use copilotd::adapters::store::sqlite::SqliteLog;
use copilotd::audit::{AuditKey, AuditLog};
use copilotd::config::{Env, Source};
use copilotd::http::credentials::{Scopes, Verifier};
use copilotd::tenants::{Change, Cipher, NewKey, ShownStatus, TenantRegistry};
use copilotd_actors::domain::access::key_hash::KeyHash;
use copilotd_actors::domain::tenant::{KeyId, StoredTenant, TenantStatus};
use copilotd_actors::fakes::world::PausedClock;
use copilotd_actors::ports::AuditStore;
use copilotd_actors::ports::TenantStore;
use copilotd_actors::ports::{Clock as _, ServingState};
use serde_json::json;

use super::{FILE, copilot, open, open_source, put, root, source, tenant};
use crate::store::mongo::TestDatabase;
use crate::support::audit::MemoryAudit;
use crate::support::talk::scope;
use crate::support::tenants::MemoryTenants;

/// API keys of acme and of the faulty tenant.
const ACME: &str = "cpk_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
const FAULTY: &str = "cpk_BBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBB";

fn key_table(key: &str) -> String {
    let hash = KeyHash::of(key);
    format!("[[tenants.api_keys]]\nname = \"backend\"\nhash = \"{hash}\"\nscopes = [\"chat\", \"admin\"]\n")
}

/// The file with a second tenant that contains `text`: members, or whole tables.
fn file_with(text: &str) -> String {
    let (members, tables) = if text.starts_with('[') { ("", text) } else { (text, "") };
    let (acme, faulty) = (key_table(ACME), key_table(FAULTY));
    format!("{FILE}\n{acme}\n[[tenants]]\nid = \"faulty\"\n{members}\n{faulty}\n{tables}\n")
}

fn status(status: TenantStatus) -> Change {
    Change {
        settings: None,
        status: Some(status),
    }
}

fn accepts(registry: &TenantRegistry, key: &str) -> bool {
    let verifier = Verifier::new(&registry.config()).unwrap();
    verifier.verify(key, None, PausedClock::default().now()).is_ok()
}

/// Faults of a tenant in the file, with the path that is reported.
const FAULTS: [(&str, &str); 12] = [
    (
        "[tenants.zendesk]\nbase_url = \"https://x.example\"\noauth_token = { file = \"no/such/file\" }",
        "/zendesk/oauth_token: ",
    ),
    (
        "[tenants.zendesk]\nbase_url = \"https://x.example\"\noauth_token = { env = \"NOT_SET\" }",
        "/zendesk/oauth_token: ",
    ),
    (
        "[tenants.zendesk]\nbase_url = \"https://x.example\"\noauth_token = { value = \"a\\nb\" }",
        "/zendesk/oauth_token: ",
    ),
    (
        "[tenants.zendesk]\nbase_url = \"https://x.example/?a\"\noauth_token = { value = \"a\" }",
        "/zendesk/base_url: ",
    ),
    (
        "[[tenants.provider_keys]]\nprovider = \"main\"\napi_key = { value = \"a\\u0000b\" }",
        "/provider_keys/0/api_key: ",
    ),
    (
        "[[tenants.copilots]]\nname = \"x\"\nroute = \"nowhere\"",
        "/copilots/0/route: ",
    ),
    (
        "[[tenants.copilots]]\nname = \"x\"\nroute = \"default\"\ntools = [\"launch_rocket\"]",
        "/copilots/0/tools/0: ",
    ),
    (
        "[[tenants.issuers]]\niss = \"i\"\nalg = \"HS256\"\nsecret = { value = \"short\" }",
        "/issuers/0/secret: ",
    ),
    (
        "[[tenants.issuers]]\niss = \"i\"\nalg = \"RS256\"\npem = { file = \"tests/it/config/second.key\" }",
        "/issuers/0/pem: ",
    ),
    ("colour = 5\n[tenants.limits]\nusd_per_day = \"much\"", ""),
    ("limits = 5", "/limits: "),
    (
        "[[tenants]]\nid = \"faulty\"",
        "the configuration file has several tenants with the id faulty",
    ),
];

#[tokio::test(start_paused = true)]
async fn a_tenant_of_the_file_with_a_fault_is_left_out_at_start_and_when_the_file_is_read_again() {
    for (table, fault) in FAULTS {
        let text = file_with(table);
        assert!(
            Source::parse(&text, &Env::default(), &crate::tools::kinds())
                .unwrap()
                .config()
                .is_err(),
            "check refuses {table}"
        );
        let store = Arc::new(MemoryTenants::default());
        let fine = open(&file_with(""), &store, 1).await;
        assert!(accepts(&fine, FAULTY));
        fine.reload(source(&text)).await.unwrap();
        for registry in [open(&text, &store, 1).await, fine] {
            assert_eq!(registry.left_out(), ["faulty"], "{table}");
            let view = tenant(&registry, "faulty");
            assert!(
                view.faults.iter().any(|found| found.starts_with(fault)),
                "{table}: {:?}",
                view.faults
            );
            assert!(!view.faults.join("").contains("os error"), "{:?}", view.faults);
            assert!(accepts(&registry, ACME) && !accepts(&registry, FAULTY), "{table}");
            let config = registry.config();
            let left_out = config.tenant("faulty").unwrap();
            assert_eq!(left_out.standing(), ServingState::LeftOut, "{table}");
            assert!(left_out.api_keys.is_empty() && left_out.copilots.is_empty());
            // Other tenants, and this one, can be changed and suspended, and their keys revoked, meanwhile.
            let acme = KeyId::of(&KeyHash::of(ACME));
            registry.api_keys().revoke(&scope("acme"), acme, &root()).await.unwrap();
            assert!(!accepts(&registry, ACME));
            let acme = "acme".parse().unwrap();
            registry
                .change(&acme, status(TenantStatus::Suspended), &root())
                .await
                .unwrap();
            assert!(registry.config().tenant("acme").unwrap().suspended);
            registry
                .change(&acme, status(TenantStatus::Active), &root())
                .await
                .unwrap();
            put(&registry, "hooli", copilot("default")).await;
            let key = KeyId::of(&KeyHash::of(FAULTY));
            registry
                .api_keys()
                .revoke(&scope("faulty"), key, &root())
                .await
                .unwrap();
            let faulty = "faulty".parse().unwrap();
            registry
                .change(&faulty, status(TenantStatus::Suspended), &root())
                .await
                .unwrap();
            assert_eq!(tenant(&registry, "faulty").status, ShownStatus::Suspended);
            let config = registry.config();
            assert_eq!(
                config.tenant("faulty").unwrap().standing(),
                ServingState::Suspended,
                "{table}"
            );
            // Once fixed, it is still suspended and its key is still revoked.
            registry.reload(source(&file_with(""))).await.unwrap();
            assert!(registry.left_out().is_empty() && !accepts(&registry, FAULTY));
            registry
                .change(&faulty, status(TenantStatus::Active), &root())
                .await
                .unwrap();
            assert!(!accepts(&registry, FAULTY) && !accepts(&registry, ACME));
            // For the next of the two.
            for record in store.tenants().await.unwrap() {
                assert_ne!(record.status, TenantStatus::Suspended);
            }
            let hashes: Vec<KeyHash> = store.keys().await.unwrap().iter().map(|key| key.hash).collect();
            store.delete_keys(&hashes).await.unwrap();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_table_without_an_id_is_left_out_by_its_place() {
    for table in [
        "[[tenants]]\nid = \"Not An Id\"",
        "[[tenants]]\nlog_content = true",
        "[[tenants]]\nid = 5",
    ] {
        let store = Arc::new(MemoryTenants::default());
        let registry = open(&file_with(table), &store, 1).await;
        assert_eq!(registry.left_out(), ["tenants[2].id"], "{table}");
        assert!(accepts(&registry, ACME) && accepts(&registry, FAULTY));
    }
    let text = file_with("").replace("id = \"faulty\"", "id = \"acme\"");
    let registry = open(&text, &Arc::default(), 1).await;
    assert_eq!(registry.left_out(), ["acme"], "nobody knows which of the two is meant");
    assert!(!accepts(&registry, ACME) && !accepts(&registry, FAULTY));
}

#[tokio::test(start_paused = true)]
async fn what_is_not_a_tenants_still_refuses_the_start_and_a_file_that_is_read_again() {
    let store = Arc::new(MemoryTenants::default());
    let registry = open(FILE, &store, 1).await;
    let broken = format!("colour = 1\n{FILE}");
    let refused = registry.reload(source(&broken)).await.unwrap_err();
    assert!(refused.to_string().contains("colour"), "{refused}");
    let audit = AuditLog::new(
        Arc::new(MemoryAudit::default()),
        AuditKey::derive(&[1; 32]),
        Arc::new(PausedClock::default()),
    );
    let opened = TenantRegistry::open(
        source(&broken),
        store,
        Arc::new(audit),
        Cipher::new(&[1; 32]),
        Arc::new(PausedClock::default()),
    );
    assert!(opened.await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_change_notices_nothing_that_went_wrong_around_others() {
    let directory = tempfile::tempdir().unwrap();
    let secret = directory.path().join("secret");
    std::fs::write(&secret, "a token").unwrap();
    let table = format!(
        "[tenants.zendesk]\nbase_url = \"https://x.example\"\noauth_token = {{ file = {:?} }}\n",
        secret.to_str().unwrap()
    );
    let store = Arc::new(MemoryTenants::default());
    let registry = open(&file_with(&table), &store, 1).await;
    std::fs::remove_file(&secret).unwrap();
    put(&registry, "hooli", copilot("default")).await;
    let change = status(TenantStatus::Suspended);
    registry
        .change(&"acme".parse().unwrap(), change, &root())
        .await
        .unwrap();
    assert!(registry.left_out().is_empty() && accepts(&registry, FAULTY));
    // After a reload the fault of the file shows.
    registry.reload(source(&file_with(&table))).await.unwrap();
    assert_eq!(registry.left_out(), ["faulty"]);
}

#[tokio::test(start_paused = true)]
async fn of_two_tenants_with_one_issuer_the_later_is_left_out_and_no_third_takes_it() {
    let issuer = |iss: &str| {
        format!(
            "[[tenants.issuers]]\niss = \"{iss}\"\nalg = \"HS256\"\nsecret = {{ value = \"at least thirty-two bytes of secret\" }}\n"
        )
    };
    let text = format!(
        "{FILE}\n{}\n[[tenants]]\nid = \"late\"\n{}",
        issuer("https://a.example"),
        issuer("HTTPS://A.example/")
    );
    let store = Arc::new(MemoryTenants::default());
    let registry = open(&text, &store, 1).await;
    assert_eq!(registry.left_out(), ["late"]);
    let faults = tenant(&registry, "late").faults;
    assert_eq!(
        faults,
        ["/issuers/0/iss: is another spelling of issuers[0].iss of tenant acme, which belongs to another tenant"]
    );
    // Claims of a tenant that is left out stay reserved for it.
    let broken = format!(
        "{FILE}\n[[tenants]]\nid = \"late\"\nlimits = 5\n{}",
        issuer("https://b.example")
    );
    let registry = open(&broken, &store, 1).await;
    assert_eq!(registry.left_out(), ["late"]);
    let theirs = json!({ "issuers": [{ "iss": "https://b.example", "alg": "HS256", "secret": { "value": "at least thirty-two bytes of secret" } }] });
    let refused = registry
        .put("initech".parse().unwrap(), theirs, None, false, &root())
        .await;
    assert!(refused.is_err());
}

#[tokio::test(start_paused = true)]
async fn revoking_and_suspending_work_while_the_store_cannot_be_listed() {
    let store = Arc::new(MemoryTenants::default());
    let registry = open(&file_with(""), &store, 1).await;
    store.unlisted.store(true, std::sync::atomic::Ordering::Relaxed);
    registry
        .api_keys()
        .revoke(&scope("acme"), KeyId::of(&KeyHash::of(ACME)), &root())
        .await
        .unwrap();
    registry
        .change(&"faulty".parse().unwrap(), status(TenantStatus::Suspended), &root())
        .await
        .unwrap();
    assert!(!accepts(&registry, ACME) && !accepts(&registry, FAULTY));
}

/// Everything across a restart, on one store. `open` opens it.
async fn on_store(tenants: Arc<dyn TenantStore>, audit: Arc<dyn AuditStore>) {
    let clock = Arc::new(PausedClock::default());
    let start = async |text: &str| {
        let log = AuditLog::new(Arc::clone(&audit), AuditKey::derive(&[1; 32]), Arc::clone(&clock) as _);
        let seal = Cipher::new(&[1; 32]);
        TenantRegistry::open(
            source(text),
            Arc::clone(&tenants),
            Arc::new(log),
            seal,
            Arc::clone(&clock) as _,
        )
        .await
        .unwrap()
    };
    let registry = start(&file_with("")).await;
    put(&registry, "initech", copilot("default")).await;
    // An older release could have stored these: a reference to this machine, and scopes that nobody granted.
    let smuggled = json!({
        "operator": true,
        "zendesk": { "base_url": "https://evil.example", "oauth_token": { "file": "tests/it/config/second.key" } },
    });
    let record = StoredTenant {
        id: "evil".parse().unwrap(),
        status: TenantStatus::Active,
        sealed: Some(Cipher::new(&[1; 32]).seal("evil", smuggled.to_string().as_bytes())),
        created_at: clock.now(),
        updated_at: clock.now(),
        deletion: None,
    };
    tenants.put_tenant(&record).await.unwrap();
    let unreadable = StoredTenant {
        id: "broken".parse().unwrap(),
        sealed: Some(vec![1, 2, 3]),
        ..record
    };
    tenants.put_tenant(&unreadable).await.unwrap();
    let new = NewKey {
        hash: KeyHash::of("cpk_CCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCC"),
        name: "ops".to_owned(),
        scopes: Scopes::ALL,
        by: "root".to_owned(),
        expires_at: None,
    };
    let made = registry.api_keys().create(&scope("acme"), new, &root()).await.unwrap();
    assert_eq!(made.scopes.to_string(), "chat gateway knowledge admin");

    let text = file_with(FAULTS[0].0);
    let registry = start(&text).await;
    assert_eq!(registry.left_out(), ["broken", "evil", "faulty"]);
    assert!(!registry.config().tenant("evil").unwrap().operator);
    assert!(tenant(&registry, "evil").faults[0].starts_with("/zendesk/oauth_token: "));
    assert!(accepts(&registry, ACME));
    registry
        .api_keys()
        .revoke(&scope("acme"), KeyId::of(&KeyHash::of(ACME)), &root())
        .await
        .unwrap();
    for id in ["evil", "broken", "faulty", "initech"] {
        registry
            .change(&id.parse().unwrap(), status(TenantStatus::Suspended), &root())
            .await
            .unwrap();
    }
    let registry = start(&text).await;
    assert!(!accepts(&registry, ACME));
    for id in ["evil", "broken", "faulty", "initech"] {
        assert_eq!(tenant(&registry, id).status, ShownStatus::Suspended, "{id}");
    }
    put(&registry, "broken", copilot("default")).await;
    assert_eq!(registry.left_out(), ["evil", "faulty"]);
}

#[tokio::test]
async fn on_sqlite() {
    let directory = tempfile::tempdir().unwrap();
    let store = Arc::new(SqliteLog::open(directory.path()).unwrap());
    on_store(Arc::clone(&store) as _, store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_mongodb() {
    if let Some(database) = TestDatabase::new().await {
        let store = Arc::new(database.connect().await.unwrap());
        on_store(Arc::clone(&store) as _, store).await;
    }
}

#[tokio::test(start_paused = true)]
async fn settings_that_are_not_fit_to_be_shown_are_not() {
    // A secret where none belongs: the table does not fit the schema, so the places of its secrets are unknown.
    let text = file_with("[tenants.zendesk]\nbase_url = \"https://x.example\"\noauth_token = \"hunter2\"");
    let registry = open_source(source(&text), &Arc::default(), 1).await;
    let view = tenant(&registry, "faulty");
    assert_eq!(view.settings, json!({}));
    assert!(!format!("{view:?}").contains("hunter2"));
}
