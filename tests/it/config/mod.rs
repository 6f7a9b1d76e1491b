//! The configuration: valid files are read correctly, and all faults of invalid ones are reported at once.

#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests: what cannot be set up fails the test"
)]

mod faults;
mod report;
mod systems;

use std::sync::Arc;
use std::time::Duration;

use copilotd::config::{
    CacheAudience, CacheMode, Config, DocumentEmbeddings, Env, Faults, IndexStore, Mode, ProviderAuth, ProviderKind,
    RouteCache, Store,
};
use copilotd_actors::domain::file::{FileKind, FilePolicy, FileQuota, MediaType};
use copilotd_actors::domain::guardrail::OnMatch;
use copilotd_actors::domain::ids::TenantId;
use copilotd_actors::domain::policy::CitationPolicy;
use copilotd_actors::ports::{Policies, ToolDefinitions};
use copilotd_actors::tenancy::TenantScope;
use secrecy::ExposeSecret;
use serde_json::Value;

use crate::tools::{definitions, kinds};

pub const FULL: &str = include_str!("full.toml");

pub fn env() -> Env {
    Env::from_iter([
        ("MONGODB_URI", "mongodb://root:hunter2@db"),
        ("OPENAI_API_KEY", "sk-hunter2"),
        ("REDIS_URL", "rediss://:hunter2@limits"),
        ("KNOWLEDGE_URL", "postgres://app:hunter2@db/knowledge"),
        ("ACME_JWT_SECRET", "hunter2-hunter2-hunter2-hunter2-hunter2"),
        ("ACME_ZENDESK_TOKEN", "zendesk-hunter2"),
        ("ACME_SLACK_TOKEN", "xoxb-hunter2"),
        ("ACME_SLACK_SIGNING_SECRET", "signing-hunter2"),
    ])
}

pub fn parse(text: &str) -> Result<Config, Faults> {
    Config::parse(text, &env(), &kinds())
}

fn day(text: &str) -> jiff::Timestamp {
    format!("{text}T00:00:00Z").parse().unwrap()
}

/// The tools of every tenant.
fn tools(_tenant: &TenantId) -> ToolDefinitions {
    ["zendesk_search_tickets", "zendesk_create_ticket", "slack_post_message"]
        .map(|name| (name.to_owned(), Arc::clone(&definitions()[name])))
        .into()
}

#[test]
fn every_key_is_read() {
    let config = parse(FULL).unwrap_or_else(|faults| panic!("{faults}"));
    assert_eq!(config.server.listen.port(), 9000);
    assert_eq!(config.server.drain, Duration::from_secs(7));
    assert_eq!(config.server.trusted_proxies.len(), 2);
    let Store::Mongodb { url, database, .. } = &config.store else {
        panic!("{:?}", config.store)
    };
    assert_eq!(
        (url.expose_secret(), database.as_str()),
        ("mongodb://root:hunter2@db", "copilots")
    );
    let knowledge = &config.knowledge;
    assert_eq!(
        (knowledge.index, knowledge.schema.as_str(), knowledge.connections),
        (IndexStore::Postgres, "pilots", 4)
    );
    let url = knowledge.url.as_ref().unwrap().expose_secret();
    assert_eq!(url, "postgres://app:hunter2@db/knowledge");
    let second = config.provider("second").unwrap();
    assert_eq!((second.kind, second.max_tokens), (ProviderKind::Anthropic, Some(8192)));
    assert!(second.stream_options && second.user);
    let DocumentEmbeddings::Route(embeddings) = &config.knowledge.embeddings else {
        panic!("{:?}", config.knowledge.embeddings)
    };
    assert_eq!(
        (embeddings.dimensions, embeddings.batch, embeddings.shorten),
        (512, 8, true)
    );
    assert_eq!(embeddings.passage_input_type.as_deref(), Some("document"));
    let previous = config.knowledge.previous_embeddings.as_ref().unwrap();
    assert_eq!(
        (previous.route.as_str(), previous.batch, previous.shorten),
        ("small", 16, false)
    );
    let main = config.provider("main").unwrap();
    assert!(!main.stream_options && !main.user);
    let keys: Vec<_> = second.keys().map(ExposeSecret::expose_secret).collect();
    assert_eq!(
        keys,
        ["first-key", "second-secret"],
        "the line break at the end of a file is removed"
    );
    let route = config.route("default").unwrap();
    assert_eq!(
        (route.model(), route.context_tokens(), route.mode),
        ("gpt-4o", 100_000, Mode::Buffered)
    );
    assert_eq!(route.timeouts.total, Duration::from_millis(4));
    assert!(route.hedge && !route.targets[0].tools && !route.targets[0].schema && route.targets[1].tools);
    assert!(route.targets[0].prefill && !route.targets[1].prefill);
    assert_eq!(route.targets[0].reads, [FileKind::Image, FileKind::Pdf]);
    assert_eq!(route.reads(), [FileKind::Image, FileKind::Pdf]);
    assert!(route.targets[1].reads.is_empty());
    assert!(route.targets[0].reasoning && !route.targets[1].reasoning);
    let millis = Duration::from_millis;
    assert_eq!(
        (route.timeouts.first_token_reasoning, route.patience),
        (millis(5), millis(6))
    );
    let usual = config.route("small").unwrap();
    assert_eq!(
        (
            usual.timeouts.first_token,
            usual.timeouts.first_token_reasoning,
            usual.patience
        ),
        (millis(10_000), millis(60_000), Duration::ZERO)
    );
    let cache = &route.cache;
    assert_eq!(
        (cache.mode, cache.audience),
        (CacheMode::Semantic, CacheAudience::Tenant)
    );
    assert_eq!(
        (cache.ttl, cache.max_entries, cache.embedding_route.as_deref()),
        (Duration::from_secs(60), 5, Some("small"))
    );
    assert_eq!(cache.threshold, Some(0.9));
    assert_eq!(
        config.route("small").unwrap().cache,
        RouteCache::default(),
        "off unless asked for"
    );
    assert_eq!(config.embeddings.as_ref().unwrap().model, "bge-small-en-v1.5");
    let main = config.provider("main").unwrap();
    assert_eq!((main.auth, main.http2), (Some(ProviderAuth::ApiKey), true));
    assert_eq!(main.region.as_deref(), Some("eu"));
    assert_eq!(main.headers["x-team"].expose_secret(), "support");
    assert_eq!(
        config
            .price_list()
            .at("gpt-4o", day("2026-06-30"))
            .unwrap()
            .cached_input,
        1_250_000_000
    );
    let price = config.price_list().at("gpt-4o", day("2026-07-01")).unwrap();
    assert_eq!(
        (price.input, price.cached_input, price.cache_write),
        (2_000_000_000, 500_000_000, 2_500_000_000)
    );
    assert_eq!((price.output, price.reasoning), (8_000_000_000, 6_000_000_000));
    assert_eq!(config.tenant("acme").unwrap().knowledge_version, "2026-11");
    let files = config.tenant("acme").unwrap().files.policy();
    assert_eq!(files.types, [MediaType::Png, MediaType::Text]);
    assert_eq!(
        (files.max_bytes, files.quota.tenant, files.quota.user),
        (1_000, 2_000, 1_500)
    );
    assert_eq!(
        config.tenant("acme").unwrap().limits.limits().tenant.usd_per_month,
        Some(500_000_000_000)
    );
    let systems = |tenant: &str| -> Vec<String> {
        let systems = config.tenant(tenant).unwrap().systems.iter();
        systems
            .map(|system| format!("{} {}", system.kind, system.name))
            .collect()
    };
    assert_eq!(systems("acme"), ["zendesk zendesk", "slack slack"]);
    assert_eq!(systems("globex"), ["zendesk zendesk", "zendesk sales"]);
    assert_eq!(config.tenant("globex").unwrap().systems[0].settings.text("email"), None);
}

#[test]
fn what_is_left_out_has_a_default() {
    let config = parse("[[tenants]]\nid = \"a\"").unwrap_or_else(|faults| panic!("{faults}"));
    assert!(matches!(config.store, Store::Sqlite));
    assert_eq!(config.server.listen.to_string(), "127.0.0.1:8080");
    assert_eq!(config.server.max_body_bytes, 1024 * 1024);
    assert!(config.policies(|_| ToolDefinitions::new()).unwrap().is_empty());
    let files = config.tenants[0].files.policy();
    let expected = FilePolicy {
        types: MediaType::ALL.to_vec(),
        max_bytes: 20 << 20,
        quota: FileQuota {
            tenant: 10 << 30,
            user: 1 << 30,
        },
    };
    assert_eq!(files, expected);
}

#[test]
fn no_secret_is_shown() {
    let config = parse(FULL).unwrap();
    let shown = format!("{config:?} {:?}", env());
    assert!(!shown.contains("hunter2") && !shown.contains("second-secret") && shown.contains("ACME_JWT_SECRET"));
}

#[test]
fn a_policy_is_what_the_copilot_says() {
    let config = parse(FULL).unwrap();
    let policies = config.policies(tools).unwrap();
    let scope = |tenant: &str| TenantScope::from_verified(tenant.parse().unwrap());
    let policy = policies.policy(&scope("acme"), None).unwrap();
    assert_eq!(policy.copilot.as_str(), "support");
    assert_eq!(
        (
            policy.route.as_str(),
            policy.model.as_str(),
            policy.small_route.as_str()
        ),
        ("default", "gpt-4o", "small")
    );
    // By default, a small model writes titles, and a large one does not.
    assert!(policy.titles && policy.client_tools);
    let unset = FULL.replacen("  titles = true\n", "", 1);
    for (before, after, expected) in [
        ("", "", true),
        ("small_route = \"small\"\n", "", false),
        ("small_route = \"small\"\n", "titles = true\n", true),
        (
            "small_route = \"small\"\n",
            "small_route = \"small\"\n  titles = false\n",
            false,
        ),
    ] {
        let changed = parse(&unset.replacen(before, after, 1))
            .unwrap()
            .policies(tools)
            .unwrap();
        assert_eq!(
            changed.policy(&scope("acme"), None).unwrap().titles,
            expected,
            "{after}"
        );
    }
    let create = &policy.tools["zendesk_create_ticket"];
    assert_eq!((create.approval, create.timeout), (true, Duration::from_secs(45)));
    let search = &policy.tools["zendesk_search_tickets"];
    assert_eq!((search.approval, search.timeout), (false, Duration::from_secs(30)));
    assert_eq!((policy.limits.queue, policy.limits.cost), (1, 500_000_000));
    assert_eq!(
        (policy.limits.wait, policy.limits.attempts),
        (Duration::from_secs(13), 10)
    );
    assert_eq!(
        (policy.memory.context_tokens, policy.memory.trigger_tokens),
        (100_000, 4_000)
    );
    assert_eq!(
        (policy.memory.pass_tokens, policy.memory.timeout),
        (3_000, Duration::from_secs(14))
    );
    assert_eq!(
        (policy.memory.conversation_tokens, policy.memory.retrieved_tokens),
        (Some(5_880), 4_096),
        "the budget of 6,000 less its margin of 2 %; documents have a bound of their own"
    );
    let collections: Vec<&str> = policy.knowledge.collections.iter().map(|name| name.as_str()).collect();
    assert_eq!(
        (collections, policy.knowledge.citations),
        (vec!["handbook"], CitationPolicy::Required)
    );
    let actions: Vec<_> = policy.rules.output.iter().map(|rule| rule.action).collect();
    assert_eq!(
        actions,
        [OnMatch::Redact, OnMatch::Redact, OnMatch::Block],
        "the tenant's and its own"
    );
    assert_eq!(policy.rules.input.iter().count(), 2);
    let confusables: Vec<bool> = policy.rules.output.iter().map(|rule| rule.confusables).collect();
    assert_eq!(confusables, [false, true, false]);

    let named = policies.policy(&scope("acme"), Some(&"support".parse().unwrap()));
    assert!(Arc::ptr_eq(&policy, &named.unwrap()));
    assert!(
        policies
            .policy(&scope("acme"), Some(&"other".parse().unwrap()))
            .is_none()
    );
    for tenant in ["globex", "nobody"] {
        assert!(
            policies.policy(&scope(tenant), None).is_none(),
            "{tenant} has no copilot"
        );
        assert!(
            policies
                .policy(&scope(tenant), Some(&"support".parse().unwrap()))
                .is_none()
        );
    }
}

#[test]
fn the_filter_of_logs_can_be_given_by_the_environment_and_has_to_be_one() {
    let parse = |text: &str, filter: Option<&str>| {
        let env: Env = filter.map(|filter| ("RUST_LOG", filter)).into_iter().collect();
        Config::parse(text, &env, &kinds())
    };
    let one = "[[tenants]]\nid = \"acme\"\n";
    let minimal = format!("{one}[telemetry]\nlog_level = \"warn\"");
    let level = |filter| parse(&minimal, filter).unwrap().telemetry.log_level;
    assert_eq!(
        (level(None), level(Some("info,copilotd=debug"))),
        ("warn".to_owned(), "info,copilotd=debug".to_owned())
    );
    assert_eq!(parse(one, Some("error")).unwrap().telemetry.log_level, "error");
    let faults = parse(one, Some("copilotd=loud")).unwrap_err().to_string();
    assert!(
        faults.contains("telemetry.log_level: not a valid log filter"),
        "{faults}"
    );
}

/// The schema, the structs and `full.toml` have the same keys: every key of the schema is in the file, and the structs,
/// which accept no other keys, have read the file.
#[test]
fn the_full_example_names_every_key_of_the_schema() {
    let schema: Value = serde_json::from_str(include_str!("../../../schemas/config/copilotd.schema.json")).unwrap();
    let mut missing = Vec::new();
    let mut undescribed = Vec::new();
    each_property(&schema, &mut |name, property| {
        if !FULL.contains(&format!("{name} = ")) && !FULL.contains(&format!("{name}]")) {
            missing.push(name.to_owned());
        }
        if property["description"].as_str().unwrap_or_default().is_empty() {
            undescribed.push(name.to_owned());
        }
    });
    assert_eq!((missing, undescribed), (Vec::<String>::new(), Vec::new()));
}

fn each_property(schema: &Value, visit: &mut impl FnMut(&str, &Value)) {
    match schema {
        Value::Object(members) => {
            if let Some(Value::Object(properties)) = members.get("properties") {
                // A system also has the settings of its kind, which has a schema of its own.
                let is_system =
                    properties.contains_key("kind") && properties.contains_key("name") && properties.len() == 2;
                let others = members.get("additionalProperties");
                assert!(is_system || others == Some(&Value::Bool(false)), "{properties:?}");
                properties.iter().for_each(|(name, property)| visit(name, property));
            }
            members.values().for_each(|member| each_property(member, visit));
        }
        Value::Array(items) => items.iter().for_each(|item| each_property(item, visit)),
        _ => {}
    }
}

#[test]
fn a_date_may_stand_in_quotes_or_not() {
    let bare =
        parse(&FULL.replace("from = \"2026-07-01\"", "from = 2026-07-01")).unwrap_or_else(|faults| panic!("{faults}"));
    assert_eq!(bare.price_list(), parse(FULL).unwrap().price_list());
}

#[test]
fn the_admin_port_is_another_address() {
    let faults = |server: &str| {
        let text = format!("[server]\n{server}\n[[tenants]]\nid = \"acme\"\n");
        parse(&text).err().map(|faults| faults.to_string()).unwrap_or_default()
    };
    let listen = "listen = \"127.0.0.1:8080\"\n";
    for (admin, expected) in [
        ("127.0.0.1:9090", ""),
        ("[::1]:9090", ""),
        ("127.0.0.1:8080", "server.admin_listen: is the same as server.listen"),
        (
            "localhost:9090",
            "server.admin_listen: expected an IP address and a port",
        ),
        ("9090", "server.admin_listen: expected an IP address and a port"),
    ] {
        let found = faults(&format!("{listen}admin_listen = \"{admin}\""));
        assert!(
            found.contains(expected) && found.is_empty() == expected.is_empty(),
            "{admin}: {found}"
        );
    }
}

#[test]
fn role_claims_are_names_paths_and_pointers() {
    let faults = |names: &str| {
        let issuer = format!("iss = \"https://acme.example\"\nalg = \"HS256\"\nrole_claims = {names}\n");
        let secret = "secret = { value = \"a secret of acme, at least 32 bytes long\" }\n";
        let text = format!("[[tenants]]\nid = \"acme\"\n[[tenants.issuers]]\n{issuer}{secret}");
        parse(&text).err().map(|faults| faults.to_string()).unwrap_or_default()
    };
    for good in [
        r#"["roles"]"#,
        r#"["realm_access.roles", "/a~1b/c~0d", "https://acme.example/roles"]"#,
    ] {
        assert_eq!(faults(good), "", "{good}");
    }
    for bad in [
        "[]",
        r#"[""]"#,
        r#"["roles", "roles"]"#,
        r#"["/a~b"]"#,
        r#"["/a~"]"#,
        "\"roles\"",
        "[1]",
    ] {
        assert!(
            faults(bad).contains("tenants[0].issuers[0].role_claims"),
            "{bad}: {}",
            faults(bad)
        );
    }
}
