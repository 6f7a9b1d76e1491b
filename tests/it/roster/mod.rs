//! Tenants across restarts: stored settings, a changed file, and settings that no longer fit.

mod faults;
mod secrets;

use std::sync::Arc;

use copilotd::audit::{AuditKey, AuditLog};
use copilotd::config::{Env, Source};
use copilotd::tenants::{Change, Cipher, Origin, SettingsChange, ShownStatus, TenantRegistry, TenantView};
use copilotd_actors::domain::tenant::{Requester, TenantStatus};
use copilotd_actors::fakes::world::PausedClock;
use copilotd_actors::ports::ServingState;
use copilotd_actors::ports::TenantStore as _;
use serde_json::{Value, json};

use crate::support::audit::MemoryAudit;
use crate::support::tenants::MemoryTenants;

const FILE: &str = r#"
    [[providers]]
    name = "main"
    base_url = "http://127.0.0.1:1/v1"
    [[providers]]
    name = "local"
    base_url = "http://127.0.0.1:2/v1"
    region = "self-hosted"
    [[routes]]
    name = "default"
    targets = [
        { provider = "main", model = "large", context_tokens = 8000 },
        { provider = "local", model = "small", context_tokens = 8000 },
    ]
    [[routes]]
    name = "extra"
    targets = [{ provider = "main", model = "large", context_tokens = 8000 }]
    [[tenants]]
    id = "acme"
    [[tenants.copilots]]
    name = "support"
    route = "default"
"#;

fn source(text: &str) -> Source {
    Source::parse(text, &Env::default(), &crate::tools::kinds()).unwrap()
}

async fn open(text: &str, store: &Arc<MemoryTenants>, key: u8) -> Arc<TenantRegistry> {
    open_source(source(text), store, key).await
}

async fn open_source(source: Source, store: &Arc<MemoryTenants>, key: u8) -> Arc<TenantRegistry> {
    let clock = Arc::new(PausedClock::default());
    let audit = AuditLog::new(
        Arc::new(MemoryAudit::default()),
        AuditKey::derive(&[key; 32]),
        Arc::clone(&clock) as _,
    );
    let (store, seal) = (Arc::clone(store) as _, Cipher::new(&[key; 32]));
    TenantRegistry::open(source, store, Arc::new(audit), seal, clock)
        .await
        .unwrap()
}

fn root() -> Requester {
    Requester::default()
}

fn copilot(route: &str) -> Value {
    json!({ "copilots": [{ "name": "support", "route": route }], "zendesk": {
        "base_url": "https://x.zendesk.example", "oauth_token": { "value": "hunter2" } } })
}

async fn put(registry: &TenantRegistry, id: &str, settings: Value) {
    registry
        .put(id.parse().unwrap(), settings, None, false, &root())
        .await
        .unwrap();
}

fn tenant(registry: &TenantRegistry, id: &str) -> TenantView {
    registry.tenant(&id.parse().unwrap()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn what_was_changed_is_there_after_a_restart() {
    let store = Arc::new(MemoryTenants::default());
    let registry = open(FILE, &store, 1).await;
    put(&registry, "initech", copilot("default")).await;
    let acme = "acme".parse().unwrap();
    let suspended = Change {
        settings: None,
        status: Some(TenantStatus::Suspended),
    };
    registry.change(&acme, suspended, &root()).await.unwrap();
    for record in store.tenants().await.unwrap() {
        let sealed = record.sealed.unwrap_or_default();
        assert!(!sealed.windows(7).any(|part| part == b"hunter2"), "secrets are sealed");
    }
    drop(registry);

    let registry = open(FILE, &store, 1).await;
    assert_eq!(tenant(&registry, "initech").origin, Origin::Stored);
    let known = registry.config();
    let initech = known.tenant("initech").unwrap();
    assert!(!initech.systems.is_empty() && !initech.suspended);
    // Suspended by the operator, but still with the settings of the file: a change of the file applies to it.
    let renamed = FILE.replace("name = \"support\"", "name = \"help\"");
    registry.reload(source(&renamed)).await.unwrap();
    let acme = tenant(&registry, "acme");
    assert_eq!((acme.status, acme.origin), (ShownStatus::Suspended, Origin::File));
    assert_eq!(acme.settings["copilots"][0]["name"], "help");
    assert!(registry.config().tenant("acme").unwrap().suspended);
}

#[tokio::test(start_paused = true)]
async fn a_stored_tenant_that_no_longer_fits_is_left_out_alone() {
    let store = Arc::new(MemoryTenants::default());
    let registry = open(FILE, &store, 1).await;
    put(&registry, "initech", copilot("extra")).await;
    put(&registry, "hooli", copilot("default")).await;
    let (begin, rest) = FILE.split_once("    [[routes]]\n    name = \"extra\"").unwrap();
    let without = format!("{begin}{}", rest.split_once("}]\n").unwrap().1);

    let registry = open(&without, &store, 1).await;
    assert_eq!(registry.left_out(), ["initech"]);
    let faults = tenant(&registry, "initech").faults;
    assert_eq!(faults, ["/copilots/0/route: there is no route \"extra\""]);
    assert_eq!(
        registry.config().tenant("initech").unwrap().standing(),
        ServingState::LeftOut
    );
    assert!(!registry.config().tenant("hooli").unwrap().suspended);
    // Others can be changed meanwhile, and a fixed tenant is served again.
    put(&registry, "hooli", json!({})).await;
    let mend = Change {
        settings: Some(SettingsChange::Patch(
            json!({ "copilots": copilot("default")["copilots"] }),
        )),
        status: None,
    };
    registry
        .change(&"initech".parse().unwrap(), mend, &root())
        .await
        .unwrap();
    assert!(registry.left_out().is_empty());
    let config = registry.config();
    let initech = config.tenant("initech").unwrap();
    assert!(!initech.systems.is_empty(), "what was not mended is as it was");
}

#[tokio::test(start_paused = true)]
async fn without_its_key_nothing_sealed_is_served_and_nothing_of_the_file_in_its_place() {
    let store = Arc::new(MemoryTenants::default());
    put(&*open(FILE, &store, 1).await, "acme", json!({})).await;
    let registry = open(FILE, &store, 2).await;
    assert_eq!(registry.left_out(), ["acme"]);
    let config = registry.config();
    let acme = config.tenant("acme").unwrap();
    assert!(acme.standing() == ServingState::LeftOut && acme.copilots.is_empty());
    put(&registry, "acme", copilot("default")).await;
    assert!(registry.left_out().is_empty());
}

#[tokio::test(start_paused = true)]
async fn only_self_hosted_models_is_one_line() {
    let store = Arc::new(MemoryTenants::default());
    let registry = open(
        &format!("{FILE}\n    [tenants.models]\n    regions = [\"self-hosted\"]\n"),
        &store,
        1,
    )
    .await;
    let config = registry.config();
    let models = config.tenant("acme").unwrap().models.allowed();
    assert!(models.allows("local", "small", Some("self-hosted")));
    assert!(!models.allows("main", "large", None));
    // A copilot that may use no model is a fault, at start and later.
    let only = json!({ "models": { "allow": ["local/*"] }, "copilots": [{ "name": "x", "route": "extra" }] });
    let refused = registry
        .put("initech".parse().unwrap(), only, None, false, &root())
        .await;
    assert!(refused.is_err());
}
