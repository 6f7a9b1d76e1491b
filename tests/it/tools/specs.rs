//! The vendors' published descriptions. Every difference between them and what we send is listed here, with the page
//! where the vendor documents it.

use std::path::PathBuf;
use std::sync::LazyLock;

use serde_json::{Value, json};

use super::stub::Seen;

/// Documented at developer.zendesk.com, newer than or beside the description (`field/wire.md` 3.6).
const ZENDESK_PATHS: &[(&str, &str)] = &[
    ("GET", "/api/v2/views"),                   // ticketing/business-rules/views
    ("GET", "/api/v2/views/{view_id}/tickets"), // the same
];
const ZENDESK_PARAMS: &[&str] = &[
    "per_page",    // introduction/pagination
    "page[size]",  // the same
    "page[after]", // the same
    "sort",        // ticketing/tickets/ticket_comments, Sorting
];
const ZENDESK_TICKET: &[&str] = &[
    "metadata",  // ticketing/tickets/ticket_audits
    "requester", // the json-schema beside the description has it
];
/// Documented at docs.slack.dev, newer than the description (`field/wire.md` 3.5).
const SLACK_PARAMS: &[&str] = &["metadata", "include_all_metadata"];

struct Specs {
    zendesk: Value,
    slack: Value,
    blocks: Value,
}

/// `None` if this machine has no descriptions; then CI fails and any other run prints what it skips.
static SPECS: LazyLock<Option<Specs>> = LazyLock::new(|| {
    let root = std::env::var_os("COPILOTD_SPECS").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/specs"),
        PathBuf::from,
    );
    let read = |path: &str| -> Option<Value> {
        let text = std::fs::read(root.join(path)).ok()?;
        Some(serde_json::from_slice(&text).unwrap())
    };
    let specs = (|| {
        Some(Specs {
            zendesk: read("zendesk/zendesk_support.openapi.json")?,
            slack: read("slack/slack_web_openapi_v2.trimmed.json")?,
            blocks: read("slack/new_methods.schema.json")?,
        })
    })();
    if specs.is_none() {
        assert!(
            std::env::var_os("CI").is_none(),
            "no vendors' descriptions: set COPILOTD_SPECS"
        );
        eprintln!("skipped: no vendors' descriptions found; requests are not checked against them (COPILOTD_SPECS)");
    }
    specs
});

/// Checks requests to Zendesk.
pub fn check_zendesk(seen: &[Seen]) {
    let Some(specs) = SPECS.as_ref() else { return };
    assert!(!seen.is_empty());
    for one in seen {
        let path = one.path.strip_suffix(".json").expect("one spelling of paths");
        let method = one.method.as_str();
        let operation = operation(&specs.zendesk, method, path);
        let known = ZENDESK_PATHS
            .iter()
            .any(|(verb, template)| *verb == method && fits(template, path));
        assert!(operation.is_some() || known, "{} is not described", one.line());
        for (name, _) in &one.query {
            let described = operation.is_some_and(|operation| has_param(operation, name))
                // Described without its parameters.
                || path == "/api/v2/users/show_many" && name == "ids";
            assert!(
                described || ZENDESK_PARAMS.contains(&name.as_str()),
                "{}: {name}",
                one.line()
            );
        }
        if one.body.is_null() {
            continue;
        }
        let reference = &operation.unwrap()["requestBody"]["content"]["application/json"]["schema"]["$ref"];
        let components = &specs.zendesk["components"];
        assert_valid(&json!({ "$ref": reference, "components": components }), &one.body);
        let input = if method == "POST" {
            "TicketCreateInput"
        } else {
            "TicketUpdateInput"
        };
        let fields = &components["schemas"][input]["properties"];
        for name in one.body["ticket"].as_object().unwrap().keys() {
            let described = fields.get(name).is_some() || ZENDESK_TICKET.contains(&name.as_str());
            assert!(described, "{}: ticket.{name}", one.line());
        }
    }
}

/// Checks requests to Slack.
pub fn check_slack(seen: &[Seen]) {
    let Some(specs) = SPECS.as_ref() else { return };
    assert!(!seen.is_empty());
    for one in seen {
        let path = one.path.strip_prefix("/api").unwrap();
        let operation = operation(&specs.slack, one.method.as_str(), path)
            .unwrap_or_else(|| panic!("{} is not described", one.line()));
        let names = one.query.iter().map(|(name, _)| name.as_str());
        let fields = one
            .body
            .as_object()
            .into_iter()
            .flat_map(|body| body.keys().map(String::as_str));
        for name in names.chain(fields) {
            let described = has_param(operation, name) || SLACK_PARAMS.contains(&name);
            assert!(described, "{}: {name}", one.line());
        }
        for parameter in operation["parameters"].as_array().unwrap() {
            let name = parameter["name"].as_str().unwrap();
            if parameter["required"] == true && name != "token" {
                assert!(
                    one.body.get(name).is_some() || one.param(name).is_some(),
                    "{}: {name}",
                    one.line()
                );
            }
        }
        check_message(specs, &one.body);
    }
}

fn check_message(specs: &Specs, body: &Value) {
    let definitions = &specs.blocks["definitions"];
    let of = |name: &str| json!({ "$ref": format!("#/definitions/{name}"), "definitions": definitions });
    for block in body["blocks"].as_array().into_iter().flatten() {
        match block["type"].as_str() {
            Some("section") => assert_valid(&of("SectionBlock"), block),
            Some("divider") => assert_valid(&of("DividerBlock"), block),
            other => panic!("a block of type {other:?}"),
        }
    }
    if let Some(metadata) = body.get("metadata") {
        assert_valid(&of("MessageMetadata"), metadata);
    }
}

fn operation<'a>(description: &'a Value, method: &str, path: &str) -> Option<&'a Value> {
    let paths = description["paths"].as_object()?;
    // A literal path takes precedence over a template.
    let exact = paths.get(path);
    let found = exact.or_else(|| Some(paths.iter().find(|(template, _)| fits(template, path))?.1))?;
    found.get(method.to_lowercase())
}

fn fits(template: &str, path: &str) -> bool {
    let (template, path): (Vec<_>, Vec<_>) = (template.split('/').collect(), path.split('/').collect());
    template.len() == path.len()
        && template.iter().zip(&path).all(|(expected, actual)| {
            expected == actual || expected.starts_with('{') && actual.bytes().all(|byte| byte.is_ascii_digit())
        })
}

fn has_param(operation: &Value, name: &str) -> bool {
    let parameters = operation["parameters"].as_array().into_iter().flatten();
    parameters.into_iter().any(|parameter| parameter["name"] == name)
}

fn assert_valid(schema: &Value, value: &Value) {
    let validator = jsonschema::validator_for(schema).unwrap();
    let errors: Vec<String> = validator.iter_errors(value).map(|error| error.to_string()).collect();
    assert!(errors.is_empty(), "{value}: {errors:?}");
}
