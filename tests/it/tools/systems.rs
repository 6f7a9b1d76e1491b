use std::sync::Arc;

use copilotd::adapters::systems::TenantSystems;
use copilotd::adapters::systems::slack::SlackConfig;
use copilotd::adapters::systems::zendesk::{ZendeskAuth, ZendeskConfig};
use copilotd_actors::ports::Systems;
use copilotd_actors::tenancy::TenantScope;
use secrecy::SecretString;

use super::{FixedClock, SLACK, ZENDESK, zendesk_at};

#[test]
fn a_tenant_finds_its_own_systems_only() {
    let mut systems = TenantSystems::default();
    systems.insert(
        "acme".parse().unwrap(),
        "zendesk",
        Arc::new(zendesk_at("https://acme.zendesk.com")),
    );
    let scope = |tenant: &str| TenantScope::from_verified(tenant.parse().unwrap());
    assert!(systems.system(&scope("acme"), "zendesk").is_some());
    assert!(systems.system(&scope("acme"), "slack").is_none());
    assert!(systems.system(&scope("globex"), "zendesk").is_none());
}

#[test]
fn a_bad_configuration_is_refused_and_secrets_are_never_shown() {
    let secret = || SecretString::from("top\nsecret");
    for base_url in [
        "acme.zendesk.com",
        "ftp://acme.test",
        "https://user:pw@acme.test",
        "https://acme.test/?a=1",
    ] {
        let config = ZendeskConfig {
            base_url: base_url.into(),
            auth: ZendeskAuth::OAuth(SecretString::from("x")),
        };
        let error = ZENDESK.account("zendesk", &config, super::client()).unwrap_err();
        assert!(error.to_string().starts_with("zendesk: base_url"), "{error}");
    }
    let config = ZendeskConfig {
        base_url: "https://acme.zendesk.com".into(),
        auth: ZendeskAuth::OAuth(secret()),
    };
    let error = ZENDESK.account("zendesk", &config, super::client()).unwrap_err();
    assert!(
        !format!("{error} {error:?} {config:?}").contains("secret\""),
        "{config:?}"
    );
    assert!(!format!("{error} {error:?} {config:?}").contains("top"), "{config:?}");
    let config = SlackConfig {
        base_url: "https://slack.com/api/".into(),
        token: secret(),
    };
    let error = SLACK
        .workspace("slack", &config, super::client(), Arc::new(FixedClock))
        .unwrap_err();
    assert!(!format!("{error} {error:?} {config:?}").contains("top"), "{config:?}");
}
