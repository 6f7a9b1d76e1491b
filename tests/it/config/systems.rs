//! External systems: the table of a kind, the list `[[tenants.systems]]`, and both at once.

use copilotd::config::{Config, Env, Source};
use serde_json::{Value, json};

use crate::tools::kinds;

const TABLE: &str = "[tenants.zendesk]\nbase_url = \"https://a.example\"\noauth_token = { value = \"hush\" }\n";

fn listed(kind: &str, name: &str) -> String {
    let name = match name {
        "" => String::new(),
        name => format!("name = \"{name}\"\n"),
    };
    let settings = match kind {
        "slack" => "bot_token = { value = \"hush\" }\n",
        _ => "base_url = \"https://b.example\"\noauth_token = { value = \"hush\" }\n",
    };
    format!("[[tenants.systems]]\nkind = \"{kind}\"\n{name}{settings}")
}

/// A tenant whose copilot has these tools, and these systems.
fn text(tools: &[&str], systems: &[&str]) -> String {
    format!(
        "[[providers]]\nname = \"main\"\nkind = \"openai\"\nbase_url = \"http://127.0.0.1:1/v1\"\n\
         [[routes]]\nname = \"default\"\ntargets = [{{ provider = \"main\", model = \"m\", context_tokens = 8000 }}]\n\
         [[tenants]]\nid = \"acme\"\n[[tenants.copilots]]\nname = \"support\"\nroute = \"default\"\ntools = {tools:?}\n{}",
        systems.concat()
    )
}

fn parse(text: &str) -> Result<Config, Vec<String>> {
    let config = Config::parse(text, &Env::default(), &kinds());
    config.map_err(|faults| faults.into_iter().map(|fault| fault.to_string()).collect())
}

#[test]
fn every_form_gives_the_same_systems() {
    let [zendesk, slack, support, sales] = [
        ("zendesk", ""),
        ("slack", ""),
        ("zendesk", "support"),
        ("zendesk", "sales"),
    ]
    .map(|(kind, name)| listed(kind, name));
    for (systems, tools, expected) in [
        (vec![], vec![], vec![]),
        (vec![TABLE], vec!["zendesk_get_user"], vec!["zendesk zendesk"]),
        (vec![&*zendesk], vec!["zendesk_get_user"], vec!["zendesk zendesk"]),
        (vec![&*slack], vec!["slack_find_user"], vec!["slack slack"]),
        (
            vec![TABLE, &*support, &*slack],
            vec!["zendesk_get_user", "support_get_user", "slack_find_user"],
            vec!["zendesk zendesk", "zendesk support", "slack slack"],
        ),
        (
            vec![&*support, &*sales],
            vec!["support_get_user", "sales_get_user"],
            vec!["zendesk support", "zendesk sales"],
        ),
    ] {
        let config = parse(&text(&tools, &systems)).unwrap_or_else(|faults| panic!("{systems:?}: {faults:#?}"));
        let found = config.tenants[0].systems.iter();
        let found: Vec<String> = found.map(|system| format!("{} {}", system.kind, system.name)).collect();
        assert_eq!(found, expected, "{systems:?}");
        assert!(!format!("{config:?}").contains("hush"), "{config:?}");
    }
}

#[test]
fn faults_say_where_and_what_to_do() {
    let list = |kind: &str, name: &str| listed(kind, name);
    for (systems, tools, expected) in [
        (
            vec![TABLE.to_owned(), list("zendesk", "")],
            vec![],
            "tenants[0].systems[0]: give it a `name` of its own: it has the same name as tenants[0].zendesk",
        ),
        (
            vec![TABLE.to_owned(), list("slack", "zendesk")],
            vec![],
            "tenants[0].systems[0].name: give it a `name` of its own: it has the same name as tenants[0].zendesk",
        ),
        (
            vec![list("zendesk", "a"), list("slack", ""), list("zendesk", "a")],
            vec![],
            "tenants[0].systems[2].name: give it a `name` of its own: it has the same name as tenants[0].systems[0].name",
        ),
        (
            vec![list("zendesk", "help"), list("zendesk", "help_eu")],
            vec![],
            "tenants[0].systems[1].name: choose another name: tools that begin with \"help_\" would also belong to \
             tenants[0].systems[0].name",
        ),
        (
            vec![list("zendesk", "help_eu"), list("slack", "help")],
            vec![],
            "tenants[0].systems[1].name: choose another name: tools that begin with \"help_\" would also belong to \
             tenants[0].systems[0].name",
        ),
        (
            vec![TABLE.to_owned(), list("slack", "zendesk_chat")],
            vec![],
            "tenants[0].systems[0].name: choose another name: tools that begin with \"zendesk_\" would also belong to \
             tenants[0].zendesk",
        ),
        (
            vec![list("zendesk", "Support")],
            vec![],
            "tenants[0].systems[0].name: value does not match \"^[a-z][a-z0-9_]*$\"",
        ),
        (
            vec![list("zendesk", "1st")],
            vec![],
            "tenants[0].systems[0].name: value does not match \"^[a-z][a-z0-9_]*$\"",
        ),
        (
            vec![list("zendesk", &"a".repeat(33))],
            vec![],
            "tenants[0].systems[0].name: value is longer than 32 characters",
        ),
        (
            vec![list("jira", "")],
            vec![],
            "tenants[0].systems[0].kind: expected one of \"zendesk\",\"slack\"",
        ),
        (
            vec![list("zendesk", "").replace("kind = \"zendesk\"\n", "")],
            vec![],
            "tenants[0].systems[0].kind: is required",
        ),
        (
            vec![list("zendesk", "").replace("base_url", "base_uri")],
            vec![],
            "tenants[0].systems[0].base_uri: unknown field; did you mean \"base_url\"?",
        ),
        (
            vec![list("slack", "chat").replace("bot_token", "email = \"x\"\nbot_token")],
            vec![],
            "tenants[0].systems[0].email: unknown field",
        ),
        (
            vec![list("slack", "chat").replace("{ value = \"hush\" }", "\"hush\"")],
            vec![],
            "tenants[0].systems[0].bot_token: do not write a secret as plain text",
        ),
        (
            vec![list("zendesk", "desk").replace("oauth_token = { value = \"hush\" }\n", "email = \"x\"\n")],
            vec![],
            "tenants[0].systems[0].token: is required with email",
        ),
        (
            vec![list("zendesk", "desk").replace("oauth_token = { value = \"hush\" }\n", "")],
            vec![],
            "tenants[0].systems[0]: give oauth_token, or email and token",
        ),
        (
            vec![list("zendesk", "").replace("https://b", "ftp://b")],
            vec![],
            "tenants[0].systems[0].base_url: expected a URL that begins with http:// or https://",
        ),
        (
            vec![list("zendesk", "").replace("hush", "hu\\nsh")],
            vec![],
            "tenants[0].systems[0].oauth_token: contains characters that are not allowed in an HTTP header",
        ),
        (
            vec![list("zendesk", "support")],
            vec!["support_get_usr"],
            "tenants[0].copilots[0].tools[0]: there is no tool \"support_get_usr\"; did you mean \"support_get_user\"?",
        ),
        (
            vec![list("zendesk", "support")],
            vec!["support_post_message"],
            "tenants[0].copilots[0].tools[0]: there is no tool \"support_post_message\"",
        ),
        (
            vec![list("zendesk", "support")],
            vec!["zendesk_get_user"],
            "tenants[0].copilots[0].tools[0]: no system has the name \"zendesk\": the tools of tenants[0].systems[0] begin \
             with \"support_\", such as \"support_get_user\"",
        ),
        (
            vec![list("zendesk", "support")],
            vec!["slack_find_user"],
            "tenants[0].copilots[0].tools[0]: this tool needs the table tenants[0].slack",
        ),
        (
            vec![TABLE.to_owned()],
            vec!["sales_get_user"],
            "tenants[0].copilots[0].tools[0]: there is no tool \"sales_get_user\"",
        ),
    ] {
        let systems: Vec<&str> = systems.iter().map(String::as_str).collect();
        let found = parse(&text(&tools, &systems)).unwrap_err();
        assert!(found.len() < 3, "{expected}: {found:#?}");
        assert!(
            found.iter().any(|fault| fault.starts_with(expected)),
            "{expected}: {found:#?}"
        );
        assert!(!found.concat().contains("hush"), "{found:#?}");
    }
}

/// The schema of the table of a kind and the one of the same kind in the list are the same.
#[test]
fn tables_and_the_list_have_the_same_settings() {
    let read = |path: &str| -> Value {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
        serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
    };
    let schema = read("schemas/config/copilotd.schema.json");
    let tenant = &schema["properties"]["tenants"]["items"]["properties"];
    for kind in ["zendesk", "slack"] {
        let settings = read(&format!("src/adapters/systems/{kind}/settings.json"));
        assert_eq!(tenant[kind], settings, "{kind}");
    }
}

/// Secrets could be anywhere in settings that do not have the shape of their kind.
#[test]
fn only_systems_of_a_known_shape_are_shown() {
    let source = Source::parse("[[tenants]]\nid = \"acme\"", &Env::default(), &kinds()).unwrap();
    let tenant = |system: Value| json!({ "id": "acme", "systems": [system] });
    let secret = json!({ "value": "hush" });
    for (system, shown) in [
        (json!({ "kind": "slack", "bot_token": secret }), true),
        (json!({ "kind": "slack", "name": "chat", "bot_token": secret }), true),
        (json!({ "kind": "slack", "bot_token": "hush" }), false),
        (
            json!({ "kind": "slack", "bot_token": secret, "password": "hush" }),
            false,
        ),
        (json!({ "kind": "jira", "token": "hush" }), false),
        (json!({ "token": "hush" }), false),
        (json!("hush"), false),
    ] {
        assert_eq!(source.has_shape(&tenant(system.clone())), shown, "{system}");
    }
}

#[test]
fn sources_need_a_system_and_collections_of_their_own() {
    let source = |settings: &str| format!("[[tenants.sources]]\nkind = \"zendesk\"\n{settings}\n");
    let articles = "articles = { collection = \"help\" }";
    let config = parse(&text(&[], &[TABLE, &source(articles)])).unwrap();
    let read = &config.tenants[0].sources[0];
    assert_eq!(
        (read.name.as_str(), read.system.as_str(), read.interval().as_secs()),
        ("zendesk", "zendesk", 300)
    );
    let slack = listed("slack", "");
    for (systems, expected) in [
        (
            vec![source(articles)],
            "tenants[0].sources[0]: the tenant has no system with the name \"zendesk\"",
        ),
        (
            vec![slack, source(&format!("system = \"slack\"\n{articles}"))],
            "tenants[0].sources[0].system: the system \"slack\" is of the kind \"slack\"",
        ),
        (
            vec![TABLE.to_owned(), source("")],
            "tenants[0].sources[0]: give articles, tickets or both",
        ),
        (
            vec![
                TABLE.to_owned(),
                source(articles),
                source("name = \"two\"\ntickets = { collection = \"help\", allowed_roles = [\"agents\"] }"),
            ],
            "tenants[0].sources[1].tickets.collection: is the same as tenants[0].sources[0].articles.collection",
        ),
        (
            vec![
                TABLE.to_owned(),
                source(articles),
                source("articles = { collection = \"two\" }"),
            ],
            "tenants[0].sources[1].kind: is the same as tenants[0].sources[0].kind",
        ),
        (
            vec![
                TABLE.to_owned(),
                source(
                    "tickets = { collection = \"t\", allowed_roles = [\"a\"], changed_since = \"2026-99-01T00:00:00Z\" }",
                ),
            ],
            "tenants[0].sources[0].tickets.changed_since: expected a time such as 2026-01-01T00:00:00Z",
        ),
        (
            vec![TABLE.to_owned(), source("tickets = { collection = \"t\" }")],
            "allowed_roles",
        ),
    ] {
        let systems: Vec<&str> = systems.iter().map(String::as_str).collect();
        let faults = parse(&text(&[], &systems)).unwrap_err();
        assert_eq!(faults.len(), 1, "{faults:?}");
        assert!(faults[0].contains(expected), "{faults:?} instead of {expected}");
    }
}
