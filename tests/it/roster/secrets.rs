//! Whatever is patched in whatever order: no secret is used at another place than the one it was given for, nothing of
//! the environment or of files is read, and nobody becomes an operator.

use std::sync::Arc;

use copilotd::config::{Config, Env, Source, Tenant};
use copilotd::tenants::{Change, SettingsChange, TenantRegistry};
use proptest::prelude::*;
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};

use super::{open_source, root};

const ACME_HOST: &str = "https://acme.zendesk.example";
const STORED_HOST: &str = "https://stored.zendesk.example";
/// An environment variable of the process that the configuration does not refer to.
const CANARY: &str = "canary of the environment";
/// Content of the file below, which the configuration does not refer to.
const CANARY_FILE: &str = "tests/it/config/second.key";
const CANARY_TEXT: &str = "second-secret";
/// acme's secrets: that of the file, from the environment, and those that an operator gave.
const OF_FILE: &str = "token of the file";
const GIVEN: &str = "token that was given";
const GIVEN_KEY: &str = "key that was given";

fn source() -> Source {
    let text = format!(
        r#"
        [[providers]]
        name = "main"
        base_url = "http://127.0.0.1:1/v1"
        [[providers]]
        name = "evil"
        base_url = "http://127.0.0.1:2/v1"
        [[routes]]
        name = "default"
        targets = [{{ provider = "main", model = "large", context_tokens = 8000 }}]
        [[tenants]]
        id = "acme"
        [tenants.zendesk]
        base_url = "{ACME_HOST}"
        email = "bot@acme.example"
        token = {{ env = "ACME_ZENDESK" }}
        [[tenants]]
        id = "ops"
        operator = true
        [tenants.zendesk]
        base_url = "https://evil.example"
        oauth_token = {{ env = "OPS_ZENDESK" }}
        "#
    );
    let env = Env::from_iter([("ACME_ZENDESK", OF_FILE), ("OPS_ZENDESK", CANARY), ("CANARY", CANARY)]);
    Source::parse(&text, &env, &crate::tools::kinds()).unwrap()
}

/// Values for a secret: every kind of reference, and malformed ones.
fn secret() -> impl Strategy<Value = Value> {
    let kept = (any::<prop::sample::Index>(), any::<bool>()).prop_map(|(index, null)| {
        // Replaced by a fingerprint that is shown at that moment.
        let mut kept = json!({ "kept": format!("#{}", index.index(8)) });
        if null {
            kept["value"] = Value::Null;
        }
        kept
    });
    let reference = prop::sample::select(vec![
        json!({ "env": "ACME_ZENDESK" }),
        json!({ "env": "OPS_ZENDESK" }),
        json!({ "env": "CANARY" }),
        json!({ "file": CANARY_FILE }),
        json!({ "file": CANARY_FILE, "value": null, "env": null, "kept": null }),
        json!({ "env": "CANARY", "value": null }),
        json!({ "env": null }),
        json!({ "value": "fresh" }),
        json!({ "value": { "env": "CANARY" } }),
        json!([{ "env": "CANARY" }]),
        json!("text"),
        Value::Null,
    ]);
    prop_oneof![kept, reference]
}

fn address_of() -> impl Strategy<Value = &'static str> + Clone {
    prop::sample::select(vec![
        ACME_HOST,
        STORED_HOST,
        "https://evil.example",
        "https://ACME.zendesk.example/",
    ])
}

/// One step of a patch: a member at any place.
fn step() -> impl Strategy<Value = Value> {
    let host = address_of();
    let address = host.clone().prop_map(|host| json!({ "zendesk": { "base_url": host } }));
    let token = (secret(), prop::sample::select(vec!["token", "oauth_token"]))
        .prop_map(|(secret, slot)| json!({ "zendesk": { slot: secret } }));
    let whole = (host.clone(), secret()).prop_map(|(host, secret)| json!({ "zendesk": { "base_url": host, "email": null, "token": null, "oauth_token": secret } }));
    let slack = (prop::option::of(host), secret())
        .prop_map(|(host, secret)| json!({ "slack": { "base_url": host, "bot_token": secret } }));
    let named = (prop::sample::select(vec!["support", "zendesk"]), address_of(), secret(), any::<bool>()).prop_map(
        |(name, host, secret, twice)| {
            let system = json!({ "kind": "zendesk", "name": name, "base_url": host, "oauth_token": secret });
            let other = json!({ "kind": "zendesk", "name": "other", "base_url": "https://evil.example", "oauth_token": secret });
            let systems = if twice { json!([other, system]) } else { json!([system]) };
            json!({ "systems": systems, "zendesk": null })
        },
    );
    let keys = (prop::sample::select(vec!["main", "evil"]), secret(), any::<bool>()).prop_map(
        |(provider, secret, several)| {
            let key = if several {
                json!({ "api_keys": [secret] })
            } else {
                json!({ "api_key": secret })
            };
            let mut key = key;
            key["provider"] = provider.into();
            json!({ "provider_keys": [key] })
        },
    );
    let fixed = prop::sample::select(vec![
        json!({ "zendesk": null }),
        json!({ "zendesk": { "email": null, "token": null } }),
        json!({ "zendesk": { "email": "bot@acme.example", "oauth_token": null } }),
        json!({ "slack": null }),
        json!({ "provider_keys": null }),
        json!({ "systems": null }),
        json!({ "systems": [] }),
        json!({ "operator": true }),
        json!({ "knowledge_version": "2" }),
    ]);
    prop_oneof![2 => address, 3 => token, 3 => whole, 3 => named, 2 => slack, 2 => keys, 2 => fixed]
}

#[derive(Debug, Clone)]
enum Act {
    Patch(Vec<Value>),
    Put(Vec<Value>),
    Reset,
    Restart,
}

fn act() -> impl Strategy<Value = (bool, Act)> {
    let steps = || prop::collection::vec(step(), 1..4);
    let act = prop_oneof![
        6 => steps().prop_map(Act::Patch),
        3 => steps().prop_map(Act::Put),
        1 => Just(Act::Reset),
        1 => Just(Act::Restart),
    ];
    (any::<bool>(), act)
}

/// Replaces numbers by the fingerprints that are shown.
fn filled(value: &mut Value, shown: &[String]) {
    match value {
        Value::String(text) => {
            if let Some(number) = text.strip_prefix('#').and_then(|number| number.parse::<usize>().ok()) {
                *text = shown.get(number % shown.len().max(1)).cloned().unwrap_or_default();
            }
        }
        Value::Object(members) => members.values_mut().for_each(|member| filled(member, shown)),
        Value::Array(items) => items.iter_mut().for_each(|item| filled(item, shown)),
        _ => {}
    }
}

fn fingerprints(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(members) => {
            found.extend(members.get("kept").and_then(Value::as_str).map(str::to_owned));
            members.values().for_each(|member| fingerprints(member, found));
        }
        Value::Array(items) => items.iter().for_each(|item| fingerprints(item, found)),
        _ => {}
    }
}

fn merged(steps: &[Value]) -> Value {
    fn merge(target: &mut Value, patch: &Value) {
        match (target, patch) {
            (Value::Object(target), Value::Object(patch)) => {
                for (name, value) in patch {
                    merge(target.entry(name.clone()).or_insert(Value::Null), value);
                }
            }
            (target, patch) => *target = patch.clone(),
        }
    }
    let mut all = json!({});
    steps.iter().for_each(|step| merge(&mut all, step));
    all
}

/// Fails unless every secret of the tenant is used where it was given for.
fn assert_bound(tenant: &Tenant) {
    let mut sent: Vec<(String, String)> = Vec::new();
    for system in &tenant.systems {
        let settings = &system.settings;
        let host = match system.kind.as_str() {
            "zendesk" => settings
                .text("base_url")
                .unwrap()
                .to_lowercase()
                .trim_end_matches('/')
                .to_owned(),
            _ => settings.text("base_url").unwrap_or("https://slack.com/api/").to_owned(),
        };
        for member in ["token", "oauth_token", "bot_token"] {
            let secret = settings.text(member);
            sent.extend(secret.map(|secret| (secret.to_owned(), format!("{host} {member}"))));
        }
    }
    for keys in &tenant.provider_keys {
        sent.extend(
            keys.keys()
                .map(|key| (key.expose_secret().to_owned(), keys.provider.clone())),
        );
    }
    for (secret, place) in sent {
        let right = match secret.as_str() {
            OF_FILE => tenant.id.as_str() == "acme" && place == format!("{ACME_HOST} token"),
            GIVEN => tenant.id.as_str() == "initech" && place == format!("{STORED_HOST} oauth_token"),
            GIVEN_KEY => tenant.id.as_str() == "initech" && place == "main",
            CANARY => tenant.id.as_str() == "ops",
            secret => secret == "fresh",
        };
        assert!(right, "{secret} of {} goes to {place}", tenant.id);
        assert!(!secret.contains(CANARY_TEXT));
    }
    assert!(!tenant.operator || tenant.id.as_str() == "ops");
}

async fn run(acts: Vec<(bool, Act)>) -> usize {
    let store = Arc::default();
    let mut registry: Arc<TenantRegistry> = open_source(source(), &store, 1).await;
    let settings = json!({
        "zendesk": { "base_url": STORED_HOST, "oauth_token": { "value": GIVEN } },
        "provider_keys": [{ "provider": "main", "api_key": { "value": GIVEN_KEY } }],
    });
    registry
        .put("initech".parse().unwrap(), settings, None, false, &root())
        .await
        .unwrap();
    let mut accepted = 0;
    for (of_file, act) in acts {
        let id = if of_file { "acme" } else { "initech" }.parse().unwrap();
        let mut shown = Vec::new();
        for tenant in registry.tenants() {
            let text = serde_json::to_string(&tenant).unwrap();
            for secret in [OF_FILE, GIVEN, CANARY, CANARY_TEXT] {
                assert!(!text.contains(secret), "{text}");
            }
            fingerprints(&tenant.settings, &mut shown);
        }
        let body = |steps: &[Value]| {
            let mut body = merged(steps);
            filled(&mut body, &shown);
            body
        };
        let change = |settings| Change {
            settings: Some(settings),
            status: None,
        };
        let done = match &act {
            Act::Patch(steps) => registry
                .change(&id, change(SettingsChange::Patch(body(steps))), &root())
                .await
                .map(|_| ()),
            Act::Put(steps) => registry.put(id, body(steps), None, false, &root()).await.map(|_| ()),
            Act::Reset => registry
                .change(&id, change(SettingsChange::Reset), &root())
                .await
                .map(|_| ()),
            Act::Restart => {
                registry = open_source(source(), &store, 1).await;
                Ok(())
            }
        };
        accepted += usize::from(done.is_ok());
        if let Err(error) = done {
            let text = format!("{error:?}");
            assert!(
                !text.contains(CANARY) && !text.contains(CANARY_TEXT) && !text.contains("os error"),
                "{text}"
            );
        }
        let config: Arc<Config> = registry.config();
        config.tenants.iter().for_each(assert_bound);
        assert!(registry.left_out().is_empty(), "what was accepted is fit");
    }
    accepted
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn no_secret_leaves_its_place(acts in prop::collection::vec(act(), 1..12)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(run(acts));
    }
}

#[tokio::test]
async fn changes_of_the_kind_that_is_tried_at_random_are_accepted_too() {
    let act = |steps| (false, Act::Patch(steps));
    let accepted = run(vec![
        act(vec![json!({ "knowledge_version": "2" })]),
        act(vec![
            json!({ "zendesk": { "base_url": "https://evil.example", "oauth_token": { "value": "fresh" } } }),
        ]),
        act(vec![json!({ "zendesk": { "base_url": STORED_HOST } })]),
        (
            true,
            Act::Patch(vec![
                json!({ "zendesk": { "base_url": "https://ACME.zendesk.example/" } }),
            ]),
        ),
        (true, Act::Restart),
        (
            true,
            Act::Patch(vec![json!({ "zendesk": { "base_url": "https://evil.example" } })]),
        ),
        (true, Act::Reset),
    ]);
    assert_eq!(accepted.await, 5);
}
