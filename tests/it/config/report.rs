//! Faults as `copilotd check` shows them: with lines, names and suggestions.

use copilotd::config::Source;

use super::env;
use crate::tools::kinds;

fn report(text: &str) -> Vec<String> {
    let source = Source::parse(text, &env(), &kinds()).unwrap();
    let faults = source.config().unwrap_err();
    source.report(faults.iter())
}

const GOOD: &str = r#"[server]
listen = "127.0.0.1:8080"
[[providers]]
name = "main"
base_url = "http://127.0.0.1:1/v1"
[[routes]]
name = "default"
targets = [{ provider = "main", model = "m", context_tokens = 8000 }]
[[tenants]]
id = "acme"
[[tenants.issuers]]
iss = "https://acme.example"
alg = "HS256"
secret = { env = "ACME_JWT_SECRET" }
[[tenants.copilots]]
name = "support"
instructions = "Help."
route = "default"
tools = ["slack_post_message"]
[tenants.slack]
bot_token = { env = "ACME_SLACK_TOKEN" }
signing_secret = { env = "ACME_SLACK_SIGNING_SECRET" }
"#;

#[test]
fn each_fault_has_its_line_and_the_names_around_it() {
    for (right, wrong, expected) in [
        (
            "route = \"default\"",
            "route = \"defualt\"",
            "line 18: tenants[0].copilots[0].route (tenant \"acme\", copilot \"support\"): there is no route \"defualt\"; did you mean \"default\"?",
        ),
        (
            "route = \"default\"\n",
            "rout = \"default\"\n",
            "line 18: tenants[0].copilots[0].rout (tenant \"acme\", copilot \"support\"): unknown field; did you mean \"route\"?",
        ),
        (
            "listen =",
            "Listen =",
            "line 2: server.Listen: unknown field; did you mean \"listen\"?",
        ),
        (
            "[server]",
            "[sever]",
            "line 1: sever: unknown field; did you mean \"server\"?",
        ),
        (
            "provider = \"main\"",
            "provider = \"mian\"",
            "line 8: routes[0].targets[0].provider (route \"default\", model \"m\"): there is no provider \"mian\"; did you mean \"main\"?",
        ),
        (
            "context_tokens",
            "context_token",
            "line 8: routes[0].targets[0].context_token (route \"default\", model \"m\"): unknown field; did you mean \"context_tokens\"?",
        ),
        (
            "\"slack_post_message\"",
            "\"slack_post_mesage\"",
            "line 19: tenants[0].copilots[0].tools[0] (tenant \"acme\", copilot \"support\"): there is no tool \"slack_post_mesage\"; did you mean \"slack_post_message\"?",
        ),
        (
            "{ env = \"ACME_JWT_SECRET\" }",
            "\"hunter2-hunter2-hunter2-hunter2-hunter2\"",
            "line 14: tenants[0].issuers[0].secret (tenant \"acme\", issuer \"https://acme.example\"): do not write a secret as plain text: use { env = \"NAME\" } and set NAME in the environment, or { file = \"path\" }",
        ),
        (
            "{ env = \"ACME_SLACK_TOKEN\" }",
            "\"xoxb-hunter2\"",
            "line 21: tenants[0].slack.bot_token (tenant \"acme\"): do not write a secret as plain text: use { env = \"NAME\" } and set NAME in the environment, or { file = \"path\" }",
        ),
        (
            "alg = \"HS256\"\n",
            "",
            // A missing member is reported at the line of its table.
            "line 11: tenants[0].issuers[0].alg (tenant \"acme\", issuer \"https://acme.example\"): is required",
        ),
        (
            "{ env = \"ACME_JWT_SECRET\" }",
            "{ env = \"NOT_SET\" }",
            "line 14: tenants[0].issuers[0].secret (tenant \"acme\", issuer \"https://acme.example\"): the environment variable NOT_SET is not set or is empty",
        ),
    ] {
        assert!(GOOD.contains(right), "{right}");
        let found = report(&GOOD.replacen(right, wrong, 1));
        assert!(found.iter().any(|line| line == expected), "{wrong}: {found:#?}");
        assert!(!found.iter().any(|line| line.contains("hunter2")), "{found:?}");
    }
}

#[test]
fn a_second_tenant_and_an_inline_table_are_found_too() {
    let text = format!(
        "{GOOD}[[tenants]]\nid = \"globex\"\ncopilots = [\n  {{ name = \"a\", route = \"default\" }},\n  {{ name = \"b\", route = \"nowhere\" }},\n]\n"
    );
    assert_eq!(
        report(&text),
        ["line 27: tenants[1].copilots[1].route (tenant \"globex\", copilot \"b\"): there is no route \"nowhere\""]
    );
}

#[test]
fn what_is_not_wrong_and_yet_not_wanted_is_a_warning() {
    let warnings = |text: &str| {
        let source = Source::parse(text, &env(), &kinds()).unwrap();
        let config = source.config().unwrap_or_else(|faults| panic!("{faults}"));
        let mut warnings = config.warnings("2026-12-01T00:00:00Z".parse().unwrap());
        warnings.extend(source.warnings());
        source.report(&warnings)
    };
    assert_eq!(warnings(GOOD), [""; 0]);
    for (more, part) in [
        (
            "[[tenants]]\nid = \"globex\"\n",
            "line 23: tenants[1] (tenant \"globex\"): nobody can log in",
        ),
        (
            "[[prices]]\nmodel = \"gpt-4o\"\ninput = 1.0\noutput = 2.0\n",
            "line 24: prices[0].model (price of \"gpt-4o\"): no route uses the model \"gpt-4o\", so this price has no effect",
        ),
        (
            "[[providers]]\nname = \"spare\"\nbase_url = \"http://127.0.0.1:2/v1\"\n",
            "line 23: providers[1] (provider \"spare\"): no route uses the provider",
        ),
        (
            "[[providers]]\nname = \"spare\"\nbase_url = \"http://127.0.0.1:2/v1\"\napi_key = { value = \"sk-hunter2\" }\n",
            "line 26: providers[1].api_key (provider \"spare\"): the secret is in the file itself: use { env = \"NAME\" }",
        ),
        (
            "[store]\nkind = \"mongodb\"\nurl = \"mongodb://root:hunter2@db\"\n",
            "line 25: store.url: the secret is in the file itself",
        ),
        (
            "[tenants.limits]\nusd_per_month = 5.0\n",
            "line 23: tenants[0].limits (tenant \"acme\"): this limit is in money, but these models have no price",
        ),
    ] {
        let found = warnings(&format!("{GOOD}{more}"));
        assert!(found.iter().any(|warning| warning.contains(part)), "{more}: {found:#?}");
        assert!(!found.iter().any(|warning| warning.contains("hunter2")), "{found:?}");
    }
}
