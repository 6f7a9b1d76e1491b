//! Two systems of one kind in one tenant: each has its own name, credentials and tools.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use copilotd::adapters::systems::kinds::Kinds;
use copilotd::adapters::systems::{Shared, TenantSystems};
use copilotd::config::{Config, Env};
use copilotd_actors::ports::{Systems as _, ToolCatalog as _, ToolErrorKind, ToolRequest};
use copilotd_actors::tenancy::TenantScope;
use copilotd_sim::Account;
use serde_json::{Value, json};

use super::{FixedClock, call_id, client, definitions, kinds};

fn scope(tenant: &str) -> TenantScope {
    TenantScope::from_verified(tenant.parse().unwrap())
}

fn systems(text: &str) -> TenantSystems {
    let config = Config::parse(text, &Env::default(), &kinds()).unwrap_or_else(|faults| panic!("{faults}"));
    let shared = Shared {
        client: client(),
        clock: Arc::new(FixedClock),
    };
    let (known, mut systems) = (Kinds::built_in(), TenantSystems::default());
    for tenant in config.tenants {
        for system in &tenant.systems {
            let kind = known.find(&system.kind).unwrap();
            let built = kind.build(&system.name, &system.settings, &shared).unwrap();
            systems.insert(tenant.id.clone(), &system.name, built);
        }
    }
    systems
}

fn request(tool: &str, arguments: Value) -> ToolRequest {
    ToolRequest {
        scope: scope("acme"),
        tool: tool.to_owned(),
        call: call_id(7),
        arguments,
        timeout: Duration::from_secs(20),
    }
}

#[tokio::test]
async fn each_call_goes_to_its_own_account_with_its_own_credentials() {
    let directory = tempfile::tempdir().unwrap();
    let accounts = ["support", "sales"].map(|name| Account {
        name: name.to_owned(),
        token: format!("{name}-token"),
    });
    let simulated = copilotd_sim::zendesk::start_accounts(
        (Ipv4Addr::LOCALHOST, 0).into(),
        directory.path().join("zendesk.json"),
        accounts.into(),
    )
    .await
    .unwrap();
    let system = |name: &str, token: &str| {
        format!(
            "[[tenants.systems]]\nkind = \"zendesk\"\nname = \"{name}\"\nbase_url = \"{}\"\n\
             oauth_token = {{ value = \"{token}\" }}\n",
            simulated.base_url()
        )
    };
    let text = ["support", "sales"].map(|name| system(name, &format!("{name}-token")));
    let wrong = system("wrong", "no-token");
    let systems = systems(&format!("[[tenants]]\nid = \"acme\"\n{}{wrong}", text.concat()));
    let tool_box = |name: &str| systems.system(&scope("acme"), name).unwrap();

    let ticket = json!({ "subject": "Only for sales", "body": "A quote, please." });
    let created = tool_box("sales")
        .call(&request("sales_create_ticket", ticket))
        .await
        .unwrap();
    assert!(
        created.result.to_string().contains("Only for sales"),
        "{}",
        created.result
    );
    let search = json!({ "query": "quote" });
    for (name, found) in [("sales", true), ("support", false)] {
        let tool = format!("{name}_search_tickets");
        let reply = tool_box(name).call(&request(&tool, search.clone())).await.unwrap();
        assert_eq!(reply.result.to_string().contains("Only for sales"), found, "{name}");
    }
    let error = tool_box("wrong")
        .call(&request("wrong_get_user", json!({ "user_id": 1 })))
        .await;
    assert_eq!(error.unwrap_err().kind, ToolErrorKind::Refused);
    // A tool of another system is not found here, even though this account has one like it.
    for tool in [
        "support_search_tickets",
        "zendesk_search_tickets",
        "search_tickets",
        "sales_",
    ] {
        let error = tool_box("sales")
            .call(&request(tool, search.clone()))
            .await
            .unwrap_err();
        assert_eq!(error.message, format!("there is no tool {tool:?}"));
    }
    assert!(systems.system(&scope("acme"), "zendesk").is_none());
    assert!(systems.system(&scope("globex"), "sales").is_none());
}

#[test]
fn the_catalog_has_every_system_of_the_tenant_under_its_name() {
    let zendesk = "base_url = \"http://127.0.0.1:1\"\noauth_token = { value = \"x\" }\n";
    let systems = systems(&format!(
        "[[tenants]]\nid = \"acme\"\n[tenants.zendesk]\n{zendesk}\
         [[tenants.systems]]\nkind = \"zendesk\"\nname = \"my_zendesk\"\n{zendesk}\
         [[tenants.systems]]\nkind = \"slack\"\nname = \"chat\"\nbot_token = {{ value = \"x\" }}\n\
         [[tenants]]\nid = \"globex\"\n"
    ));
    let catalog = systems.catalog(&scope("acme"));
    let usual = definitions();
    for (name, tool) in usual {
        let (kind, rest) = name.split_once('_').unwrap();
        for system in match kind {
            "zendesk" => vec!["zendesk", "my_zendesk"],
            _ => vec!["chat"],
        } {
            let own = &catalog[&format!("{system}_{rest}")];
            assert_eq!(own.name, format!("{system}_{rest}"));
            assert_eq!(
                (own.system.as_str(), own.repeat, own.timeout),
                (system, tool.repeat, tool.timeout)
            );
            let rename = |text: &str| match system == kind {
                true => text.to_owned(),
                false => text.replace(&format!("{kind}_"), &format!("{system}_")),
            };
            assert_eq!(own.description, rename(&tool.description));
            assert_eq!(
                own.parameters.source().to_string(),
                rename(&tool.parameters.source().to_string()),
                "{system} {rest}"
            );
        }
    }
    let zendesk = usual.keys().filter(|name| name.starts_with("zendesk_")).count();
    assert_eq!(catalog.len(), usual.len() + zendesk);
    assert!(systems.catalog(&scope("globex")).is_empty());
}
