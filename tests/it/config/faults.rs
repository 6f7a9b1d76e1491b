//! Invalid configurations and the faults that have to be reported.

use std::path::Path;

use copilotd::config::Config;

use super::{FULL, env, parse};
use crate::tools::kinds;

/// Parses and returns the faults, sorted.
fn faults(text: &str) -> Vec<String> {
    let faults = parse(text)
        .err()
        .map(|faults| faults.iter().map(ToString::to_string).collect());
    let mut faults: Vec<String> = faults.unwrap_or_default();
    faults.sort();
    faults
}

#[test]
fn every_fault_of_a_thoroughly_wrong_file_is_named_at_once() {
    let text = r#"
        colour = "red"
        [server]
        listen = "localhost"
        drain_s = -1
        trusted_proxies = ["10.0.0.0/99"]
        [store]
        kind = "mongodb"
        [telemetry]
        log_format = "xml"
        otlp_endpoint = "collector:4317"
        [[providers]]
        name = "main"
        base_url = "ftp://example.com"
        api_key = { env = "NOT_SET" }
        [[providers]]
        name = "main"
        base_url = "https://user:hunter2@example.com"
        api_key = "sk-hunter2"
        [[routes]]
        name = "default"
        targets = [{ provider = "nobody", model = "m", context_tokens = 1000 }]
        timeouts = { first_token_ms = 500, total_ms = 100 }
        [[routes]]
        name = "empty"
        targets = []
        [[tenants]]
        id = "Acme"
        deny_input = [{ name = "u", literal = "u", action = "redact" }]
        deny_output = [{ name = "z", literal = "c" }, { name = "blank", literal = "\u200b " }]
        [[tenants.issuers]]
        iss = "https://acme.example"
        alg = "HS256"
        secret = { value = "hunter2" }
        [[tenants.issuers]]
        iss = "https://acme.example"
        alg = "none"
        [[tenants.issuers]]
        iss = "https://other.example"
        alg = "RS256"
        pem = { file = "no/such/file" }
        [[tenants.issuers]]
        iss = "https://third.example"
        alg = "HS256"
        jwks_url = "http://third.example/jwks"
        kid = "k"
        [[tenants.api_keys]]
        name = "k"
        hash = "md5:00"
        scopes = ["root"]
        [[tenants.copilots]]
        name = "a b"
        route = "nowhere"
        tools = ["zendesk_search_tickets", "launch_rocket"]
        approval = ["slack_post_message"]
        tool_timeouts = { launch = 5 }
        unsupported_text = "no"
        [[tenants.copilots]]
        name = "second"
        route = "default"
        small_route = "nowhere"
        memory = { trigger_tokens = 100, keep_tokens = 200, hard_tokens = 5000 }
        deny_input = [{ name = "x", literal = "", action = "redact" }]
        deny_output = [{ name = "y", literal = "a" }, { name = "y", literal = "b" }, { name = "z", literal = "c" }]
        [tenants.zendesk]
        base_url = "https://acme.zendesk.com"
        email = "bot@acme.example"
        [[tenants]]
        id = "globex"
        [[tenants.issuers]]
        iss = "https://acme.example"
        alg = "HS256"
    "#;
    let found = faults(text);
    let expected = [
        "colour: unknown field",
        "providers[0].api_key: the environment variable NOT_SET is not set or is empty",
        "providers[0].base_url: expected a URL that begins with http:// or https://",
        "providers[1].api_key: do not write a secret as plain text: use { env = \"NAME\" } and set NAME in the \
         environment, or { file = \"path\" }",
        "providers[1].base_url: must not contain a user name or password",
        "providers[1].name: is the same as providers[0].name",
        "routes[0].targets[0].provider: there is no provider \"nobody\"",
        "routes[0].timeouts: first_token_ms must not be longer than total_ms",
        "routes[1].targets: value has less than 1 item",
        "server.drain_s: value is less than the minimum of 0",
        "server.listen: expected an IP address and a port, such as 127.0.0.1:8080 or [::1]:8080",
        "server.trusted_proxies[0]: expected an IP address or a network such as 10.0.0.0/8",
        "store.url: is required for mongodb",
        "telemetry.log_format: expected one of \"json\",\"pretty\"",
        "telemetry.otlp_endpoint: expected a URL that begins with http:// or https://",
        "tenants[0].api_keys[0].hash: value does not match \"^sha256:[0-9a-f]{64}$\"",
        "tenants[0].api_keys[0].scopes[0]: expected one of \"chat\",\"gateway\",\"knowledge\",\"admin\",\"operator\"",
        "tenants[0].copilots[0].approval[0]: is not in the copilot's tools",
        "tenants[0].copilots[0].name: value does not match \"^[A-Za-z0-9_.-]+$\"",
        "tenants[0].copilots[0].route: there is no route \"nowhere\"",
        "tenants[0].copilots[0].tool_timeouts.launch: is not in the copilot's tools",
        "tenants[0].copilots[0].tools[1]: there is no tool \"launch_rocket\"",
        "tenants[0].copilots[0].unsupported_text: needs citations = \"required\": otherwise no sentence needs a source",
        "tenants[0].copilots[1].deny_input[0].action: prompts are stored unchanged, so they can only be blocked: use \"block\"",
        "tenants[0].copilots[1].deny_input[0].literal: value is shorter than 1 character",
        "tenants[0].copilots[1].deny_output[1].name: is the same as tenants[0].copilots[1].deny_output[0].name",
        "tenants[0].copilots[1].deny_output[2].name: a rule of the whole tenant already has this name",
        "tenants[0].copilots[1].memory: hard_tokens (5000) must be less than the context of the route (1000)",
        "tenants[0].copilots[1].memory: keep_tokens (200) must be less than trigger_tokens (100)",
        "tenants[0].copilots[1].small_route: there is no route \"nowhere\"",
        "tenants[0].deny_input[0].action: prompts are stored unchanged, so they can only be blocked: use \"block\"",
        "tenants[0].deny_output[1].literal: contains only characters that are ignored in comparisons",
        "tenants[0].id: value does not match \"^[a-z0-9_-]+$\"",
        "tenants[0].issuers[0].secret: a secret needs at least 32 bytes",
        "tenants[0].issuers[1].alg: expected one of \"EdDSA\",\"ES256\",\"RS256\",\"HS256\"",
        "tenants[0].issuers[1]: several keys of one issuer need different kid values",
        "tenants[0].issuers[2].pem: cannot read the file no/such/file: No such file or directory (os error 2)",
        "tenants[0].issuers[3].jwks_url: HS256 has no public key to fetch: give secret instead",
        "tenants[0].issuers[3].jwks_url: must begin with https://, unless the host is this machine",
        "tenants[0].issuers[3].kid: cannot be combined with jwks_url",
        "tenants[0].zendesk.token: is required with email",
        "tenants[1].issuers[0].iss: is the same as tenants[0].issuers[0].iss, which belongs to another tenant",
        "tenants[1].issuers[0].secret: is required for this algorithm",
    ];
    let mut expected: Vec<String> = expected.map(str::to_owned).into();
    expected.sort();
    assert_eq!(found, expected, "\n{}", found.join("\n"));
    assert!(!found.join("").contains("hunter2"), "a fault quotes no value");
}

#[test]
fn single_faults_have_their_path() {
    let full = |from: &str, to: &str| {
        assert!(FULL.contains(from), "{from}");
        faults(&FULL.replacen(from, to, 1))
    };
    let pem = |path: &str| format!("pem = {{ file = \"tests/it/credentials/keys/{path}\" }}");
    for (from, to, expected) in [
        (
            "kind = \"mongodb\"",
            "kind = \"sqlite\"",
            "store.url: applies only to kind = \"mongodb\"",
        ),
        (
            "store = \"redis\"",
            "store = \"local\"",
            "limits.url: applies only to store = \"redis\"",
        ),
        (
            "url = { env = \"REDIS_URL\" }\n",
            "",
            "limits.url: is required for redis",
        ),
        (
            "url = { env = \"REDIS_URL\" }",
            "url = \"hunter2\"",
            "limits.url: expected a URL that begins with redis:// or rediss://",
        ),
        (
            "url = { env = \"REDIS_URL\" }",
            "url = \"redis://hunter2:x:y\"",
            "limits.url: not a valid Redis URL",
        ),
        (
            "index = \"postgres\"",
            "index = \"sqlite\"",
            "knowledge.url: applies only to index = \"postgres\"",
        ),
        (
            "url = { env = \"KNOWLEDGE_URL\" }\n",
            "",
            "knowledge.url: is required for postgres",
        ),
        (
            "url = { env = \"KNOWLEDGE_URL\" }",
            "url = \"hunter2\"",
            "knowledge.url: expected a URL that begins with postgres://",
        ),
        (
            "url = { env = \"KNOWLEDGE_URL\" }",
            "url = \"postgres://hunter2:x@b:port/c\"",
            "knowledge.url: not a valid PostgreSQL URL: expected postgres://USER:PASSWORD@HOST/DATABASE",
        ),
        (
            "url = { env = \"KNOWLEDGE_URL\" }",
            "url = \"postgres://hunter2@b/c?sslmode=allow\"",
            "knowledge.url: sslmode in a PostgreSQL URL must be disable, prefer, require, verify-ca or verify-full",
        ),
        (
            "url = { env = \"MONGODB_URI\" }",
            "url = \"postgres://x\"",
            "store.url: expected a URL",
        ),
        ("name = \"second\"\nkind", "kind", "providers[1].name: is required"),
        (
            "kind = \"anthropic\"",
            "kind = \"openai\"",
            "providers[1].max_tokens: applies only to providers with kind = \"anthropic\"",
        ),
        (
            "max_tokens = 8192",
            "stream_options = false",
            "providers[1].stream_options: applies only to providers with kind = \"openai\"",
        ),
        (
            "api_keys = [",
            "api_key = { value = \"x\" }\napi_keys = [",
            "providers[1].api_keys: give either",
        ),
        (
            "{ value = \"first-key\" }",
            "{ value = \"x\", env = \"Y\" }",
            "providers[1].api_keys[0]: value has more than 1",
        ),
        (
            "{ value = \"first-key\" }",
            "{ value = \"\" }",
            "providers[1].api_keys[0]: the secret is empty",
        ),
        (
            "{ value = \"first-key\" }",
            "{ vault = \"x\" }",
            "providers[1].api_keys[0].vault: unknown field",
        ),
        (
            "kid = \"2027\"",
            "kid = \"2026\"",
            "tenants[0].issuers[1].kid: several keys",
        ),
        (
            "secret = { env",
            "pem = { env",
            "tenants[0].issuers[0].secret: is required",
        ),
        (
            pem("ed25519.pub.pem").as_str(),
            &pem("p256.pub.pem"),
            "tenants[0].issuers[1].pem: not the PEM text of an Ed25519",
        ),
        (
            pem("ed25519.pub.pem").as_str(),
            &pem("ed25519.pem"),
            "tenants[0].issuers[1].pem: this is a private key",
        ),
        (
            "from = \"2026-07-01\"",
            "from = \"2026-02-30\"",
            "prices[1].from: expected a date",
        ),
        (
            "from = \"2026-07-01\"",
            "from = \"July\"",
            "prices[1].from: value does not match",
        ),
        (
            "from = \"2026-07-01\"",
            "",
            "prices[1].model: is the same as prices[0].model; several prices",
        ),
        (
            "id = \"globex\"",
            "id = \"acme\"",
            "tenants[1].id: is the same as tenants[0].id",
        ),
        (
            "oauth_token = {",
            "email = \"x\"\noauth_token = {",
            "tenants[1].zendesk.oauth_token: give either",
        ),
        (
            "oauth_token = { value = \"oauth\" }",
            "",
            "tenants[1].zendesk: give oauth_token, or email and token",
        ),
        (
            "steps = 4",
            "steps = \"many\"",
            "tenants[0].copilots[0].limits.steps: value is not of type",
        ),
        (
            "queue = 1",
            "queues = 1",
            "tenants[0].copilots[0].limits.queues: unknown field",
        ),
    ] {
        let found = full(from, to);
        assert!(
            found.iter().any(|fault| fault.starts_with(expected)),
            "{to}: {found:#?}"
        );
    }
}

#[test]
fn a_tool_needs_its_system() {
    let found = faults(&FULL.replace("[tenants.slack]", "[tenants.limits2]"));
    assert!(
        found.contains(&"tenants[0].copilots[0].tools[2]: this tool needs the table tenants[0].slack".to_owned()),
        "{found:#?}"
    );
}

#[test]
fn public_keys_of_a_wrong_kind_are_refused() {
    for (alg, file, message) in [
        ("ES256", "p384.pub.pem", "not the PEM text of a P-256 public key"),
        ("ES256", "ed25519.pub.pem", "not the PEM text of a P-256 public key"),
        (
            "RS256",
            "rsa1024.pub.pem",
            "not the PEM text of an RSA public key of at least 2048 bits",
        ),
        (
            "RS256",
            "p256.pub.pem",
            "not the PEM text of an RSA public key of at least 2048 bits",
        ),
        ("EdDSA", "README.md", "not the PEM text of an Ed25519 public key"),
    ] {
        let text = format!(
            "[[tenants]]\nid = \"a\"\n[[tenants.issuers]]\niss = \"i\"\nalg = \"{alg}\"\n\
             pem = {{ file = \"tests/it/credentials/keys/{file}\" }}"
        );
        assert_eq!(faults(&text), [format!("tenants[0].issuers[0].pem: {message}")]);
    }
}

#[test]
fn broken_toml_is_named_by_line_and_not_quoted() {
    let found = faults("[server]\nlisten = \"127.0.0.1:1\n[store]\nkind = hunter2 hunter2\n");
    assert!(
        found.iter().any(|fault| fault.starts_with("line 2, column ")),
        "{found:#?}"
    );
    assert!(
        found.iter().any(|fault| fault.starts_with("line 4, column ")),
        "{found:#?}"
    );
    assert!(!found.join("").contains("hunter2"));
    let twice = faults("[server]\ndrain_s = 1\ndrain_s = 2\n");
    assert!(twice[0].starts_with("line 3, column 1: "), "{twice:?}");
    assert_eq!(faults("x = 1979-05-27")[0], "tenants: is required");
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    for path in ["no/such/file.toml", "tests"] {
        let faults = Config::load(Path::new(path), &env(), &kinds()).unwrap_err();
        assert!(
            faults.to_string().starts_with(&format!("cannot read {path}: ")),
            "{faults}"
        );
    }
}

#[test]
fn what_a_tenant_may_call_has_to_be_there() {
    let text = r#"
        [server]
        seal_key = { value = "short" }
        [[providers]]
        name = "main"
        base_url = "http://127.0.0.1:1/v1"
        region = "eu"
        [[providers]]
        name = "theirs"
        base_url = "http://127.0.0.1:2/v1"
        own_keys_only = true
        [[routes]]
        name = "default"
        targets = [{ provider = "main", model = "m", context_tokens = 1000 }]
        [[routes]]
        name = "own"
        targets = [{ provider = "theirs", model = "m", context_tokens = 1000 }]
        [[tenants]]
        id = "acme"
        models = { allow = ["main/x*", "main/*"], regions = ["eu", "mars"] }
        provider_keys = [
            { provider = "main", api_key = { value = "a" }, api_keys = [{ value = "b" }] },
            { provider = "main" },
            { provider = "nobody", api_key = { value = "c" } },
        ]
        [[tenants.api_keys]]
        name = "ended"
        hash = "sha256:0000000000000000000000000000000000000000000000000000000000000000"
        scopes = ["chat"]
        expires_at = "2027-02-30T00:00:00Z"
        [[tenants.copilots]]
        name = "support"
        route = "default"
        small_route = "own"
    "#;
    assert_eq!(
        faults(text),
        [
            "server.seal_key: expected 64 hexadecimal digits",
            "tenants[0].api_keys[0].expires_at: expected a time such as 2027-01-31T00:00:00Z",
            "tenants[0].copilots[0].small_route: the tenant may use none of this route's models; see its models and provider_keys",
            "tenants[0].models.allow[0]: matches no model of any route",
            "tenants[0].models.regions[1]: no provider has this region",
            "tenants[0].provider_keys[0].api_keys: give either api_key or api_keys, not both",
            "tenants[0].provider_keys[1].provider: is the same as tenants[0].provider_keys[0].provider",
            "tenants[0].provider_keys[1]: give api_key or api_keys",
            "tenants[0].provider_keys[2].provider: there is no provider \"nobody\"",
        ]
    );
}

#[test]
fn documents_need_one_model_that_embeds() {
    let file = |knowledge: &str| {
        format!(
            r#"
            [[providers]]
            name = "main"
            base_url = "http://127.0.0.1:1/v1"
            [[providers]]
            name = "claude"
            kind = "anthropic"
            base_url = "http://127.0.0.1:2/v1"
            [[routes]]
            name = "one"
            targets = [{{ provider = "main", model = "e", context_tokens = 1000 }}]
            [[routes]]
            name = "two"
            targets = [
              {{ provider = "main", model = "e", context_tokens = 1000 }},
              {{ provider = "main", model = "f", context_tokens = 1000 }},
            ]
            [[routes]]
            name = "mute"
            targets = [{{ provider = "claude", model = "c", context_tokens = 1000 }}]
            [knowledge]
            {knowledge}
            [[tenants]]
            id = "acme"
            "#
        )
    };
    for (knowledge, expected) in [
        ("embeddings = \"local\"", vec![]),
        ("embeddings = { route = \"one\", dimensions = 3 }", vec![]),
        (
            "embeddings = { route = \"two\", dimensions = 3 }",
            vec![
                "knowledge.embeddings.route: the route \"two\" must have one target only: vectors of two models cannot be compared",
            ],
        ),
        (
            "previous_embeddings = { route = \"mute\", dimensions = 3 }",
            vec!["knowledge.previous_embeddings.route: no provider of the route \"mute\" supports embeddings"],
        ),
        (
            "embeddings = { route = \"on\", dimensions = 3 }",
            vec!["knowledge.embeddings.route: there is no route \"on\"; did you mean \"one\"?"],
        ),
        (
            "embeddings = { route = \"one\", dimensions = 3 }\nprevious_embeddings = { route = \"one\", dimensions = 3 }",
            vec!["knowledge.previous_embeddings: must differ from knowledge.embeddings"],
        ),
    ] {
        assert_eq!(faults(&file(knowledge)), expected, "{knowledge}");
    }
}

#[test]
fn near_questions_need_a_model_that_finds_them_and_a_measure_for_it() {
    let file = |cache: &str, more: &str| {
        format!(
            r#"
            [[providers]]
            name = "main"
            base_url = "http://127.0.0.1:1/v1"
            [[providers]]
            name = "claude"
            kind = "anthropic"
            base_url = "http://127.0.0.1:2/v1"
            [[routes]]
            name = "default"
            targets = [{{ provider = "main", model = "m", context_tokens = 1000 }}]
            cache = {{ {cache} }}
            [[routes]]
            name = "embeddings"
            targets = [{{ provider = "main", model = "e", context_tokens = 1000 }}]
            [[routes]]
            name = "mute"
            targets = [{{ provider = "claude", model = "c", context_tokens = 1000 }}]
            [[tenants]]
            id = "acme"
            {more}
            "#
        )
    };
    let by = "routes[0].cache.embedding_route";
    for (cache, more, expected) in [
        (
            r#"mode = "semantic""#,
            "",
            vec![
                "routes[0].cache.mode: semantic mode needs an embedding model: set one in [embeddings], or a route in embedding_route"
                    .to_owned(),
            ],
        ),
        (
            r#"mode = "semantic""#,
            "[embeddings]\nmodel = \"bge-small-en-v1.5\"",
            vec![],
        ),
        (
            r#"mode = "semantic", embedding_route = "embeddings", threshold = 0.7"#,
            "",
            vec![],
        ),
        (
            r#"mode = "semantic", embedding_route = "embeddings", threshold = 0.5"#,
            "",
            vec!["routes[0].cache.threshold: must be at least 0.6: less similar questions are never compared".to_owned()],
        ),
        (
            r#"mode = "exact", embedding_route = "nowhere""#,
            "",
            vec![
                format!("{by}: applies only to mode = \"semantic\""),
                format!("{by}: needs threshold too: similarity scores of models differ"),
                format!("{by}: there is no route \"nowhere\""),
            ],
        ),
        (
            r#"mode = "semantic", embedding_route = "mute", threshold = 0.7"#,
            "",
            vec![format!("{by}: no provider of the route \"mute\" supports embeddings")],
        ),
    ] {
        assert_eq!(faults(&file(cache, more)), expected, "{cache}");
    }
}

#[test]
fn figures_of_the_memory_are_in_order_and_some_may_be_equal() {
    let with = |memory: &str| {
        faults(&format!(
            r#"
            [[providers]]
            name = "main"
            base_url = "https://example.com/v1"
            [[routes]]
            name = "default"
            targets = [{{ provider = "main", model = "m", context_tokens = 100000 }}]
            [[tenants]]
            id = "acme"
            [[tenants.copilots]]
            name = "support"
            route = "default"
            memory = {{ summary_tokens = 500, {memory} }}
            "#
        ))
    };
    for (memory, expected) in [
        ("keep_tokens = 3999, trigger_tokens = 4000, hard_tokens = 4000", None),
        (
            "keep_tokens = 1000, trigger_tokens = 4001, hard_tokens = 4000",
            Some("trigger_tokens (4001) must be at most hard_tokens (4000)"),
        ),
        (
            "keep_tokens = 4000, trigger_tokens = 4000, hard_tokens = 5000",
            Some("keep_tokens (4000) must be less than trigger_tokens (4000)"),
        ),
    ] {
        let expected: Vec<String> = expected
            .map(|fault| format!("tenants[0].copilots[0].memory: {fault}"))
            .into_iter()
            .collect();
        assert_eq!(with(memory), expected, "{memory}");
    }
}

#[test]
fn a_model_that_is_no_longer_supported_is_named_with_the_way_out() {
    for (model, expected) in [
        (
            "all-MiniLM-L6-v2",
            "this model is no longer supported: write \"bge-small-en-v1.5\"",
        ),
        (
            "wordllama-l2-256",
            "this model is no longer supported: write \"bge-small-en-v1.5\"",
        ),
        ("other", "expected one of \"bge-small-en-v1.5\""),
    ] {
        let faults = faults(&FULL.replace("bge-small-en-v1.5", model));
        assert!(
            faults.len() == 1 && faults[0].starts_with(&format!("embeddings.model: {expected}")),
            "{faults:?}"
        );
    }
}
